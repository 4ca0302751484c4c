// SPDX-License-Identifier: Apache-2.0
// What a cross-attention costs, counted while it runs: its templates with a scalar that counts multiplications, on a
// backend that writes down the matrix products and the memory that it is asked for.
//
//   const auto counts = count_operations<PaperVariants>(PaperVariants::Options::of<SegmentedRecurrent>(),
//                                                       {.queries = 128, .keys = 1024, .head_size = 64});
//   std::printf("%lld\n", static_cast<long long>(counts.forward.multiply_adds));
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include <srformer/attention/cross_attention.hpp>
#include <srformer/backend/eigen.hpp>
#include <srformer/core/random.hpp>

namespace srformer {

/// A double that counts how often two of its kind are multiplied, in all of the program: for one thread at a time.
struct CountedNumber {
  inline static std::int64_t multiplications = 0;
  double value = 0;
  CountedNumber() = default;
  explicit CountedNumber(double x) : value(x) {}
  friend CountedNumber operator+(CountedNumber a, CountedNumber b) {
    return CountedNumber(a.value + b.value);
  }
  friend CountedNumber operator-(CountedNumber a, CountedNumber b) {
    return CountedNumber(a.value - b.value);
  }
  friend CountedNumber operator*(CountedNumber a, CountedNumber b) {
    ++multiplications;
    return CountedNumber(a.value * b.value);
  }
  friend CountedNumber operator/(CountedNumber a, CountedNumber b) {
    return CountedNumber(a.value / b.value);
  }
  friend CountedNumber operator-(CountedNumber a) { return CountedNumber(-a.value); }
  friend double primal(CountedNumber a) { return a.value; }
  friend CountedNumber exp(CountedNumber a) { return CountedNumber(std::exp(a.value)); }
  friend CountedNumber log(CountedNumber a) { return CountedNumber(std::log(a.value)); }
  friend CountedNumber sqrt(CountedNumber a) { return CountedNumber(std::sqrt(a.value)); }
  friend CountedNumber tanh(CountedNumber a) { return CountedNumber(std::tanh(a.value)); }
  friend CountedNumber erf(CountedNumber a) { return CountedNumber(std::erf(a.value)); }
};

/// What calls of one backend did. A number is one element, whatever its bytes. Numbers moved are those that matrix products
/// read and write, as if nothing were cached.
struct OperationCounts {
  std::int64_t multiply_adds = 0;    ///< of matrix products
  std::int64_t multiplications = 0;  ///< all, those of matrix products among them
  std::int64_t moved = 0;
  std::int64_t scratch = 0;    ///< numbers of scratch that a thread holds at most
  std::int64_t allocated = 0;  ///< numbers of tensors that were allocated
};

inline namespace SRF_TARGET {

/// SerialTeam, writing down the products it is asked for.
struct CountingTeam : SerialTeam {
  OperationCounts* counts = nullptr;
  template <class TA, class TB, class TC>
  void gemm(Op transpose_a, Op transpose_b, index_t m, index_t n, index_t k, compute_t<TC> alpha,
            const TA* a, index_t lda, const TB* b, index_t ldb, compute_t<TC> beta, TC* c,
            index_t ldc) const {
    counts->multiply_adds += m * n * k;
    const bool adds = primal(beta) < 0 || 0 < primal(beta);  // to what is in c
    counts->moved += m * k + k * n + (adds ? 2 : 1) * m * n;
    SerialTeam::gemm(transpose_a, transpose_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
  }
};

/// EigenBackend of one thread for CountedNumber, with what it was asked for.
class CountingBackend : public EigenBackend {
 public:
  using team_type = CountingTeam;
  OperationCounts counts;
  CountingBackend() : EigenBackend(1) {}

  template <class T>
  T* allocate(index_t n) {
    counts.allocated += n;
    return EigenBackend::allocate<T>(n);
  }
  template <class F>
  void for_each_row(index_t rows, index_t scratch_bytes, F f) {
    const auto numbers = scratch_bytes / static_cast<index_t>(sizeof(CountedNumber));
    counts.scratch = std::max<std::int64_t>(counts.scratch, numbers);
    std::vector<CountedNumber> scratch(static_cast<std::size_t>(numbers) + 1);
    CountingTeam team;
    team.counts = &counts;
    for (index_t row = 0; row < rows; ++row) f(team, row, static_cast<void*>(scratch.data()));
  }
  template <class TA, class TB, class TC>
  void gemm(Op transpose_a, Op transpose_b, index_t m, index_t n, index_t k, compute_t<TC> alpha,
            const TA* a, index_t lda, const TB* b, index_t ldb, compute_t<TC> beta, TC* c,
            index_t ldc) {
    CountingTeam team;
    team.counts = &counts;
    team.gemm(transpose_a, transpose_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
  }
};

}  // namespace SRF_TARGET

/// One source without padding.
struct CountedSizes {
  index_t heads = 1, queries = 128, keys = 1024, head_size = 64;
};

/// Of all heads together.
struct AttentionCounts {
  OperationCounts forward, backward;
  OperationCounts decoding;  ///< what is prepared of the source, and a step for each query
};

namespace detail {

template <class List>
class OperationCount {
 public:
  using B = CountingBackend;
  using T = CountedNumber;

  OperationCount(const typename List::Options& options, const CountedSizes& s) : options_(options) {
    const std::array of_q{index_t{1}, s.heads, s.queries, s.head_size};
    const std::array of_k{index_t{1}, s.heads, s.keys, s.head_size};
    for (const auto& shape : {of_q, of_k, of_k, of_q})
      add(shape[1] * shape[2] * shape[3], 1 / std::sqrt(std::sqrt(double(s.head_size))), 0);
    q_ = of_q, k_ = of_k;
    List::visit_learned(options, {s.heads, s.head_size}, [&](const LearnedInfo& info) {
      const index_t columns = info.columns > 0 ? info.columns : info.rows;
      const bool scalar = info.role == Role::scalar;
      add(info.rows * std::max<index_t>(info.columns, 1),
          scalar ? 0 : 0.5 / std::sqrt(static_cast<double>(columns)),
          scalar ? info.initial.value : 0);
    });
    gradients_ = values_;
  }

  AttentionCounts operator()() {
    AttentionCounts all;
    B be;  // outlives what is saved
    typename List::template Saved<B, T> saved;
    const AttentionInputs<B, T> in{
        {values_[0].data(), q_}, {values_[1].data(), k_}, {values_[2].data(), k_}, {}};
    std::vector<T> out(values_[0].size());
    const View<T, 4> to(out.data(), q_);
    all.forward =
        counted(be, [&] { List::forward(be, in, learned(values_), options_, saved, to); });
    all.backward = counted(be, [&] {
      List::backward(be, in, learned(values_), options_, saved,
                     {{values_[3].data(), q_},
                      {gradients_[0].data(), q_},
                      {gradients_[1].data(), k_},
                      {gradients_[2].data(), k_}},
                     learned(gradients_));
    });
    auto keys = clone<B, const T, 4>(be, in.k), values = clone<B, const T, 4>(be, in.v);
    all.decoding = counted(be, [&] {
      const auto prepared = List::template prepare<B, T>(be, std::move(keys), std::move(values), {},
                                                         learned(values_), options_, {q_[2]});
      for (index_t i = 0; i < q_[2]; ++i)
        List::step(be, in.q.slice(2, i, 1), {}, learned(values_), prepared, {.step = i},
                   to.slice(2, i, 1));
    });
    return all;
  }

 private:
  using Numbers = std::vector<std::vector<T>>;

  void add(index_t count, double scale, double center) {
    const RandomStream random = RandomStream{1, 3}.substream(values_.size() + 1);
    std::vector<T> values(static_cast<std::size_t>(count));
    for (std::size_t i = 0; i < values.size(); ++i)
      values[i] = T(center + scale * normal(random, i));
    values_.push_back(std::move(values));
  }

  static LearnedPointers<T> learned(Numbers& numbers) {
    LearnedPointers<T> pointers;
    for (std::size_t i = 4; i < numbers.size(); ++i) pointers.add(numbers[i].data());
    return pointers;
  }

  template <class F>
  static OperationCounts counted(B& be, F f) {
    be.counts = {};
    T::multiplications = 0;
    f();
    be.counts.multiplications = T::multiplications;
    return be.counts;
  }

  typename List::Options options_;
  std::array<index_t, 4> q_{}, k_{};
  Numbers values_, gradients_;  ///< q, k, v, the gradient at the output, what is learned
};

}  // namespace detail

/// Runs forward, backward and decoding of the variant that `options` choose on random numbers and counts. Cost: that of
/// the plain loops in double, about a nanosecond for a multiplication.
/// Throws shape_error where a size is below 1.
template <class List>
AttentionCounts count_operations(const typename List::Options& options,
                                 const CountedSizes& sizes = {}) {
  require(std::min({sizes.heads, sizes.queries, sizes.keys, sizes.head_size}) > 0,
          "count_operations", "heads, queries, keys and head_size must be above 0");
  return detail::OperationCount<List>(options, sizes)();
}

}  // namespace srformer
