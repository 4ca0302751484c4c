// SPDX-License-Identifier: Apache-2.0
// BART's tokenizer: byte-level byte pair encoding (Sennrich, Haddow and Birch, "Neural machine translation of rare words
// with subword units", 2016; over bytes: Radford et al., "Language models are unsupervised multitask learners", 2019)
// as Hugging Face's BartTokenizer applies it, and the training of its vocabulary.
//
//   ByteBpeTokenizer   text -> ids -> text, from vocab.json and merges.txt or from tokenizer.json
//   train_byte_bpe     texts -> such a folder
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include <srformer/core/error.hpp>
#include <srformer/io/file.hpp>
#include <srformer/text/bpe_files.hpp>
#include <srformer/text/byte_level.hpp>
#include <srformer/text/folder_tokens.hpp>
#include <srformer/text/merge_table.hpp>
#include <srformer/text/post_processor.hpp>
#include <srformer/text/token_decoder.hpp>

namespace srformer {

struct ByteBpeOptions {
  bool add_special_tokens = true;  ///< <s> before the text and </s> after it
  index_t max_length = 0;          ///< tokens, with the special ones; 0 is no limit
  bool truncation = false;  ///< cut the text that exceeds max_length; otherwise that is an error
};

/// BART's tokenizer. Const calls may run in several threads at once.
class ByteBpeTokenizer {
 public:
  /// Reads a folder: tokenizer.json, or else vocab.json and merges.txt; with tokenizer_config.json, special_tokens_map.json
  /// and added_tokens.json where they exist. Throws io_error when a file is missing or is not what its name says.
  explicit ByteBpeTokenizer(const std::filesystem::path& folder)
      : ByteBpeTokenizer(detail::TokenizerFiles(folder)) {}

  /// The same of a folder whose files are read already.
  explicit ByteBpeTokenizer(const detail::TokenizerFiles& files) {
    namespace fs = std::filesystem;
    const fs::path vocab = files.folder / "vocab.json", merges = files.folder / "merges.txt";
    if (files.has_whole) {
      detail::interpret_json(files.whole_path(), [&] { load_tokenizer_json(files); });
    } else if (fs::exists(vocab) && fs::exists(merges)) {
      const nlohmann::json tokens = detail::read_tokenizer_json(vocab);
      detail::interpret_json(vocab, [&] { load_vocabulary(tokens, vocab); });
      load_merges_file(merges);
    } else {
      throw io_error(files.folder.string() +
                     ": has neither tokenizer.json nor vocab.json with merges.txt; copy BART's "
                     "tokenizer into it");
    }
    detail::interpret_json(files.config_path(), [&] {
      add_prefix_space_ = detail::given_or(files.config, "add_prefix_space", false);
    });
    const bool as_written = files.has_whole && files.kind == detail::TokenizerClass::as_written,
               gpt2 = files.kind == detail::TokenizerClass::gpt2;
    ids_ = detail::add_tokens(vocabulary_, files, unnamed_tokens(as_written, gpt2));
    ends_.truncates_left = files.truncates_left;
    if (as_written) {
      detail::interpret_json(files.whole_path(), [&] {
        add_prefix_space_ =
            detail::given_or(byte_level_step(files.whole), "add_prefix_space", true);
        detail::read_post_processor(files.whole, size(), files.whole_path(), ends_);
      });
    } else if (!gpt2) {
      ends_.before = {ids_.cls};
      ends_.after = {ids_.sep};
    }
    vocabulary_.find_added([](std::string&) { return true; }, files.split_special, files.folder);
  }

  /// Ids of UTF-8 text, as BartTokenizer(text).input_ids: <s>, then added tokens in the text by their ids and the words
  /// between them by their merges, then </s>. Throws shape_error for invalid UTF-8 and for more than max_length tokens
  /// without truncation. O(n log n) in the longest word.
  std::vector<std::int32_t> encode(std::string_view text, ByteBpeOptions options = {}) const {
    constexpr std::string_view function = "ByteBpeTokenizer::encode";
    detail::require_utf8(text, function);
    require(std::in_range<std::int32_t>(text.size()), function, "text is not below 2 GiB");
    std::vector<std::int32_t> ids;
    detail::MergeTable::Work work;
    vocabulary_.split(
        text, [](std::string&) { return true; },
        [&](std::string_view words, bool) { encode_words(words, ids, work); },
        [&](std::int32_t id) { ids.push_back(id); });
    return ends_.around(std::move(ids), options.add_special_tokens, options.max_length,
                        options.truncation, function);
  }

  /// Text of ids, as BartTokenizer.decode: ids from size() on (the padding of an embedding) give nothing, bytes that are no
  /// UTF-8 give U+FFFD, and no space is cleaned up. Throws shape_error for a negative id.
  std::string decode(std::span<const std::int32_t> ids, bool skip_special_tokens = true) const {
    std::string bytes;
    vocabulary_.for_each_decoded(ids, skip_special_tokens, [&](std::string_view token) {
      bytes += detail::bytes_of_token(token);
    });
    return detail::replace_invalid_utf8(bytes);
  }

  /// Bytes at the end of a decoded text that ids to come may change: U+FFFD, which may stand for the first
  /// bytes of a character.
  static std::size_t unsettled(std::string_view text) { return detail::not_whole(text); }

  /// Number of ids: vocabulary and added tokens. An embedding may have more rows.
  index_t size() const { return vocabulary_.size(); }
  /// Ids of the named tokens; -1 where the folder names none.
  std::int32_t pad_id() const { return ids_.pad; }
  std::int32_t bos_id() const { return ids_.bos; }
  std::int32_t eos_id() const { return ids_.eos; }
  std::int32_t unk_id() const { return ids_.unk; }
  std::int32_t mask_id() const { return ids_.mask; }

  /// Token of an id as vocab.json writes it, with U+0120 for a space; throws shape_error unless 0 <= id < size().
  std::string_view piece(std::int32_t id) const { return vocabulary_.piece(id); }
  /// Id of a token as vocab.json writes it, or nothing.
  std::optional<std::int32_t> id(std::string_view piece) const { return vocabulary_.id(piece); }

 private:
  void encode_words(std::string_view text, std::vector<std::int32_t>& ids,
                    detail::MergeTable::Work& work) const {
    if (text.empty()) return;
    std::string prefixed;
    if (add_prefix_space_ && text[0] != ' ') text = prefixed = " " + std::string(text);
    detail::for_each_word(text, [&](std::string_view word) {
      const std::size_t begin = ids.size();
      for (const char byte : word) ids.push_back(byte_ids_[std::uint8_t(byte)]);
      merges_.merge(ids, begin, work);
    });
  }

  void load_vocabulary(const nlohmann::json& vocabulary, const std::filesystem::path& path) {
    detail::append_vocabulary(vocabulary, path, vocabulary_);
    const auto bytes = detail::byte_tokens();
    for (std::size_t b = 0; b < 256; ++b) {
      const auto found = id(bytes[b]);
      if (!found)
        throw io_error(path.string() + ": has no token for byte " + std::to_string(b) + " (\"" +
                       bytes[b] + "\"), so it is no byte-level vocabulary; name BART's folder");
      byte_ids_[b] = *found;
    }
  }

  void load_merges_file(const std::filesystem::path& path) {
    const MappedFile file(path, true);
    std::int32_t rank = 0, number = 0;
    for (std::string_view rest = file.text(); !rest.empty();) {
      const std::size_t end = std::min(rest.find('\n'), rest.size());
      std::string_view line = rest.substr(0, end);
      rest.remove_prefix(std::min(end + 1, rest.size()));
      ++number;
      if (line.ends_with('\r')) line.remove_suffix(1);
      if (line.empty() || line.starts_with("#version")) continue;
      const auto pair = detail::split_merge(line);
      const std::string where = path.string() + ": line " + std::to_string(number);
      if (!pair)
        throw io_error(where + ": expected two tokens with a space between; fetch the file again");
      detail::add_merge(*pair, "", rank++, where, vocabulary_, merges_);
    }
  }

  /// The ByteLevel step of "pre_tokenizer", or null.
  static nlohmann::json byte_level_step(const nlohmann::json& json) {
    const nlohmann::json* step = detail::given(json, "pre_tokenizer");
    if (step && detail::given_or<std::string>(*step, "type", "") == "Sequence" &&
        step->at("pretokenizers").size() == 1)
      step = &step->at("pretokenizers")[0];
    return step && detail::given_or<std::string>(*step, "type", "") == "ByteLevel"
               ? *step
               : nlohmann::json();
  }

  void load_tokenizer_json(const detail::TokenizerFiles& files) {
    const nlohmann::json &json = files.whole, &model = json.at("model");
    const std::filesystem::path path = files.whole_path();
    const auto refuse = [&](const std::string& what) {
      throw io_error(path.string() + ": " + what +
                     ", so it is not BART's; name BART's folder, or set tokenizer_class to "
                     "PreTrainedTokenizerFast in tokenizer_config.json to have the file followed");
    };
    if (detail::given_or<std::string>(model, "type", "BPE") != "BPE") refuse("holds no BPE model");
    const nlohmann::json step = byte_level_step(json);
    if (step.is_null() || !detail::given_or(step, "use_regex", true))
      refuse("does not split text by GPT-2's expression alone");
    for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"})
      if (!detail::given_or<std::string>(model, key, "").empty())
        refuse(std::string("has a ") + key);
    for (const char* key : {"byte_fallback", "ignore_merges"})
      if (detail::given_or(model, key, false)) refuse(std::string("has ") + key);
    if (detail::given(json, "normalizer")) refuse("has a normalizer");
    load_vocabulary(model.at("vocab"), path);
    detail::read_merges(model.at("merges"), "", path, vocabulary_, merges_);
  }

  /// What BART's and GPT-2's classes name where the files do not.
  static detail::UnnamedTokens unnamed_tokens(bool as_written, bool gpt2) {
    constexpr const char* end = "<|endoftext|>";
    if (as_written) return {};
    if (gpt2) return {{end, end, end, nullptr, nullptr, nullptr, nullptr}, {}};
    return {{"<s>", "</s>", "<unk>", "</s>", "<pad>", "<s>", "<mask>"}, {}};
  }

  detail::Vocabulary vocabulary_;
  std::array<std::int32_t, 256> byte_ids_{};
  detail::MergeTable merges_;
  detail::NamedIds ids_;
  detail::EncodingEnds ends_;
  bool add_prefix_space_ = false;
};

struct ByteBpeTraining {
  index_t min_frequency = 2;      ///< occurrences of a pair below which it is not merged
  bool add_prefix_space = false;  ///< begin every text as a word after a space
  index_t sentinels = 0;          ///< <extra_id_0>, ... as T5 has, which BART has not
};

namespace detail {

/// Learns merges from words, as tokenizers' BpeTrainer: the most frequent pair first and, among equals, that of the
/// lowest ids; a pair's frequency is looked up again when it comes to the top.
class MergeLearner {
 public:
  explicit MergeLearner(std::vector<std::string> tokens) : tokens_(std::move(tokens)) {
    for (std::size_t i = 0; i < tokens_.size(); ++i) ids_.emplace(tokens_[i], std::int32_t(i));
  }

  void add_word(std::string_view word, index_t count, std::span<const std::int32_t> byte_ids) {
    Word& entry = words_.emplace_back();
    entry.count = count;
    for (const char byte : word) entry.ids.push_back(byte_ids[std::uint8_t(byte)]);
  }

  void learn(index_t vocab_size, index_t min_frequency) {
    for (std::size_t w = 0; w < words_.size(); ++w)
      for (std::size_t i = 1; i < words_[w].ids.size(); ++i)
        change(words_[w].ids[i - 1], words_[w].ids[i], words_[w].count, w);
    queue_changed();
    while (std::ssize(tokens_) < vocab_size && !queue_.empty()) {
      std::pop_heap(queue_.begin(), queue_.end());
      Pair best = std::move(queue_.back());
      queue_.pop_back();
      if (const index_t now = counts_[best.key]; now != best.count) {
        best.count = now;
        push(std::move(best));
        continue;
      }
      if (best.count < std::max<index_t>(min_frequency, 1)) break;
      const auto left = std::int32_t(best.key >> 32), right = std::int32_t(best.key & 0xffffffff);
      const std::string text = tokens_[std::size_t(left)] + tokens_[std::size_t(right)];
      const auto [merged, fresh] = ids_.try_emplace(text, std::int32_t(tokens_.size()));
      merges_.push_back(tokens_[std::size_t(left)] + " " + tokens_[std::size_t(right)]);
      if (fresh) tokens_.push_back(text);
      for (const std::size_t w : best.words) merge_in_word(w, left, right, merged->second);
      queue_changed();
    }
  }

  const std::vector<std::string>& tokens() const { return tokens_; }
  const std::vector<std::string>& merges() const { return merges_; }

 private:
  struct Word {
    std::vector<std::int32_t> ids;
    index_t count;
  };
  struct Pair {
    std::uint64_t key;
    index_t count;
    std::vector<std::size_t> words;
    bool operator<(const Pair& other) const {
      return count != other.count ? count < other.count : key > other.key;
    }
  };

  void push(Pair pair) {
    queue_.push_back(std::move(pair));
    std::push_heap(queue_.begin(), queue_.end());
  }

  void change(std::int32_t left, std::int32_t right, index_t count, std::size_t word) {
    const std::uint64_t key = pair_key(left, right);
    counts_[key] += count;
    if (count <= 0) return;
    auto& words = changed_[key];
    if (words.empty() || words.back() != word) words.push_back(word);
  }

  void queue_changed() {
    for (auto& [key, words] : changed_)
      if (const index_t count = counts_[key]; count > 0) push({key, count, std::move(words)});
    changed_.clear();
  }

  void merge_in_word(std::size_t w, std::int32_t left, std::int32_t right, std::int32_t merged) {
    auto& [ids, count] = words_[w];
    std::size_t kept = 0;
    for (std::size_t i = 0; i < ids.size(); ++i, ++kept) {
      if (ids[i] != left || i + 1 == ids.size() || ids[i + 1] != right) {
        ids[kept] = ids[i];
        continue;
      }
      if (kept > 0) {
        change(ids[kept - 1], left, -count, w);
        change(ids[kept - 1], merged, count, w);
      }
      ++i;
      if (i + 1 < ids.size()) {
        change(right, ids[i + 1], -count, w);
        change(merged, ids[i + 1], count, w);
      }
      ids[kept] = merged;
    }
    ids.resize(kept);
  }

  std::vector<std::string> tokens_, merges_;
  std::unordered_map<std::string, std::int32_t> ids_;
  std::vector<Word> words_;
  std::unordered_map<std::uint64_t, index_t, PairHash> counts_;
  std::unordered_map<std::uint64_t, std::vector<std::size_t>, PairHash> changed_;
  std::vector<Pair> queue_;  // a heap
};

/// What tokenizer files say of each special token, without its id.
inline std::vector<nlohmann::ordered_json> special_token_objects(
    std::span<const std::string> special) {
  std::vector<nlohmann::ordered_json> objects;
  for (const std::string& text : special)
    objects.push_back({{"content", text},
                       {"single_word", false},
                       {"lstrip", text == "<mask>"},
                       {"rstrip", false},
                       {"normalized", false},
                       {"special", true}});
  return objects;
}

/// The names of BART's special tokens except the mask.
inline nlohmann::ordered_json special_token_names() {
  return {{"bos_token", "<s>"},  {"eos_token", "</s>"},  {"unk_token", "<unk>"},
          {"sep_token", "</s>"}, {"pad_token", "<pad>"}, {"cls_token", "<s>"}};
}

/// tokenizer_config.json.
inline nlohmann::ordered_json tokenizer_config_json(std::span<const nlohmann::ordered_json> special,
                                                    bool add_prefix_space) {
  nlohmann::ordered_json config = special_token_names();
  config["mask_token"] = "<mask>";
  config["add_prefix_space"] = add_prefix_space;
  nlohmann::ordered_json& decoder = config["added_tokens_decoder"];
  for (std::size_t id = 0; id < special.size(); ++id) decoder[std::to_string(id)] = special[id];
  config["clean_up_tokenization_spaces"] = false;
  config["tokenizer_class"] = "BartTokenizer";
  return config;
}

/// special_tokens_map.json; the mask is the fifth special token.
inline nlohmann::ordered_json special_tokens_map_json(
    std::span<const nlohmann::ordered_json> special) {
  nlohmann::ordered_json map = special_token_names();
  map["mask_token"] = special[4];
  map["mask_token"].erase("special");
  return map;
}

/// tokenizer.json.
inline nlohmann::ordered_json tokenizer_json(const nlohmann::ordered_json& vocabulary,
                                             const std::vector<std::string>& merges,
                                             std::span<const nlohmann::ordered_json> special,
                                             bool add_prefix_space) {
  using Json = nlohmann::ordered_json;
  Json added = Json::array();
  for (std::size_t id = 0; id < special.size(); ++id) {
    added.push_back(special[id]);
    added.back()["id"] = id;
  }
  const Json byte_level{{"type", "ByteLevel"},
                        {"add_prefix_space", add_prefix_space},
                        {"trim_offsets", true},
                        {"use_regex", true}};
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens", added},
          {"normalizer", nullptr},
          {"pre_tokenizer", byte_level},
          {"post_processor",
           {{"type", "RobertaProcessing"},
            {"sep", {"</s>", vocabulary.at("</s>")}},
            {"cls", {"<s>", vocabulary.at("<s>")}},
            {"trim_offsets", true},
            {"add_prefix_space", add_prefix_space}}},
          {"decoder", byte_level},
          {"model",
           {{"type", "BPE"},
            {"dropout", nullptr},
            {"unk_token", nullptr},
            {"continuing_subword_prefix", ""},
            {"end_of_word_suffix", ""},
            {"fuse_unk", false},
            {"byte_fallback", false},
            {"ignore_merges", false},
            {"vocab", vocabulary},
            {"merges", merges}}}};
}

/// Replaces the files of a folder that ByteBpeTokenizer and transformers' BartTokenizer read.
inline void write_byte_bpe(const std::filesystem::path& folder,
                           std::span<const std::string> special, const MergeLearner& learner,
                           bool add_prefix_space) {
  using Json = nlohmann::ordered_json;
  Json vocabulary = Json::object();
  for (std::size_t id = 0; id < learner.tokens().size(); ++id)
    vocabulary.get_ref<Json::object_t&>().emplace_back(learner.tokens()[id], id);
  std::string merges = "#version: 0.2\n";
  for (const std::string& merge : learner.merges()) merges += merge + "\n";
  const std::vector<Json> tokens = special_token_objects(special);

  std::vector<ReplacementFile> files;
  const auto add = [&](const char* name, const std::string& text) {
    files.emplace_back(folder / name).write(text);
  };
  add("vocab.json", vocabulary.dump() + "\n");
  add("merges.txt", merges);
  add("tokenizer.json",
      tokenizer_json(vocabulary, learner.merges(), tokens, add_prefix_space).dump(1) + "\n");
  add("special_tokens_map.json", special_tokens_map_json(tokens).dump(2) + "\n");
  add("tokenizer_config.json", tokenizer_config_json(tokens, add_prefix_space).dump(2) + "\n");
  commit_together(files);
}

}  // namespace detail

/// Trains a byte-level vocabulary on UTF-8 texts (<s> 0, <pad> 1, </s> 2, <unk> 3, <mask> 4, the sentinels beside vocab_size,
/// of which <extra_id_0> has the highest id as in a T5, the 256 bytes, then merges) and
/// replaces vocab.json, merges.txt, tokenizer.json, tokenizer_config.json and special_tokens_map.json in a folder; the vocabulary is
/// that of tokenizers' ByteLevelBPETokenizer.train. Fewer than vocab_size tokens result when no pair is frequent enough.
/// Throws shape_error when the texts are empty or vocab_size is below 261, io_error when a file cannot be written.
inline void train_byte_bpe(std::span<const std::string> texts, index_t vocab_size,
                           const std::filesystem::path& folder, ByteBpeTraining options = {}) {
  constexpr std::string_view function = "train_byte_bpe";
  std::vector<std::string> special{"<s>", "<pad>", "</s>", "<unk>", "<mask>"};
  require(vocab_size >= std::ssize(special) + 256, function,
          "vocab_size is below 261, the special tokens and the bytes");
  require(std::in_range<std::int32_t>(vocab_size), function, "vocab_size is not below 2^31");
  require(options.min_frequency >= 0, function, "min_frequency is negative");
  require(options.sentinels >= 0 && options.sentinels <= 10'000, function,
          "sentinels must be 0 to 10000");
  for (index_t i = options.sentinels; i-- > 0;)
    special.push_back("<extra_id_" + std::to_string(i) + ">");
  std::map<std::string, index_t, std::less<>> counts;
  for (std::size_t i = 0; i < texts.size(); ++i) {
    std::string_view text = texts[i];
    if (detail::valid_utf8_prefix(text) != text.size())
      throw shape_error("train_byte_bpe: text " + std::to_string(i + 1) + " is not UTF-8");
    std::string prefixed;
    if (options.add_prefix_space && !text.starts_with(' ') && !text.empty())
      text = prefixed = " " + texts[i];
    detail::for_each_word(text, [&](std::string_view word) {
      const auto found = counts.find(word);
      if (found != counts.end())
        ++found->second;
      else
        counts.emplace(word, 1);
    });
  }
  require(!counts.empty(), function, "the texts are empty");

  std::array<std::size_t, 256> bytes{};  // in the order of their characters
  for (std::size_t b = 0; b < 256; ++b) bytes[b] = b;
  const auto characters = detail::make_byte_characters();
  std::ranges::sort(bytes, {}, [&](std::size_t b) { return characters[b]; });
  std::vector<std::string> tokens = special;
  std::array<std::int32_t, 256> byte_ids{};
  const auto byte_tokens = detail::byte_tokens();
  for (const std::size_t b : bytes) {
    byte_ids[b] = std::int32_t(tokens.size());
    tokens.push_back(byte_tokens[b]);
  }
  detail::MergeLearner learner(std::move(tokens));
  for (const auto& [word, count] : counts) learner.add_word(word, count, byte_ids);
  learner.learn(vocab_size + options.sentinels, options.min_frequency);
  detail::write_byte_bpe(folder, special, learner, options.add_prefix_space);
}

/// The same from a file, one line of text each.
inline void train_byte_bpe(const std::filesystem::path& text_file, index_t vocab_size,
                           const std::filesystem::path& folder, ByteBpeTraining options = {}) {
  const MappedFile file(text_file);
  std::vector<std::string> lines;
  for (std::string_view rest = file.text(); !rest.empty();) {
    const std::size_t end = std::min(rest.find('\n'), rest.size());
    lines.emplace_back(rest.substr(0, end));
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }
  train_byte_bpe(lines, vocab_size, folder, options);
}

}  // namespace srformer
