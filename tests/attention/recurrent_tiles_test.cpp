// SPDX-License-Identifier: Apache-2.0
#include <srformer/attention/recurrent_tiles.hpp>
#include <srformer/attention/segmented_recurrent.hpp>

#include "support/attention_case.hpp"

using namespace srformer;
using namespace srformer::testing;

namespace {

/// A core that multiplies matrices, where SerialTeam has tiles.
struct PlainTeam : SerialTeam {};

/// Segments shorter than a head, which has `tiles` tiles of columns.
template <class T>
AttentionCase tiled_case(index_t M, index_t N, index_t L, index_t tiles = 1) {
  AttentionCase c{.B = 2, .H = 2, .M = M, .N = N, .D = tiles * detail::tile_columns<T>};
  c.options.variant = Variant::segmented_recurrent;
  c.options.segment_size = L;
  c.threshold = 2, c.leak = 0.7;
  return c;
}

/// What one team makes of a case, by the functors of the lanes.
template <class T>
struct LaneResults {
  std::vector<T> out, d_q, d_k, d_v, partial;
};

template <class T, class Team>
LaneResults<T> lane_results(const AttentionCase& c) {
  const AttentionValues x = draw_values(c, 0);
  const auto q = copy_as<T>(x.q), k = copy_as<T>(x.k), v = copy_as<T>(x.v),
             weight = copy_as<T>(x.weight), gate = copy_as<T>(x.gate);
  const T leak = T(c.leak), threshold = T(c.threshold), sigma = T(0.6);
  const auto d_out = copy_as<T>(draw(static_cast<index_t>(q.size()), {c.seed, 9}));
  LaneResults<T> y{std::vector<T>(q.size()), copy_as<T>(x.q), copy_as<T>(x.k), copy_as<T>(x.v),
                   std::vector<T>(static_cast<std::size_t>(c.B * c.H * (c.D * c.D + 4)))};
  const std::array qs{c.B, c.H, c.M, c.D}, ks{c.B, c.H, c.N, c.D};
  const Biases<T> biases(c, x);
  const detail::RecurrentInputs<T, host_space> in{
      View<const T, 4>(q.data(), qs),
      View<const T, 4>(k.data(), ks),
      View<const T, 4>(v.data(), ks),
      {weight.data(), &leak, &threshold, c.options.sigma ? &sigma : nullptr,
       c.options.gate ? gate.data() : nullptr},
      biases.context(c),
      c.options.recurrent()};
  REQUIRE(detail::by_tiles(in));
  const auto forward =
      detail::SegmentedRecurrentForward<T, host_space>::with(in, View<T, 4>(y.out.data(), qs));
  const auto backward = detail::SegmentedRecurrentBackward<T, host_space>::with(
      in, View<const T, 4>(d_out.data(), qs), View<T, 4>(y.d_q.data(), qs),
      View<T, 4>(y.d_k.data(), ks), View<T, 4>(y.d_v.data(), ks), {y.partial.data(), c.D * c.D});
  // Scratch holds NaN before, and a number behind that nobody writes.
  for (index_t lane = 0; lane < c.B * c.H; ++lane) {
    const auto run = [&](const auto& f) {
      std::vector<T> scratch(static_cast<std::size_t>(f.scratch_size()) + 1, T(std::nan("")));
      scratch.back() = T(-5);
      f(Team{}, lane, scratch.data());
      REQUIRE(scratch.back() == T(-5));
    };
    run(forward);
    run(backward);
  }
  return y;
}

template <class T>
void check_tiles(const AttentionCase& c) {
  INFO(c.text());
  const auto tiles = lane_results<T, SerialTeam>(c), plain = lane_results<T, PlainTeam>(c);
  const double bound = std::is_same_v<T, float> ? 2e-4 : 1e-11;
  CHECK(relative_error(tiles.out, plain.out) < bound);
  CHECK(relative_error(tiles.d_q, plain.d_q) < bound);
  CHECK(relative_error(tiles.d_k, plain.d_k) < bound);
  CHECK(relative_error(tiles.d_v, plain.d_v) < bound);
  CHECK(relative_error(tiles.partial, plain.partial) < bound);
}

}  // namespace

TEMPLATE_TEST_CASE("tiles are what matrices give, over shapes", "", float, double) {
  using T = TestType;
  REQUIRE(detail::has_recurrent_tiles<SerialTeam, T, T> == (detail::vector_registers == 32));
  REQUIRE(!detail::has_recurrent_tiles<PlainTeam, T, T>);
  for (const index_t M : {1, 3, 8, 33}) {
    for (const index_t N : {1, 13, 32, 61}) {
      // Of very many cells of float one is so near to its kink that it falls to either side.
      if (std::is_same_v<T, float> && M * N > 300) continue;
      for (const index_t L : {1, 4, 7}) check_tiles<T>(tiled_case<T>(M, N, L));
    }
  }
  check_tiles<T>(tiled_case<T>(20, 50, 3, 2));
}

TEMPLATE_TEST_CASE("tiles are what matrices give, whatever is asked for", "", float, double) {
  auto c = tiled_case<TestType>(9, 45, 4);
  const auto check = [&] { check_tiles<TestType>(c); };
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
  SECTION("queries beyond the horizon") {
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
  SECTION("gate and sigma") {
    c.options.gate = c.options.sigma = true;
    check();
  }
  SECTION("a negative threshold") {
    c.threshold = -0.5;
    check();
  }
}

TEST_CASE("gradients through tiles, against dual numbers and the plain loops") {
  const GradOptions grad{.coordinates = 6, .directions = 2};
  auto c = tiled_case<double>(7, 22, 3);
  c.B = 1, c.threshold = 0.3;
  check_attention_case(c, true, grad);
  c.lengths = {11}, c.options.gate = c.options.sigma = true;
  check_attention_case(c, true, grad);
}

TEST_CASE("one segment leaves exactly nothing to the others") {
  auto c = tiled_case<float>(5, 7, 7);
  c.options.local = false;
  const auto y = lane_results<float, SerialTeam>(c);
  CHECK(y.out == std::vector<float>(y.out.size(), 0.0f));
}

TEST_CASE("what tiles do not know is left to matrices") {
  const auto c = tiled_case<float>(5, 9, 3);
  const auto known = [&](auto change) {
    detail::RecurrentInputs<float, host_space> in{};
    in.q = View<const float, 4>(nullptr, {1, 1, c.M, c.D});
    in.k = in.v = View<const float, 4>(nullptr, {1, 1, c.N, c.D});
    in.options.segments.segment_size = 3;
    change(in);
    return detail::by_tiles(in);
  };
  CHECK(known([](auto&) {}));
  CHECK(!known([](auto& in) { in.options.product.clamp = 1; }));
  CHECK(!known([](auto& in) { in.options.product.product = Product::segment; }));
  CHECK(!known([](auto& in) { in.options.advance = Advance::token; }));
  CHECK(!known([](auto& in) { in.options.binary_firing = true; }));
  CHECK(!known([](auto& in) { in.options.recurrence = false; }));
  CHECK(!known([&](auto& in) { in.options.segments.segment_size = c.D; }));
  CHECK(!known([&](auto& in) { in.k = View<const float, 4>(nullptr, {1, 1, c.N, c.D - 1}); }));
}
