// SPDX-License-Identifier: Apache-2.0
// A backend that passes every call on to EigenBackend, but for the primitives a file removes.
#pragma once

#include <srformer/attention/full.hpp>
#include <srformer/backend/eigen.hpp>

using namespace srformer;

class Own {
 public:
#if defined(SRF_CONTROL) || !defined(LACKS_SPACE)
  using space = host_space;
#endif
  template <class T>
  T* allocate(index_t n) {
    return be_.allocate<T>(n);
  }
#if defined(SRF_CONTROL) || !defined(LACKS_SHAPE_OF_ROWS)
  template <class F>
  void for_each_row(index_t rows, index_t scratch, F f) {
    be_.for_each_row(rows, scratch, f);
  }
#else
  template <class F>
  void for_each_row(index_t rows, F f) {
    be_.for_each_row(rows, 0, f);
  }
#endif
#if defined(SRF_CONTROL) || !defined(LACKS_REDUCE)
  template <class F, class A>
  void reduce(index_t n, F f, A* out) {
    be_.reduce(n, f, out);
  }
#endif
  void deallocate(auto* p, index_t n) { be_.deallocate(p, n); }
  void fill(auto* p, index_t n, auto value) { be_.fill(p, n, value); }
  void copy(auto* to, const auto* from, index_t n) { be_.copy(to, from, n); }
  void to_host(auto* host, const auto* p, index_t n) { be_.to_host(host, p, n); }
  void from_host(auto* p, const auto* host, index_t n) { be_.from_host(p, host, n); }
  void for_each(index_t n, auto f) { be_.for_each(n, f); }
  void gemm(auto... arguments) { be_.gemm(arguments...); }
  void synchronize() {}

 private:
  EigenBackend be_;
};

void attend(Own& be, View<const double, 4> q, View<double, 4> out) {
  full_attention_forward<Own, double>(be, {q, q, q}, out);
}
