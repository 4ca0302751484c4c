// SPDX-License-Identifier: Apache-2.0
#include <srformer/testing/operation_counts.hpp>

#include "support/catch.hpp"

using namespace srformer;

namespace {

using Chosen = PaperVariants::Options;

AttentionCounts counts_of(const CountedSizes& sizes, std::string_view variant, index_t segment) {
  Chosen options = Chosen::named(variant);
  options.set("segment_size", segment);
  options.set("generation_horizon", sizes.queries);
  return count_operations<PaperVariants>(options, sizes);
}

}  // namespace

TEST_CASE("the products of every variant are those of docs/variants.md") {
  for (const CountedSizes& s : {CountedSizes{1, 24, 96, 8}, CountedSizes{3, 20, 64, 4}}) {
    const index_t H = s.heads, M = s.queries, N = s.keys, D = s.head_size, L = 8, S = N / L;
    const auto forward = [&](std::string_view variant) {
      return counts_of(s, variant, L).forward.multiply_adds;
    };
    CAPTURE(H, M, N, D);
    CHECK(forward("full") == H * 2 * M * N * D);
    CHECK(forward("segmented") == H * 2 * M * L * D);
    CHECK(forward("transformer_xl") == H * 4 * M * L * D + 4 * N * (H * D) * (H * D));
    CHECK(forward("global_tokens") == H * 2 * M * (L + S) * D);
    CHECK(forward("linear") == H * (M + N) * D * D);
    const index_t weights = L < D ? N * D * D : std::min(M, S) * D * D * D;
    CHECK(forward("segmented_recurrent") == H * (2 * M * L * D + M * D * D + N * D * D + weights));
    for (const VariantDescription& variant : PaperVariants::describe()) {
      const AttentionCounts counts = counts_of(s, variant.name, L);
      CAPTURE(variant.name);
      CHECK(counts.decoding.multiply_adds == counts.forward.multiply_adds);
      CHECK(counts.backward.multiply_adds > counts.forward.multiply_adds);
      CHECK(counts.forward.multiplications > counts.forward.multiply_adds);
    }
  }
}

TEST_CASE("decoder steps read the keys of each step again") {
  for (const CountedSizes& s : {CountedSizes{1, 24, 96, 8}, CountedSizes{3, 20, 64, 4}}) {
    const index_t H = s.heads, M = s.queries, D = s.head_size;
    for (const auto& [variant, keys] :
         {std::pair{"full", s.keys}, std::pair{"segmented", index_t{8}}}) {
      CAPTURE(H, M, D, variant);
      const AttentionCounts counts = counts_of(s, variant, 8);
      // A row of q, the keys, their weights; the weights, the values, a row of the output.
      CHECK(counts.decoding.moved == H * M * (2 * keys * D + 2 * keys + 2 * D));
      CHECK(counts.decoding.moved > counts.forward.moved);
    }
  }
}

TEST_CASE("products that add to what is there read it") {
  CountingBackend be;
  const std::vector<CountedNumber> a(6, CountedNumber(2)), b(12, CountedNumber(3));
  std::vector<CountedNumber> c(8, CountedNumber(1));
  const CountedNumber one(1), zero(0);
  be.gemm(Op::none, Op::none, 2, 4, 3, one, a.data(), 3, b.data(), 4, zero, c.data(), 4);
  CHECK(be.counts.multiply_adds == 24);
  CHECK(be.counts.moved == 6 + 12 + 8);
  be.gemm(Op::none, Op::none, 2, 4, 3, one, a.data(), 3, b.data(), 4, one, c.data(), 4);
  CHECK(be.counts.multiply_adds == 48);
  CHECK(be.counts.moved == 2 * (6 + 12 + 8) + 8);
  CHECK(c[7].value == 36);
}

TEST_CASE("a counted number counts multiplications alone, and computes") {
  CountedNumber::multiplications = 0;
  const CountedNumber x(3), y(4);
  CHECK((x * y + sqrt(y) - exp(CountedNumber(0)) / y).value == 13.75);
  CHECK(CountedNumber::multiplications == 1);
}

TEST_CASE("counting refuses sizes that are not above zero") {
  CHECK_THROWS_AS(count_operations<PaperVariants>({}, {.heads = 0}), shape_error);
  CHECK_THROWS_AS(count_operations<PaperVariants>({}, {.queries = 0}), shape_error);
  CHECK_THROWS_AS(count_operations<PaperVariants>({}, {.keys = 0}), shape_error);
  CHECK_THROWS_AS(count_operations<PaperVariants>({}, {.head_size = 0}), shape_error);
}
