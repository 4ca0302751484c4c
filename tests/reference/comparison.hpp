// SPDX-License-Identifier: Apache-2.0
// Comparing what a program computed with a file of reference values, by the rules of compare.py, and
// taking the expected values out of such a file, as strip.py does.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <optional>
#include <string>
#include <vector>

#include <srformer/io/safetensors.hpp>

namespace srformer::reference {

/// A tensor that is expected, not an input.
inline bool is_result(const std::string& name) {
  if (name.starts_with("grad_")) return name != "grad_out";
  for (const char* whole : {"out", "logits", "loss", "smoothed_loss", "losses"}) {
    if (name == whole) return true;
  }
  return name.starts_with("grad/") || name.starts_with("step/") || name.starts_with("generate/");
}

inline bool holds_integers(const TensorInfo& info) {
  return info.dtype == DType::i64 || info.dtype == DType::i32;
}

/// Writes the inputs of `from` and its metadata to `to`, numbers as `stored` where that is given.
inline void strip(const std::filesystem::path& from, const std::filesystem::path& to,
                  std::optional<DType> stored = {}) {
  const SafetensorsFile file(from);
  SafetensorsWriter writer;
  std::vector<std::vector<double>> values;
  std::vector<std::vector<std::int64_t>> ids;
  for (const std::string& name : file.names()) {
    if (is_result(name)) continue;
    const TensorInfo& info = file.info(name);
    if (holds_integers(info)) {
      writer.add_ids(name, info.shape, ids.emplace_back(file.read_ids(name)));
    } else {
      writer.add<double>(name, stored.value_or(info.dtype), info.shape,
                         values.emplace_back(file.read<double>(name)));
    }
  }
  for (const auto& [key, value] : file.metadata()) writer.set_metadata(key, value);
  writer.write(to);
}

struct Rules {
  double tolerance = 1e-9;  ///< of the largest value of a tensor
  /// The generate calls to compare; none: all of them.
  std::optional<std::vector<std::string>> generate{};
  bool steps = true;  ///< whether the optimizer's steps are compared
  /// Of parameters after them, a tenth of it of the losses on the way; 0: 100 times the tolerance, 10 times
  /// where it is below 1e-6, and the tolerance itself.
  double step_tolerance = 0;
  bool gradients = true;  ///< whether gradients are compared
  /// Above 0: the gradients of all parameters are compared as one vector, by this relative distance.
  double whole_gradient = 0;
};

struct Comparison {
  std::size_t compared = 0;  ///< tensors
  std::size_t skipped = 0;   ///< parameters whose gradient is zero but for rounding
  double worst = 0;
  std::string worst_name = "nothing";
  std::vector<std::string> misses;

  bool ok() const { return compared > skipped && misses.empty(); }

  std::string text() const {
    char number[32];
    std::snprintf(number, sizeof number, "%.2e", worst);
    std::string line = std::to_string(compared) + " tensors, " + std::to_string(skipped) +
                       " skipped, worst " + number + " in " + worst_name;
    for (const std::string& miss : misses) line += "; " + miss;
    return line;
  }
};

namespace detail {

/// Equal rows, but for padding (one id, 0 or 1) that either side has more of.
inline bool same_ids(const TensorInfo& a, const std::vector<std::int64_t>& x, const TensorInfo& b,
                     const std::vector<std::int64_t>& y) {
  if (a.shape.size() != 2 || b.shape.size() != 2 || a.shape[0] != b.shape[0]) return false;
  const index_t width = std::min(a.shape[1], b.shape[1]);
  if (width < 1 || a.shape[0] < 1) return false;
  std::vector<std::int64_t> tail;
  for (index_t row = 0; row < a.shape[0]; ++row) {
    const auto p = x.begin() + row * a.shape[1], q = y.begin() + row * b.shape[1];
    if (!std::equal(p, p + width, q)) return false;
    tail.insert(tail.end(), p + width, p + a.shape[1]);
    tail.insert(tail.end(), q + width, q + b.shape[1]);
  }
  return std::all_of(tail.begin(), tail.end(),
                     [&](std::int64_t id) { return id == tail.front() && id <= 1; });
}

/// The largest magnitude; NaN if any value is NaN.
inline double largest(const std::vector<double>& values) {
  double top = 0;
  for (const double x : values) top = std::abs(x) > top || std::isnan(x) ? std::abs(x) : top;
  return std::any_of(values.begin(), values.end(), [](double x) { return std::isnan(x); })
             ? std::nan("")
             : top;
}

}  // namespace detail

/// Compares every result of `expected` with that of the same name in `got`.
inline Comparison compare(const SafetensorsFile& expected, const SafetensorsFile& got,
                          const Rules& rules) {
  Comparison result;
  const auto miss = [&](const std::string& text) { result.misses.push_back(text); };

  double floor = 0;  // a hundredth of the largest gradient of a parameter
  for (const std::string& name : expected.names()) {
    if (name.starts_with("grad/")) {
      floor = std::max(floor, 1e-2 * detail::largest(expected.read<double>(name)));
    }
  }
  std::vector<std::string> generated;
  double distance = 0, length = 0;  // squared, of the whole gradient
  for (const std::string& name : expected.names()) {
    const bool step = name.starts_with("step/") || name == "losses";
    const bool of_gradients = name.starts_with("grad_") || name.starts_with("grad/");
    if (!is_result(name) || (step && !rules.steps) || (of_gradients && !rules.gradients)) continue;
    if (name.starts_with("generate/")) {
      const std::string call = name.substr(9);
      if (rules.generate && std::ranges::find(*rules.generate, call) == rules.generate->end())
        continue;
      generated.push_back(call);
    }
    ++result.compared;
    if (!got.contains(name)) {
      miss(name + " missing");
      continue;
    }
    const TensorInfo &a = expected.info(name), &b = got.info(name);
    if (name.starts_with("generate/")) {
      if (!holds_integers(b) ||
          !detail::same_ids(a, expected.read_ids(name), b, got.read_ids(name))) {
        miss(name + " has other ids");
      }
      continue;
    }
    if (a.count != b.count || a.count == 0) {
      miss(name + " is " + shape_text(b.shape) + ", expected " + shape_text(a.shape));
      continue;
    }
    double limit = rules.tolerance;
    if (name == "losses" && rules.step_tolerance > 0) limit = rules.step_tolerance / 10;
    if (name.starts_with("step/")) {
      const std::string gradient = "grad/" + name.substr(5);
      if (detail::largest(expected.read<double>(gradient)) < 1e-12) {
        ++result.skipped;
        continue;
      }
      limit = rules.step_tolerance > 0 ? rules.step_tolerance
                                       : limit * (rules.tolerance > 1e-6 ? 100 : 10);
    }
    const std::vector<double> x = expected.read<double>(name), y = got.read<double>(name);
    const double scale =
        std::max(detail::largest(x), name.starts_with("grad/") && floor > 0 ? floor : 1e-12);
    std::vector<double> difference(x.size());
    for (std::size_t i = 0; i < x.size(); ++i) difference[i] = x[i] - y[i];
    if (rules.whole_gradient > 0 && name.starts_with("grad/")) {
      for (const double d : difference) distance += d * d;
      for (const double g : x) length += g * g;
      continue;
    }
    const double error = detail::largest(difference) / scale;
    char number[32];
    std::snprintf(number, sizeof number, "%.2e", error);
    if (!std::isfinite(error) || !std::isfinite(scale)) {
      miss(name + " not finite");
    } else if (error > limit) {
      miss(name + " off by " + number);
    }
    if (std::isfinite(error) && error > result.worst) {
      result.worst = error, result.worst_name = name;
    }
  }
  if (length > 0) {
    const double error = std::sqrt(distance / length);
    if (!(error <= rules.whole_gradient))
      miss("the whole gradient is off by " + std::to_string(error));
    if (error > result.worst) result.worst = error, result.worst_name = "the whole gradient";
  }
  for (const std::string& call : rules.generate.value_or(std::vector<std::string>())) {
    if (std::ranges::find(generated, call) == generated.end()) {
      bool models = false;
      for (const std::string& name : expected.names())
        models = models || name.starts_with("generate/");
      if (models) miss("generate/" + call + " is not in the reference");
    }
  }
  if (result.compared <= result.skipped) miss("nothing to compare");
  return result;
}

}  // namespace srformer::reference
