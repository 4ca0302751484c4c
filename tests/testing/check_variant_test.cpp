// SPDX-License-Identifier: Apache-2.0
// The check of variants accepts every variant of the paper and one of an example, and refuses wrong ones.
#include <srformer/testing/check_variant.hpp>

#include "../../examples/sliding_window.hpp"
#include "support/catch.hpp"

using namespace srformer;
using Catch::Matchers::ContainsSubstring;

namespace {

/// A sliding window whose backward, or step, is wrong.
struct WrongBackward : SlidingWindow {
  static constexpr std::string_view name = "wrong_backward";
  template <class B, class T>
  static void backward(B& be, const AttentionInputs<B, T>& in, const Parameters<const T>& p,
                       const Options& o, const Saved<B, T>& saved,
                       const AttentionGradients<B, T>& d, const Parameters<T>& d_p) {
    Tensor<B, T, 1> other(be, {in.q.extent(1)});
    be.fill(other.data(), other.size(), T(1));
    Parameters<const T> changed = p;
    changed.scale = other.data();  // the gradient of a layer without its factor
    SlidingWindow::backward<B, T>(be, in, changed, o, saved, d, d_p);
  }
};
struct WrongStep : SlidingWindow {
  static constexpr std::string_view name = "wrong_step";
  template <class B, class T>
  static void step(B& be, const AttentionStep<T, typename B::space>& in,
                   const Parameters<const T>& p, const Options& o, const Prepared<B, T>& prepared) {
    auto late = in;
    late.step += 1;
    SlidingWindow::step<B, T>(be, late, p, o, prepared);
  }
};

using WrongVariants = Variants<SlidingWindow, WrongBackward, WrongStep>;

const GradInputReport& input(const VariantReport& report, const std::string& name) {
  for (const auto& x : report.gradients.inputs)
    if (x.name == name) return x;
  FAIL("no input " << name);
  return report.gradients.inputs.front();
}

}  // namespace

TEST_CASE("every variant of the paper passes the check of variants") {
  for (const VariantDescription& variant : PaperVariants::describe()) {
    CAPTURE(variant.name);
    auto options = PaperVariants::Options::named(variant.name);
    options.set<index_t>("segment_size", 5);
    for (const std::vector<index_t>& lengths : {std::vector<index_t>{}, {23, 9}}) {
      VariantCase c;
      c.lengths = lengths;
      const VariantReport report = check_variant<PaperVariants>(options, c);
      INFO(report.text());
      CHECK(report.ok());
      CHECK(report.gradients.inputs.size() == 3 + (variant.name == "segmented_recurrent" ? 3
                                                   : variant.name == "transformer_xl"    ? 8
                                                                                         : 0));
      CHECK(report.step_difference < 1e-13);
    }
  }
}

TEST_CASE("a variant of one's own passes over shapes") {
  for (const index_t M : {1, 7}) {
    for (const index_t N : {1, 4, 23}) {
      for (const index_t window : {1, 4, 30}) {
        CAPTURE(M, N, window);
        VariantCase c;
        c.queries = M, c.keys = N, c.zeros_allowed = N == 1 || window == 1;
        if (N > 1) c.lengths = {N, N / 2};
        const VariantReport report = check_variant<WrongVariants>(
            WrongVariants::Options::of<SlidingWindow>({.window = window}), c);
        INFO(report.text());
        CHECK(report.ok());
      }
    }
  }
}

TEST_CASE("wrong variants are refused, with what is wrong") {
  const VariantReport backward =
      check_variant<WrongVariants>(WrongVariants::Options::of<WrongBackward>());
  CHECK_FALSE(backward.ok());
  CHECK(input(backward, "q").refusal == "the error is above the tolerance");
  CHECK(input(backward, "scale").refusal.empty());
  CHECK_THAT(backward.text(), ContainsSubstring("q: ") && ContainsSubstring("above the tolerance"));
  CHECK(backward.steps_agree());

  const VariantReport step =
      check_variant<WrongVariants>(WrongVariants::Options::of<WrongStep>({.window = 4}));
  CHECK(step.gradients.ok());
  CHECK_FALSE(step.steps_agree());
  CHECK_FALSE(step.ok());
  CHECK_THAT(step.text(), ContainsSubstring("relative difference from forward") &&
                              ContainsSubstring("above the tolerance"));

  VariantCase broken;
  broken.broken = "scale";
  const VariantReport scaled = check_variant<WrongVariants>(
      WrongVariants::Options::of<SlidingWindow>({.window = 4}), broken);
  CHECK(input(scaled, "scale").refusal == "the error is above the tolerance");
  CHECK(input(scaled, "k").refusal.empty());
}

TEST_CASE("lists know their variants by name, and options by name and type") {
  CHECK(WrongVariants::names() == "sliding_window, wrong_backward, wrong_step");
  auto options = WrongVariants::Options::named("wrong_step");
  CHECK(options.is<WrongStep>());
  CHECK(options.get_if<SlidingWindow>() == nullptr);
  CHECK(options.set("window", 9));
  CHECK_FALSE(options.set("window", 9.0));
  CHECK_FALSE(options.set("window", true));
  CHECK_FALSE(options.set("segment_size", 9));
  CHECK(options.value_or("window", 1) == 9);
  CHECK(options.value_or<index_t>("window", 1) == 9);
  CHECK(options.value_or("segment_size", 1) == 1);
  CHECK(options.for_generation(0).value_or<index_t>("horizon", 0) == 128);
  CHECK(options.for_generation(3).value_or<index_t>("horizon", 0) == 3);
  CHECK(options.value_or<index_t>("horizon", 5) == 0);
}

TEST_CASE("what was saved by another variant is refused") {
  EigenBackend be(1);
  auto x = zeros<double, 4>(be, {1, 1, 2, 3});
  const AttentionInputs<EigenBackend, double> in{x, x, x};
  WrongVariants::Saved<EigenBackend, double> saved;
  const auto one = WrongVariants::Options::of<SlidingWindow>(),
             other = WrongVariants::Options::of<WrongStep>();
  double scale = 1;
  LearnedPointers<double> learned;
  learned.add(&scale);
  WrongVariants::forward(be, in, learned, one, saved, x.view());
  CHECK_THROWS_WITH(WrongVariants::backward(be, in, learned, other, saved,
                                            {x, x.view(), x.view(), x.view()}, learned),
                    ContainsSubstring("of another variant"));
}

TEST_CASE("learned parameters that are not those of the options are refused") {
  EigenBackend be(1);
  auto x = zeros<double, 4>(be, {1, 1, 2, 3});
  const AttentionInputs<EigenBackend, double> in{x, x, x};
  WrongVariants::Saved<EigenBackend, double> saved;
  CHECK_THROWS_WITH(
      WrongVariants::forward(be, in, {}, WrongVariants::Options::of<SlidingWindow>(), saved,
                             x.view()),
      ContainsSubstring("sliding_window: 0 learned parameters were given, the options have 1"));
}
