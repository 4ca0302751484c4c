// SPDX-License-Identifier: Apache-2.0
// What a run of finetune records beside its metrics: settings, data, time and memory by part, examples of its predictions. It
// is report.json, of which report.hpp makes a page.
#pragma once

#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <ctime>
#include <filesystem>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include <CLI/CLI.hpp>
#include <srformer/io/dataset.hpp>
#include <srformer/io/hf_checkpoint.hpp>

#include "config_file.hpp"

namespace srformer::program {

/// The beginning of a text that may be long, and how long it is.
struct Excerpt {
  std::string text;
  std::size_t characters = 0;

  static constexpr std::size_t most = 1000;

  Excerpt() = default;
  /// At most so many characters of UTF-8.
  explicit Excerpt(const std::string& whole) {
    std::size_t end = 0;
    for (std::size_t i = 0; i < whole.size(); ++i) {
      if ((static_cast<unsigned char>(whole[i]) & 0xC0u) == 0x80u) continue;
      if (characters++ == most) end = i;
    }
    text = characters > most ? whole.substr(0, end) : whole;
  }

  nlohmann::ordered_json json() const { return {{"text", text}, {"characters", characters}}; }
};

/// All flags of a program: those whose values are not the defaults, and the others.
inline nlohmann::ordered_json settings_of(const CLI::App& app) {
  nlohmann::ordered_json given = given_flags_as_json(app), defaults;
  defaults = nlohmann::ordered_json::object();
  for (const CLI::Option* option : app.get_options()) {
    if (!option->get_configurable() || option->get_lnames().empty()) continue;
    const std::string &name = option->get_lnames().front(), otherwise = option->get_default_str();
    const bool flag = option->get_items_expected_max() == 0;
    if (given.contains(name)) {
      const auto& value = given[name];
      const std::string word = value.is_string() ? value.get<std::string>() : value.dump();
      if (word != otherwise && !(flag && word == "false")) continue;
      given.erase(name);
    }
    if (name != "help") defaults[name] = flag ? "false" : otherwise;
  }
  return {{"given", given}, {"defaults", defaults}};
}

/// The smallest of some lengths, their median, that below which nine tenths are, and the greatest.
inline nlohmann::ordered_json lengths_json(std::vector<index_t> lengths) {
  if (lengths.empty()) return nlohmann::ordered_json::object();
  std::ranges::sort(lengths);
  const auto at = [&](double share) {
    return lengths[static_cast<std::size_t>(share * static_cast<double>(lengths.size() - 1))];
  };
  return {{"least", at(0)}, {"median", at(0.5)}, {"of_nine_tenths", at(0.9)}, {"most", at(1)}};
}

/// The rows to show of some scores: from the lowest to the highest, at equal distances in their order. NaN: not scored.
inline std::vector<std::size_t> rows_to_show(const std::vector<double>& scores, std::size_t count) {
  std::vector<std::size_t> order(scores.size()), chosen;
  std::iota(order.begin(), order.end(), std::size_t{0});
  const auto scored = [&](std::size_t row) { return !std::isnan(scores[row]); };
  if (std::ranges::any_of(order, scored))
    std::erase_if(order, [&](std::size_t row) { return !scored(row); });
  std::ranges::stable_sort(order, [&](std::size_t a, std::size_t b) {
    return scored(a) && scored(b) && scores[a] < scores[b];
  });
  count = std::min(count, order.size());
  for (std::size_t i = 0; i < count; ++i)
    chosen.push_back(order[count == 1 ? 0 : i * (order.size() - 1) / (count - 1)]);
  return chosen;
}

class RunRecord {
 public:
  using Json = nlohmann::ordered_json;

  /// Runs f and counts its time for a part of the run.
  template <class F>
  decltype(auto) timed(const std::string& part, F f) {
    struct Stop {
      RunRecord& record;
      const std::string& part;
      Clock::time_point start = Clock::now();
      ~Stop() { record.add_time(part, since(start)); }
    };
    const Stop stop{*this, part};
    return f();
  }
  void add_time(const std::string& part, double seconds) {
    Json& sum = json_["time"][part];
    sum = (sum.is_number() ? sum.get<double>() : 0) + seconds;
  }

  void set(const std::string& name, Json value) { json_[name] = std::move(value); }

  /// What was read: what the flag named, the tokens of the pairs that are left, and what was said of the others.
  void add_data(const std::string& flag, const std::vector<std::string>& files,
                const Examples& examples, const std::vector<std::string>& notices) {
    std::vector<index_t> sources, targets;
    for (const ExampleLengths& lengths : example_lengths(examples))
      sources.push_back(lengths.source), targets.push_back(lengths.target);
    json_["data"].push_back({{"flag", flag},
                             {"files", files},
                             {"pairs", examples.size()},
                             {"source_tokens", lengths_json(std::move(sources))},
                             {"summary_tokens", lengths_json(std::move(targets))},
                             {"notices", notices}});
  }

  /// Some predictions of a set, chosen by their scores, ROUGE-L as a share; NaN where a text has no summary.
  void set_examples(const std::string& flag, const std::vector<Excerpt>& sources,
                    const std::vector<std::string>& references,
                    const std::vector<std::string>& predictions,
                    const std::vector<double>& scores) {
    Json rows = Json::array();
    for (const std::size_t row : rows_to_show(scores, 6))
      rows.push_back({{"row", row + 1},
                      {"rougeL", std::round(scores[row] * 1e6) / 1e4},
                      {"source", sources[row].json()},
                      {"reference", Excerpt(references[row]).json()},
                      {"prediction", Excerpt(predictions[row]).json()}});
    json_["examples"] = {{"flag", flag}, {"of", predictions.size()}, {"rows", rows}};
  }

  /// Writes report.json, with the time since the record was made and the most memory that the process had.
  void write(const std::filesystem::path& folder) {
    json_["time"]["all"] = since(start_);
    rusage usage{};
    if (::getrusage(RUSAGE_SELF, &usage) == 0)
      json_["memory"]["process_peak"] = static_cast<std::int64_t>(usage.ru_maxrss) * 1024;
    char when[32] = {};
    const std::time_t now = std::time(nullptr);
    if (std::tm utc{}; ::gmtime_r(&now, &utc) != nullptr)
      std::strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%SZ", &utc);
    json_["written"] = when;
    ReplacementFile file(folder / "report.json");
    file.write(json_.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
    file.commit();
  }

 private:
  using Clock = std::chrono::steady_clock;
  static double since(Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
  }

  Clock::time_point start_ = Clock::now();
  Json json_{{"version", 1}, {"data", Json::array()}, {"time", Json::object()}};
};

}  // namespace srformer::program
