// SPDX-License-Identifier: Apache-2.0
// Elementwise non-linearities and their gated product.
//
//   relu        max(x, 0), derivative 0 at 0
//   gelu        x Phi(x), Phi the normal distribution function
//   gelu_new    x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))
//   gelu_fast   the same with 0.7978845608 for sqrt(2/pi)
//   silu        x s(x), s(x) = 1 / (1 + e^-x),   derivative s + x s (1 - s)
//   quick_gelu  x s(1.702 x)
//   gated       y = f(a) b,   da += dy b f'(a),   db += dy f(a)
#pragma once

#include <numbers>
#include <optional>
#include <string>
#include <string_view>

#include <srformer/backend/tensor.hpp>

namespace srformer {

enum class Activation { relu, gelu, gelu_new, gelu_fast, silu, quick_gelu };

/// A name that configurations write, as in ACT2FN of transformers.
struct ActivationName {
  std::string_view name;
  Activation kind;
};

/// Of names for one function the first is the one that is written.
inline constexpr ActivationName activation_names[] = {
    {"relu", Activation::relu},
    {"gelu", Activation::gelu},
    {"gelu_python", Activation::gelu},
    {"gelu_new", Activation::gelu_new},
    {"gelu_pytorch_tanh", Activation::gelu_new},
    {"gelu_python_tanh", Activation::gelu_new},
    {"gelu_accurate", Activation::gelu_new},
    {"gelu_fast", Activation::gelu_fast},
    {"silu", Activation::silu},
    {"swish", Activation::silu},
    {"quick_gelu", Activation::quick_gelu},
};

/// "relu, gelu, ...", as messages list them.
inline std::string activation_list() {
  std::string list;
  for (const ActivationName& known : activation_names)
    list += (list.empty() ? "" : ", ") + std::string(known.name);
  return list;
}

/// The activation of a name, or none.
inline std::optional<Activation> activation_named(std::string_view name) {
  for (const ActivationName& known : activation_names)
    if (known.name == name) return known.kind;
  return std::nullopt;
}

/// The same; throws shape_error with those there are.
inline Activation activation_from_name(std::string_view name) {
  if (const auto kind = activation_named(name)) return *kind;
  throw shape_error("activation_from_name: \"" + std::string(name) + "\" is not one of " +
                    activation_list());
}

/// The name as it is written.
inline std::string_view activation_name(Activation kind) {
  for (const ActivationName& known : activation_names)
    if (known.kind == kind) return known.name;
  return "";
}

namespace SRF_DETAIL {

/// f(x) and f'(x).
template <class C>
struct ValueAndSlope {
  C value, slope;
};

template <Activation kind, class C>
SRF_IN_LOOP ValueAndSlope<C> activate(const C& x) {
  if constexpr (kind == Activation::relu) {
    const bool on = math::positive(x);
    return {math::select(on, x, C(0)), math::select(on, C(1), C(0))};
  } else if constexpr (kind == Activation::gelu) {
    const C phi = C(0.5) * (C(1) + math::erf(x * C(std::numbers::sqrt2 / 2)));
    const C bell = math::exp(C(-0.5) * x * x) * C(std::numbers::inv_sqrtpi / std::numbers::sqrt2);
    return {x * phi, phi + x * bell};
  } else if constexpr (kind == Activation::silu || kind == Activation::quick_gelu) {
    const C rate = C(kind == Activation::silu ? 1 : 1.702);
    const C s = C(1) / (C(1) + math::exp(-(rate * x)));
    return {x * s, s + rate * x * s * (C(1) - s)};
  } else {
    const C root =
        C(kind == Activation::gelu_fast ? 0.7978845608
                                        : std::numbers::sqrt2 * std::numbers::inv_sqrtpi);
    const C cubic = C(0.044715);
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
    case Activation::gelu_fast:
      return f(std::integral_constant<Activation, Activation::gelu_fast>{});
    case Activation::silu:
      return f(std::integral_constant<Activation, Activation::silu>{});
    case Activation::quick_gelu:
      return f(std::integral_constant<Activation, Activation::quick_gelu>{});
  }
}

template <class V>
void check_elementwise(const char* function, const char* argument, const V& got, const auto& like) {
  check_shape(function, argument, "[R,C]", got.extents, like.extents);
  require(got.contiguous() && like.contiguous(), function, "the views must be contiguous");
}

}  // namespace SRF_DETAIL

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
