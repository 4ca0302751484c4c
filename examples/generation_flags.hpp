// SPDX-License-Identifier: Apache-2.0
// The flags that say how tokens are chosen, named as in transformers; they go over what the checkpoint's
// generation_config.json says.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include <srformer/decode/generation_config.hpp>

#include "program.hpp"

namespace srformer::program {

/// What the command line said; what it did not say stays as it was.
struct GenerationFlags {
  std::optional<index_t> max_length, max_new_tokens, min_length, min_new_tokens;
  std::optional<index_t> num_beams, num_return_sequences;
  std::optional<double> length_penalty;
  std::optional<std::string> early_stopping;
  std::optional<bool> do_sample;
  std::optional<double> temperature, top_p;
  std::optional<index_t> top_k;
  std::optional<std::uint64_t> seed;
  std::optional<double> repetition_penalty;
  std::optional<index_t> no_repeat_ngram_size, encoder_no_repeat_ngram_size;
  std::optional<std::int32_t> forced_bos_token_id, forced_eos_token_id;
  std::optional<index_t> generation_horizon;

  void add_to(CLI::App& app) {
    add_search_to(app);
    app.add_option("--num_return_sequences", num_return_sequences, "Outputs of each source")
        ->check(at_least(1));
    app.add_option("--seed", seed, "Of sampling");
    app.add_option("--generation_horizon", generation_horizon,
                   "Decoder steps over the source; else as config.json says")
        ->check(at_least(1));
  }

  /// Those of one output for each source, without a seed or a horizon.
  void add_search_to(CLI::App& app) {
    app.add_option("--max_length", max_length, "Tokens of an output at most, with the start token")
        ->check(at_least(2));
    app.add_option("--max_new_tokens", max_new_tokens, "The same without it")->check(at_least(1));
    app.add_option("--min_length", min_length, "Tokens at least, with the start token")
        ->check(at_least(0));
    app.add_option("--min_new_tokens", min_new_tokens, "The same without it")->check(at_least(0));
    app.add_option("--num_beams", num_beams, "Hypotheses of beam search; 1: greedy")
        ->check(at_least(1));
    app.add_option("--length_penalty", length_penalty,
                   "Beams are compared by log-probability / length^length_penalty");
    app.add_option("--early_stopping", early_stopping,
                   "Whether beam search ends with as many outputs as beams")
        ->check(CLI::IsMember({"true", "false", "never"}, CLI::ignore_case));
    app.add_flag("--do_sample{true}", do_sample, "Draw tokens; --do_sample=false: do not");
    app.add_option("--temperature", temperature, "Divides scores before sampling");
    app.add_option("--top_k", top_k, "Tokens that are drawn from; 0: all")->check(at_least(0));
    app.add_option("--top_p", top_p, "Share of the probability that is drawn from")
        ->check(CLI::Range(0.0, 1.0));
    app.add_option("--repetition_penalty", repetition_penalty,
                   "Divides the score of tokens that are there already");
    app.add_option("--no_repeat_ngram_size", no_repeat_ngram_size,
                   "n-grams of this size come once; 0: as often as they like")
        ->check(at_least(0));
    app.add_option("--encoder_no_repeat_ngram_size", encoder_no_repeat_ngram_size,
                   "n-grams of this size are not taken from the source")
        ->check(at_least(0));
    app.add_option("--forced_bos_token_id", forced_bos_token_id, "The token after the start token");
    app.add_option("--forced_eos_token_id", forced_eos_token_id, "The token at --max_length");
  }

  /// The options of a checkpoint with the flags over them; `otherwise` is the max_length where neither
  /// says one. Throws usage_error for flags that do not apply.
  GenerationConfig over(const HfCheckpoint& checkpoint, index_t otherwise) const {
    nlohmann::json json = generation_options(checkpoint);
    put_over(json);
    GenerationConfig config = read(json, generation_options_path(checkpoint));
    if (!config.max_length && !config.max_new_tokens) config.max_length = otherwise;
    const std::string contradiction = length_contradiction(config);
    const bool flags = max_length || max_new_tokens || min_length || min_new_tokens;
    if (!contradiction.empty() && flags) throw usage_error(contradiction);
    if (!contradiction.empty())
      print_notice("notice: " + generation_options_path(checkpoint) + ": " + contradiction);
    return config;
  }

  /// What is wrong with a least length above the greatest; empty: nothing.
  static std::string length_contradiction(const GenerationConfig& config) {
    if (config.shortest() <= config.longest()) return "";
    return "min_length " + std::to_string(config.shortest()) + " is above max_length " +
           std::to_string(config.longest()) +
           ", so that no summary may end before it is cut; give --min_length or --max_length";
  }

  /// Sets in options of generation_config.json what the flags say.
  void put_over(nlohmann::json& json) const {
    const auto put = [&](const char* name, const auto& flag) {
      if (flag) json[name] = *flag;
    };
    if (max_length && max_new_tokens)
      throw usage_error("--max_length and --max_new_tokens say the same; give one of them");
    if (min_length && min_new_tokens)
      throw usage_error("--min_length and --min_new_tokens say the same; give one of them");
    if (max_length) json.erase("max_new_tokens");
    if (min_length) json.erase("min_new_tokens");
    put("max_length", max_length), put("max_new_tokens", max_new_tokens);
    put("min_length", min_length), put("min_new_tokens", min_new_tokens);
    put("num_beams", num_beams), put("num_return_sequences", num_return_sequences);
    put("length_penalty", length_penalty);
    if (early_stopping)
      json["early_stopping"] = *early_stopping == "never"
                                   ? nlohmann::json("never")
                                   : nlohmann::json(*early_stopping == "true");
    put("do_sample", do_sample), put("temperature", temperature);
    put("top_k", top_k), put("top_p", top_p), put("repetition_penalty", repetition_penalty);
    put("no_repeat_ngram_size", no_repeat_ngram_size);
    put("encoder_no_repeat_ngram_size", encoder_no_repeat_ngram_size);
    put("forced_bos_token_id", forced_bos_token_id);
    put("forced_eos_token_id", forced_eos_token_id);
  }

  /// What options of the file `path`, with the flags over them, come to. Throws usage_error for flags
  /// that do not apply.
  GenerationConfig read(const nlohmann::json& json, const std::string& path) const {
    if (const index_t beams = json_field_or<index_t>(json, "num_beams", path, 1);
        (num_return_sequences || num_beams) && beams > 1 &&
        json_field_or<index_t>(json, "num_return_sequences", path, 1) > beams)
      throw usage_error("--num_return_sequences is greater than --num_beams");
    GenerationConfig config = generation_config_from_json(json, path);
    config.seed = seed.value_or(0);
    config.horizon = generation_horizon.value_or(0);
    const auto applies = [](bool holds, const std::string& text) {
      if (!holds) throw usage_error(text);
    };
    applies(config.num_beams > 1 || (!length_penalty && !early_stopping),
            "--length_penalty and --early_stopping are for beams; give --num_beams above 1");
    applies(config.do_sample || (!temperature && !top_k && !top_p && !seed),
            "--temperature, --top_k, --top_p and --seed are for sampling; give --do_sample");
    if (config.num_beams == 1 && !config.do_sample) {
      applies(num_return_sequences.value_or(1) == 1,
              "greedy search has one output; --num_return_sequences needs --num_beams or "
              "--do_sample");
      config.num_return_sequences = 1;
    }
    return config;
  }
};

}  // namespace srformer::program
