// SPDX-License-Identifier: Apache-2.0
// What the cross-attentions cost, counted while they run: docs/cost.md quotes the numbers.
#include <srformer/backend/eigen.hpp>

#include "support/catch.hpp"
#include "support/paper_options.hpp"

using namespace srformer;

namespace {

/// A number that counts how often two of its kind are multiplied.
struct Counted {
  inline static std::int64_t multiplications = 0;
  double value = 0;
  Counted() = default;
  explicit Counted(double x) : value(x) {}
  friend Counted operator+(Counted a, Counted b) { return Counted(a.value + b.value); }
  friend Counted operator-(Counted a, Counted b) { return Counted(a.value - b.value); }
  friend Counted operator*(Counted a, Counted b) {
    ++multiplications;
    return Counted(a.value * b.value);
  }
  friend Counted operator/(Counted a, Counted b) { return Counted(a.value / b.value); }
  friend Counted operator-(Counted a) { return Counted(-a.value); }
  friend double primal(Counted a) { return a.value; }
  friend Counted exp(Counted a) { return Counted(std::exp(a.value)); }
  friend Counted log(Counted a) { return Counted(std::log(a.value)); }
  friend Counted sqrt(Counted a) { return Counted(std::sqrt(a.value)); }
  friend Counted tanh(Counted a) { return Counted(std::tanh(a.value)); }
};

/// What one call does: multiply-adds of its matrix products, all multiplications, elements of scratch
/// of one source and head, elements of other memory.
struct Cost {
  std::int64_t products = 0, multiplications = 0, scratch = 0, other = 0;
};

/// SerialTeam, writing down the products it is asked for.
struct CountingTeam : SerialTeam {
  Cost* cost = nullptr;
  template <class TA, class TB, class TC>
  void gemm(Op transpose_a, Op transpose_b, index_t m, index_t n, index_t k, compute_t<TC> alpha,
            const TA* a, index_t lda, const TB* b, index_t ldb, compute_t<TC> beta, TC* c,
            index_t ldc) const {
    cost->products += m * n * k;
    SerialTeam::gemm(transpose_a, transpose_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
  }
};

class CountingBackend : public EigenBackend {
 public:
  using team_type = CountingTeam;
  Cost cost;
  CountingBackend() : EigenBackend(1) {}

  template <class T>
  T* allocate(index_t n) {
    cost.other += n;
    return EigenBackend::allocate<T>(n);
  }
  template <class F>
  void for_each_row(index_t rows, index_t scratch_bytes, F f) {
    cost.scratch =
        std::max<std::int64_t>(cost.scratch, scratch_bytes / static_cast<index_t>(sizeof(Counted)));
    std::vector<Counted> scratch(static_cast<std::size_t>(scratch_bytes) / sizeof(Counted) + 1);
    CountingTeam team;
    team.cost = &cost;
    for (index_t row = 0; row < rows; ++row) f(team, row, static_cast<void*>(scratch.data()));
  }
};

struct CountedSizes {
  Variant variant;
  index_t M, N, L, D;
};

/// One source, one head.
struct Both {
  Cost forward, backward;
};

Both count(const CountedSizes& s) {
  CrossAttentionOptions options;
  options.variant = s.variant, options.segment_size = s.L;
  std::uint64_t stream = 0;
  const auto draw = [&](index_t n, double scale) {
    std::vector<Counted> x(static_cast<std::size_t>(n));
    ++stream;
    for (index_t i = 0; i < n; ++i) {
      x[i] = Counted(scale * normal({stream, 3}, static_cast<std::uint64_t>(i)));
    }
    return x;
  };
  const auto q = draw(s.M * s.D, 0.3), k = draw(s.N * s.D, 0.3), v = draw(s.N * s.D, 1),
             d_out = draw(s.M * s.D, 1), w = draw(s.D * s.D, 0.1);
  auto out = q, d_q = q, d_k = k, d_v = v, d_w = w;
  Counted leak(0.1), threshold(0.1), d_leak, d_threshold;
  const RecurrentParameters<Counted> parameters{const_cast<Counted*>(w.data()), &leak, &threshold};
  const RecurrentParameters<Counted> gradients{d_w.data(), &d_leak, &d_threshold};
  const auto in = [&](const auto& x, index_t rows) {
    return View<const Counted, 4>(x.data(), {1, 1, rows, s.D});
  };
  const auto to = [&](auto& x, index_t rows) {
    return View<Counted, 4>(x.data(), {1, 1, rows, s.D});
  };
  const auto counted = [](auto call) {
    CountingBackend be;
    Counted::multiplications = 0;
    call(be);
    be.cost.multiplications = Counted::multiplications;
    return be.cost;
  };
  Both cost;
  cost.forward = counted([&](CountingBackend& be) {
    cross_attention_forward<CountingBackend, Counted>(be, in(q, s.M), in(k, s.N), in(v, s.N),
                                                      parameters, {}, options, to(out, s.M));
  });
  cost.backward = counted([&](CountingBackend& be) {
    cross_attention_backward<CountingBackend, Counted>(
        be, in(q, s.M), in(k, s.N), in(v, s.N), parameters, {}, options, in(d_out, s.M),
        to(d_q, s.M), to(d_k, s.N), to(d_v, s.N), gradients);
  });
  return cost;
}

}  // namespace

TEST_CASE("the products of each attention are those of docs/cost.md") {
  const index_t M = 24, N = 96, D = 8;
  const Both all = count({Variant::full, M, N, 8, D});
  CHECK(all.forward.products == 2 * M * N * D);
  CHECK(all.backward.products == 5 * M * N * D);
  for (const index_t L : {2, 4, 8, 16, 32}) {
    const index_t S = N / L, visited = std::min(M, S);
    const Both local = count({Variant::segmented, M, N, L, D}),
               both = count({Variant::segmented_recurrent, M, N, L, D});
    INFO("L " << L);
    CHECK(local.forward.products == 2 * M * L * D);
    CHECK(local.backward.products == 5 * M * L * D);
    const index_t weights = L < D ? N * D * D : visited * D * D * D;
    CHECK(both.forward.products == 2 * M * L * D + M * D * D + N * D * D + weights);
    CHECK(both.backward.products == 5 * M * L * D + 3 * M * D * D + 3 * N * D * D + 3 * weights);
    CHECK(both.forward.multiplications > both.forward.products);
    CHECK(both.backward.multiplications > both.backward.products);
  }
}

TEST_CASE("shorter segments do not make segmented recurrent attention dearer") {
  const index_t M = 128, N = 1024, D = 64;
  const Both wide = count({Variant::segmented_recurrent, M, N, 64, D});
  Both before = wide;
  for (const index_t L : {32, 16, 8}) {
    const Both now = count({Variant::segmented_recurrent, M, N, L, D});
    CAPTURE(L, now.forward.multiplications, now.backward.multiplications, now.forward.scratch,
            now.backward.scratch, wide.forward.scratch, wide.backward.scratch);
    CHECK(now.forward.products < before.forward.products);
    CHECK(now.backward.products < before.backward.products);
    // What is not a matrix product is a few operations on each element of the [D,D] states.
    CHECK(double(now.forward.multiplications) < 1.2 * double(wide.forward.multiplications));
    CHECK(double(now.backward.multiplications) < 1.2 * double(wide.backward.multiplications));
    CHECK(now.forward.other == 0);  // nothing is saved
    CHECK(now.backward.other == wide.backward.other);
    CHECK(now.forward.scratch < 3 * wide.forward.scratch);
    CHECK(now.backward.scratch < 3 * wide.backward.scratch);
    before = now;
  }
}

TEST_CASE("the cost of segmented recurrent attention grows with N as a straight line") {
  const index_t M = 16, D = 8;
  for (const index_t L : {2, 16}) {
    std::vector<std::int64_t> forward, backward, scratch;
    for (index_t N = 64; N <= 256; N += 64) {
      const Both cost = count({Variant::segmented_recurrent, M, N, L, D});
      forward.push_back(cost.forward.products);
      backward.push_back(cost.backward.products);
      scratch.push_back(cost.backward.scratch);
    }
    for (std::size_t i = 2; i < forward.size(); ++i) {
      CHECK(forward[i] - forward[i - 1] == forward[1] - forward[0]);
      CHECK(backward[i] - backward[i - 1] == backward[1] - backward[0]);
      CHECK(scratch[i] - scratch[i - 1] == scratch[1] - scratch[0]);
    }
    CHECK(forward[1] > forward[0]);
  }
}

TEST_CASE("table 1 of the paper, and what this library takes at its sizes") {
  const index_t M = 128, N = 1024, D = 64, L = 64, S = N / L;
  // The paper's memory, in numbers: N D, the weights, and one [D,D] state a segment.
  CHECK((N * D + M * N + 500) / 1000 == 197);
  CHECK((N * D + M * L + 500) / 1000 == 74);
  CHECK((N * D + M * L + S * D * D + 500) / 1000 == 139);
  CHECK(100 * (M * N - M * L - S * D * D) / (N * D + M * N) == 29);

  // Its operations: M N D, and M L D + N D^2; both leave out factors, q R and the recurrence.
  const double paper = 1 - double(M * L * D + N * D * D) / double(M * N * D);
  CHECK(paper == 0.4375);

  const Both whole = count({Variant::full, M, N, L, D}),
             both = count({Variant::segmented_recurrent, M, N, L, D});
  CHECK(whole.forward.products == 2 * M * N * D);
  CHECK(both.forward.products == 2 * M * L * D + 2 * N * D * D + M * D * D);
  CHECK(1 - double(both.forward.products) / double(whole.forward.products) ==
        Approx(0.406).margin(0.001));
  // Without W and q R, and with both products of softmax attention: what the paper's 43 % leaves in.
  const double kept = double(both.forward.products - N * D * D - M * D * D);
  CHECK(1 - kept / double(whole.forward.products) == 0.6875);
}
