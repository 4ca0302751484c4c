// SPDX-License-Identifier: Apache-2.0
// Elementwise non-linearities and their gated product.
//
//   relu      max(x, 0), derivative 0 at 0
//   gelu      x Phi(x), Phi the normal distribution function
//   gelu_new  x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))
//   gated     y = f(a) b,   da += dy b f'(a),   db += dy f(a)
#pragma once

#include <numbers>
#include <string_view>

#include <srformer/backend/tensor.hpp>

namespace srformer {

enum class Activation { relu, gelu, gelu_new };

/// The name as configurations write it.
inline Activation activation_from_name(std::string_view name) {
  if (name == "relu") return Activation::relu;
  if (name == "gelu") return Activation::gelu;
  if (name == "gelu_new") return Activation::gelu_new;
  throw shape_error("activation_from_name: \"" + std::string(name) +
                    "\" is not one of relu, gelu, gelu_new");
}

/// And back.
inline std::string_view activation_name(Activation activation) {
  switch (activation) {
    case Activation::relu:
      return "relu";
    case Activation::gelu:
      return "gelu";
    case Activation::gelu_new:
      return "gelu_new";
  }
  return "";
}

namespace detail {

/// f(x) and f'(x).
template <class C>
struct ValueAndSlope {
  C value, slope;
};

template <Activation kind, class C>
SRF_IN_LOOP ValueAndSlope<C> activate(const C& x) {
  if constexpr (kind == Activation::relu) {
    const bool on = primal(x) > 0;
    return {math::select(on, x, C(0)), math::select(on, C(1), C(0))};
  } else if constexpr (kind == Activation::gelu) {
    const C phi = C(0.5) * (C(1) + math::erf(x * C(std::numbers::sqrt2 / 2)));
    const C bell = math::exp(C(-0.5) * x * x) * C(std::numbers::inv_sqrtpi / std::numbers::sqrt2);
    return {x * phi, phi + x * bell};
  } else {
    const C root = C(std::numbers::sqrt2 * std::numbers::inv_sqrtpi), cubic = C(0.044715);
    const C t = math::tanh(root * (x + cubic * x * x * x));
    const C d_inner = root * (C(1) + C(3) * cubic * x * x);
    return {C(0.5) * x * (C(1) + t), C(0.5) * (C(1) + t) + C(0.5) * x * (C(1) - t * t) * d_inner};
  }
}

template <Activation kind, class T>
struct ActivationForward {
  const T* x;
  T* y;
  SRF_HD void operator()(index_t i) const {
    using C = compute_t<T>;
    y[i] = T(activate<kind>(C(x[i])).value);
  }
};

template <Activation kind, class T>
struct ActivationBackward {
  const T *x, *d_y;
  T* d_x;
  SRF_HD void operator()(index_t i) const {
    using C = compute_t<T>;
    d_x[i] = T(C(d_x[i]) + C(d_y[i]) * activate<kind>(C(x[i])).slope);
  }
};

template <Activation kind, class T>
struct GatedForward {
  const T *a, *b;
  T* y;
  SRF_HD void operator()(index_t i) const {
    using C = compute_t<T>;
    y[i] = T(activate<kind>(C(a[i])).value * C(b[i]));
  }
};

template <Activation kind, class T>
struct GatedBackward {
  const T *a, *b, *d_y;
  T *d_a, *d_b;
  SRF_HD void operator()(index_t i) const {
    using C = compute_t<T>;
    const ValueAndSlope<C> f = activate<kind>(C(a[i]));
    d_a[i] = T(C(d_a[i]) + C(d_y[i]) * C(b[i]) * f.slope);
    d_b[i] = T(C(d_b[i]) + C(d_y[i]) * f.value);
  }
};

/// Calls f with the activation as a constant.
template <class F>
void with_activation(Activation kind, F f) {
  switch (kind) {
    case Activation::relu:
      return f(std::integral_constant<Activation, Activation::relu>{});
    case Activation::gelu:
      return f(std::integral_constant<Activation, Activation::gelu>{});
    case Activation::gelu_new:
      return f(std::integral_constant<Activation, Activation::gelu_new>{});
  }
}

template <class V>
void check_elementwise(const char* function, const char* argument, const V& got, const auto& like) {
  check_shape(function, argument, "[R,C]", got.extents, like.extents);
  require(got.contiguous() && like.contiguous(), function, "the views must be contiguous");
}

}  // namespace detail

/// y = f(x).  x, y [R,C] contiguous; backward needs x. y may be x where x is not needed again.
template <class B, class T>
requires BackendFor<B, T>
void activation_forward(B& be, Activation kind, In<B, T, 2> x, View<T, 2, typename B::space> y) {
  detail::check_elementwise("activation_forward", "y", y, x);
  detail::with_activation(kind, [&](auto k) {
    be.for_each(x.size(), detail::ActivationForward<k.value, T>{x.data, y.data});
  });
}

/// d_x += d_y f'(x).
template <class B, class T>
requires BackendFor<B, T>
void activation_backward(B& be, Activation kind, In<B, T, 2> x, In<B, T, 2> d_y,
                         View<T, 2, typename B::space> d_x) {
  detail::check_elementwise("activation_backward", "d_y", d_y, x);
  detail::check_elementwise("activation_backward", "d_x", d_x, x);
  detail::with_activation(kind, [&](auto k) {
    be.for_each(x.size(), detail::ActivationBackward<k.value, T>{x.data, d_y.data, d_x.data});
  });
}

/// y = f(a) b (Shazeer 2020).  a, b, y [R,C] contiguous; backward needs a and b.
template <class B, class T>
requires BackendFor<B, T>
void gated_forward(B& be, Activation kind, In<B, T, 2> a, In<B, T, 2> b,
                   View<T, 2, typename B::space> y) {
  detail::check_elementwise("gated_forward", "b", b, a);
  detail::check_elementwise("gated_forward", "y", y, a);
  detail::with_activation(kind, [&](auto k) {
    be.for_each(a.size(), detail::GatedForward<k.value, T>{a.data, b.data, y.data});
  });
}

/// d_a += d_y b f'(a), d_b += d_y f(a).
template <class B, class T>
requires BackendFor<B, T>
void gated_backward(B& be, Activation kind, In<B, T, 2> a, In<B, T, 2> b, In<B, T, 2> d_y,
                    View<T, 2, typename B::space> d_a, View<T, 2, typename B::space> d_b) {
  detail::check_elementwise("gated_backward", "b", b, a);
  detail::check_elementwise("gated_backward", "d_y", d_y, a);
  detail::check_elementwise("gated_backward", "d_a", d_a, a);
  detail::check_elementwise("gated_backward", "d_b", d_b, a);
  detail::with_activation(kind, [&](auto k) {
    be.for_each(a.size(),
                detail::GatedBackward<k.value, T>{a.data, b.data, d_y.data, d_a.data, d_b.data});
  });
}

}  // namespace srformer
