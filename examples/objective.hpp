// SPDX-License-Identifier: Apache-2.0
// What a model is trained on: pairs of texts and summaries, or texts alone, of which what was taken out is to be written
// (io/denoising.hpp). docs/pretraining.md
#pragma once

#include <cmath>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <srformer/io/text_windows.hpp>
#include <srformer/text/tokenizer.hpp>

#include "data_flags.hpp"

namespace srformer::program {

/// How texts become examples to denoise.
struct TextObjective {
  Denoising denoising;
  TextWindowOptions windows;
  TextUnit unit;
  std::string notice;  ///< what that comes to, for people
};

/// The flags of the objective.
struct ObjectiveFlags {
  std::string name = "summarize", sample_by = "line", span_length = "poisson", mask_token;
  std::optional<double> density;
  double mean_span_length = 3;
  index_t text_length = 0, denoised_length = 0;
  bool whole_words = false, permute_sentences = false, separate_texts = false;

  /// Whether examples are made of texts alone.
  bool of_texts() const { return name != "summarize"; }

  void add_to(CLI::App& app) {
    app.add_option("--objective", name,
                   "What is learned: summarize pairs, or to restore what was taken out of texts")
        ->capture_default_str()
        ->check(CLI::IsMember({"summarize", "span_corruption", "text_infilling"}));
    app.add_option("--noise_density", density,
                   "Share of the tokens that is taken out; 0.15, of text_infilling 0.3");
    app.add_option("--mean_span_length", mean_span_length, "Tokens of a span that is taken out")
        ->capture_default_str();
    app.add_option("--span_length", span_length,
                   "Of text_infilling: how spans are drawn, uniform from 1 to 2 mean - 1")
        ->capture_default_str()
        ->check(CLI::IsMember({"poisson", "uniform"}));
    app.add_option("--mask_token", mask_token,
                   "Of text_infilling: what stands for a span; else <mask>, or <extra_id_0>");
    app.add_flag("--whole_words", whole_words,
                 "Of text_infilling: words are counted and taken out, not tokens");
    app.add_flag("--permute_sentences", permute_sentences,
                 "Of text_infilling: sentences of the source in another order");
    app.add_option("--denoised_length", denoised_length,
                   "Of text_infilling: the first so many tokens of a text are its target; 0: all")
        ->capture_default_str()
        ->check(at_least(0));
    app.add_option("--text_length", text_length,
                   "Tokens of an example's text at most; 0: what --max_source_length and "
                   "--max_target_length have room for")
        ->capture_default_str()
        ->check(at_least(0));
    app.add_option("--sample_by", sample_by,
                   "What of a text file is a text to denoise: a line, a paragraph or the document")
        ->capture_default_str()
        ->check(CLI::IsMember({"line", "paragraph", "document"}));
    app.add_flag("--separate_texts", separate_texts,
                 "No example has parts of two texts; else texts follow one another and are cut");
  }

  /// Throws usage_error for flags that contradict the objective.
  void check(const CLI::App& app, const std::string& format) const {
    const auto refuse = [&](bool wrong, std::initializer_list<const char*> flags,
                            const std::string& reason) {
      for (const char* flag : flags)
        if (wrong && app.count(flag) > 0) throw usage_error(flag + reason);
    };
    refuse(!of_texts(),
           {"--noise_density", "--mean_span_length", "--text_length", "--sample_by",
            "--separate_texts"},
           " needs --objective span_corruption or text_infilling");
    refuse(name != "text_infilling",
           {"--span_length", "--mask_token", "--whole_words", "--permute_sentences",
            "--denoised_length"},
           " needs --objective text_infilling");
    refuse(of_texts(), {"--source_prefix", "--summary_column"},
           " does not go with --objective " + name + ", which reads texts alone");
    refuse(of_texts(), {"--test_file", "--do_predict"},
           " does not go with --objective " + name +
               ", which has no summaries; give the texts as --validation_file for their loss");
    if (format == "text" && !of_texts())
      throw usage_error(
          "--input_format text has no summaries; give another one, or --objective span_corruption "
          "or text_infilling");
    if (sample_by != "line" && format != "text" && format != "auto")
      throw usage_error("--sample_by " + sample_by + " reads text, not --input_format " + format);
    const double share = density.value_or(0.3);
    if (share >= 1 || share < 0 || (share == 0 && name == "span_corruption"))
      throw usage_error("--noise_density must be " +
                        std::string(name == "span_corruption" ? "above" : "at least") +
                        " 0 and below 1");
    if (!(mean_span_length > 0) || (name == "span_corruption" && mean_span_length < 1))
      throw usage_error("--mean_span_length must be " +
                        std::string(name == "span_corruption" ? "at least 1" : "above 0"));
    if (span_length == "uniform" &&
        (mean_span_length != std::floor(mean_span_length) || mean_span_length < 1))
      throw usage_error("--span_length uniform needs a --mean_span_length that is an integer");
  }

  /// What the flags come to with a tokenizer, or nothing where pairs are summarized. Throws usage_error where the tokenizer
  /// or the model's vocabulary lacks what the objective needs, and where the lengths leave no room.
  std::optional<TextObjective> of(const Tokenizer& tokenizer, index_t vocabulary,
                                  index_t longest_source, index_t longest_target) const {
    if (!of_texts()) return std::nullopt;
    TextObjective made{.denoising = name == "span_corruption"
                                        ? Denoising(corruption(tokenizer))
                                        : Denoising(infilling(tokenizer, longest_target)),
                       .windows = {.concatenate = !separate_texts},
                       .unit = sample_by == "line"        ? TextUnit::line
                               : sample_by == "paragraph" ? TextUnit::paragraph
                                                          : TextUnit::document,
                       .notice = ""};
    const auto* spans = std::get_if<SpanCorruptionOptions>(&made.denoising);
    check_id("the end token", tokenizer.eos_id(), vocabulary);
    check_id("what stands for a span",
             spans != nullptr ? spans->first_sentinel : std::get<1>(made.denoising).mark,
             vocabulary);
    TextWindowOptions& windows = made.windows;
    windows.min_ids = spans != nullptr ? 2 : 1;
    try {
      windows.max_ids = longest_text(made.denoising, longest_source, longest_target);
    } catch (const shape_error&) {
      throw usage_error("--max_source_length " + std::to_string(longest_source) +
                        " and --max_target_length " + std::to_string(longest_target) +
                        " leave no room for --objective " + name);
    }
    if (whole_words) windows.beginnings = std::get<1>(made.denoising).word_beginnings;
    if (whole_words) {
      windows.max_words = text_length;
    } else if (text_length > 0) {
      check_text_length(windows);
      windows.max_ids = text_length;
    }
    if (spans != nullptr) check_sentinels(*spans, windows.max_ids);
    const ExampleLengths most = denoised_lengths(windows.max_ids, made.denoising);
    made.notice = "--objective " + name + ": texts of up to " + std::to_string(windows.max_ids) +
                  " tokens" +
                  (windows.max_words > 0 ? " and " + std::to_string(text_length) + " words" : "") +
                  ", sources of up to " + std::to_string(most.source) + " and targets of up to " +
                  std::to_string(most.target);
    return made;
  }

 private:
  void check_id(const std::string& what, std::int32_t id, index_t vocabulary) const {
    if (id >= 0 && id < vocabulary) return;
    throw usage_error("--objective " + name + ": " + what +
                      (id < 0 ? " is no token of this tokenizer"
                              : " has the id " + std::to_string(id) +
                                    ", outside the model's vocabulary of " +
                                    std::to_string(vocabulary)) +
                      "; take another tokenizer");
  }

  void check_text_length(const TextWindowOptions& windows) const {
    if (text_length < windows.min_ids || text_length > windows.max_ids)
      throw usage_error("--text_length " + std::to_string(text_length) + " is not from " +
                        std::to_string(windows.min_ids) + " to " + std::to_string(windows.max_ids) +
                        ", for which --max_source_length and --max_target_length have room");
  }

  void check_sentinels(const SpanCorruptionOptions& options, index_t length) const {
    const index_t spans = srformer::detail::corrupted_counts(length, options).second;
    if (spans <= options.sentinels) return;
    throw usage_error("--objective span_corruption: " + std::to_string(spans) +
                      " spans of a text of " + std::to_string(length) +
                      " tokens need as many sentinels, and the tokenizer has " +
                      std::to_string(options.sentinels) +
                      "; give a lower --text_length or a higher --mean_span_length");
  }

  SpanCorruptionOptions corruption(const Tokenizer& tokenizer) const {
    const auto first = tokenizer.id("<extra_id_0>");
    if (!first)
      throw usage_error(
          "--objective span_corruption needs sentinels <extra_id_0>, <extra_id_1>, ..., which the "
          "tokenizer lacks; give --objective text_infilling, or a tokenizer with them");
    index_t count = 1;
    while (tokenizer.id("<extra_id_" + std::to_string(count) + ">") ==
           *first - static_cast<std::int32_t>(count))
      ++count;
    return {.density = density.value_or(0.15),
            .mean_span_length = mean_span_length,
            .first_sentinel = *first,
            .sentinels = count,
            .eos_id = tokenizer.eos_id()};
  }

  std::int32_t mark(const Tokenizer& tokenizer) const {
    for (const char* known : {"<mask>", "<extra_id_0>"}) {
      const auto id = tokenizer.id(mask_token.empty() ? known : mask_token);
      if (id) return *id;
    }
    if (!mask_token.empty())
      throw usage_error("--mask_token " + one_line(mask_token) +
                        " is no token of the tokenizer's vocabulary");
    throw usage_error(
        "--objective text_infilling: the tokenizer has neither <mask> nor <extra_id_0>; name the "
        "token that stands for what was taken out as --mask_token");
  }

  TextInfillingOptions infilling(const Tokenizer& tokenizer, index_t longest_target) const {
    TextInfillingOptions o;
    o.density = density.value_or(0.3), o.mean_span_length = mean_span_length;
    o.span_length = span_length == "uniform" ? SpanLength::uniform : SpanLength::poisson;
    o.mark = mark(tokenizer), o.target_length = denoised_length;
    o.permute_sentences = permute_sentences;
    o.prefix = tokenizer.encode("");
    o.eos_id = tokenizer.eos_id();
    if (!o.prefix.empty() && o.prefix.back() == o.eos_id) o.prefix.pop_back();
    if (whole_words) o.word_beginnings = beginnings(tokenizer);
    // Words have any number of tokens, so a target of so many words is cut where it must be.
    if (whole_words && denoised_length > 0) o.max_target_ids = longest_target;
    if (permute_sentences) o.sentence_ends = sentence_ends(tokenizer);
    return o;
  }

  static WordBeginnings beginnings(const Tokenizer& tokenizer) {
    WordBeginnings all;
    bool marked = false;
    for (std::int32_t id = 0; id < tokenizer.size(); ++id) {
      const std::string_view piece = tokenizer.piece(id);
      // How SentencePiece and byte-level BPE write a space, and the latter a line's end.
      const bool begins = piece.starts_with("\u2581") || piece.starts_with("\u0120");
      marked = marked || begins;
      all.push_back(begins || piece.starts_with("\u010a") || piece.starts_with("<extra_id_"));
    }
    if (!marked)
      throw usage_error(
          "--whole_words: the tokens of this tokenizer do not say where words begin; leave it out");
    return all;
  }

  static std::vector<std::int32_t> sentence_ends(const Tokenizer& tokenizer) {
    std::vector<std::int32_t> all;
    for (std::int32_t id = 0; id < tokenizer.size(); ++id) {
      const std::string_view piece = tokenizer.piece(id);
      for (const std::string_view end : {".", "!", "?", "\u3002", "\uff01", "\uff1f", "\u0964"})
        if (piece.ends_with(end)) {
          all.push_back(id);
          break;
        }
    }
    if (all.empty())
      throw usage_error("--permute_sentences: no token of the tokenizer ends with . ! or ?");
    return all;
  }
};

/// Calls use(ids) for the windows of the texts in `files`. Returns notices. Throws io_error as for_each_text, and where no
/// window is left.
template <class Use>
std::vector<std::string> for_each_window(const std::vector<std::string>& files,
                                         const DataFlags& data, const TextObjective& objective,
                                         const Tokenizer& tokenizer, Use use) {
  TextWindows windows(objective.windows, use);
  std::vector<std::string> notices = for_each_text(
      files, data.options(SummaryColumn::none), objective.unit, [&](std::string_view text) {
        windows.add(tokenizer.encode(text, {.add_special_tokens = false}));
      });
  windows.finish();
  if (windows.windows() == 0)
    throw io_error(files.front() + ": holds no text of " +
                   std::to_string(objective.windows.min_ids) + " tokens; give longer texts");
  if (windows.left_out() > 0)
    notices.push_back(std::to_string(windows.left_out()) +
                      " tokens are left out, too few to take some of them out");
  return notices;
}

}  // namespace srformer::program
