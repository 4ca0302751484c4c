// SPDX-License-Identifier: Apache-2.0
// The parameters of a model: named, each once, all in one piece of memory, with their gradients in
// another piece of the same layout. Optimiser, checkpoint, initialisation and tests walk this list;
// nothing else lists parameters.
//
// For generation the weights of products can be stored in eight bits instead: quantize_weights().
#pragma once

#include <deque>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include <srformer/backend/tensor.hpp>
#include <srformer/core/role.hpp>
#include <srformer/ops/linear.hpp>

namespace srformer {

/// The values with which a parameter begins: all equal, or normal with mean 0.
struct Initial {
  enum class Kind { constant, normal } kind = Kind::constant;
  double value = 0;       ///< the constant, or the standard deviation
  index_t zero_row = -1;  ///< a row of zeros among them, as of a padding token; -1: there is none

  static Initial constant(double value) { return {Kind::constant, value}; }
  static Initial normal(double deviation, index_t zero_row = -1) {
    return {Kind::normal, deviation, zero_row};
  }
};

/// The last stage of a backward pass: its end.
inline constexpr index_t end_of_backward = std::numeric_limits<index_t>::max();

/// One parameter: a name as Hugging Face has it, a shape, and where value and gradient lie.
template <class B, class T>
struct Parameter {
  using Space = typename B::space;

  std::string name;
  std::vector<std::string> aliases;  ///< other names under which a checkpoint may hold it
  Role role = Role::weight;
  Initial initial{};
  std::vector<index_t> shape;
  index_t offset = 0;  ///< in elements from the start of all parameters
  index_t count = 0;
  T* value = nullptr;
  T* gradient = nullptr;  ///< null until gradients are asked for
  /// The stage of the backward pass after which nothing is added to the gradient: LossOptions::finished.
  index_t final_stage = end_of_backward;
  bool quantizable = false;   ///< read by embedding_forward and linear_forward alone
  QuantizedView quantized{};  ///< where it is stored in eight bits, and then value is null

  View<const T, 2, Space> matrix() const {
    require(!quantized, "Parameter::matrix", "a weight stored in eight bits has no numbers");
    return {value, {shape.at(0), shape.at(1)}};
  }
  WeightView<B, T> weight() const { return {{value, {shape.at(0), shape.at(1)}}, quantized}; }
  View<T, 2, Space> d_matrix() const { return {gradient, {shape.at(0), shape.at(1)}}; }
  View<const T, 1, Space> vector() const { return {value, {count}}; }
  View<T, 1, Space> d_vector() const { return {gradient, {count}}; }
};

/// All parameters of a model. Add them, then allocate; references stay valid.
template <class B, class T>
requires BackendFor<B, T>
class Parameters {
 public:
  explicit Parameters(B& be) : backend_(&be) {}

  Parameter<B, T>& add(std::string name, Role role, std::vector<index_t> shape,
                       Initial initial = {}, std::vector<std::string> aliases = {}) {
    require(values_.empty(), "Parameters::add", "parameters are allocated already");
    Parameter<B, T>& p = list_.emplace_back();
    p.name = std::move(name), p.role = role, p.initial = initial, p.aliases = std::move(aliases);
    p.offset = size_, p.count = 1;
    for (const index_t extent : shape) p.count *= extent;
    p.shape = std::move(shape);
    size_ += p.count;
    return p;
  }

  /// Memory for all values, zero at first.
  void allocate() {
    values_ = zeros<T, 1>(*backend_, {size_});
    for (auto& p : list_) p.value = values_.data() + p.offset;
  }

  /// Memory for all gradients, zero at first; later calls do nothing.
  void allocate_gradients() {
    require_numbers("Parameters::allocate_gradients");
    if (!gradients_.empty()) return;
    gradients_ = zeros<T, 1>(*backend_, {size_});
    for (auto& p : list_) p.gradient = gradients_.data() + p.offset;
  }

  /// Stores the weights of products and embeddings in eight bits, with a scale for every row, and frees
  /// their numbers: for generation alone. backend/quantized.hpp says what it costs in precision. Throws for
  /// numbers that are not finite, and where there are gradients.
  void quantize_weights() requires can_quantize<B, T> {
    require(!values_.empty() && gradients_.empty(), "Parameters::quantize_weights",
            "weights are quantized once, after they are loaded, in a model that is not trained");
    if (quantized()) return;
    index_t numbers = 0, bytes = 0, rows = 0;
    for (const auto& p : list_) {
      if (p.quantizable) {
        bytes += p.count, rows += p.shape.at(0);
      } else {
        numbers += p.count;
      }
    }
    Tensor<B, std::int8_t, 1> integers(*backend_, {bytes});
    Tensor<B, float, 1> scales(*backend_, {rows});
    Tensor<B, std::int32_t, 1> totals(*backend_, {rows});
    std::vector<QuantizedView> stored;
    bytes = rows = 0;
    for (const auto& p : list_) {
      if (!p.quantizable) continue;
      stored.push_back(quantize_matrix(p.name, p.shape.at(0), p.shape.at(1), p.value,
                                       integers.data() + bytes, scales.data() + rows,
                                       totals.data() + rows));
      bytes += p.count, rows += p.shape[0];
    }
    Tensor<B, T, 1> rest(*backend_, {numbers});
    numbers = 0;
    auto next = stored.begin();
    for (auto& p : list_) {
      if (p.quantizable) {
        p.quantized = *next++, p.value = nullptr;
        continue;
      }
      backend_->copy(rest.data() + numbers, static_cast<const T*>(p.value), p.count);
      p.offset = numbers, p.value = rest.data() + numbers;
      numbers += p.count;
    }
    integers_ = std::move(integers), scales_ = std::move(scales), totals_ = std::move(totals);
    values_ = std::move(rest);
    if constexpr (requires { backend_->trim(); }) backend_->trim();
  }

  bool quantized() const { return !integers_.empty(); }

  /// Throws where weights are stored in eight bits.
  void require_numbers(std::string_view function) const {
    require(!quantized(), function,
            "the weights are stored in eight bits, which is for generation alone; load the model "
            "without that to train or save it");
  }

  /// Bytes of all values as they are stored.
  std::size_t bytes() const {
    return values_.bytes() + integers_.bytes() + scales_.bytes() + totals_.bytes();
  }

  void zero_gradients() { backend_->fill(gradients_.data(), gradients_.size(), T(0)); }

  /// Values and gradients of all parameters, one after another in the order of the list.
  View<T, 1, typename B::space> values() { return values_.view(); }
  View<T, 1, typename B::space> gradients() { return gradients_.view(); }
  index_t size() const { return size_; }

  auto begin() { return list_.begin(); }
  auto end() { return list_.end(); }
  auto begin() const { return list_.begin(); }
  auto end() const { return list_.end(); }

  /// The parameter of that name; throws where there is none.
  Parameter<B, T>& at(const std::string& name) {
    for (auto& p : list_) {
      if (p.name == name) return p;
    }
    throw shape_error("Parameters::at: there is no parameter \"" + name + "\"");
  }

 private:
  B* backend_;
  std::deque<Parameter<B, T>> list_;
  index_t size_ = 0;
  Tensor<B, T, 1> values_, gradients_;
  Tensor<B, std::int8_t, 1> integers_;  // of quantized weights, in the order of the list
  Tensor<B, float, 1> scales_;
  Tensor<B, std::int32_t, 1> totals_;
};

/// Calls f(parameter) for every parameter of a model, in order.
template <class Model, class F>
void visit_parameters(Model& model, F f) {
  for (auto& parameter : model.parameters()) f(parameter);
}

/// Parameters that follow each other in memory, seen as one matrix: q, k and v in one product.
template <class B, class T>
WeightView<B, T> stacked_weight(const Parameter<B, T>& first, index_t rows) {
  WeightView<B, T> all{{first.value, {rows, first.shape.at(1)}}, first.quantized};
  all.quantized.rows = rows;
  return all;
}
template <class B, class T>
View<const T, 2, typename B::space> stacked(const Parameter<B, T>& first, index_t rows) {
  return {first.value, {rows, first.shape.at(1)}};
}
template <class B, class T>
View<T, 2, typename B::space> d_stacked(const Parameter<B, T>& first, index_t rows) {
  return {first.gradient, {rows, first.shape.at(1)}};
}

}  // namespace srformer
