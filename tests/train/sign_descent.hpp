// SPDX-License-Identifier: Apache-2.0
// An optimizer that the library does not have: p = p - lr sign(m), m = beta m + (1 - beta) g.
#pragma once

#include <string_view>
#include <utility>

#include <srformer/train/optimizer.hpp>

template <class T>
struct SignStep {
  T* value;
  const T* gradient;
  srformer::compute_t<T>* mean;
  const srformer::compute_t<T>* clip;  // NaN where the norm is not finite
  srformer::compute_t<T> beta, rate;

  SRF_HD void operator()(srformer::index_t i) const {
    using C = srformer::compute_t<T>;
    if (!srformer::math::finite(*clip)) return;
    mean[i] = beta * mean[i] + (C(1) - beta) * *clip * C(gradient[i]);
    value[i] = T(C(value[i]) - (mean[i] < C(0) ? -rate : rate));
  }
};

template <class B, class T>
class SignDescent {
 public:
  SignDescent(B& be, const srformer::Parameters<B, T>& parameters, double beta)
      : beta_(beta),
        mean_(srformer::zeros<srformer::compute_t<T>, 1>(be, {parameters.size()})),
        clip_(be) {}

  std::string_view name() const { return "sign_descent"; }

  void update(B& be, srformer::Parameters<B, T>& parameters, double rate, srformer::index_t) {
    using C = srformer::compute_t<T>;
    const T* gradient = parameters.gradients().data;
    clip_.measure(be, gradient, parameters.size(), 0);
    be.for_each(parameters.size(), SignStep<T>{parameters.values().data, gradient, mean_.data(),
                                               clip_.factor(), C(beta_), C(rate)});
  }

  double gradient_norm(B& be) const { return clip_.norm(be); }

  template <class F>
  void visit_state(const srformer::Parameters<B, T>& parameters, F f) {
    for (const auto& p : parameters) f("mean/" + p.name, p.shape, mean_.data() + p.offset, p.count);
  }

 private:
  double beta_;
  srformer::Tensor<B, srformer::compute_t<T>, 1> mean_;
  srformer::GradientClip<B, T> clip_;
};
