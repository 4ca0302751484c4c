// SPDX-License-Identifier: Apache-2.0
// Ops, attention and every variant of the cross-attention on a CUDA device, step by step too, against the Eigen
// backend. Built wherever nvcc is; where no device can be used, only the message that says so is tested.
#include <srformer/core/random.hpp>
#include <srformer/train/optimizers.hpp>

#include "support/batched_gemm.hpp"
#include "support/device.hpp"
#include "support/drawn_attention.hpp"
#include "support/traces.hpp"

using namespace srformer;
using tests::compare_device;
using tests::CudaBackend;
using tests::on_device;

namespace {

struct Term {
  SRF_HD double operator()(index_t i) const { return 1.0 / static_cast<double>(1 + i); }
};

/// The parameters after four updates, matrices of one task and of several among them, and the last norm.
template <class T, class B>
std::vector<double> trace_optimizer(B& be, const OptimizerOptions& options) {
  Parameters<B, T> parameters(be);
  parameters.add("matrix", Role::weight, {700, 130});
  parameters.add("vector", Role::bias, {5000});
  parameters.add("cube", Role::embedding, {3, 20, 7});
  parameters.allocate();
  parameters.allocate_gradients();
  const auto draw = [&](T* to, std::uint64_t stream) {
    std::vector<T> values(static_cast<std::size_t>(parameters.size()));
    for (std::size_t i = 0; i < values.size(); ++i)
      values[i] = static_cast<T>(normal(RandomStream{21, stream}, i));
    be.from_host(to, values.data(), parameters.size());
  };
  draw(parameters.values().data, 0);
  ChosenOptimizer<B, T> optimizer(be, parameters, options);
  for (index_t update = 1; update <= 4; ++update) {
    draw(parameters.gradients().data, static_cast<std::uint64_t>(update));
    optimizer.update(be, parameters, 0.05, update);
  }
  const std::vector<T> values = to_host(be, parameters.values());
  std::vector<double> trace(values.begin(), values.end());
  trace.push_back(optimizer.gradient_norm(be));
  return trace;
}

}  // namespace

TEST_CASE("without a device there is one clear error") {
  if (tests::has_device()) {
    CudaBackend cuda;
    REQUIRE(cuda.stream() != nullptr);
  } else {
    REQUIRE_THROWS_MATCHES(
        CudaBackend(), backend_error,
        Catch::Matchers::MessageMatches(Catch::Matchers::ContainsSubstring(
            "no CUDA device can be used; install its driver or take a CPU backend")));
  }
}

TEST_CASE("a device holds its scalars and refuses others") {
  struct OwnScalar {
    double x;
  };
  STATIC_REQUIRE(BackendFor<CudaBackend, float>);
  STATIC_REQUIRE(BackendFor<CudaBackend, double>);
  STATIC_REQUIRE(!BackendFor<CudaBackend, OwnScalar>);
  STATIC_REQUIRE(!std::is_convertible_v<View<float, 2, cuda_space>, View<float, 2, host_space>>);
}

TEST_CASE("reduce on a device is repeatable and adds to what is there") {
  on_device([](CudaBackend& cuda) {
    const index_t n = 3 * 4096 + 5;
    std::vector<double> sums;
    for (int i = 0; i < 3; ++i) {
      Tensor<CudaBackend, double, 1> sum = from_host<double, 1>(cuda, {1}, {0.5});
      cuda.reduce(n, Term{}, sum.data());
      sums.push_back(to_host(cuda, sum)[0]);
    }
    double expected = 0.5;
    for (index_t i = 0; i < n; ++i) expected += Term{}(i);
    REQUIRE(sums[0] == Approx(expected).epsilon(1e-12));
    REQUIRE((sums[0] == sums[1] && sums[0] == sums[2]));
  });
}

TEST_CASE("gemm on a device is the definition") {
  on_device([](CudaBackend& cuda) {
    for (const tests::GemmCase& p : tests::gemm_cases(150)) {
      const auto a = p.a<float>(), b = p.b<float>(), c = p.c<float>();
      const auto to_device = [&](const std::vector<float>& x) {
        return from_host<float, 1>(cuda, {static_cast<index_t>(x.size())}, x);
      };
      const auto on_a = to_device(a), on_b = to_device(b);
      auto on_c = to_device(c);
      cuda.gemm(p.transpose_a, p.transpose_b, p.m, p.n, p.k, float(p.alpha), on_a.data(), p.lda(),
                on_b.data(), p.ldb(), float(p.beta), on_c.data(), p.ldc());
      const auto got = to_host(cuda, on_c), expected = tests::plain_gemm(p, a, b, c);
      index_t wrong = 0;
      for (std::size_t i = 0; i < got.size(); ++i) {
        wrong += std::isnan(expected[i]) ? !std::isnan(got[i])
                                         : !(std::abs(got[i] - expected[i]) < 1e-4f);
      }
      CAPTURE(p.ta(), p.tb(), p.m, p.n, p.k);
      REQUIRE(wrong == 0);
    }
  });
}

TEST_CASE("products in batches on a device are the definition") {
  on_device([](CudaBackend& cuda) {
    tests::require_batched_gemm<double, double>(cuda, 1e-13);
    tests::require_batched_gemm<float, float>(cuda, 1e-5);
    tests::require_batched_gemm<Eigen::bfloat16, float>(cuda, 1e-5);
    tests::require_batched_gemm<Eigen::half, Eigen::half>(cuda, 2e-3);
  });
}

TEST_CASE("ops on a device agree with the host") {
  using namespace tests;
  on_device([](CudaBackend& cuda) {
    compare_device(cuda, "linear", 1e-5, [](auto& be) { return trace_linear<float>(be); });
    compare_device(cuda, "rms_norm", 1e-4, [](auto& be) { return trace_rms_norm<float>(be); });
    compare_device(cuda, "layer_norm", 1e-4, [](auto& be) { return trace_layer_norm<float>(be); });
    compare_device(cuda, "softmax", 1e-5, [](auto& be) { return trace_softmax<float>(be); });
    compare_device(cuda, "cross_entropy", 1e-4,
                   [](auto& be) { return trace_cross_entropy<float>(be); });
    compare_device(cuda, "embedding", 1e-5, [](auto& be) { return trace_embedding<float>(be); });
    compare_device(cuda, "positions", 1e-5, [](auto& be) { return trace_positions<float>(be); });
    compare_device(cuda, "elementwise", 1e-4,
                   [](auto& be) { return trace_elementwise<float>(be); });
    compare_device(cuda, "raf", 1e-3, [](auto& be) { return trace_raf<float>(be); });
  });
}

TEST_CASE("optimizers on a device agree with the host") {
  on_device([](CudaBackend& cuda) {
    const OptimizerOptions all[] = {
        AdamWOptions{.weight_decay = 0.1, .max_grad_norm = 2},
        AdafactorOptions{.weight_decay = 0.1, .max_grad_norm = 2},
        AdafactorOptions{.beta1 = 0.9, .scale_parameter = true, .relative_step = true},
        SgdOptions{.momentum = 0.9, .nesterov = true, .weight_decay = 0.1}, SgdOptions{}};
    for (const OptimizerOptions& options : all) {
      compare_device(cuda, "optimizer in double", 1e-10,
                     [&](auto& be) { return trace_optimizer<double>(be, options); });
      compare_device(cuda, "optimizer", 1e-4,
                     [&](auto& be) { return trace_optimizer<float>(be, options); });
    }
  });
}

TEST_CASE("attention on a device agrees with the host") {
  using namespace tests;
  on_device([](CudaBackend& cuda) {
    compare_device(cuda, "full", 1e-3, [](auto& be) { return trace_full_attention<float>(be); });
    compare_device(cuda, "segmented", 1e-3, [](auto& be) { return trace_segmented<float>(be); });
  });
}

TEST_CASE("segmented recurrent attention on a device agrees with the host") {
  on_device([](CudaBackend& cuda) {
    for (const tests::RecurrentCase& c : tests::recurrent_cases()) {
      compare_device(cuda, c.name, 1e-2,
                     [&](auto& be) { return tests::trace_segmented_recurrent<float>(be, c); });
    }
  });
}

TEST_CASE("every variant on a device agrees with the host") {
  tests::on_device([](tests::CudaBackend& cuda) {
    for (const CrossAttentionOptions& options : tests::variant_options()) {
      tests::compare_device(cuda, variant_name(options.variant), 1e-2,
                            [&](auto& be) { return tests::trace_variant<float>(be, options); });
    }
    tests::compare_device(cuda, "sliding window", 1e-2,
                          [](auto& be) { return tests::trace_own_variant<float>(be); });
  });
}

TEST_CASE("every variant on random shapes agrees with the host") {
  tests::on_device([](tests::CudaBackend& cuda) {
    for (std::uint64_t n = 0; n < 120; ++n)
      tests::compare_draw<double>(cuda, tests::Draw(n), 1e-10);
    for (std::uint64_t n = 1000; n < 1060; ++n) {
      const tests::Draw draw(n);
      // what fires is not always the same in float
      if (draw.options.variant != Variant::segmented_recurrent)
        tests::compare_draw<float>(cuda, draw, 1e-3);
    }
  });
}
