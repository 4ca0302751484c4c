// SPDX-License-Identifier: Apache-2.0
// Every cross-attention and its gradient as expressions over whole arrays, in double: no loop over queries,
// keys, heads or sources, no block, no segment cut out. Written from the equations alone, to be read beside
// docs/derivations, and compared with the library by xtensor_reference_test.cpp.
//
// Letters of einsum: b source, h head, i query, t key (with the zeros that fill the last segment), j segment,
// s, l step of the recurrence, d feature of keys, e, f feature of values, c cell, g, m feature of all heads.
// A choice is a table of zeros and ones: holds[t,j] where key t is in segment j, sees[i,j] where j = seg(i).
#pragma once

#if __has_include(<xtensor/containers/xarray.hpp>)
#include <xtensor/containers/xarray.hpp>
#include <xtensor/core/xmath.hpp>
#include <xtensor/generators/xbuilder.hpp>
#include <xtensor/misc/xmanipulation.hpp>
#include <xtensor/views/xview.hpp>
#else
#include <xtensor/xarray.hpp>
#include <xtensor/xbuilder.hpp>
#include <xtensor/xmanipulation.hpp>
#include <xtensor/xmath.hpp>
#include <xtensor/xview.hpp>
#endif

#include <algorithm>
#include <cmath>
#include <string>
#include <string_view>
#include <vector>

#include "support/paper_options.hpp"

namespace srformer::reference {

using Array = xt::xarray<double>;
using Shape = std::vector<std::size_t>;

inline Array zeros(const Shape& shape) { return xt::zeros<double>(shape); }
inline Array ones(const Shape& shape) { return xt::ones<double>(shape); }

/// The sum of products over the letters that the result lacks: einsum("id,td->it", q, k) = q k^T.
inline Array einsum(std::string_view formula, const Array& a, const Array& b) {
  const std::size_t comma = formula.find(','), arrow = formula.find("->");
  const std::string of_a(formula.substr(0, comma)),
      of_b(formula.substr(comma + 1, arrow - comma - 1)), of_result(formula.substr(arrow + 2));
  std::string all = of_result;
  for (const char letter : of_a + of_b) {
    if (all.find(letter) == std::string::npos) all += letter;
  }
  const auto spread = [&](const Array& x, const std::string& letters) {
    Shape order, shape;
    for (const char letter : all) {
      const std::size_t axis = letters.find(letter);
      if (axis != std::string::npos) order.push_back(axis);
      shape.push_back(axis == std::string::npos ? 1 : x.shape(axis));
    }
    Array y = xt::transpose(x, order);
    y.reshape(shape);
    return y;
  };
  const Array products = spread(a, of_a) * spread(b, of_b);
  Shape summed;
  for (std::size_t axis = of_result.size(); axis < all.size(); ++axis) summed.push_back(axis);
  if (summed.empty()) return products;
  return xt::sum(products, summed);
}

inline double total(const Array& x) { return xt::sum(x)(); }
inline Array sum(const Array& x, const Shape& axes) { return xt::sum(x, axes); }
/// Over an axis that stays, of extent 1. (xtensor 0.24 broadcasts a sum with keep_dims wrongly before it is evaluated.)
inline Array sum_kept(const Array& x, std::size_t axis) {
  return xt::sum(x, {axis}, xt::keep_dims);
}
inline Array largest_kept(const Array& x, std::size_t axis) {
  return xt::amax(x, {axis}, xt::keep_dims);
}
inline Array beside(const Array& x, const Array& y, std::size_t axis) {
  return xt::concatenate(xt::xtuple(x, y), axis);
}
/// Rows [first, first + count) of axis 2.
inline Array rows(const Array& x, std::size_t first, std::size_t count) {
  return xt::view(x, xt::all(), xt::all(), xt::range(first, first + count));
}

struct Rnn {
  Array ih, hh, b_ih, b_hh;  // [m,g], [m,g], [m], [m]
};

/// What a cross-attention reads, and, under the same names, its gradients.
struct Inputs {
  Array q, k, v;  // [b,h,i,d], [b,h,t,d]
  Array bias;     // [b,h,i,t]
  Array weight;   // [f,e]
  double leak = 0, threshold = 0, sigma = 0;
  Array gate;  // [h]
  Rnn rnn_key, rnn_value;
};

// Softmax attention:  w = softmax(q k^T + bias),  A = w v

inline Array softmax_weights(const Array& q, const Array& k, const Array& bias,
                             const Array& visible) {
  const Array score = einsum("bhid,bhtd->bhit", q, k) + bias + xt::log(visible);
  const Array e = xt::exp(score - largest_kept(score, 3));
  return e / sum_kept(e, 3);
}

inline Array attend(const Array& q, const Array& k, const Array& v, const Array& bias,
                    const Array& visible) {
  return einsum("bhit,bhte->bhie", softmax_weights(q, k, bias, visible), v);
}

/// dv = w^T dA,  dw = dA v^T,  ds = w (dw - sum w dw),  dq = ds k,  dk = ds^T q
inline Inputs attend_backward(const Array& q, const Array& k, const Array& v, const Array& bias,
                              const Array& visible, const Array& d_a) {
  const Array w = softmax_weights(q, k, bias, visible);
  const Array d_w = einsum("bhie,bhte->bhit", d_a, v);
  const Array d_s = w * (d_w - sum_kept(w * d_w, 3));
  Inputs d;
  d.q = einsum("bhit,bhtd->bhid", d_s, k);
  d.k = einsum("bhit,bhid->bhtd", d_s, q);
  d.v = einsum("bhit,bhie->bhte", w, d_a);
  return d;
}

// Segments:  S = ceil(N / L),  seg(i) = min(S - 1, floor(i S / horizon))

struct Segments {
  std::size_t N, L, S;
  Array sees;    // [i,j]  j = seg(i)
  Array holds;   // [t,j]  t is in segment j
  Array exists;  // [t]    t takes part in softmax and means
  Array first;   // [t,j]  t is the first key of segment j
  Array before;  // [j,l]  l = max(j - 1, 0)
  Array step;    // [s,j]  step s of the recurrence is at segment j
  Array at;      // [i,s]  query i reads what step s left

  Segments(const CrossAttentionOptions& options, std::size_t M, std::size_t keys)
      : N(keys),
        L(static_cast<std::size_t>(options.segment_size)),
        S((N + L - 1) / L),
        sees(zeros({M, S})),
        holds(zeros({S * L, S})),
        exists(ones({S * L})),
        first(zeros({S * L, S})),
        before(zeros({S, S})) {
    const std::size_t horizon = options.horizon > 0 ? static_cast<std::size_t>(options.horizon) : M;
    for (std::size_t i = 0; i < M; ++i) sees(i, std::min(S - 1, i * S / horizon)) = 1;
    for (std::size_t t = 0; t < S * L; ++t) {
      holds(t, t / L) = 1;
      first(t, t / L) = t % L == 0;
      exists(t) = t < N || options.padding == Padding::upstream;
    }
    for (std::size_t j = 0; j < S; ++j) before(j, j > 0 ? j - 1 : 0) = 1;
    // One step for every query, or for every segment that a query sees.
    if (options.advance == Advance::token) {
      step = sees;
      at = xt::eye<double>(M);
    } else {
      std::vector<std::size_t> visited;
      const Array seen = sum(sees, {0});
      for (std::size_t j = 0; j < S; ++j) {
        if (seen(j) > 0) visited.push_back(j);
      }
      step = zeros({visited.size(), S});
      for (std::size_t s = 0; s < visited.size(); ++s) step(s, visited[s]) = 1;
      at = einsum("ij,sj->is", sees, step);
    }
  }

  /// x [b,h,N,d] with the zeros that fill the last segment, and a gradient without them.
  Array filled(const Array& x) const {
    return S * L == N ? x : beside(x, zeros({x.shape(0), x.shape(1), S * L - N, x.shape(3)}), 2);
  }
  Array cut(const Array& d_x) const { return rows(d_x, 0, N); }
  Array filled_bias(const Array& x) const {
    return S * L == N ? x : beside(x, zeros({x.shape(0), x.shape(1), x.shape(2), S * L - N}), 3);
  }

  /// [i,t] the keys of seg(i), and of the segment before it.
  Array visible() const { return einsum("ij,tj->it", sees, holds) * exists; }
  Array visible_before() const {
    return einsum("il,tl->it", einsum("ij,jl->il", sees, before), holds) * exists;
  }
};

// Key-value products:  P_j = K_j^T V_j,  P = sum_j P_j,  Z_j = clamp(P) - clamp(P_j), or clamp(P_j)

inline Array segment_products(const Segments& seg, const Array& k, const Array& v) {
  return einsum("bhjtd,bhte->bhjde", einsum("bhtd,tj->bhjtd", k, seg.holds), v);
}
inline Array clamped(const Array& p, double bound) {
  return bound > 0 ? Array(xt::clip(p, -bound, bound)) : p;
}
/// m(x) = [-bound <= x <= bound]
inline Array inside(const Array& p, double bound) {
  return bound > 0 ? Array(xt::cast<double>(xt::abs(p) <= bound))
                   : ones({p.shape().begin(), p.shape().end()});
}

inline Array kv_product(const Segments& seg, const CrossAttentionOptions& options, const Array& k,
                        const Array& v) {
  const Array p_j = segment_products(seg, k, v);
  if (options.product == Product::segment) return clamped(p_j, options.clamp);
  const Array p = sum_kept(p_j, 2);
  return clamped(p, options.clamp) - clamped(p_j, options.clamp);
}

/// dP_j = m(P) sum_l dZ_l - m(P_j) dZ_j, or m(P_j) dZ_j;  dK_j = V_j dP_j^T,  dV_j = K_j dP_j
inline Inputs kv_product_backward(const Segments& seg, const CrossAttentionOptions& options,
                                  const Array& k, const Array& v, const Array& d_z) {
  const Array p_j = segment_products(seg, k, v), own = inside(p_j, options.clamp) * d_z;
  const Array p = sum_kept(p_j, 2);
  const Array all = inside(p, options.clamp) * sum_kept(d_z, 2);
  const Array d_p = options.product == Product::segment ? own : Array(all - own);
  const Array d_p_of_key = einsum("bhjde,tj->bhtde", d_p, seg.holds);
  Inputs d;
  d.k = einsum("bhte,bhtde->bhtd", v, d_p_of_key);
  d.v = einsum("bhtd,bhtde->bhte", k, d_p_of_key);
  return d;
}

// RAF:  U_s = leak Mem_{s-1} + X_s,  fires = [U / threshold - 1 > 0],  R = fires (U / threshold - 1),
//       Mem_s = U_s - threshold fires_s.  Binary: R = fires, and 0.3 max(0, 1 - |u|) stands for
//       dR/du, u = U / threshold - 1

struct Fired {
  Array u, fires, r, slope;  // [s,c]
};

inline Fired raf(const Array& x, double leak, double threshold, bool binary) {
  Array u = x, fires = zeros({x.shape(0), x.shape(1)}), membrane = zeros({x.shape(1)});
  for (std::size_t s = 0; s < x.shape(0); ++s) {
    const Array now = leak * membrane + xt::view(x, s);
    const Array on = xt::cast<double>(now / threshold - 1 > 0);
    membrane = now - threshold * on;
    xt::view(u, s) = now;
    xt::view(fires, s) = on;
  }
  const Array over = u / threshold - 1;
  if (binary) return {u, fires, fires, 0.3 * xt::maximum(1 - xt::abs(over), 0.0)};
  return {u, fires, fires * over, fires};
}

/// [s,l] f(s - l) where l < s; `here` where l = s.
template <class F>
Array of_earlier_steps(std::size_t steps, double here, F f) {
  Array table = zeros({steps, steps});
  for (std::size_t s = 0; s < steps; ++s) {
    for (std::size_t l = 0; l < s; ++l) table(s, l) = f(static_cast<double>(s - l));
    table(s, s) = here;
  }
  return table;
}

/// With what fired held fixed, the recurrence is
///   U_s = sum_{l <= s} leak^(s-l) X_l - threshold sum_{l < s} leak^(s-l) fires_l
/// so that with dU = slope dR / threshold, where slope is fires unless binary,
///   dX_l       = sum_{s >= l} leak^(s-l) dU_s
///   dleak      = sum_s dU_s sum_{l < s} (s-l) leak^(s-l-1) (X_l - threshold fires_l)
///   dthreshold = -sum dU U / threshold - sum_s dU_s sum_{l < s} leak^(s-l) fires_l
struct RafGradients {
  Array x;
  double leak, threshold;
};

inline RafGradients raf_backward(const Array& x, const Fired& fired, double leak, double threshold,
                                 const Array& d_r) {
  const std::size_t steps = x.shape(0);
  const auto power = [=](double n) { return std::pow(leak, n); };
  const Array upto = of_earlier_steps(steps, 1, power), before = of_earlier_steps(steps, 0, power);
  const Array slope = of_earlier_steps(steps, 0, [&](double n) { return n * power(n - 1); });
  const Array d_u = fired.slope * d_r / threshold;
  const Array left = x - threshold * fired.fires;
  return {
      einsum("sl,sc->lc", upto, d_u), total(d_u * einsum("sl,lc->sc", slope, left)),
      -total(d_u * fired.u / threshold) - total(d_u * einsum("sl,lc->sc", before, fired.fires))};
}

// Segmented recurrent attention:  X_s = Z_s W^T,  C_i = (q_i R_seg(i)) / n,  n = sqrt(sum_t K^2),  G = gate C,
//                                 O = A + G,  or  sigma A + (1 - sigma) G,  or G alone
// With average_products Z_s / N in place of Z_s,  n = sqrt(sum_t K^2 / N)
// With soft_keys the products of F = exp(s K) / sum_t exp(s K) in place of K,  n = 1

struct Recurrent {
  Segments seg;
  Array k, v, bias;  // filled
  Array f;           // filled: k, or its softmax over the source
  Array z, x;        // [s,b,h,d,e], of every step
  Fired fired;       // cells [s, b h d e]
  Array r;           // [s,b,h,d,e]
  Array inverse_n;   // [b,h,e], 0 where n is 0
  Array gate;        // [h]
  Array a, c, g;     // [b,h,i,e]
  double of_a, of_g;
  double keys;  // N where products and norms are averages, otherwise 1

  Recurrent(const Inputs& in, const CrossAttentionOptions& options)
      : seg(options, in.q.shape(2), in.k.shape(2)),
        k(seg.filled(in.k)),
        v(seg.filled(in.v)),
        bias(seg.filled_bias(in.bias)),
        f(k) {
    if (options.soft_keys > 0) {
      const Array e = xt::exp(options.soft_keys * in.k);
      f = seg.filled(einsum("bhtc,bhc->bhtc", e, Array(1 / sum(e, {2}))));
    }
    keys = options.average_products ? static_cast<double>(seg.N) : 1;
    z = einsum("sj,bhjde->sbhde", seg.step, kv_product(seg, options, f, v) / keys);
    r = z;
    if (options.recurrence) {
      x = einsum("sbhde,fe->sbhdf", z, in.weight);
      fired = raf(cells(x), in.leak, in.threshold, options.binary_firing);
      r = fired.r;
      r.reshape(x.shape());
    }
    const Array n = xt::sqrt(sum(k * k, {2}) / keys);
    inverse_n = options.normalize && options.soft_keys == 0 ? Array(xt::where(n > 0, 1 / n, 0.0))
                                                            : Array(xt::ones_like(n));
    gate = options.gate ? in.gate : ones({in.q.shape(1)});
    c = einsum("bhie,bhe->bhie", einsum("bhid,bhide->bhie", in.q, r_of_query()), inverse_n);
    g = einsum("bhie,h->bhie", c, gate);
    a = attend(in.q, k, v, bias, seg.visible());
    const bool weighted = options.sigma && options.local;
    of_a = !options.local ? 0 : weighted ? in.sigma : 1;
    of_g = weighted ? 1 - in.sigma : 1;
  }

  static Array cells(const Array& x) {
    Array flat = x;
    flat.reshape(Shape{x.shape(0), x.size() / x.shape(0)});
    return flat;
  }
  Array r_of_query() const { return einsum("is,sbhde->bhide", seg.at, r); }
  Array out() const { return of_a * a + of_g * g; }
};

/// dA = of_a dO,  dG = of_g dO,  dsigma = sum dO (A - G),  dgate = sum dG C,  dC = gate dG
/// dq = (dC / n) R^T + ..,  dR = q^T (dC / n),  dn = -sum dC C / n,  dK = dn K / n + ..
inline Inputs segmented_recurrent_backward(const Inputs& in, const CrossAttentionOptions& options,
                                           const Array& d_out) {
  const Recurrent f(in, options);
  Inputs d = attend_backward(in.q, f.k, f.v, f.bias, f.seg.visible(), f.of_a * d_out);
  const bool weighted = options.sigma && options.local;
  d.sigma = weighted ? total(d_out * (f.a - f.g)) : 0;
  const Array d_g = f.of_g * d_out;
  d.gate = options.gate ? sum(d_g * f.c, {0, 2, 3}) : zeros({in.q.shape(1)});
  const Array d_c = einsum("bhie,h->bhie", d_g, f.gate);
  const Array d_y = einsum("bhie,bhe->bhie", d_c, f.inverse_n);
  d.q += einsum("bhie,bhide->bhid", d_y, f.r_of_query());
  const Array d_r_of_query = einsum("bhid,bhie->bhide", in.q, d_y);
  const Array d_r = einsum("is,bhide->sbhde", f.seg.at, d_r_of_query);
  if (options.normalize && options.soft_keys == 0) {
    const Array d_n = -einsum("bhie,bhie->bhe", d_y, f.c) / f.keys;
    d.k += einsum("bhte,bhe->bhte", f.k, d_n * f.inverse_n);
  }
  Array d_z = d_r;
  d.weight = zeros({in.weight.shape(0), in.weight.shape(1)});
  if (options.recurrence) {
    RafGradients through =
        raf_backward(Recurrent::cells(f.x), f.fired, in.leak, in.threshold, Recurrent::cells(d_r));
    through.x.reshape(f.x.shape());
    d.leak = through.leak, d.threshold = through.threshold;
    d.weight = einsum("sbhdf,sbhde->fe", through.x, f.z);
    d_z = einsum("sbhdf,fe->sbhde", through.x, in.weight);
  }
  const Inputs of_products = kv_product_backward(
      f.seg, options, f.f, f.v, einsum("sbhde,sj->bhjde", d_z / f.keys, f.seg.step));
  if (options.soft_keys > 0) {
    const Array d_f = of_products.k, along = sum(f.f * d_f, {2});
    const Array centered = d_f - einsum("bhtc,bhc->bhtc", Array(xt::ones_like(d_f)), along);
    d.k = f.seg.cut(d.k + options.soft_keys * f.f * centered);
  } else {
    d.k = f.seg.cut(d.k + of_products.k);
  }
  d.v = f.seg.cut(d.v + of_products.v);
  return d;
}

// Transformer-XL:  m_t = tanh(x_t W_ih^T + b_ih + m_{t-1} W_hh^T + b_hh), over the features of all heads;
//                  softmax attention to [mk of the segment before; k of this one]

inline Array of_all_heads(const Array& x) {  // [b,h,t,d] -> [b,t,g]
  Array y = xt::transpose(x, {0, 2, 1, 3});
  y.reshape({x.shape(0), x.shape(2), x.shape(1) * x.shape(3)});
  return y;
}
inline Array of_each_head(const Array& x, std::size_t heads) {  // [b,t,g] -> [b,h,t,d]
  Array y = x;
  y.reshape({x.shape(0), x.shape(1), heads, x.shape(2) / heads});
  return xt::transpose(y, {0, 2, 1, 3});
}

inline Array rnn_forward(const Array& x, const Rnn& w) {
  Array m = einsum("btg,mg->btm", x, w.ih) + w.b_ih + w.b_hh;
  Array before = zeros({x.shape(0), w.hh.shape(0)});
  for (std::size_t t = 0; t < x.shape(1); ++t) {
    const Array fed_back = einsum("bg,mg->bm", before, w.hh);
    before = xt::tanh(xt::view(m, xt::all(), t) + fed_back);
    xt::view(m, xt::all(), t) = before;
  }
  return m;
}

/// da_t = (dm_t + da_{t+1} W_hh) (1 - m_t^2);  dx = da W_ih,  dW_ih = da^T x,  dW_hh = da^T m_{t-1},  db = sum da
inline Array rnn_backward(const Array& x, const Rnn& w, const Array& d_m, Rnn& d) {
  const Array m = rnn_forward(x, w);
  const std::size_t B = x.shape(0), T = x.shape(1), G = w.hh.shape(0);
  const Array slope = 1 - m * m;
  Array d_a = d_m, later = zeros({B, G});
  for (std::size_t t = T; t-- > 0;) {
    const Array fed_back = einsum("bm,mg->bg", later, w.hh);
    later = (xt::view(d_m, xt::all(), t) + fed_back) * xt::view(slope, xt::all(), t);
    xt::view(d_a, xt::all(), t) = later;
  }
  const Array earlier = xt::view(m, xt::all(), xt::range(0, T - 1));
  d.ih = einsum("btm,btg->mg", d_a, x);
  d.hh = einsum("btm,btg->mg", d_a, beside(zeros({B, 1, G}), earlier, 1));
  d.b_ih = sum(d_a, {0, 1});
  d.b_hh = d.b_ih;
  return einsum("btm,mg->btg", d_a, w.ih);
}

struct TransformerXl {
  Segments seg;
  Array own_k, own_v;         // filled
  Array k, v, bias, visible;  // memory beside own
  TransformerXl(const Inputs& in, const CrossAttentionOptions& options)
      : seg(options, in.q.shape(2), in.k.shape(2)),
        own_k(seg.filled(in.k)),
        own_v(seg.filled(in.v)) {
    const std::size_t H = in.q.shape(1);
    k = beside(of_each_head(rnn_forward(of_all_heads(own_k), in.rnn_key), H), own_k, 2);
    v = beside(of_each_head(rnn_forward(of_all_heads(own_v), in.rnn_value), H), own_v, 2);
    bias = beside(seg.filled_bias(in.bias), seg.filled_bias(in.bias), 3);
    visible = beside(seg.visible_before(), seg.visible(), 1);
  }
};

inline Inputs transformer_xl_backward(const Inputs& in, const CrossAttentionOptions& options,
                                      const Array& d_out) {
  const TransformerXl f(in, options);
  Inputs d = attend_backward(in.q, f.k, f.v, f.bias, f.visible, d_out);
  const std::size_t H = in.q.shape(1), T = f.seg.S * f.seg.L;
  const auto through = [&](const Array& own, const Array& d_both, const Rnn& w, Rnn& d_w) {
    const Array d_memory = of_all_heads(rows(d_both, 0, T));
    const Array d_x = of_each_head(rnn_backward(of_all_heads(own), w, d_memory, d_w), H);
    return f.seg.cut(rows(d_both, T, T) + d_x);
  };
  d.k = through(f.own_k, d.k, in.rnn_key, d.rnn_key);
  d.v = through(f.own_v, d.v, in.rnn_value, d.rnn_value);
  return d;
}

// Global tokens:  gk_j = mean of the keys of segment j;  softmax attention to [k of seg(i); gk]

struct GlobalTokens {
  Segments seg;
  Array mean;                 // [t,j]
  Array k, v, bias, visible;  // own beside global
  GlobalTokens(const Inputs& in, const CrossAttentionOptions& options)
      : seg(options, in.q.shape(2), in.k.shape(2)) {
    const Array counted = einsum("tj,t->tj", seg.holds, seg.exists);
    mean = counted / sum(counted, {0});
    const Array own_k = seg.filled(in.k), own_v = seg.filled(in.v),
                own_bias = seg.filled_bias(in.bias);
    k = beside(own_k, einsum("bhtd,tj->bhjd", own_k, mean), 2);
    v = beside(own_v, einsum("bhtd,tj->bhjd", own_v, mean), 2);
    bias = beside(own_bias, einsum("bhit,tj->bhij", own_bias, seg.first), 3);
    visible = beside(seg.visible(), ones({in.q.shape(2), seg.S}), 1);
  }
};

inline Inputs global_tokens_backward(const Inputs& in, const CrossAttentionOptions& options,
                                     const Array& d_out) {
  const GlobalTokens f(in, options);
  Inputs d = attend_backward(in.q, f.k, f.v, f.bias, f.visible, d_out);
  const std::size_t T = f.seg.S * f.seg.L;
  const auto through = [&](const Array& d_both) {
    return f.seg.cut(rows(d_both, 0, T) +
                     einsum("bhjd,tj->bhtd", rows(d_both, T, f.seg.S), f.mean));
  };
  d.k = through(d.k);
  d.v = through(d.v);
  return d;
}

// Linear attention, with the weights that it never forms:
//   y_it = f(q_i) . f(k_t),  w_it = y_it / all_i,  all_i = sum_t y_it + 1e-6,  O = w v,  f(x) = elu(x) + 1

inline Array feature(const Array& x) { return xt::where(x > 0, x + 1, xt::exp(x)); }
inline Array feature_slope(const Array& x) { return xt::where(x > 0, 1.0, xt::exp(x)); }

struct Linear {
  Array y, all, w;
  explicit Linear(const Inputs& in) {
    y = einsum("bhid,bhtd->bhit", feature(in.q), feature(in.k));
    all = sum_kept(y, 3) + 1e-6;
    w = y / all;
  }
};

/// dw = dO v^T,  dy = (dw - sum w dw) / all
inline Inputs linear_backward(const Inputs& in, const Array& d_out) {
  const Linear f(in);
  const Array d_w = einsum("bhie,bhte->bhit", d_out, in.v);
  const Array d_y = (d_w - sum_kept(f.w * d_w, 3)) / f.all;
  Inputs d;
  d.q = einsum("bhit,bhtd->bhid", d_y, feature(in.k)) * feature_slope(in.q);
  d.k = einsum("bhit,bhid->bhtd", d_y, feature(in.q)) * feature_slope(in.k);
  d.v = einsum("bhit,bhie->bhte", f.w, d_out);
  return d;
}

/// The cross-attention that the options name.
inline Array forward(const Inputs& in, const CrossAttentionOptions& options) {
  const std::size_t M = in.q.shape(2), N = in.k.shape(2);
  switch (options.variant) {
    case Variant::full:
      return attend(in.q, in.k, in.v, in.bias, ones({M, N}));
    case Variant::segmented: {
      const Segments seg(options, M, N);
      return attend(in.q, seg.filled(in.k), seg.filled(in.v), seg.filled_bias(in.bias),
                    seg.visible());
    }
    case Variant::segmented_recurrent:
      return Recurrent(in, options).out();
    case Variant::transformer_xl: {
      const TransformerXl f(in, options);
      return attend(in.q, f.k, f.v, f.bias, f.visible);
    }
    case Variant::global_tokens: {
      const GlobalTokens f(in, options);
      return attend(in.q, f.k, f.v, f.bias, f.visible);
    }
    case Variant::linear:
      return einsum("bhit,bhte->bhie", Linear(in).w, in.v);
  }
  return {};
}

/// Its gradients; those of inputs that the variant does not read stay empty.
inline Inputs backward(const Inputs& in, const CrossAttentionOptions& options, const Array& d_out) {
  const std::size_t M = in.q.shape(2), N = in.k.shape(2);
  switch (options.variant) {
    case Variant::full:
      return attend_backward(in.q, in.k, in.v, in.bias, ones({M, N}), d_out);
    case Variant::segmented: {
      const Segments seg(options, M, N);
      Inputs d = attend_backward(in.q, seg.filled(in.k), seg.filled(in.v), seg.filled_bias(in.bias),
                                 seg.visible(), d_out);
      d.k = seg.cut(d.k);
      d.v = seg.cut(d.v);
      return d;
    }
    case Variant::segmented_recurrent:
      return segmented_recurrent_backward(in, options, d_out);
    case Variant::transformer_xl:
      return transformer_xl_backward(in, options, d_out);
    case Variant::global_tokens:
      return global_tokens_backward(in, options, d_out);
    case Variant::linear:
      return linear_backward(in, d_out);
  }
  return {};
}

/// How near a cell of the recurrence or of a clamp comes to its kink, and whether any fires after the first step.
struct Kinks {
  double margin = HUGE_VAL;
  bool fires_later = false;
};

inline Kinks kinks(const Inputs& in, const CrossAttentionOptions& options) {
  Kinks found;
  const Recurrent f(in, options);
  if (options.recurrence) {
    found.margin = xt::amin(xt::abs(f.fired.u / in.threshold - 1))();
    const std::size_t steps = f.fired.fires.shape(0);
    found.fires_later = total(xt::view(f.fired.fires, xt::range(1, steps))) > 0;
  }
  if (options.clamp > 0) {
    const Array p_j = segment_products(f.seg, f.k, f.v), p = sum(p_j, {2});
    for (const Array& each : {p_j, p}) {
      found.margin = std::min(found.margin, xt::amin(xt::abs(xt::abs(each) - options.clamp))());
    }
  }
  return found;
}

}  // namespace srformer::reference
