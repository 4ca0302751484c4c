// SPDX-License-Identifier: Apache-2.0
// Segmented recurrent attention, forward and backward, on random numbers.
#include <cstdio>
#include <srformer/srformer.hpp>
#include <string_view>

#include "errors.hpp"

namespace {

int show(int argc, char** argv) {
  using namespace srformer;
  if (argc > 1)
    return std::puts("usage: hello_attention") < 0 || std::string_view(argv[1]) != "--help" ? 2 : 0;
  EigenBackend be;
  const index_t B = 1, H = 2, M = 6, N = 20, D = 4, L = 8;  // L: keys in a segment
  const auto random = [&](std::array<index_t, 4> shape, std::uint64_t seed, double scale = 1) {
    auto x = zeros<double, 4>(be, shape);
    for (index_t i = 0; i < x.size(); ++i) x.data()[i] = scale * normal({seed}, std::uint64_t(i));
    return x;
  };
  const auto q = random({B, H, M, D}, 1), k = random({B, H, N, D}, 2), v = random({B, H, N, D}, 3);
  auto weight = random({1, 1, D, D}, 4, 0.1);
  double leak = 0.1, threshold = 0.1;
  const RecurrentParameters<double> parameters{weight.data(), &leak, &threshold};
  const SegmentedRecurrentOptions options{.segment_size = L};
  const AttentionInputs<EigenBackend, double> in{q, k, v};

  auto out = zeros<double, 4>(be, {B, H, M, D});
  segmented_recurrent_forward(be, in, parameters, options, out.view());
  std::printf("q [B,H,M,D] = %s, k and v [B,H,N,D] = %s, out %s\n",
              shape_text(q.view().extents).c_str(), shape_text(k.view().extents).c_str(),
              shape_text(out.view().extents).c_str());

  const SegmentRule rule{N, L, M};
  for (index_t i = 0; i < M; ++i) {
    const index_t j = rule.of(i), first = rule.first_key(j), last = first + rule.keys(j) - 1;
    std::printf(
        "query %td reads keys %2td to %2td, and all others through R_%td: out = %7.4f ...\n", i,
        first, last, j, out.view()(0, 0, i, 0));
  }

  // The loss is the sum of out. The gradient of one key, from the formula and from the loss itself:
  auto d_out = zeros<double, 4>(be, {B, H, M, D});
  be.fill(d_out.data(), d_out.size(), 1.0);
  auto d_q = zeros<double, 4>(be, {B, H, M, D}), d_k = zeros<double, 4>(be, {B, H, N, D});
  auto d_v = zeros<double, 4>(be, {B, H, N, D}), d_weight = zeros<double, 4>(be, {1, 1, D, D});
  double d_leak = 0, d_threshold = 0;
  segmented_recurrent_backward(be, in, parameters, options,
                               {d_out, d_q.view(), d_k.view(), d_v.view()},
                               {d_weight.data(), &d_leak, &d_threshold});
  const auto loss = [&](double step) {
    auto moved = clone(be, k.view());
    moved.data()[0] += step;
    AttentionInputs<EigenBackend, double> near = in;
    near.k = moved;
    segmented_recurrent_forward(be, near, parameters, options, out.view());
    double sum = 0;
    for (const double x : to_host(be, out)) sum += x;
    return sum;
  };
  std::printf("d loss / d k[0,0,0,0] = %.8f, by differences %.8f\n", d_k.view()(0, 0, 0, 0),
              (loss(1e-5) - loss(-1e-5)) / 2e-5);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  return srformer::program::run([&] { return show(argc, argv); });
}
