// SPDX-License-Identifier: Apache-2.0
// Dropout from a counter: element i of a stream is kept or not by (key, stream, i) alone, so
// backward makes the same mask again, nothing is saved, and the number of threads does not matter.
//
//   y_i = keep_i x_i / (1 - rate),   dx_i += keep_i dy_i / (1 - rate)
#pragma once

#include <srformer/backend/tensor.hpp>
#include <srformer/core/random.hpp>

namespace srformer {

/// A rate in [0,1) and the random numbers that decide; rate 0 keeps everything at no cost.
struct Dropout {
  double rate = 0;
  RandomStream random{};

  SRF_IN_LOOP bool active() const { return rate > 0; }

  /// Four neighbours at a time: the factors of elements 4 i to 4 i + 3.
  template <class C>
  SRF_IN_LOOP void factors(std::uint64_t block, C out[4]) const {
    const RandomWords words = philox(random, block);
    const auto bound = static_cast<std::uint32_t>(rate * 4294967296.0);
    const C kept = C(1 / (1 - rate));
    for (int i = 0; i < 4; ++i) out[i] = words.word[i] >= bound ? kept : C(0);
  }

  /// The factor of one element: 0 or 1 / (1 - rate).
  template <class C>
  SRF_IN_LOOP C factor(std::uint64_t index) const {
    const auto bound = static_cast<std::uint32_t>(rate * 4294967296.0);
    return random_word(random, index) >= bound ? C(1 / (1 - rate)) : C(0);
  }

  /// The same rate on another stream of the run.
  SRF_IN_LOOP Dropout at(std::uint64_t use) const { return {rate, random.substream(use)}; }
};

/// Rates of dropout, each in [0,1), by place.
struct DropoutRates {
  double dropout = 0;             ///< of embeddings, of what sublayers add, and of T5's outputs
  double attention_dropout = 0;   ///< of attention weights
  double activation_dropout = 0;  ///< of the hidden units of feed-forwards

  friend bool operator==(const DropoutRates&, const DropoutRates&) = default;
};

/// Throws unless rate is in [0,1).
inline void check_dropout(const char* function, const Dropout& dropout) {
  require(dropout.rate >= 0 && dropout.rate < 1, function, "dropout rate must be in [0,1)");
}

namespace SRF_DETAIL {
template <class T>
struct AddDropped {
  const T* x;
  T* y;
  index_t n;
  Dropout dropout;
  SRF_HD void operator()(index_t block) const {
    using C = compute_t<T>;
    C keep[4];
    dropout.factors(static_cast<std::uint64_t>(block), keep);
    const index_t first = block * 4, count = n - first < 4 ? n - first : 4;
    for (index_t i = 0; i < count; ++i) {
      y[first + i] = T(C(y[first + i]) + keep[i] * C(x[first + i]));
    }
  }
};

template <class T>
struct ScaleDropped {
  T* x;
  index_t n;
  Dropout dropout;
  SRF_HD void operator()(index_t block) const {
    using C = compute_t<T>;
    C keep[4];
    dropout.factors(static_cast<std::uint64_t>(block), keep);
    const index_t first = block * 4, count = n - first < 4 ? n - first : 4;
    for (index_t i = 0; i < count; ++i) x[first + i] = T(keep[i] * C(x[first + i]));
  }
};
}  // namespace SRF_DETAIL

/// y += dropout(x), as for a residual stream.  x, y [R,C] contiguous.
template <class B, class T>
requires BackendFor<B, T>
void dropout_forward(B& be, In<B, T, 2> x, View<T, 2, typename B::space> y,
                     const Dropout& dropout) {
  check_dropout("dropout_forward", dropout);
  check_shape("dropout_forward", "y", "[R,C]", y.extents, x.extents);
  require(x.contiguous() && y.contiguous(), "dropout_forward", "x and y must be contiguous");
  be.for_each((x.size() + 3) / 4, detail::AddDropped<T>{x.data, y.data, x.size(), dropout});
}

/// d_x += the gradient through dropout_forward: the same map.
template <class B, class T>
requires BackendFor<B, T>
void dropout_backward(B& be, In<B, T, 2> d_y, View<T, 2, typename B::space> d_x,
                      const Dropout& dropout) {
  dropout_forward(be, d_y, d_x, dropout);
}

/// x = dropout(x), forward and backward alike; does nothing at rate 0.
template <class B, class T>
requires BackendFor<B, T>
void dropout_in_place(B& be, View<T, 2, typename B::space> x, const Dropout& dropout) {
  check_dropout("dropout_in_place", dropout);
  require(x.contiguous(), "dropout_in_place", "x must be contiguous");
  if (dropout.active()) {
    be.for_each((x.size() + 3) / 4, detail::ScaleDropped<T>{x.data, x.size(), dropout});
  }
}

}  // namespace srformer
