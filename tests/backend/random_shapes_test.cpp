// SPDX-License-Identifier: Apache-2.0
// Every attention on random shapes and options, forward, backward and step by step: all host backends agree to rounding
// with one thread of the Eigen backend. Every other draw is of segmented recurrent attention.
#include "support/backends.hpp"
#include "support/drawn_attention.hpp"

using namespace srformer;
using tests::Draw;

namespace {

constexpr std::uint64_t shape_draws = 200;

Draw drawn_shape(std::uint64_t n) {
  return n % 2 == 0 ? Draw(5000 + n, Variant::segmented_recurrent)
                    : Draw(5000 + n, all_variants[n / 2 % 6]);
}

using ShapeBackends = decltype(std::tuple_cat(
    std::declval<tests::HostBackends>(),
    std::declval<std::tuple<tests::BatchedBackend, tests::CrampedBackend>>()));

}  // namespace

TEMPLATE_LIST_TEST_CASE("all attention agrees on random shapes", "", ShapeBackends) {
  // Teams of four threads meet at many barriers; they and products over all heads add in another order.
  constexpr bool teams = std::is_same_v<TestType, ThreadTeamBackend>;
  constexpr bool in_order = !teams && !HasBatchedGemm<TestType>;
  TestType be = tests::make_backend<TestType>(2);
  for (std::uint64_t n = 0; n < (teams ? 12 : shape_draws); ++n)
    tests::compare_draw<double>(be, drawn_shape(n), in_order ? 1e-13 : 1e-11);
}

TEST_CASE("the random shapes are of every kind") {
  const auto count = [](auto has) {
    index_t number = 0;
    for (std::uint64_t n = 0; n < shape_draws; ++n) number += has(drawn_shape(n));
    return number;
  };
  for (const Variant variant : all_variants) {
    CHECK(count([=](const Draw& d) { return d.options.variant == variant; }) >= 10);
  }
  const auto recurrent = [&](auto has) {
    return count(
        [=](const Draw& d) { return d.options.variant == Variant::segmented_recurrent && has(d); });
  };
  CHECK(recurrent([](const Draw& d) { return d.M < d.segments(); }) >= 10);
  CHECK(recurrent([](const Draw& d) { return d.M > d.N; }) >= 10);
  CHECK(recurrent([](const Draw& d) { return d.M == 1; }) >= 5);
  CHECK(recurrent([](const Draw& d) { return d.N == 1; }) >= 1);
  CHECK(recurrent([](const Draw& d) { return d.D == 1; }) >= 5);
  CHECK(recurrent([](const Draw& d) { return d.segments() == 1; }) >= 5);
  CHECK(recurrent([](const Draw& d) { return !d.lengths.empty(); }) >= 20);
  CHECK(recurrent([](const Draw& d) { return d.options.padding == Padding::upstream; }) >= 20);
  CHECK(recurrent([](const Draw& d) { return d.options.horizon > d.M; }) >= 10);
  CHECK(recurrent([](const Draw& d) { return d.options.clamp > 0; }) >= 10);
  CHECK(recurrent([](const Draw& d) { return d.options.advance == Advance::token; }) >= 10);
  CHECK(recurrent([](const Draw& d) { return d.options.product == Product::segment; }) >= 5);
  CHECK(recurrent([](const Draw& d) { return !d.options.normalize; }) >= 5);
  CHECK(recurrent([](const Draw& d) { return !d.options.recurrence; }) >= 5);
  CHECK(recurrent([](const Draw& d) { return !d.options.local; }) >= 5);
  CHECK(recurrent([](const Draw& d) { return d.options.sigma && d.options.gate; }) >= 10);
  CHECK(recurrent([](const Draw& d) { return d.options.binary_firing; }) >= 5);
  CHECK(recurrent([](const Draw& d) { return d.options.average_products; }) >= 20);
  CHECK(recurrent([](const Draw& d) { return d.options.soft_keys > 0; }) >= 10);
}
