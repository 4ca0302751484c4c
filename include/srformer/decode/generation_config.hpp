// SPDX-License-Identifier: Apache-2.0
// How tokens are chosen: the fields of generation_config.json that apply to encoder-decoder models, with
// the names, defaults and meaning of transformers' GenerationConfig. What is not here is refused by name.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <optional>
#include <set>
#include <string_view>
#include <vector>

#include <srformer/io/hf_checkpoint.hpp>

namespace srformer {

/// When beam search ends a source that has as many finished hypotheses as beams: at once, when the best
/// running one is not expected to become better than the worst, or when it cannot.
enum class EarlyStopping { no, yes, never };

struct GenerationConfig {
  using Ids = std::vector<std::int32_t>;

  /// Tokens of the output, the start token included; none: 20 after the start token.
  std::optional<index_t> max_length{};
  std::optional<index_t> max_new_tokens{};  ///< after the start token; goes before max_length
  index_t min_length = 0;                   ///< the start token included
  std::optional<index_t> min_new_tokens{};  ///< goes before min_length

  index_t num_beams = 1;
  double length_penalty =
      1;  ///< hypotheses are compared by log-probability / length^length_penalty
  EarlyStopping early_stopping = EarlyStopping::no;
  index_t num_return_sequences = 1;

  bool do_sample = false;
  double temperature = 1;
  index_t top_k = 50;  ///< 0: all
  double top_p = 1;
  std::uint64_t seed = 0;

  double repetition_penalty = 1;
  index_t no_repeat_ngram_size = 0;
  index_t encoder_no_repeat_ngram_size = 0;
  std::vector<Ids> bad_words_ids{};
  std::optional<std::int32_t> forced_bos_token_id{};
  Ids forced_eos_token_id{};
  Ids suppress_tokens{}, begin_suppress_tokens{};

  /// None: the model's.
  std::optional<std::int32_t> decoder_start_token_id{}, pad_token_id{};
  std::optional<Ids> eos_token_id{};  ///< an empty list: nothing ends before max_length

  index_t horizon = 0;  ///< decoder steps over the segments; 0: the model's generation_horizon

  /// max_length as it applies.
  index_t longest() const { return max_new_tokens ? *max_new_tokens + 1 : max_length.value_or(21); }
  /// min_length as it applies.
  index_t shortest() const { return min_new_tokens ? *min_new_tokens + 1 : min_length; }
};

/// Throws for values that cannot be, and for options that do not apply to the kind of search. Tokens that are read or
/// forced must be of the vocabulary; an end, a filling or a suppressed token outside it never comes.
inline void check_generation(const GenerationConfig& c, index_t vocabulary) {
  const auto need = [](bool holds, const std::string& text) { require(holds, "generate", text); };
  const auto finite_above = [](double x, double least) { return std::isfinite(x) && x > least; };
  need(c.longest() >= 2, "max_length must be at least 2, max_new_tokens at least 1");
  need(c.shortest() >= 0 && c.min_new_tokens.value_or(0) >= 0,
       "min_length and min_new_tokens must be at least 0");
  need(c.num_beams >= 1, "num_beams must be at least 1");
  need(std::isfinite(c.length_penalty), "length_penalty must be finite");
  need(c.num_return_sequences >= 1, "num_return_sequences must be at least 1");
  need(c.num_beams > 1 || c.do_sample || c.num_return_sequences == 1,
       "greedy search gives one sequence: num_return_sequences needs num_beams or do_sample");
  need(c.num_beams == 1 || c.num_return_sequences <= c.num_beams,
       "num_return_sequences must not be greater than num_beams");
  need(c.num_beams > 1 || (c.length_penalty == 1 && c.early_stopping == EarlyStopping::no),
       "length_penalty and early_stopping apply to num_beams above 1 alone");
  need(c.do_sample || (c.temperature == 1 && c.top_k == 50 && c.top_p == 1),
       "temperature, top_k and top_p apply with do_sample alone");
  need(finite_above(c.temperature, 0), "temperature must be above 0");
  need(c.top_k >= 0, "top_k must be at least 0");
  need(c.top_p >= 0 && c.top_p <= 1, "top_p must be from 0 to 1");
  need(finite_above(c.repetition_penalty, 0), "repetition_penalty must be above 0");
  need(c.no_repeat_ngram_size >= 0 && c.encoder_no_repeat_ngram_size >= 0,
       "no_repeat_ngram_size and encoder_no_repeat_ngram_size must be at least 0");
  need(c.horizon >= 0, "horizon must be at least 1, or 0 for the model's");
  const auto known = [&](const char* name, const GenerationConfig::Ids& ids) {
    for (const std::int32_t id : ids) {
      need(id >= 0 && id < vocabulary, std::string(name) + " holds " + std::to_string(id) +
                                           ", which is outside the vocabulary of " +
                                           std::to_string(vocabulary));
    }
  };
  for (const auto& words : c.bad_words_ids) {
    need(!words.empty(), "bad_words_ids holds an empty list");
    known("bad_words_ids", words);
  }
  if (c.forced_bos_token_id) known("forced_bos_token_id", {*c.forced_bos_token_id});
  known("forced_eos_token_id", c.forced_eos_token_id);
  const std::set<std::int32_t> suppressed(c.suppress_tokens.begin(), c.suppress_tokens.end());
  const auto some_left = [&](const char* name, const GenerationConfig::Ids& forced) {
    const auto is_suppressed = [&](std::int32_t id) { return suppressed.contains(id); };
    need(forced.empty() || !std::ranges::all_of(forced, is_suppressed),
         std::string("suppress_tokens holds every token of ") + name);
  };
  if (c.forced_bos_token_id) some_left("forced_bos_token_id", {*c.forced_bos_token_id});
  some_left("forced_eos_token_id", c.forced_eos_token_id);
  if (c.decoder_start_token_id) known("decoder_start_token_id", {*c.decoder_start_token_id});
}

/// The fields that are read.
inline constexpr const char* generation_option_names[] = {"max_length",
                                                          "max_new_tokens",
                                                          "min_length",
                                                          "min_new_tokens",
                                                          "num_beams",
                                                          "length_penalty",
                                                          "early_stopping",
                                                          "num_return_sequences",
                                                          "do_sample",
                                                          "temperature",
                                                          "top_k",
                                                          "top_p",
                                                          "repetition_penalty",
                                                          "no_repeat_ngram_size",
                                                          "encoder_no_repeat_ngram_size",
                                                          "bad_words_ids",
                                                          "forced_bos_token_id",
                                                          "force_bos_token_to_be_generated",
                                                          "forced_eos_token_id",
                                                          "suppress_tokens",
                                                          "begin_suppress_tokens",
                                                          "decoder_start_token_id",
                                                          "bos_token_id",
                                                          "pad_token_id",
                                                          "eos_token_id"};

namespace detail {

/// Token ids: a list, or where `one` is allowed a single id.
inline std::optional<std::vector<std::int32_t>> json_ids(const nlohmann::json& object,
                                                         const char* key, const std::string& path,
                                                         bool one) {
  const auto found = object.find(key);
  if (found == object.end() || found->is_null()) return std::nullopt;
  if (one && json_holds<std::int32_t>(*found)) return std::vector{found->get<std::int32_t>()};
  if (!found->is_array() || !std::ranges::all_of(*found, json_holds<std::int32_t>)) {
    refuse_field(path, key, *found, one ? "a token id or a list of them" : "a list of token ids");
  }
  return found->get<std::vector<std::int32_t>>();
}

/// Options of transformers that are not here, with the values that leave them without effect, and the kind of search
/// that alone reads them.
inline void refuse_other_options(const nlohmann::json& json, const std::string& path,
                                 const GenerationConfig& c) {
  struct Option {
    const char* name;
    std::vector<nlohmann::json> neutral;
    bool read = true;
  };
  const nlohmann::json none;
  const bool beams = c.num_beams > 1, draws = c.do_sample;
  const bool groups = beams && json_field_or<index_t>(json, "num_beam_groups", path, 1) > 1;
  const Option options[] = {{"min_p", {none}, draws},
                            {"top_h", {none}, draws},
                            {"typical_p", {none, 1.0}, draws},
                            {"epsilon_cutoff", {none, 0.0}, draws},
                            {"eta_cutoff", {none, 0.0}, draws},
                            {"encoder_repetition_penalty", {none, 1.0}},
                            {"renormalize_logits", {none, false}, beams},
                            {"exponential_decay_length_penalty", {none}},
                            {"sequence_bias", {none}},
                            {"token_healing", {none, false}},
                            {"guidance_scale", {none, 1.0}},
                            {"watermarking_config", {none}},
                            {"num_beam_groups", {none, 1}, groups},
                            {"diversity_penalty", {none, 0.0}, groups},
                            {"constraints", {none}},
                            {"force_words_ids", {none}},
                            {"penalty_alpha", {none, 0.0}, !beams && !draws},
                            {"dola_layers", {none}},
                            {"max_time", {none}},
                            {"stop_strings", {none}},
                            {"prompt_lookup_num_tokens", {none}},
                            {"assistant_early_exit", {none}}};
  for (const Option& option : options) {
    const auto found = json.find(option.name);
    if (!option.read || found == json.end() ||
        std::ranges::find(option.neutral, *found) != option.neutral.end())
      continue;
    refuse_field(path, option.name, *found, "nothing: there is no such option here");
  }
}

/// A count that may be absent or null, which gives `otherwise`; io_error below `least`.
inline index_t json_count(const nlohmann::json& json, const char* key, const std::string& path,
                          index_t least, index_t otherwise) {
  const index_t value = json_field_or<index_t>(json, key, path, otherwise);
  if (value < least)
    refuse_field(path, key, json.at(key),
                 least == 0   ? "at least 0"
                 : least == 1 ? "at least 1"
                              : "at least 2");
  return value;
}

/// The same, nothing where it is absent.
inline std::optional<index_t> json_optional_count(const nlohmann::json& json, const char* key,
                                                  const std::string& path, index_t least) {
  if (!json_optional<index_t>(json, key, path)) return std::nullopt;
  return json_count(json, key, path, least, least);
}

inline void read_lengths(const nlohmann::json& json, const std::string& path, GenerationConfig& c) {
  c.max_new_tokens = json_optional_count(json, "max_new_tokens", path, 1);
  c.max_length = json_optional_count(json, "max_length", path, c.max_new_tokens ? 0 : 2);
  // transformers passes over one that is negative
  c.min_length = std::max<index_t>(0, json_field_or<index_t>(json, "min_length", path, 0));
  c.min_new_tokens = json_optional_count(json, "min_new_tokens", path, 0);
}

/// Sets the options of beams where there are some.
inline void read_beam_options(const nlohmann::json& json, const std::string& path,
                              GenerationConfig& c) {
  const double length_penalty = json_field_or<double>(json, "length_penalty", path, 1);
  const auto stopping = json.find("early_stopping");
  EarlyStopping early = EarlyStopping::no;
  if (stopping != json.end() && !stopping->is_null()) {
    if (!stopping->is_boolean() && *stopping != "never")
      refuse_field(path, "early_stopping", *stopping, "true, false or \"never\"");
    early = *stopping == "never"    ? EarlyStopping::never
            : stopping->get<bool>() ? EarlyStopping::yes
                                    : EarlyStopping::no;
  }
  if (c.num_beams > 1) c.length_penalty = length_penalty, c.early_stopping = early;
}

/// Sets the options of sampling where tokens are drawn.
inline void read_sampling_options(const nlohmann::json& json, const std::string& path,
                                  GenerationConfig& c) {
  const double temperature = json_field_or<double>(json, "temperature", path, 1);
  const double top_p = json_field_or<double>(json, "top_p", path, 1);
  const index_t top_k = json_count(json, "top_k", path, 0, 50);
  if (!c.do_sample) return;
  if (!(temperature > 0))
    refuse_field(path, "temperature", json.at("temperature"), "a number above 0");
  if (!(top_p >= 0 && top_p <= 1))
    refuse_field(path, "top_p", json.at("top_p"), "a number from 0 to 1");
  c.temperature = temperature, c.top_p = top_p, c.top_k = top_k;
}

inline std::vector<GenerationConfig::Ids> read_bad_words(const nlohmann::json& json,
                                                         const std::string& path) {
  const auto bad = json.find("bad_words_ids");
  if (bad == json.end() || bad->is_null()) return {};
  bool fits = bad->is_array() && !bad->empty();
  for (std::size_t i = 0; fits && i < bad->size(); ++i) {
    const nlohmann::json& words = bad->at(i);
    fits =
        words.is_array() && !words.empty() && std::ranges::all_of(words, json_holds<std::int32_t>);
  }
  if (!fits) refuse_field(path, "bad_words_ids", *bad, "a list of lists of token ids");
  return bad->get<std::vector<GenerationConfig::Ids>>();
}

/// What decode/logits.hpp does to scores.
inline void read_processors(const nlohmann::json& json, const std::string& path,
                            GenerationConfig& c) {
  c.repetition_penalty = json_field_or<double>(json, "repetition_penalty", path, 1);
  if (!(c.repetition_penalty > 0))
    refuse_field(path, "repetition_penalty", json.at("repetition_penalty"), "a number above 0");
  c.no_repeat_ngram_size = json_count(json, "no_repeat_ngram_size", path, 0, 0);
  c.encoder_no_repeat_ngram_size = json_count(json, "encoder_no_repeat_ngram_size", path, 0, 0);
  c.bad_words_ids = read_bad_words(json, path);
  c.forced_bos_token_id = json_optional<std::int32_t>(json, "forced_bos_token_id", path);
  if (json_field_or<bool>(json, "force_bos_token_to_be_generated", path, false)) {
    c.forced_bos_token_id = json_optional<std::int32_t>(json, "bos_token_id", path);
  }
  const auto list = [&](const char* key, bool one) {
    return json_ids(json, key, path, one).value_or(GenerationConfig::Ids{});
  };
  c.forced_eos_token_id = list("forced_eos_token_id", true);
  c.suppress_tokens = list("suppress_tokens", false);
  c.begin_suppress_tokens = list("begin_suppress_tokens", false);
}

/// The tokens that sequences begin, end and are padded with.
inline void read_special_tokens(const nlohmann::json& json, const std::string& path,
                                GenerationConfig& c) {
  c.decoder_start_token_id = json_optional<std::int32_t>(json, "decoder_start_token_id", path);
  if (!c.decoder_start_token_id)
    c.decoder_start_token_id = json_optional<std::int32_t>(json, "bos_token_id", path);
  c.pad_token_id = json_optional<std::int32_t>(json, "pad_token_id", path);
  c.eos_token_id = json_ids(json, "eos_token_id", path, true);
  if (!c.pad_token_id && c.eos_token_id && !c.eos_token_id->empty())
    c.pad_token_id = c.eos_token_id->front();
}

}  // namespace detail

/// Reads the object of a generation_config.json, or of a config.json that generation takes its options
/// from. As in transformers, options of beams are passed over without beams and those of sampling
/// without do_sample; io_error names a field of another type or range, and an option that is not here.
inline GenerationConfig generation_config_from_json(const nlohmann::json& json,
                                                    const std::string& path) {
  GenerationConfig c;
  detail::read_lengths(json, path, c);
  c.num_beams = detail::json_count(json, "num_beams", path, 1, 1);
  c.do_sample = json_field_or<bool>(json, "do_sample", path, false);
  detail::refuse_other_options(json, path, c);
  detail::read_beam_options(json, path, c);
  detail::read_sampling_options(json, path, c);
  c.num_return_sequences = detail::json_count(json, "num_return_sequences", path, 1, 1);
  if (c.num_beams > 1 && c.num_return_sequences > c.num_beams)
    detail::refuse_field(path, "num_return_sequences", json.at("num_return_sequences"),
                         "at most num_beams, which is " + std::to_string(c.num_beams));
  detail::read_processors(json, path, c);
  detail::read_special_tokens(json, path, c);
  return c;
}

/// Leaves out options that the kind of search does not read, and more outputs than it has: transformers loads a file that
/// holds them, and then refuses to save its model.
inline void drop_idle_options(nlohmann::json& json, const std::string& path) {
  const auto drop = [&](std::initializer_list<const char*> names) {
    for (const char* name : names) json.erase(name);
  };
  const index_t beams = json_field_or<index_t>(json, "num_beams", path, 1);
  const bool draws = json_field_or<bool>(json, "do_sample", path, false);
  if (beams < 2) drop({"length_penalty", "early_stopping", "num_beam_groups", "diversity_penalty"});
  if (!draws)
    drop({"temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff",
          "eta_cutoff"});
  const index_t outputs = json_field_or<index_t>(json, "num_return_sequences", path, 1);
  if (beams > 1 ? outputs > beams : outputs > 1 && !draws) drop({"num_return_sequences"});
}

/// The object that a checkpoint's generation options are in: generation_config.json, or without one
/// config.json.
inline const nlohmann::json& generation_options(const HfCheckpoint& checkpoint) {
  return checkpoint.generation_config().empty() ? checkpoint.config()
                                                : checkpoint.generation_config();
}

/// The file that they stand in.
inline std::string generation_options_path(const HfCheckpoint& checkpoint) {
  return checkpoint.generation_config().empty() ? checkpoint.config_path()
                                                : checkpoint.generation_config_path();
}

/// The options without what else a config.json holds: what a generation_config.json of their own says.
inline nlohmann::json generation_options_alone(const HfCheckpoint& checkpoint) {
  if (!checkpoint.generation_config().empty()) return checkpoint.generation_config();
  nlohmann::json options = nlohmann::json::object();
  for (const char* name : generation_option_names)
    if (checkpoint.config().contains(name)) options[name] = checkpoint.config()[name];
  return options;
}

/// The options of a checkpoint.
inline GenerationConfig generation_config(const HfCheckpoint& checkpoint) {
  return generation_config_from_json(generation_options(checkpoint),
                                     generation_options_path(checkpoint));
}

}  // namespace srformer
