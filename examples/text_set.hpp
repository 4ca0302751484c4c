// SPDX-License-Identifier: Apache-2.0
// The data that finetune trains on and scores: pairs of texts, or texts alone, as ids, in memory or in a cache on the disk.
#pragma once

#include <algorithm>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <srformer/io/token_cache.hpp>
#include <srformer/text/tokenizer.hpp>

#include "data_flags.hpp"
#include "finetune_options.hpp"
#include "interruption.hpp"
#include "objective.hpp"
#include "run_record.hpp"
#include "training_log.hpp"

namespace srformer::program {

/// Examples as ids, and the summaries as they stand in the file.
struct TextSet {
  std::vector<Example> examples;
  std::vector<std::string> summaries;
  std::vector<Example> scored;  ///< those with a summary, where some have none
  bool denoised = false;        ///< of texts alone: there are no summaries, and all have a target
  std::vector<Excerpt> texts;   ///< how they begin, of a set that is scored

  std::span<const Example> with_summaries() const {
    return scored.empty() ? std::span(examples) : std::span(scored);
  }
  /// Whether there is something to have a loss on.
  bool has_targets() const {
    return denoised ||
           std::ranges::any_of(summaries, [](const std::string& s) { return !s.empty(); });
  }
};

/// How texts become ids.
struct TextsAsIds {
  const Tokenizer& tokenizer;
  std::filesystem::path tokenizer_folder;
  index_t longest_source;
  const std::optional<TextObjective>& objective;  ///< of texts alone; none: pairs
};

/// What the flag --`name` names, as texts.
struct SetFlags {
  std::string name;
  const std::vector<std::string>& files;
  index_t most;  ///< 0: all
};

inline DataRows<Pair> read_rows(const SetFlags& flags, const FinetuneOptions& options,
                                Console& console) {
  DataRows<Pair> read = read_pairs(
      flags.files, options.data.options(flags.name == "test_file" ? SummaryColumn::may_be_empty
                                                                  : SummaryColumn::required));
  for (const std::string& notice : read.notices) console.line(notice);
  if (flags.most > 0 && std::ssize(read.rows) > flags.most) {
    console.line("--" + flags.name + ": the first " + std::to_string(flags.most) + " of " +
                 std::to_string(read.rows.size()) + " pairs are used");
    read.rows.resize(static_cast<std::size_t>(flags.most));
  }
  const auto lacking =
      std::ranges::count_if(read.rows, [](const Pair& pair) { return pair.summary.empty(); });
  if (lacking > 0)
    console.line("--" + flags.name + ": " + std::to_string(lacking) + " of " +
                 std::to_string(read.rows.size()) +
                 " texts have no summary; they are summarized but not scored");
  return read;
}

/// Counts what is cut to a greatest length.
class CutIds {
 public:
  CutIds(const Tokenizer& tokenizer, index_t longest) : tokenizer_(tokenizer), longest_(longest) {}

  std::vector<std::int32_t> operator()(const std::string& text) {
    std::vector<std::int32_t> ids = tokenizer_.encode(text);
    if (std::ssize(ids) <= longest_) return ids;
    ++cut_;
    return tokenizer_.encode(text, {.max_length = longest_, .truncation = true});
  }

  /// "3 of 7 sources to 20 tokens", or nothing.
  std::string text(const std::string& what, std::size_t all) const {
    if (cut_ == 0) return "";
    return std::to_string(cut_) + " of " + std::to_string(all) + " " + what + " to " +
           std::to_string(longest_) + " tokens";
  }

 private:
  const Tokenizer& tokenizer_;
  index_t longest_;
  std::size_t cut_ = 0;
};

/// "cut are 3 of 7 sources to 20 tokens and ...", or nothing.
inline std::string cut_notice(const std::string& flag, const CutIds& source, const CutIds& target,
                              std::size_t all) {
  const std::string sources = source.text("sources", all), targets = target.text("summaries", all);
  if ((sources + targets).empty()) return "";
  return flag + ": cut are " + sources + (sources.empty() || targets.empty() ? "" : " and ") +
         targets;
}

/// Adds the texts of an objective to `take`, of which there may be flags.most. Returns notices.
template <class Take>
std::vector<std::string> take_windows(const SetFlags& flags, const FinetuneOptions& options,
                                      const TextsAsIds& how, Take take) {
  index_t read = 0, used = 0;
  auto notices = for_each_window(flags.files, options.data, *how.objective, how.tokenizer,
                                 [&](std::span<const std::int32_t> ids) {
                                   if (!keep_going()) throw interrupted_exit();
                                   if (++read > flags.most && flags.most > 0) return;
                                   take(ids), ++used;
                                 });
  if (used < read)
    notices.push_back("--" + flags.name + ": the first " + std::to_string(used) + " of " +
                      std::to_string(read) + " texts are used");
  return notices;
}

/// Texts to train on, without targets, as they are denoised anew in every epoch.
inline std::vector<Example> read_texts(const SetFlags& flags, const FinetuneOptions& options,
                                       const TextsAsIds& how, Console& console) {
  std::vector<Example> texts;
  for (const std::string& notice :
       take_windows(flags, options, how, [&](std::span<const std::int32_t> ids) {
         texts.push_back({{ids.begin(), ids.end()}, {}});
       }))
    console.line(notice);
  return texts;
}

/// Texts to evaluate on. What is taken out of text i is the same in every evaluation of every run.
inline TextSet read_denoised(const SetFlags& flags, const FinetuneOptions& options,
                             const TextsAsIds& how, Console& console) {
  const RandomStream random = RandomStream{0, 4}.substream(0);
  TextSet set;
  set.examples = read_texts(flags, options, how, console), set.denoised = true;
  for (std::size_t i = 0; i < set.examples.size(); ++i)
    set.examples[i] =
        srformer::denoised(set.examples[i].source, how.objective->denoising, random.substream(i));
  return set;
}

inline TextSet read_set(const SetFlags& flags, const FinetuneOptions& options,
                        const TextsAsIds& how, Console& console) {
  if (how.objective) return read_denoised(flags, options, how, console);
  DataRows<Pair> read = read_rows(flags, options, console);
  CutIds source(how.tokenizer, how.longest_source),
      target(how.tokenizer, options.max_target_length);
  const std::string prefix = options.source_prefix.value_or("");
  TextSet set;
  for (Pair& pair : read.rows) {
    set.examples.push_back({source(prefix + pair.text), target(pair.summary)});
    if (flags.name != "train_file") set.texts.emplace_back(pair.text);
    set.summaries.push_back(std::move(pair.summary));
    if (!keep_going()) throw interrupted_exit();
  }
  const bool lacking = std::ranges::find(set.summaries, "") != set.summaries.end();
  for (std::size_t i = 0; lacking && i < set.examples.size(); ++i)
    if (!set.summaries[i].empty()) set.scored.push_back(set.examples[i]);
  if (const auto cut = cut_notice("--" + flags.name, source, target, set.examples.size());
      !cut.empty())
    console.line(cut);
  return set;
}

/// Throws io_error for a token that the model has no embedding of: a tokenizer may have more, as bart-large-cnn's has.
inline void check_tokens(const std::string& file, const std::vector<Example>& examples,
                         index_t vocabulary) {
  for (std::size_t i = 0; i < examples.size(); ++i)
    for (const auto* ids : {&examples[i].source, &examples[i].target})
      for (const std::int32_t id : *ids)
        if (id < 0 || id >= vocabulary)
          throw io_error(file + ": example " + std::to_string(i + 1) + " has the token id " +
                         std::to_string(id) + ", outside the model's vocabulary of " +
                         std::to_string(vocabulary) + "; take the model's own tokenizer");
}

/// The pairs or texts of --train_file as ids, in memory or, with --data_cache, in a file that is made once.
class TrainingData {
 public:
  /// Throws io_error for what cannot be read and for tokens that the model has no embedding of.
  TrainingData(const SetFlags& flags, const FinetuneOptions& options, const TextsAsIds& how,
               index_t vocabulary, Console& console) {
    if (options.data_cache.empty()) {
      list_ = how.objective ? read_texts(flags, options, how, console)
                            : read_set(flags, options, how, console).examples;
      check_tokens("--" + flags.name, list_, vocabulary);
      return;
    }
    const auto fill = [&](TokenCacheWriter& writer) {
      if (!how.objective) return write_pairs(writer, flags, options, how);
      return take_windows(flags, options, how, [&](std::span<const std::int32_t> ids) {
        writer.add({ids, {}});
      });
    };
    OpenedCache opened = open_token_cache(options.data_cache, key(flags, options, how),
                                          options.overwrite_cache, fill);
    cache_.emplace(std::move(opened.cache));
    for (const std::string& notice : cache_->notices()) console.line(notice);
    console.line("--data_cache: " + opened.notice + ", " + std::to_string(cache_->size()) +
                 (how.objective ? " texts" : " examples"));
    for (const std::int32_t id : {cache_->smallest_id(), cache_->largest_id()})
      if (id < 0 || id >= vocabulary)
        throw io_error("--" + flags.name + ": has the token id " + std::to_string(id) +
                       ", outside the model's vocabulary of " + std::to_string(vocabulary) +
                       "; take the model's own tokenizer");
  }
  TrainingData(const TrainingData&) = delete;
  TrainingData& operator=(const TrainingData&) = delete;

  Examples examples() const { return cache_ ? Examples(*cache_) : Examples(list_); }

 private:
  /// All that the ids depend on.
  static nlohmann::json key(const SetFlags& flags, const FinetuneOptions& options,
                            const TextsAsIds& how) {
    nlohmann::json files = nlohmann::json::array(), tokenizer_files = nlohmann::json::array();
    if (std::ranges::find(flags.files, "-") != flags.files.end())
      throw usage_error(
          "--data_cache keeps files, not standard input; give a file as --train_file");
    for (const std::string& name : flags.files)
      for (const std::filesystem::path& path : data_files(name))
        files.push_back(file_identity(path));
    for (const char* name : tokenizer_file_names) {
      if (!std::filesystem::exists(how.tokenizer_folder / name)) continue;
      const MappedFile file(how.tokenizer_folder / name);
      tokenizer_files.push_back(
          {{"name", name}, {"bytes", file.text().size()}, {"hash", text_hash(file.text())}});
    }
    nlohmann::json key{{"version", 1},
                       {"files", files},
                       {"tokenizer", tokenizer_files},
                       {"format", options.data.format},
                       {"columns", {options.data.text_column, options.data.summary_column}},
                       {"drop_empty", options.data.drop_empty},
                       {"prefix", options.source_prefix.value_or("")},
                       {"most", flags.most},
                       {"lengths", {how.longest_source, options.max_target_length}}};
    if (!how.objective) return key;
    const TextWindowOptions& windows = how.objective->windows;
    key.erase("prefix");
    key["unit"] = options.objective.sample_by;
    key["lengths"] = {windows.min_ids, windows.max_ids, windows.max_words};
    key["whole_words"] = options.objective.whole_words, key["concatenate"] = windows.concatenate;
    return key;
  }

  static std::vector<std::string> write_pairs(TokenCacheWriter& writer, const SetFlags& flags,
                                              const FinetuneOptions& options,
                                              const TextsAsIds& how) {
    CutIds source(how.tokenizer, how.longest_source),
        target(how.tokenizer, options.max_target_length);
    const std::string prefix = options.source_prefix.value_or("");
    index_t read = 0, used = 0;
    auto notices = for_each_pair(
        flags.files, options.data.options(SummaryColumn::required), [&](const Pair& pair) {
          if (!keep_going()) throw interrupted_exit();
          if (++read > flags.most && flags.most > 0) return;
          const Example example{source(prefix + pair.text), target(pair.summary)};
          writer.add({example.source, example.target});
          ++used;
        });
    if (used < read)
      notices.push_back("--" + flags.name + ": the first " + std::to_string(used) + " of " +
                        std::to_string(read) + " pairs are used");
    if (const auto cut = cut_notice("--" + flags.name, source, target, std::size_t(used));
        !cut.empty())
      notices.push_back(cut);
    return notices;
  }

  std::vector<Example> list_;
  std::optional<TokenCache> cache_;
};

}  // namespace srformer::program
