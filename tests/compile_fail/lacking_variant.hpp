// SPDX-License-Identifier: Apache-2.0
// A variant that computes nothing, and lacks what a LACKS_ macro names.
#pragma once

#include <srformer/attention/cross_attention.hpp>
#include <srformer/backend/eigen.hpp>

using namespace srformer;

struct Lacking {
#if !defined(LACKS_NAME) || defined(SRF_CONTROL)
  static constexpr std::string_view name = "lacking";
#endif
#if !defined(LACKS_OPTIONS) || defined(SRF_CONTROL)
  using Options = NoOptions;
#endif
  template <class T>
  using Parameters = NothingLearned<T>;
  template <class B, class T>
  using Saved = Nothing<B, T>;
  template <class B, class T>
  using Prepared = Nothing<B, T>;
  template <class B, class T>
  static void forward(B&, const AttentionInputs<B, T>&, const Parameters<const T>&,
                      const NoOptions&, Saved<B, T>&, Out<B, T, 4>) {}
#if !defined(LACKS_BACKWARD) || defined(SRF_CONTROL)
  template <class B, class T>
  static void backward(B&, const AttentionInputs<B, T>&, const Parameters<const T>&,
                       const NoOptions&, const Saved<B, T>&, const AttentionGradients<B, T>&,
                       const Parameters<T>&) {}
#endif
  template <class B, class T>
  static Prepared<B, T> prepare(B&, const AttentionInputs<B, T>&, const Parameters<const T>&,
                                const NoOptions&) {
    return {};
  }
#if !defined(LACKS_STEP) || defined(SRF_CONTROL)
  template <class B, class T>
  static void step(B&, const AttentionStep<T, typename B::space>&, const Parameters<const T>&,
                   const NoOptions&, const Prepared<B, T>&) {}
#endif
};

using List = Variants<Full, Lacking>;

inline void use(EigenBackend& be, const AttentionInputs<EigenBackend, float>& in,
                List::Saved<EigenBackend, float>& saved, const List::Options& options,
                const AttentionGradients<EigenBackend, float>& d, View<float, 4> out) {
  List::forward(be, in, {}, options, saved, out);
  List::backward(be, in, {}, options, saved, d, {});
  const auto prepared = List::prepare<EigenBackend, float>(be, {}, {}, {}, {}, options, {1});
  List::step(be, in.q, {}, {}, prepared, {0}, out);
}
