// SPDX-License-Identifier: Apache-2.0
// Where NaN or infinity in a step's scores comes from.
#pragma once

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include <srformer/backend/tensor.hpp>

namespace srformer::SRF_DETAIL {

/// Whether any of `count` numbers on the backend is NaN or infinite; they are copied to the host in pieces.
template <class B, class T>
bool any_nonfinite(B& be, const T* values, index_t count) {
  constexpr index_t piece = index_t{1} << 16;
  std::vector<T> part(static_cast<std::size_t>(std::min(piece, count)));
  for (index_t first = 0; first < count; first += piece) {
    const index_t size = std::min(piece, count - first);
    be.to_host(part.data(), values + first, size);
    for (index_t i = 0; i < size; ++i)
      if (!math::finite(compute_t<T>(part[static_cast<std::size_t>(i)]))) return true;
  }
  return false;
}

/// The first parameter with NaN or infinity among its values, or "".
template <class Model>
std::string first_nonfinite_parameter(Model& model) {
  if constexpr (requires { model.parameters(); }) {
    for (const auto& p : model.parameters())
      if (p.value != nullptr && any_nonfinite(model.backend(), p.value, p.count)) return p.name;
  }
  return "";
}

/// What came before the first decoder layer that read NaN or infinity in the step before `state.step`.
template <class B, class State>
std::string nonfinite_layer(B& be, const State& state) {
  if constexpr (requires { state.layers.at(0).qkv.view(); }) {
    for (std::size_t l = 0; l < state.layers.size(); ++l) {
      const auto qkv = state.layers[l].qkv.view()[state.step - 1].slice(0, 0, state.rows.rows());
      if (!any_nonfinite(be, qkv.data, qkv.size())) continue;
      if (l == 0) return "in the embedding";
      return (l == 1 ? "in the encoder or in decoder layer " : "in decoder layer ") +
             std::to_string(l - 1);
    }
    return "in the last decoder layer or in the output";
  }
  return "on the way to them";
}

/// Throws nonfinite_error where a row's total is no number: minus infinity is one, of a row without candidates.
template <class Model, class State>
void check_totals(const std::vector<double>& log_totals, Model& model, const State& state) {
  const auto is_number = [](double total) { return total < HUGE_VAL; };
  if (std::ranges::all_of(log_totals, is_number)) return;
  const std::string what = "generate: the scores of a token are NaN or infinite: ";
  if (const std::string name = first_nonfinite_parameter(model); !name.empty())
    throw nonfinite_error(what + "parameter \"" + name +
                          "\" holds such values; take another checkpoint");
  throw nonfinite_error(what + "no parameter is, but numbers overflow " +
                        nonfinite_layer(model.backend(), state) +
                        "; generate in a wider type, as float32 or float64");
}

}  // namespace srformer::SRF_DETAIL
