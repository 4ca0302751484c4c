// SPDX-License-Identifier: Apache-2.0
// Stochastic gradient descent with momentum, as torch.optim.SGD after clip_grad_norm_:
//
//   g = g + wd p
//   v = momentum v + (1 - dampening) g,   in the first update v = g
//   p = p - lr (nesterov ? g + momentum v : v)
//
// and p = p - lr g without momentum.
#pragma once

#include <string_view>
#include <utility>
#include <vector>

#include <srformer/train/optimizer.hpp>

namespace srformer {

template <class B, class T>
requires BackendFor<B, T>
class Sgd;

struct SgdOptions {
  template <class B, class T>
  using For = Sgd<B, T>;

  double momentum = 0;
  double dampening = 0;
  bool nesterov = false;
  double weight_decay = 0;
  std::vector<Role> decayed{Role::weight, Role::embedding};  ///< torch decays all_roles()
  double max_grad_norm = 0;                                  ///< 0: no clipping
  /// Whether a share must be of whole parameters.
  static constexpr bool whole_parameters = false;

  /// Calls f(name, member) for its own numbers; decay and clipping are those of every optimizer.
  static void visit(auto& o, auto&& f) {
    f("momentum", o.momentum), f("dampening", o.dampening), f("nesterov", o.nesterov);
  }

  /// Throws shape_error for options that make no sense, as torch does.
  void check() const {
    require(momentum >= 0, "Sgd", "momentum must not be negative");
    require(!nesterov || (momentum > 0 && dampening == 0), "Sgd",
            "nesterov needs a momentum above 0 and no dampening");
    require(dampening == 0 || momentum > 0, "Sgd", "dampening needs a momentum above 0");
    detail::check_optimizer_options("Sgd", *this);
  }
};

namespace SRF_DETAIL {

/// One row of up to `row_size` elements. Leaves everything as it is when the factor is NaN.
template <class T>
struct SgdUpdate {
  using C = compute_t<T>;
  static constexpr index_t row_size = 4096;
  T* value;
  const T* gradient;
  C* velocity;  // null without momentum
  const C* factor;
  index_t count;
  C decay, momentum, gain, rate;
  bool nesterov;

  template <class Team>
  SRF_HD void operator()(const Team& team, index_t row, void*) const {
    const C c = *factor;
    if (!math::finite(c)) return;
    const index_t start = row * row_size;
    const index_t length = count - start < row_size ? count - start : row_size;
    T* p = value + start;
    const T* g = gradient + start;
    const SgdUpdate with = *this;
    if (velocity == nullptr) {
      team.for_each(length, [=](index_t i) {
        p[i] = T(C(p[i]) - with.rate * (c * C(g[i]) + with.decay * C(p[i])));
      });
      return;
    }
    C* v = velocity + start;
    const C of_gradient = nesterov ? C(1) : C(0), of_velocity = nesterov ? momentum : C(1);
    team.for_each(length, [=](index_t i) {
      const C slope = c * C(g[i]) + with.decay * C(p[i]);
      const C v_i = with.momentum * v[i] + with.gain * slope;
      v[i] = v_i;
      p[i] = T(C(p[i]) - with.rate * (of_gradient * slope + of_velocity * v_i));
    });
  }
};

}  // namespace SRF_DETAIL

/// The velocities of SGD for the parameters of one model, which keep their order, or for a share of them: [elements] in
/// compute_t<T>, 4 bytes per float32 parameter, and nothing without momentum.
template <class B, class T>
requires BackendFor<B, T>
class Sgd {
 public:
  Sgd(B& be, const Parameters<B, T>& parameters, SgdOptions options)
      : Sgd(be, parameters, std::move(options), std::vector<ArrayRange>{{0, parameters.size()}}) {}
  Sgd(B& be, const Parameters<B, T>& parameters, SgdOptions options, std::vector<ArrayRange> share)
      : options_(std::move(options)),
        size_(parameters.size()),
        share_(std::move(share)),
        clip_(be) {
    options_.check();
    runs_ = detail::decay_runs(parameters, options_.decayed, share_);
    if (options_.momentum > 0) velocity_ = zeros<compute_t<T>, 1>(be, {detail::share_size(share_)});
  }

  std::string_view name() const { return "sgd"; }

  /// Clips the gradients and makes update `number` = 1, 2, ... of all parameters; does nothing when the norm is not
  /// finite. The gradients stay as they are. Does not wait. Throws shape_error for parameters of another size.
  void update(B& be, Parameters<B, T>& parameters, double learning_rate, index_t number) {
    detail::check_update("Sgd::update", parameters.size(), size_, number);
    clip_.measure(be, parameters.gradients().data, size_, options_.max_grad_norm);
    apply(be, parameters, learning_rate, number);
  }

  /// The same for the share, where the sum of the squares of all gradients is known.
  void update(B& be, Parameters<B, T>& parameters, double learning_rate, index_t number,
              const accumulate_t<T>* squares) {
    detail::check_update("Sgd::update", parameters.size(), size_, number);
    clip_.take(be, squares, options_.max_grad_norm);
    apply(be, parameters, learning_rate, number);
  }

  /// The norm of the gradients of the last update, before clipping; waits for it.
  double gradient_norm(B& be) const { return clip_.norm(be); }

  /// momentum_buffer/PARAMETER; nothing without momentum.
  template <class F>
  void visit_state(const Parameters<B, T>& parameters, F f) {
    visit_share(parameters,
                detail::whole_tensors("Sgd::visit_state", detail::share_size(share_) == size_, f));
  }
  template <class F>
  void visit_share(const Parameters<B, T>& parameters, F f) {
    if (!velocity_.empty())
      detail::visit_like_parameters(parameters, share_, "momentum_buffer", velocity_.data(), f);
  }

 private:
  void apply(B& be, Parameters<B, T>& parameters, double learning_rate, index_t number) {
    const T* gradient = parameters.gradients().data;
    using C = compute_t<T>;
    using Update = detail::SgdUpdate<T>;
    for (const detail::DecayRun& run : runs_) {
      Update f{parameters.values().data + run.first,
               gradient + run.first,
               velocity_.empty() ? nullptr : velocity_.data() + run.state,
               clip_.factor(),
               run.count,
               C(run.decays ? options_.weight_decay : 0),
               C(options_.momentum),
               C(number == 1 ? 1 : 1 - options_.dampening),
               C(learning_rate),
               options_.nesterov};
      be.for_each_row((run.count + Update::row_size - 1) / Update::row_size, 0, f);
    }
  }

  SgdOptions options_;
  index_t size_;
  std::vector<ArrayRange> share_;
  std::vector<detail::DecayRun> runs_;
  Tensor<B, compute_t<T>, 1> velocity_;
  GradientClip<B, T> clip_;
};

}  // namespace srformer
