// SPDX-License-Identifier: Apache-2.0
// AdamW, as torch.optim.AdamW after clip_grad_norm_:
//
//   p = (1 - lr wd) p
//   m = b1 m + (1 - b1) g,   v = b2 v + (1 - b2) g^2
//   p = p - lr / (1 - b1^t) m / (sqrt(v) / sqrt(1 - b2^t) + eps)
//
// Source: Loshchilov and Hutter, "Decoupled weight decay regularization", ICLR 2019.
#pragma once

#include <cmath>
#include <string_view>
#include <utility>
#include <vector>

#include <srformer/train/optimizer.hpp>

namespace srformer {

template <class B, class T>
requires BackendFor<B, T>
class AdamW;

struct AdamWOptions {
  template <class B, class T>
  using For = AdamW<B, T>;

  double beta1 = 0.9;
  double beta2 = 0.999;
  double epsilon = 1e-8;
  double weight_decay = 0;
  std::vector<Role> decayed{Role::weight, Role::embedding};  ///< torch decays all_roles()
  double max_grad_norm = 0;                                  ///< 0: no clipping
  /// Whether a share must be of whole parameters.
  static constexpr bool whole_parameters = false;

  /// Calls f(name, member) for its own numbers; decay and clipping are those of every optimizer.
  static void visit(auto& o, auto&& f) {
    f("adam_beta1", o.beta1), f("adam_beta2", o.beta2), f("adam_epsilon", o.epsilon);
  }

  /// Throws shape_error for options that make no sense.
  void check() const {
    const auto share = [](double x) { return x >= 0 && x < 1; };
    require(share(beta1) && share(beta2), "AdamW", "beta1 and beta2 must be in [0,1)");
    require(epsilon >= 0, "AdamW", "epsilon must not be negative");
    detail::check_optimizer_options("AdamW", *this);
  }
};

namespace SRF_DETAIL {

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

}  // namespace SRF_DETAIL

/// The moments of AdamW for the parameters of one model, which keep their order, or for a share of them; both
/// [elements] in compute_t<T>, 8 bytes per float32 parameter.
template <class B, class T>
requires BackendFor<B, T>
class AdamW {
 public:
  AdamW(B& be, const Parameters<B, T>& parameters, AdamWOptions options)
      : AdamW(be, parameters, std::move(options), std::vector<ArrayRange>{{0, parameters.size()}}) {
  }
  AdamW(B& be, const Parameters<B, T>& parameters, AdamWOptions options,
        std::vector<ArrayRange> share)
      : options_(std::move(options)),
        size_(parameters.size()),
        share_(std::move(share)),
        first_(zeros<compute_t<T>, 1>(be, {detail::share_size(share_)})),
        second_(zeros<compute_t<T>, 1>(be, {detail::share_size(share_)})),
        clip_(be) {
    options_.check();
    runs_ = detail::decay_runs(parameters, options_.decayed, share_);
  }

  std::string_view name() const { return "adamw_torch"; }

  /// Clips the gradients and makes update `number` = 1, 2, ... of all parameters, in one pass over
  /// values, gradients and moments; does nothing when the norm is not finite. The gradients stay as
  /// they are. Does not wait. Throws shape_error for parameters of another size.
  void update(B& be, Parameters<B, T>& parameters, double learning_rate, index_t number) {
    detail::check_update("AdamW::update", parameters.size(), size_, number);
    clip_.measure(be, parameters.gradients().data, size_, options_.max_grad_norm);
    apply(be, parameters, learning_rate, number);
  }

  /// The same for the share, where the sum of the squares of all gradients is known.
  void update(B& be, Parameters<B, T>& parameters, double learning_rate, index_t number,
              const accumulate_t<T>* squares) {
    detail::check_update("AdamW::update", parameters.size(), size_, number);
    clip_.take(be, squares, options_.max_grad_norm);
    apply(be, parameters, learning_rate, number);
  }

  /// The norm of the gradients of the last update, before clipping; waits for it.
  double gradient_norm(B& be) const { return clip_.norm(be); }

  /// exp_avg/PARAMETER and exp_avg_sq/PARAMETER.
  template <class F>
  void visit_state(const Parameters<B, T>& parameters, F f) {
    visit_share(parameters, detail::whole_tensors("AdamW::visit_state", first_.size() == size_, f));
  }
  template <class F>
  void visit_share(const Parameters<B, T>& parameters, F f) {
    detail::visit_like_parameters(parameters, share_, "exp_avg", first_.data(), f);
    detail::visit_like_parameters(parameters, share_, "exp_avg_sq", second_.data(), f);
  }

  /// m and v, in the order of the parameters.
  View<compute_t<T>, 1, typename B::space> first_moment() { return first_.view(); }
  View<compute_t<T>, 1, typename B::space> second_moment() { return second_.view(); }

 private:
  void apply(B& be, Parameters<B, T>& parameters, double learning_rate, index_t number) {
    const T* gradient = parameters.gradients().data;
    using C = compute_t<T>;
    using Update = detail::AdamWUpdate<T>;
    const double t = static_cast<double>(number);
    const double correction1 = 1 - std::pow(options_.beta1, t);
    const double correction2 = 1 - std::pow(options_.beta2, t);
    for (const detail::DecayRun& run : runs_) {
      Update f{parameters.values().data + run.first,
               gradient + run.first,
               first_.data() + run.state,
               second_.data() + run.state,
               clip_.factor(),
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

  AdamWOptions options_;
  index_t size_;
  std::vector<ArrayRange> share_;
  std::vector<detail::DecayRun> runs_;
  Tensor<B, compute_t<T>, 1> first_, second_;
  GradientClip<B, T> clip_;
};

}  // namespace srformer
