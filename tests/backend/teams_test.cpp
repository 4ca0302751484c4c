// SPDX-License-Identifier: Apache-2.0
// Every row functor of ops/ and attention/ on teams of four threads, against teams of one.
#include <Eigen/Core>
#include <srformer/testing/thread_team.hpp>

#include "support/catch.hpp"
#include "support/plain_gemm.hpp"
#include "support/traces.hpp"

using namespace srformer;

namespace {

/// Teams of four where products do not go in batches: attention runs one team for each lane, as on a processor.
class UnbatchedTeams : public ThreadTeamBackend {
 public:
  template <class... Arguments>
  void gemm_batched(Arguments...) = delete;
};
static_assert(BackendFor<UnbatchedTeams, double> && !HasBatchedGemm<UnbatchedTeams>);

template <class Trace>
void compare_teams(const char* what, double tolerance, Trace trace) {
  EigenBackend one(1);
  ThreadTeamBackend four;
  const auto expected = trace(one);
  tests::compare(what, trace(four), expected, tolerance);
  UnbatchedTeams unbatched;
  tests::compare(std::string(what) + ", a team for each lane", trace(unbatched), expected,
                 tolerance);
}

struct TeamGemm {
  tests::GemmCase p;
  const double *a, *b;
  double* c;
  template <class Team>
  void operator()(const Team& team, index_t, void*) const {
    team.gemm(p.transpose_a, p.transpose_b, p.m, p.n, p.k, p.alpha, a, p.lda(), b, p.ldb(), p.beta,
              c, p.ldc());
  }
};

void require_near(const tests::GemmCase& p, const std::vector<double>& got,
                  const std::vector<double>& expected) {
  CAPTURE(p.ta(), p.tb(), p.m, p.n, p.k, p.alpha, p.beta);
  REQUIRE(got.size() == expected.size());
  index_t wrong = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    const double x = got[i], y = expected[i];
    wrong += std::isnan(y) ? !std::isnan(x) : !(std::abs(x - y) < 1e-12);
  }
  REQUIRE(wrong == 0);
}

}  // namespace

TEST_CASE("a team of four multiplies as the definition") {
  ThreadTeamBackend four;
  for (const tests::GemmCase& p : tests::gemm_cases(150)) {
    const auto a = p.a<double>(), b = p.b<double>();
    auto c = p.c<double>();
    const auto expected = tests::plain_gemm(p, a, b, c);
    four.for_each_row(1, 0, TeamGemm{p, a.data(), b.data(), c.data()});
    require_near(p, c, expected);
  }
}

TEST_CASE("a block of 128 multiplies as the definition") {
  using Gemm = detail::TiledGemm<double, 16, 8>;
  for (const tests::GemmCase& p : tests::gemm_cases(150)) {
    if (p.beta != -0.5 || p.m * p.n * p.k < 13 * 37 * 129) continue;
    const auto a = p.a<double>(), b = p.b<double>();
    auto c = p.c<double>();
    const auto expected = tests::plain_gemm(p, a, b, c);
    Gemm::Tiles tiles;
    std::barrier<> gate(Gemm::members);
    std::vector<std::jthread> members;
    for (index_t rank = 0; rank < Gemm::members; ++rank) {
      members.emplace_back([&, rank] {
        Gemm::run(
            rank, tiles, [&] { gate.arrive_and_wait(); }, p.transpose_a, p.transpose_b, p.m, p.n,
            p.k, p.alpha, a.data(), p.lda(), b.data(), p.ldb(), p.beta, c.data(), p.ldc());
      });
    }
    members.clear();
    require_near(p, c, expected);
  }
}

TEST_CASE("row functors of ops agree on teams of one and four") {
  using namespace tests;
  compare_teams("linear", 1e-12, [](auto& be) { return trace_linear<double>(be); });
  compare_teams("rms_norm", 1e-12, [](auto& be) { return trace_rms_norm<double>(be); });
  compare_teams("layer_norm", 1e-12, [](auto& be) { return trace_layer_norm<double>(be); });
  compare_teams("softmax", 1e-12, [](auto& be) { return trace_softmax<double>(be); });
  compare_teams("cross_entropy", 1e-12, [](auto& be) { return trace_cross_entropy<double>(be); });
  compare_teams("embedding", 1e-12, [](auto& be) { return trace_embedding<double>(be); });
  compare_teams("positions", 1e-12, [](auto& be) { return trace_positions<double>(be); });
  compare_teams("raf", 1e-12, [](auto& be) { return trace_raf<double>(be); });
}

TEST_CASE("row functors of attention agree on teams of one and four") {
  using namespace tests;
  compare_teams("full", 1e-12, [](auto& be) { return trace_full_attention<double>(be); });
  compare_teams("segmented", 1e-12, [](auto& be) { return trace_segmented<double>(be); });
  compare_teams("kv_product", 1e-12, [](auto& be) { return trace_kv_product<double>(be); });
}

TEST_CASE("segmented recurrent attention agrees on teams of one and four") {
  for (const tests::RecurrentCase& c : tests::recurrent_cases()) {
    compare_teams(c.name, 1e-11,
                  [&](auto& be) { return tests::trace_segmented_recurrent<double>(be, c); });
  }
}

TEST_CASE("every variant agrees on teams of one and four, step by step too") {
  for (const CrossAttentionOptions& options : tests::variant_options()) {
    compare_teams(variant_name(options.variant), 1e-11,
                  [&](auto& be) { return tests::trace_variant<double>(be, options); });
  }
}

TEST_CASE("a variant of one's own agrees on teams of one and four, step by step too") {
  compare_teams("sliding window", 1e-12,
                [](auto& be) { return tests::trace_own_variant<double>(be); });
}

TEST_CASE("functors that store bfloat16 and compute in float agree on teams of one and four") {
  using namespace tests;
  using Narrow = Eigen::bfloat16;
  compare_teams("rms_norm", 0.02, [](auto& be) { return trace_rms_norm<Narrow>(be); });
  compare_teams("layer_norm", 0.02, [](auto& be) { return trace_layer_norm<Narrow>(be); });
  compare_teams("full", 0.02, [](auto& be) { return trace_full_attention<Narrow>(be); });
  const RecurrentCase folded = recurrent_cases().front();
  compare_teams("segmented recurrent", 0.05,
                [&](auto& be) { return trace_segmented_recurrent<Narrow>(be, folded); });
}
