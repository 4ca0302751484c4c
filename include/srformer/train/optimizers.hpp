// SPDX-License-Identifier: Apache-2.0
// The optimizer that options choose: AdamW, Adafactor or SGD, by the type of the options.
#pragma once

#include <string_view>
#include <type_traits>
#include <variant>
#include <vector>

#include <srformer/train/adafactor.hpp>
#include <srformer/train/adamw.hpp>
#include <srformer/train/sgd.hpp>

namespace srformer {

using OptimizerOptions = std::variant<AdamWOptions, AdafactorOptions, SgdOptions>;

/// One of them, chosen when the program runs; what a trainer has unless it is given another.
template <class B, class T>
requires BackendFor<B, T>
class ChosenOptimizer {
 public:
  ChosenOptimizer(B& be, const Parameters<B, T>& parameters, const OptimizerOptions& options)
      : ChosenOptimizer(be, parameters, options, std::vector<ArrayRange>{{0, parameters.size()}}) {}
  /// That of a share of the parameters: SharedOptimizer.
  ChosenOptimizer(B& be, const Parameters<B, T>& parameters, const OptimizerOptions& options,
                  const std::vector<ArrayRange>& share)
      : chosen_(std::visit(
            [&]<class O>(const O& o) {
              return Any(std::in_place_type<typename O::template For<B, T>>, be, parameters, o,
                         share);
            },
            options)) {}

  std::string_view name() const {
    return std::visit([](const auto& o) -> std::string_view { return o.name(); }, chosen_);
  }
  double rate(double learning_rate, index_t number) const {
    const auto of = [&](const auto& o) {
      if constexpr (requires { o.rate(learning_rate, number); })
        return o.rate(learning_rate, number);
      return learning_rate;
    };
    return std::visit(of, chosen_);
  }
  void update(B& be, Parameters<B, T>& parameters, double learning_rate, index_t number) {
    std::visit([&](auto& o) { o.update(be, parameters, learning_rate, number); }, chosen_);
  }
  void update(B& be, Parameters<B, T>& parameters, double learning_rate, index_t number,
              const accumulate_t<T>* squares) {
    std::visit([&](auto& o) { o.update(be, parameters, learning_rate, number, squares); }, chosen_);
  }
  double gradient_norm(B& be) const {
    return std::visit([&](const auto& o) { return o.gradient_norm(be); }, chosen_);
  }
  template <class F>
  void visit_state(const Parameters<B, T>& parameters, F f) {
    std::visit([&](auto& o) { o.visit_state(parameters, f); }, chosen_);
  }
  template <class F>
  void visit_share(const Parameters<B, T>& parameters, F f) {
    std::visit([&](auto& o) { o.visit_share(parameters, f); }, chosen_);
  }

 private:
  using Any = std::variant<AdamW<B, T>, Adafactor<B, T>, Sgd<B, T>>;
  Any chosen_;
};

}  // namespace srformer
