// SPDX-License-Identifier: Apache-2.0
// AdamW with clipping of the global norm, as torch.optim.AdamW after clip_grad_norm_:
//
//   g = c g,  c = min(1, max_norm / (|g| + 1e-6))       |g| over all parameters together
//   p = (1 - lr wd) p
//   m = b1 m + (1 - b1) g,   v = b2 v + (1 - b2) g^2
//   p = p - lr / (1 - b1^t) m / (sqrt(v) / sqrt(1 - b2^t) + eps)
//
// |g| and c stay in the backend's memory, where the update reads them: nothing waits for the host.
// Source: Loshchilov and Hutter, "Decoupled weight decay regularization", ICLR 2019.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <srformer/models/parameters.hpp>

namespace srformer {

inline const std::vector<Role>& all_roles() {
  static const std::vector<Role> roles{Role::weight, Role::bias, Role::norm, Role::embedding,
                                       Role::scalar};
  return roles;
}

struct AdamWOptions {
  double beta1 = 0.9;
  double beta2 = 0.999;
  double epsilon = 1e-8;
  double weight_decay = 0;
  std::vector<Role> decayed{Role::weight, Role::embedding};  ///< torch decays all_roles()
  double max_grad_norm = 0;                                  ///< 0: no clipping
};

namespace detail {

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

/// One row of up to `row_size` elements. Leaves everything as it is when the factor is NaN.
template <class T>
struct AdamWUpdate {
  using C = compute_t<T>;
  static constexpr index_t row_size = 4096;
  T* value;
  const T* gradient;
  C *first, *second;
  const C* factor;
  index_t count;
  C keep, beta1, beta2, one_minus_beta1, one_minus_beta2, rate, root_correction, epsilon;

  template <class Team>
  SRF_HD void operator()(const Team& team, index_t row, void*) const {
    const C c = *factor;
    if (!math::finite(c)) return;
    const index_t start = row * row_size;
    const index_t length = count - start < row_size ? count - start : row_size;
    T* p = value + start;
    const T* g = gradient + start;
    C *m = first + start, *v = second + start;
    const AdamWUpdate with = *this;
    team.for_each(length, [=](index_t i) {
      const C clipped = c * C(g[i]);
      const C m_i = with.beta1 * m[i] + with.one_minus_beta1 * clipped;
      const C v_i = with.beta2 * v[i] + with.one_minus_beta2 * clipped * clipped;
      const C step = m_i / (nonnegative_root(v_i) * with.root_correction + with.epsilon);
      m[i] = m_i, v[i] = v_i;
      p[i] = T(with.keep * C(p[i]) - with.rate * step);
    });
  }
};

template <class T>
struct CountNonfinite {
  const T* values;
  SRF_HD accumulate_t<T> operator()(index_t i) const {
    return accumulate_t<T>(math::finite(compute_t<T>(values[i])) ? 0 : 1);
  }
};

}  // namespace detail

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

/// The moments of AdamW for the parameters of one model, which keep their order; both [size] in
/// compute_t<T>, 8 bytes per float32 parameter.
template <class B, class T>
requires BackendFor<B, T>
class AdamW {
 public:
  AdamW(B& be, const Parameters<B, T>& parameters, AdamWOptions options)
      : options_(std::move(options)),
        first_(zeros<compute_t<T>, 1>(be, {parameters.size()})),
        second_(zeros<compute_t<T>, 1>(be, {parameters.size()})),
        norm_(zeros<accumulate_t<T>, 1>(be, {1})),
        factor_(zeros<compute_t<T>, 1>(be, {1})) {
    const auto share = [](double x) { return x >= 0 && x < 1; };
    require(share(options_.beta1) && share(options_.beta2), "AdamW",
            "beta1 and beta2 must be in [0,1)");
    require(options_.epsilon >= 0, "AdamW", "epsilon must not be negative");
    require(options_.weight_decay >= 0, "AdamW", "weight_decay must not be negative");
    require(options_.max_grad_norm >= 0, "AdamW", "max_grad_norm must not be negative");
    for (const auto& p : parameters) {
      const auto& roles = options_.decayed;
      const bool decays = std::find(roles.begin(), roles.end(), p.role) != roles.end();
      if (runs_.empty() || runs_.back().decays != decays) runs_.push_back({p.offset, 0, decays});
      runs_.back().count += p.count;
    }
  }

  /// Clips the gradients and makes update `number` = 1, 2, ... of all parameters, in one pass over
  /// values, gradients and moments; does nothing when the norm is not finite. The gradients stay as
  /// they are. Does not wait. Throws shape_error for parameters of another size.
  void update(B& be, Parameters<B, T>& parameters, double learning_rate, index_t number) {
    const index_t size = parameters.size();
    require(size == first_.size(), "AdamW::update",
            "the parameters have " + std::to_string(size) + " elements, the moments " +
                std::to_string(first_.size()));
    require(number >= 1, "AdamW::update", "updates are counted from 1");
    const T* gradient = parameters.gradients().data;
    be.fill(norm_.data(), 1, accumulate_t<T>(0));
    be.reduce(size, detail::SquaredGradient<T>{gradient}, norm_.data());
    be.for_each(1, detail::ClipFactor<T>{norm_.data(), factor_.data(), options_.max_grad_norm});

    using C = compute_t<T>;
    using Update = detail::AdamWUpdate<T>;
    const double t = static_cast<double>(number);
    const double correction1 = 1 - std::pow(options_.beta1, t);
    const double correction2 = 1 - std::pow(options_.beta2, t);
    for (const Run& run : runs_) {
      Update f{parameters.values().data + run.first,
               gradient + run.first,
               first_.data() + run.first,
               second_.data() + run.first,
               factor_.data(),
               run.count,
               C(run.decays ? 1 - learning_rate * options_.weight_decay : 1),
               C(options_.beta1),
               C(options_.beta2),
               C(1 - options_.beta1),
               C(1 - options_.beta2),
               C(learning_rate / correction1),
               C(1 / std::sqrt(correction2)),
               C(options_.epsilon)};
      be.for_each_row((run.count + Update::row_size - 1) / Update::row_size, 0, f);
    }
  }

  /// The norm of the gradients of the last update, before clipping; waits for it.
  double gradient_norm(B& be) const { return read_number(be, norm_.data()); }

  /// m and v [size], in the order of the parameters.
  View<compute_t<T>, 1, typename B::space> first_moment() { return first_.view(); }
  View<compute_t<T>, 1, typename B::space> second_moment() { return second_.view(); }

 private:
  /// Neighbouring parameters that decay alike.
  struct Run {
    index_t first, count;
    bool decays;
  };

  AdamWOptions options_;
  std::vector<Run> runs_;
  Tensor<B, compute_t<T>, 1> first_, second_;
  Tensor<B, accumulate_t<T>, 1> norm_;
  Tensor<B, compute_t<T>, 1> factor_;
};

}  // namespace srformer
