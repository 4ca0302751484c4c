// SPDX-License-Identifier: Apache-2.0
// What the cross-attentions cost, counted while they run: docs/cost.md quotes the numbers.
#include <srformer/testing/operation_counts.hpp>

#include "support/catch.hpp"
#include "support/paper_options.hpp"

using namespace srformer;

namespace {

/// One source, one head.
AttentionCounts count(Variant variant, index_t M, index_t N, index_t L, index_t D) {
  CrossAttentionOptions options;
  options.variant = variant, options.segment_size = L;
  return count_operations<PaperVariants>(options.chosen(),
                                         {.heads = 1, .queries = M, .keys = N, .head_size = D});
}

}  // namespace

TEST_CASE("the products of each attention are those of docs/cost.md") {
  const index_t M = 24, N = 96, D = 8;
  const AttentionCounts all = count(Variant::full, M, N, 8, D);
  CHECK(all.forward.multiply_adds == 2 * M * N * D);
  CHECK(all.backward.multiply_adds == 5 * M * N * D);
  for (const index_t L : {2, 4, 8, 16, 32}) {
    const index_t S = N / L, visited = std::min(M, S);
    const AttentionCounts local = count(Variant::segmented, M, N, L, D),
                          both = count(Variant::segmented_recurrent, M, N, L, D);
    INFO("L " << L);
    CHECK(local.forward.multiply_adds == 2 * M * L * D);
    CHECK(local.backward.multiply_adds == 5 * M * L * D);
    const index_t weights = L < D ? N * D * D : visited * D * D * D;
    CHECK(both.forward.multiply_adds == 2 * M * L * D + M * D * D + N * D * D + weights);
    CHECK(both.backward.multiply_adds ==
          5 * M * L * D + 3 * M * D * D + 3 * N * D * D + 3 * weights);
    CHECK(both.forward.multiplications > both.forward.multiply_adds);
    CHECK(both.backward.multiplications > both.backward.multiply_adds);
  }
}

TEST_CASE("shorter segments do not make segmented recurrent attention dearer") {
  const index_t M = 128, N = 1024, D = 64;
  const AttentionCounts wide = count(Variant::segmented_recurrent, M, N, 64, D);
  AttentionCounts before = wide;
  for (const index_t L : {32, 16, 8}) {
    const AttentionCounts now = count(Variant::segmented_recurrent, M, N, L, D);
    CAPTURE(L, now.forward.multiplications, now.backward.multiplications, now.forward.scratch,
            now.backward.scratch, wide.forward.scratch, wide.backward.scratch);
    CHECK(now.forward.multiply_adds < before.forward.multiply_adds);
    CHECK(now.backward.multiply_adds < before.backward.multiply_adds);
    // What is not a matrix product is a few operations on each element of the [D,D] states.
    CHECK(double(now.forward.multiplications) < 1.2 * double(wide.forward.multiplications));
    CHECK(double(now.backward.multiplications) < 1.2 * double(wide.backward.multiplications));
    CHECK(now.forward.allocated == 0);  // nothing is saved
    CHECK(now.backward.allocated == wide.backward.allocated);
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
      const AttentionCounts cost = count(Variant::segmented_recurrent, M, N, L, D);
      forward.push_back(cost.forward.multiply_adds);
      backward.push_back(cost.backward.multiply_adds);
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

  const AttentionCounts whole = count(Variant::full, M, N, L, D),
                        both = count(Variant::segmented_recurrent, M, N, L, D);
  CHECK(whole.forward.multiply_adds == 2 * M * N * D);
  CHECK(both.forward.multiply_adds == 2 * M * L * D + 2 * N * D * D + M * D * D);
  CHECK(1 - double(both.forward.multiply_adds) / double(whole.forward.multiply_adds) ==
        Approx(0.406).margin(0.001));
  // Without W and q R, and with both products of softmax attention: what the paper's 43 % leaves in.
  const double kept = double(both.forward.multiply_adds - N * D * D - M * D * D);
  CHECK(1 - kept / double(whole.forward.multiply_adds) == 0.6875);
}
