// SPDX-License-Identifier: Apache-2.0
// What the trainer and its checkpoints need of an optimizer, and what optimizers share: clipping by the global norm as
// clip_grad_norm_ of torch, and the parameters that weight decay goes to.
//
//   g = c g,  c = min(1, max_norm / (|g| + 1e-6))       |g| over all parameters together
//
// |g| and c stay in the backend's memory, where an update reads them: nothing waits for the host. An optimizer of one's
// own is a class like AdamW or Sgd; docs/training.md says how the trainer is given it.
#pragma once

#include <algorithm>
#include <bit>
#include <concepts>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include <srformer/models/parameters.hpp>
#include <srformer/train/communicator.hpp>

namespace srformer {

inline const std::vector<Role>& all_roles() {
  static const std::vector<Role> roles{Role::weight, Role::bias, Role::norm, Role::embedding,
                                       Role::scalar};
  return roles;
}

namespace detail {

/// What visit_state is given: any name, shape, values and count.
template <class C>
struct StateVisitor {
  void operator()(const std::string&, const std::vector<index_t>&, C*, index_t) {}
};
/// What visit_share is given.
template <class C>
struct ShareVisitor {
  void operator()(const std::string&, const std::vector<index_t>&, index_t, C*, index_t) {}
};

}  // namespace detail

/// An optimizer of the parameters of one model:
///   name()             a run is not resumed with an optimizer of another name
///   update(be, parameters, learning_rate, number)   update `number` = 1, 2, ... of all parameters from their gradients,
///                      which stay as they are. Changes nothing where the norm of the gradients is not finite
///   gradient_norm(be)  the norm that the last update found, before clipping; waits for it
///   visit_state(parameters, f)   f(name, shape, values, count) for every tensor that the next update depends on;
///                      values is a compute_t<T>* in the backend's memory, names are each once
///
/// and, where the rate is not that of the schedule, rate(learning_rate, number) of an update, which reports show.
template <class O, class B, class T>
concept Optimizer = BackendFor<B, T> &&
    requires(O& optimizer, const O& seen, B& be, Parameters<B, T>& parameters, double learning_rate,
             index_t number, detail::StateVisitor<compute_t<T>> visitor) {
  { seen.name() } -> std::convertible_to<std::string_view>;
  optimizer.update(be, parameters, learning_rate, number);
  { seen.gradient_norm(be) } -> std::convertible_to<double>;
  optimizer.visit_state(parameters, visitor);
};

/// An optimizer that can have a share of the parameters alone, where several processes divide the state among them:
///   O(be, parameters, options, share)   for the elements of `share`, ranges of all parameters in rising order
///   update(be, parameters, learning_rate, number, squares)   the same for those elements, where squares [1], in the
///                       backend's memory, is the sum of the squares of all gradients of all processes
///   visit_share(parameters, f)   f(name, shape, first, values, count) for every tensor, of which this process has the elements
///                       from `first` on; several times where it has several parts, with count 0 where it has none
template <class O, class B, class T>
concept SharedOptimizer = Optimizer<O, B, T> &&
    requires(O& optimizer, B& be, Parameters<B, T>& parameters, double learning_rate,
             index_t number, const accumulate_t<T>* squares,
             detail::ShareVisitor<compute_t<T>> visitor) {
  optimizer.update(be, parameters, learning_rate, number, squares);
  optimizer.visit_share(parameters, visitor);
};

namespace SRF_DETAIL {

/// Square root of x >= 0 to 1 ulp or so. std::sqrt may set errno, which keeps loops from being
/// vectorised: float starts from the bits of 1/sqrt(x) and takes Newton's steps.
template <class C>
SRF_IN_LOOP C nonnegative_root(C x) {
#if !defined(__CUDA_ARCH__)
  if constexpr (std::is_same_v<C, float>) {
    const float scaled = x * 0x1p24f;  // subnormal numbers become normal
    const bool small = x < 0x1p-100f;
    const float z = math::select(small, scaled, x);
    float y = std::bit_cast<float>(0x5f375a86u - (std::bit_cast<std::uint32_t>(z) >> 1));
    for (int i = 0; i < 3; ++i) y = y * (1.5f - 0.5f * z * y * y);
    const float root = z * y;
    const float better = root + 0.5f * y * (z - root * root);
    const float finite = math::select(small, better * 0x1p-12f, better);
    return math::select(x < std::numeric_limits<float>::infinity(), finite, x);
  }
#endif
  return math::sqrt(x);
}

template <class T>
struct SquaredGradient {
  const T* gradient;
  SRF_HD accumulate_t<T> operator()(index_t i) const {
    const auto g = accumulate_t<T>(compute_t<T>(gradient[i]));
    return g * g;
  }
};

/// Sum of squares -> norm and factor. The factor of a norm that is not finite is NaN.
template <class T>
struct ClipFactor {
  accumulate_t<T>* norm;
  compute_t<T>* factor;
  double max_norm;
  SRF_HD void operator()(index_t) const {
    using A = accumulate_t<T>;
    *norm = math::sqrt(*norm);
    const A clip = A(max_norm) / (*norm + A(1e-6));
    const bool clips = max_norm > 0 && math::above(A(1), clip);
    *factor = compute_t<T>(!math::finite(*norm) ? *norm - *norm : clips ? clip : A(1));
  }
};

template <class T>
struct CountNonfinite {
  const T* values;
  SRF_HD accumulate_t<T> operator()(index_t i) const {
    return accumulate_t<T>(math::finite(compute_t<T>(values[i])) ? 0 : 1);
  }
};

/// Neighbouring elements that decay alike.
struct DecayRun {
  index_t first, count;
  bool decays;
  index_t state;  // where the state of the first one is
};

inline bool has_role(const std::vector<Role>& roles, Role role) {
  return std::find(roles.begin(), roles.end(), role) != roles.end();
}

/// Calls f(part, state) for every part of [of.first, of.end()) in `share`, and where the state of its first element is.
template <class F>
void for_each_part(std::span<const ArrayRange> share, const ArrayRange& of, F f) {
  index_t state = 0;
  for (const ArrayRange& range : share) {
    const index_t first = std::max(range.first, of.first), end = std::min(range.end(), of.end());
    if (first < end) f(ArrayRange{first, end - first}, state + first - range.first);
    state += range.count;
  }
}

/// The elements of a share.
inline index_t share_size(std::span<const ArrayRange> share) {
  index_t size = 0;
  for (const ArrayRange& range : share) size += range.count;
  return size;
}

template <class B, class T>
std::vector<DecayRun> decay_runs(const Parameters<B, T>& parameters,
                                 const std::vector<Role>& decayed,
                                 std::span<const ArrayRange> share) {
  std::vector<DecayRun> runs;
  for (const auto& p : parameters) {
    const bool decays = has_role(decayed, p.role);
    for_each_part(share, {p.offset, p.count}, [&](const ArrayRange& part, index_t state) {
      const bool goes_on = !runs.empty() && runs.back().decays == decays &&
                           runs.back().first + runs.back().count == part.first;
      if (!goes_on) runs.push_back({part.first, 0, decays, state});
      runs.back().count += part.count;
    });
  }
  return runs;
}

/// visit_share for a state in the order of the elements of a share: PREFIX/PARAMETER.
template <class B, class T, class C, class F>
void visit_like_parameters(const Parameters<B, T>& parameters, std::span<const ArrayRange> share,
                           const std::string& prefix, C* values, F& f) {
  for (const auto& p : parameters) {
    bool any = false;
    for_each_part(share, {p.offset, p.count}, [&](const ArrayRange& part, index_t state) {
      f(prefix + "/" + p.name, p.shape, part.first - p.offset, values + state, part.count);
      any = true;
    });
    if (!any) f(prefix + "/" + p.name, p.shape, index_t{0}, static_cast<C*>(nullptr), index_t{0});
  }
}

/// What visit_share gives, for an f of visit_state, where the share is all there is.
template <class F>
auto whole_tensors(const char* function, bool whole, F& f) {
  require(whole, function, "the state is divided among processes; visit_share knows the part here");
  return [&f](const std::string& name, const std::vector<index_t>& shape, index_t, auto* values,
              index_t count) { f(name, shape, values, count); };
}

/// What optimizers check alike.
template <class Options>
void check_optimizer_options(const char* optimizer, const Options& options) {
  require(options.weight_decay >= 0, optimizer, "weight_decay must not be negative");
  require(options.max_grad_norm >= 0, optimizer, "max_grad_norm must not be negative");
}

/// For an update of parameters of `size` elements in all by an optimizer made for `expected`.
inline void check_update(const char* function, index_t size, index_t expected, index_t number) {
  require(size == expected, function,
          "the parameters have " + std::to_string(size) + " elements, expected " +
              std::to_string(expected));
  require(number >= 1, function, "updates are counted from 1");
}

}  // namespace SRF_DETAIL

/// One number from the backend, as double; waits for it.
template <class B, class A>
double read_number(B& be, const A* number) {
  A host(0);
  be.to_host(&host, number, 1);
  return math::to_double(compute_t<A>(host));
}

/// Whether any of `count` values is NaN or infinite; waits for the answer.
template <class B, class T>
bool has_nonfinite(B& be, const T* values, index_t count) {
  auto bad = zeros<accumulate_t<T>, 1>(be, {1});
  be.reduce(count, detail::CountNonfinite<T>{values}, bad.data());
  return read_number(be, bad.data()) > 0;
}

/// The norm of all gradients, and the factor that clips them by it.
template <class B, class T>
class GradientClip {
 public:
  explicit GradientClip(B& be)
      : norm_(zeros<accumulate_t<T>, 1>(be, {1})), factor_(zeros<compute_t<T>, 1>(be, {1})) {}

  /// Sets norm and factor for gradients [size]; 0 as max_norm clips nothing. Does not wait.
  void measure(B& be, const T* gradient, index_t size, double max_norm) {
    be.fill(norm_.data(), 1, accumulate_t<T>(0));
    be.reduce(size, detail::SquaredGradient<T>{gradient}, norm_.data());
    be.for_each(1, detail::ClipFactor<T>{norm_.data(), factor_.data(), max_norm});
  }

  /// The same where the sum of the squares of all gradients, squares [1] in the backend's memory, is known.
  void take(B& be, const accumulate_t<T>* squares, double max_norm) {
    be.copy(norm_.data(), squares, 1);
    be.for_each(1, detail::ClipFactor<T>{norm_.data(), factor_.data(), max_norm});
  }

  double norm(B& be) const { return read_number(be, norm_.data()); }
  /// In the backend's memory; NaN where the norm is not finite.
  const compute_t<T>* factor() const { return factor_.data(); }

 private:
  Tensor<B, accumulate_t<T>, 1> norm_;
  Tensor<B, compute_t<T>, 1> factor_;
};

}  // namespace srformer
