// SPDX-License-Identifier: Apache-2.0
// A backend of one's own: a class with the primitives of backend/concept.hpp, here on std::jthread. It is checked
// by testing/conformance.hpp, then runs segmented recurrent attention beside EigenBackend.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>
#include <new>
#include <srformer/srformer.hpp>
#include <srformer/testing/conformance.hpp>
#include <string_view>
#include <thread>

#include "errors.hpp"

using namespace srformer;

/// Loops on threads that are started for each call and joined at its end.
class StdThreads {
 public:
  using space = host_space;

  explicit StdThreads(int threads) : threads_(threads) {}

  template <class T>
  T* allocate(index_t n) {
    void* p = ::operator new (static_cast<std::size_t>(n) * sizeof(T), std::align_val_t{64});
    std::uninitialized_default_construct_n(static_cast<T*>(p), n);
    return static_cast<T*>(p);
  }
  template <class T>
  void deallocate(T* p, index_t n) {
    std::destroy_n(p, n);
    ::operator delete (p, std::align_val_t{64});
  }

  template <class T>
  void fill(T* p, index_t n, const T& value) {
    share(n, [=](index_t first, index_t last, index_t) { std::fill(p + first, p + last, value); });
  }
  template <class To, class From>
  void copy(To* to, const From* from, index_t n) {
    for_each(n, [=](index_t i) { to[i] = To(compute_t<From>(from[i])); });
  }
  template <class T>
  void to_host(T* host, const T* p, index_t n) {
    std::copy_n(p, n, host);
  }
  template <class T>
  void from_host(T* p, const T* host, index_t n) {
    std::copy_n(host, n, p);
  }

  template <class F>
  void for_each(index_t n, F f) {
    share(n, [=](index_t first, index_t last, index_t) {
      for (index_t i = first; i < last; ++i) f(i);
    });
  }

  /// A team is one thread, and each thread has scratch of its own.
  template <class F>
  void for_each_row(index_t rows, index_t scratch_bytes, F f) {
    const index_t stride = (scratch_bytes + 63) / 64 * 64;
    std::byte* scratch = allocate<std::byte>(stride * threads_);
    share(rows, [=](index_t first, index_t last, index_t thread) {
      void* mine = scratch + thread * stride;
      for (index_t row = first; row < last; ++row) f(SerialTeam{}, row, mine);
    });
    deallocate(scratch, stride * threads_);
  }

  /// Parts of a fixed size, added in order: threads decide who sums a part, not what is in it.
  template <class F, class A>
  void reduce(index_t n, F f, A* out) {
    constexpr index_t size = 4096;
    std::vector<A> parts(static_cast<std::size_t>((n + size - 1) / size), A(0));
    for_each(std::ssize(parts), [=, part = parts.data()](index_t p) {
      const index_t last = std::min(n, (p + 1) * size);
      for (index_t i = p * size; i < last; ++i) part[p] = part[p] + f(i);
    });
    for (const A& part : parts) *out = *out + part;
  }

  /// Every thread has some rows of C.
  template <class T>
  void gemm(Op transpose_a, Op transpose_b, index_t m, index_t n, index_t k, compute_t<T> alpha,
            const T* a, index_t lda, const T* b, index_t ldb, compute_t<T> beta, T* c,
            index_t ldc) {
    const index_t row_of_a = transpose_a == Op::none ? lda : 1;
    share(m, [=](index_t first, index_t last, index_t) {
      small_gemm(transpose_a, transpose_b, last - first, n, k, alpha, a + first * row_of_a, lda, b,
                 ldb, beta, c + first * ldc, ldc);
    });
  }

  void synchronize() {}  // every call above has joined its threads

 private:
  /// Calls f(first, last, thread) on each thread for its part of [0, n).
  template <class F>
  void share(index_t n, F f) {
    const index_t each = (n + threads_ - 1) / threads_;
    std::vector<std::jthread> threads;
    for (index_t t = 0; t * each < n; ++t) {
      threads.emplace_back(f, t * each, std::min(n, (t + 1) * each), t);
    }
  }

  int threads_;
};

static_assert(BackendFor<StdThreads, float>);

/// What attention writes on a backend: out, then the gradients, on the same random numbers.
template <class B>
std::vector<std::vector<double>> attend(B& be) {
  const index_t batch = 2, H = 4, M = 9, N = 50, D = 8;
  std::uint64_t seed = 0;
  const auto random = [&](const std::array<index_t, 4>& shape) {
    std::vector<double> values(static_cast<std::size_t>(View<double, 4>(nullptr, shape).size()));
    ++seed;
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = normal({seed}, i) / 2;
    return from_host<double, 4>(be, shape, values);
  };
  const auto q = random({batch, H, M, D}), k = random({batch, H, N, D});
  const auto v = random({batch, H, N, D}), d_out = random({batch, H, M, D});
  const auto weight = random({1, 1, D, D});
  const auto raf = from_host<double, 1>(be, {2}, {0.1, 0.3});  // leak, threshold
  const RecurrentParameters<const double> parameters{weight.data(), raf.data(), raf.data() + 1};
  const SegmentedRecurrentOptions options{.segment_size = 8};

  auto out = zeros<double, 4>(be, {batch, H, M, D}), d_q = zeros<double, 4>(be, {batch, H, M, D});
  auto d_k = zeros<double, 4>(be, {batch, H, N, D}), d_v = zeros<double, 4>(be, {batch, H, N, D});
  auto d_weight = zeros<double, 4>(be, {1, 1, D, D});
  auto d_raf = zeros<double, 1>(be, {2});
  const AttentionInputs<B, double> in{q, k, v};
  const AttentionGradients<B, double> d{d_out, d_q.view(), d_k.view(), d_v.view()};
  segmented_recurrent_forward(be, in, parameters, options, out.view());
  segmented_recurrent_backward(be, in, parameters, options, d,
                               {d_weight.data(), d_raf.data(), d_raf.data() + 1});
  return {to_host(be, out), to_host(be, d_q),      to_host(be, d_k),
          to_host(be, d_v), to_host(be, d_weight), to_host(be, d_raf)};
}

namespace {

int show(int argc, char** argv) {
  if (argc > 1)
    return std::puts("usage: custom_backend") < 0 || std::string_view(argv[1]) != "--help" ? 2 : 0;

  StdThreads own(3);
  const ConformanceReport report = check_backend<double>(own);
  std::fputs(report.text().c_str(), stdout);
  if (!report.ok()) return 1;

  EigenBackend eigen;
  const auto got = attend(own), expected = attend(eigen);
  const char* names[] = {"out", "d_q", "d_k", "d_v", "d_weight", "d_leak, d_threshold"};
  bool same = true;
  for (std::size_t t = 0; t < got.size(); ++t) {
    double difference = 0, largest = 0;
    for (std::size_t i = 0; i < got[t].size(); ++i) {
      const double off = std::abs(got[t][i] - expected[t][i]);
      if (!(off <= difference)) difference = off;  // NaN counts as wrong
      largest = std::max(largest, std::abs(expected[t][i]));
    }
    std::printf("%-20s largest %8.4f, from EigenBackend's by at most %.1e\n", names[t], largest,
                difference);
    same = same && largest > 0 && difference <= 1e-13 * largest;
  }
  return same ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  return srformer::program::run([&] { return show(argc, argv); });
}
