// SPDX-License-Identifier: Apache-2.0
// The programs of attention on packs of elements and on single elements, from scratch memory that holds NaN before.
#include <srformer/attention/segmented_recurrent.hpp>
#include <srformer/core/dual.hpp>

#include "support/attention_case.hpp"

using namespace srformer;
using namespace srformer::testing;

namespace {

/// Scratch holds NaN before every row, and bytes after it that nobody writes.
class NanScratchBackend : public EigenBackend {
 public:
  using EigenBackend::EigenBackend;

  template <class F>
  void for_each_row(index_t rows, index_t scratch_bytes, F f) {
    constexpr std::byte nan{0xFF}, guard{0x5A};
    const auto bytes = static_cast<std::size_t>(scratch_bytes);
    std::vector<std::byte> memory(bytes + 192);
    const std::size_t past = reinterpret_cast<std::uintptr_t>(memory.data()) % 64;
    std::byte* scratch = memory.data() + (64 - past) % 64;
    for (index_t row = 0; row < rows; ++row) {
      std::fill_n(scratch, bytes, nan);
      std::fill_n(scratch + bytes, 64, guard);
      f(SerialTeam{}, row, static_cast<void*>(scratch));
      REQUIRE(std::all_of(scratch + bytes, scratch + bytes + 64,
                          [](std::byte b) { return b == guard; }));
    }
  }
};
static_assert(!HasBatchedGemm<NanScratchBackend>);

struct Results {
  Values out, d_q, d_k, d_v, d_weight, d_scalars, d_gate;
};

template <class T>
Values primals(const std::vector<T>& x) {
  Values y;
  for (const T& value : x) y.push_back(static_cast<double>(primal(value)));
  return y;
}

/// Forward and backward with T; the output is NaN before.
template <class T>
Results results(const AttentionCase& c, bool binary_firing = false) {
  const AttentionValues x = draw_values(c, 0);
  const auto q = copy_as<T>(x.q), k = copy_as<T>(x.k), v = copy_as<T>(x.v),
             weight = copy_as<T>(x.weight), gate = copy_as<T>(x.gate),
             scalars = copy_as<T>({c.leak, c.threshold, 0.6});
  const auto d_out = copy_as<T>(draw(static_cast<index_t>(q.size()), {c.seed, 9}));
  std::vector<T> out(q.size(), T(std::nan(""))), d_q = q, d_k = k, d_v = v, d_weight = weight,
                                                 d_scalars = scalars, d_gate = gate;
  const std::array qs{c.B, c.H, c.M, c.D}, ks{c.B, c.H, c.N, c.D};
  const View<const T, 4> query(q.data(), qs), key(k.data(), ks), value(v.data(), ks);
  const Biases<T> biases(c, x);
  const bool sigma = c.options.sigma, gated = c.options.gate;
  const RecurrentParameters<const T> p{weight.data(), &scalars[0], &scalars[1],
                                       sigma ? &scalars[2] : nullptr,
                                       gated ? gate.data() : nullptr};
  const RecurrentParameters<T> d{d_weight.data(), &d_scalars[0], &d_scalars[1],
                                 sigma ? &d_scalars[2] : nullptr, gated ? d_gate.data() : nullptr};
  SegmentedRecurrentOptions options = c.options.recurrent();
  options.binary_firing = binary_firing;
  NanScratchBackend be(1);
  const AttentionInputs<NanScratchBackend, T> in{query, key, value, biases.context(c)};
  const AttentionGradients<NanScratchBackend, T> gradients{
      {d_out.data(), qs}, {d_q.data(), qs}, {d_k.data(), ks}, {d_v.data(), ks}};
  segmented_recurrent_forward(be, in, p, options, View<T, 4>(out.data(), qs));
  segmented_recurrent_backward(be, in, p, options, gradients, d);
  return {primals(out),      primals(d_q),       primals(d_k),   primals(d_v),
          primals(d_weight), primals(d_scalars), primals(d_gate)};
}

/// Packs of T against single dual numbers, which have no packs.
template <class T>
void check_packs(const AttentionCase& c, bool binary_firing = false) {
  INFO(c.text());
  const auto packs = results<T>(c, binary_firing), single = results<Dual<double>>(c, binary_firing);
  const double bound = std::is_same_v<T, float> ? 2e-4 : 1e-11;
  CHECK(relative_error(packs.out, single.out) < bound);
  CHECK(relative_error(packs.d_q, single.d_q) < bound);
  CHECK(relative_error(packs.d_k, single.d_k) < bound);
  CHECK(relative_error(packs.d_v, single.d_v) < bound);
  CHECK(relative_error(packs.d_weight, single.d_weight) < bound);
  CHECK(relative_error(packs.d_scalars, single.d_scalars) < bound);
  CHECK(relative_error(packs.d_gate, single.d_gate) < bound);
}

AttentionCase packed_case(index_t M, index_t N, index_t L, index_t D) {
  AttentionCase c{.B = 2, .H = 2, .M = M, .N = N, .D = D};
  c.options.variant = Variant::segmented_recurrent;
  c.options.segment_size = L;
  c.threshold = 2, c.leak = 0.7;
  return c;
}

}  // namespace

TEMPLATE_TEST_CASE("packs are what single elements give, over shapes", "", float, double) {
  using T = TestType;
  STATIC_REQUIRE(detail::has_packs<T>);
  STATIC_REQUIRE(!detail::has_packs<Dual<double>>);
  for (const index_t M : {1, 3, 8, 33}) {
    for (const index_t N : {1, 13, 32, 61}) {
      // Of very many cells of float one is so near to its kink that it falls to either side.
      if (std::is_same_v<T, float> && M * N > 300) continue;
      for (const index_t L : {1, 4, 7, 70}) check_packs<T>(packed_case(M, N, L, 16));
    }
  }
}

TEMPLATE_TEST_CASE("packs are what single elements give, over head sizes", "", float, double) {
  for (const index_t D : {1, 2, 3, 4, 5, 8, 9, 12, 20, 31, 40, 64, 70, 100, 128, 131}) {
    check_packs<TestType>(packed_case(5, 14, 4, D));
    AttentionCase c = packed_case(4, 14, 4, D);
    c.options.clamp = 3;
    check_packs<TestType>(c);
  }
}

TEMPLATE_TEST_CASE("packs are what single elements give, whatever the options", "", float, double) {
  const index_t D = GENERATE(8, 64);
  auto c = packed_case(9, 45, 4, D);
  const auto check = [&] { check_packs<TestType>(c); };
  SECTION("lengths") {
    c.lengths = {45, 6};
    check();
  }
  SECTION("lengths of one segment and of one key") {
    c.lengths = {3, 1};
    check();
  }
  SECTION("a horizon that queries do not reach") {
    c.options.horizon = 30;
    check();
  }
  SECTION("queries after the horizon") {
    c.options.horizon = 4;
    check();
  }
  SECTION("upstream padding") {
    c.options.padding = Padding::upstream;
    c.lengths = {45, 6};
    check();
  }
  SECTION("no local part") {
    c.options.local = false;
    check();
  }
  SECTION("no normalisation") {
    c.options.normalize = false;
    check();
  }
  SECTION("no recurrence") {
    c.options.recurrence = false;
    check();
  }
  SECTION("gate and sigma") {
    c.options.gate = c.options.sigma = true;
    check();
  }
  SECTION("clamp") {
    c.options.clamp = 2;
    check();
  }
  SECTION("clamped product of the segment") {
    c.options.clamp = 2, c.options.product = Product::segment;
    check();
  }
  SECTION("a step for every query") {
    c.options.advance = Advance::token;
    check();
  }
  SECTION("a step for every query, clamped") {
    c.options.advance = Advance::token, c.options.clamp = 2;
    check();
  }
  SECTION("a negative threshold") {
    c.threshold = -0.5;
    check();
  }
  SECTION("averages, lengths, gate and sigma") {
    c.options.average_products = c.options.gate = c.options.sigma = true;
    c.threshold = 0.3, c.lengths = {45, 6};
    check();
  }
  SECTION("soft keys, lengths and gate") {
    c.options.soft_keys = 2, c.options.gate = true;
    c.threshold = 0.05, c.lengths = {45, 6};
    check();
  }
  SECTION("averages, a step for every query, clamped") {
    c.options.average_products = true, c.options.advance = Advance::token, c.options.clamp = 2;
    c.threshold = 0.05;
    check();
  }
}

TEST_CASE("binary firing in packs") {
  auto c = packed_case(9, 45, 4, 64);
  check_packs<double>(c, true);
  c.options.advance = Advance::token;
  check_packs<double>(c, true);
}

TEST_CASE("blocks of rows in packs") {
  REQUIRE(detail::rows_at_a_time(300, 250, 36) == 16);  // 36 is not a multiple of it
  check_packs<double>(packed_case(250, 300, 1, 36));
}

TEST_CASE("gradients through packs, against dual numbers and the plain loops") {
  const GradOptions grad{.coordinates = 6, .directions = 2};
  auto c = packed_case(7, 22, 3, 32);
  c.B = 1, c.threshold = 0.3;
  check_attention_case(c, true, grad);
  c.lengths = {11}, c.options.gate = c.options.sigma = true;
  check_attention_case(c, true, grad);
}

TEST_CASE("one segment leaves exactly nothing to the others") {
  auto c = packed_case(5, 7, 7, 64);
  c.options.local = false;
  const auto y = results<float>(c);
  CHECK(y.out == Values(y.out.size(), 0.0));
}
