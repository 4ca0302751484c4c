// SPDX-License-Identifier: Apache-2.0
// Attention in stages over all heads, as a device takes it, is attention of one head at a time: every variant, forward,
// backward, prepared and step by step, on shapes that nothing divides.
#include "support/backends.hpp"
#include "support/drawn_attention.hpp"

using namespace srformer;
using tests::compare_draw;
using tests::Draw;

namespace {

constexpr std::uint64_t staged_draws = 300;

using Backends = std::tuple<tests::BatchedBackend, tests::CrampedBackend, ThreadTeamBackend
#if defined(SRF_HAS_THRUST)
                            ,
                            tests::Batched<ThrustBackend<thrust_cpp>>
#if defined(_OPENMP)
                            ,
                            tests::Batched<ThrustBackend<thrust_omp>>
#endif
#endif
                            >;

}  // namespace

TEMPLATE_LIST_TEST_CASE("attention in stages is attention of one head at a time", "", Backends) {
  // Teams of four threads meet at many barriers.
  constexpr bool teams = std::is_same_v<TestType, ThreadTeamBackend>;
  STATIC_REQUIRE(HasBatchedGemm<TestType>);
  TestType be = tests::make_backend<TestType>(2);
  for (std::uint64_t n = 0; n < (teams ? 12 : staged_draws); ++n)
    compare_draw<double>(be, Draw(n), 1e-12);
  for (std::uint64_t n = 1000; !teams && n < 1060; ++n) compare_draw<float>(be, Draw(n), 2e-4);
}

TEST_CASE("stages sum many rows in parts") {
  tests::BatchedBackend be(2);
  for (std::uint64_t n = 0; n < 12; ++n) {
    Draw draw(n);
    draw.B = 2, draw.M = 300, draw.N = 601, draw.D = 3, draw.options.segment_size = 40;
    draw.sources.clear();
    if (!draw.lengths.empty()) draw.lengths = {601, 270};
    compare_draw<double>(be, draw, 1e-11);
  }
}

TEST_CASE("what is drawn for stages is of every kind") {
  const auto count = [](auto has) {
    index_t number = 0;
    for (std::uint64_t n = 0; n < staged_draws; ++n) number += has(Draw(n));
    return number;
  };
  for (const Variant variant : all_variants) {
    const auto of = [&](auto has) {
      return count([&](const Draw& d) { return d.options.variant == variant && has(d); });
    };
    INFO(variant_name(variant));
    CHECK(of([](const Draw&) { return true; }) == 50);
    CHECK(of([](const Draw& d) { return d.M > d.N; }) >= 5);
    CHECK(of([](const Draw& d) { return d.M == 1; }) >= 3);
    CHECK(of([](const Draw& d) { return d.N == 1; }) >= 1);
    CHECK(of([](const Draw& d) { return d.M > 32; }) >= 3);
    CHECK(of([](const Draw& d) { return d.B > 1 && d.H > 1 && !d.lengths.empty(); }) >= 5);
    CHECK(of([](const Draw& d) { return std::ranges::count(d.lengths, 0) > 0; }) >= 1);
    CHECK(of([](const Draw& d) { return !d.sources.empty() && d.rows > 1; }) >= 5);
    if (variant != Variant::full && variant != Variant::linear) {
      CHECK(of([](const Draw& d) { return d.options.padding == Padding::upstream; }) >= 10);
      CHECK(of([](const Draw& d) { return d.M < d.segments(); }) >= 5);
      CHECK(of([](const Draw& d) { return d.segments() > 32; }) >= 1);
      CHECK(of([](const Draw& d) { return d.N % d.options.segment_size != 0; }) >= 10);
    }
    if (variant == Variant::linear) continue;
    CHECK(of([](const Draw& d) { return d.dense; }) >= 5);
    CHECK(of([](const Draw& d) { return d.relative; }) >= 5);
    CHECK(of([](const Draw& d) { return d.dropout; }) >= 5);
    if (variant != Variant::segmented_recurrent)
      CHECK(of([](const Draw& d) { return d.offset > 0; }) >= 5);
  }
}
