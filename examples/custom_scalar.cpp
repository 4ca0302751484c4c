// SPDX-License-Identifier: Apache-2.0
// One formula, four kinds of number: segmented recurrent attention in float, in bfloat16, in a scalar
// defined here that knows how wrong it may be, and in fifty digits.
#include <srformer/srformer.hpp>

#include <cstdio>
#include <string_view>
#if __has_include(<boost/multiprecision/cpp_bin_float.hpp>)
#include <boost/multiprecision/cpp_bin_float.hpp>

#include "errors.hpp"
using Exact = boost::multiprecision::number<boost::multiprecision::cpp_bin_float<50>,
                                            boost::multiprecision::et_off>;
#else
using Exact = double;
#endif

/// A float and a bound on its distance from what exact arithmetic would have given.
struct Bounded {
  float value = 0;
  double error = 0;

  Bounded() = default;
  Bounded(double x) : value(float(x)), error(std::abs(x - double(value))) {}
  /// The result of an operation: its own rounding on top of the error that its operands brought.
  static Bounded rounded(float value, double inherited, double roundings = 1) {
    Bounded x;
    x.value = value, x.error = inherited + roundings * 0x1p-23 * std::abs(double(value)) + 1e-44;
    return x;
  }
  double most() const { return std::abs(double(value)) + error; }

  friend Bounded operator+(Bounded a, Bounded b) {
    return rounded(a.value + b.value, a.error + b.error);
  }
  friend Bounded operator-(Bounded a, Bounded b) {
    return rounded(a.value - b.value, a.error + b.error);
  }
  friend Bounded operator-(Bounded a) { return rounded(-a.value, a.error, 0); }
  friend Bounded operator*(Bounded a, Bounded b) {
    return rounded(a.value * b.value, a.most() * b.error + b.most() * a.error);
  }
  friend Bounded operator/(Bounded a, Bounded b) {
    const double least = std::abs(double(b.value)) - b.error;  // of the divisor
    const float q = a.value / b.value;
    return rounded(q, least > 0 ? (a.error + std::abs(double(q)) * b.error) / least : HUGE_VAL);
  }
  friend Bounded exp(Bounded x) {
    const float y = std::exp(x.value);
    return rounded(y, double(y) * std::expm1(x.error), 2);
  }
  friend Bounded log(Bounded x) {
    const double least = double(x.value) - x.error;
    return rounded(std::log(x.value), least > 0 ? x.error / least : HUGE_VAL, 2);
  }
  friend Bounded sqrt(Bounded x) {
    const double least = double(x.value) - x.error;
    return rounded(std::sqrt(x.value), least > 0 ? x.error / 2 / std::sqrt(least) : HUGE_VAL);
  }
  friend float primal(Bounded x) { return x.value; }  // comparisons look at this alone
};

/// Stored, multiplied and summed as Bounded: this is also what a scalar gets unasked.
template <>
struct srformer::scalar_traits<Bounded> {
  using compute = Bounded;
  using accumulate = Bounded;
  static constexpr bool on_device = false;
};

using namespace srformer;

/// out [1,1,M,D] of inputs that every scalar here holds without rounding.
template <class T>
std::vector<T> attention() {
  EigenBackend be(1);
  const index_t M = 8, N = 24, D = 4;
  const auto random = [&](std::array<index_t, 4> shape, std::uint64_t seed) {
    auto x = zeros<T, 4>(be, shape);
    for (index_t i = 0; i < x.size(); ++i) {
      x.data()[i] = T(std::round(64 * normal({seed}, std::uint64_t(i))) / 64);
    }
    return x;
  };
  const auto q = random({1, 1, M, D}, 1), k = random({1, 1, N, D}, 2), v = random({1, 1, N, D}, 3);
  const auto weight = random({1, 1, D, D}, 4);
  const T leak(0.25), threshold(0.5);
  auto out = zeros<T, 4>(be, {1, 1, M, D});
  segmented_recurrent_forward(be, AttentionInputs<EigenBackend, T>{q, k, v},
                              {weight.data(), &leak, &threshold}, {.segment_size = 8}, out.view());
  return to_host(be, out);
}

template <class T>
std::vector<T> report(const char* name, const std::vector<Exact>& exact) {
  const std::vector<T> out = attention<T>();
  double worst = 0;
  for (std::size_t i = 0; i < out.size(); ++i) {
    const double x = static_cast<double>(primal(compute_t<T>(out[i])));
    worst = std::max(worst, std::abs(x - static_cast<double>(exact[i])));
  }
  std::printf("%-9s is off by at most %.1e\n", name, worst);
  return out;
}

namespace {

int show(int argc, char** argv) {
  if (argc > 1)
    return std::puts("usage: custom_scalar") < 0 || std::string_view(argv[1]) != "--help" ? 2 : 0;
  const auto exact = attention<Exact>();
  std::printf("out[0] = %.15f\n", static_cast<double>(exact[0]));
  report<double>("double", exact);
  report<float>("float", exact);
  report<Eigen::bfloat16>("bfloat16", exact);
  double claimed = 0;
  for (const Bounded& x : report<Bounded>("Bounded", exact)) claimed = std::max(claimed, x.error);
  std::printf("          and says itself: %.1e\n", claimed);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  return srformer::program::run([&] { return show(argc, argv); });
}
