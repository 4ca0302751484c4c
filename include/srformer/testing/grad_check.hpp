// SPDX-License-Identifier: Apache-2.0
// Checks a backward derived by hand against the forward it belongs to.
//
// The forward takes views of any scalar. Run with Dual<double> along a direction e it gives J e exact
// to rounding; the backward, run in double, gives g = J^T d_y. For every coordinate of a small input,
// and for random directions of a large one,
//
//   <d_y, J e> = <g, e>
//
// Also checked: gradients are added to what was there, inputs and d_y come back as they were, and
// nothing is compared that is empty, all zero or not finite.
//
//   EigenBackend be;
//   const GradReport report = grad_check(
//       {7, 16},  // the shape of y
//       [&](auto x, auto w, auto y) { rms_norm_forward(be, x, w, y, {1e-6}); },
//       [&](auto x, auto w, auto d_y, auto d_x, auto d_w) {
//         rms_norm_backward(be, x, w, d_y, d_x, d_w, {1e-6});
//       },
//       GradInput("x", {7, 16}), GradInput("weight", {16}));
//   if (!report.ok()) std::cerr << report.text();
//
// What else an op needs (ids, options, what forward saves for backward) is captured or computed in
// the two functions.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include <srformer/core/dual.hpp>
#include <srformer/core/random.hpp>
#include <srformer/core/view.hpp>

namespace srformer {

/// One differentiable input: its name in the report, its shape, and its values in row-major order;
/// normal numbers where none are given.
template <int Rank>
struct GradInput {
  std::string name;
  std::array<index_t, Rank> shape{};
  std::vector<double> values;
  bool zero_expected = false;

  GradInput(std::string name_of, const index_t (&extents)[Rank], std::vector<double> given = {})
      : name(std::move(name_of)), shape(std::to_array(extents)), values(std::move(given)) {}

  /// The gradient must be zero in every element, by hand and by the forward.
  GradInput expect_zero() const {
    GradInput input = *this;
    input.zero_expected = true;
    return input;
  }
};

template <std::size_t Rank, class... More>
GradInput(std::string, const index_t (&)[Rank], More...) -> GradInput<static_cast<int>(Rank)>;

struct GradOptions {
  double tolerance = 1e-10;   ///< on the relative error of a derivative
  index_t coordinates = 256;  ///< an input of at most so many elements is checked in each of them
  index_t directions = 8;     ///< how many random directions of a larger one
  std::uint64_t seed = 1;     ///< of inputs, d_y and directions
};

/// What was found for one input.
struct GradInputReport {
  std::string name;
  index_t compared = 0;                  ///< derivatives compared
  bool by_coordinate = false;            ///< whether they are elements of the gradient
  double worst_error = 0;                ///< largest |by hand - forward's| / largest |derivative|
  double cosine = 0;                     ///< between the derivatives by hand and the forward's
  double norm_ratio = 0;                 ///< of the same, by hand / forward's
  index_t worst_at = 0;                  ///< the coordinate or direction of worst_error
  double by_hand = 0, from_forward = 0;  ///< the two derivatives there
  std::string refusal;                   ///< why this gradient is not right; empty when it is
};

struct GradReport {
  std::vector<GradInputReport> inputs;
  std::string refusal;  ///< what is wrong with the check or the op as a whole

  bool ok() const {
    return refusal.empty() && !inputs.empty() &&
           std::all_of(inputs.begin(), inputs.end(),
                       [](const auto& x) { return x.refusal.empty(); });
  }
  double worst_error() const {
    double worst = 0;
    for (const auto& input : inputs) worst = std::max(worst, input.worst_error);
    return worst;
  }
  /// One line per input, and one for the whole if it is refused.
  std::string text() const {
    std::string lines = refusal.empty() ? "" : "gradient check: " + refusal + "\n";
    for (const auto& x : inputs) {
      char numbers[160];
      std::snprintf(numbers, sizeof numbers,
                    ": %td %s, worst error %.2e at %td (by hand %.9g, forward %.9g), cosine %.12g, "
                    "norm ratio %.12g",
                    x.compared, x.by_coordinate ? "elements" : "directions", x.worst_error,
                    x.worst_at, x.by_hand, x.from_forward, x.cosine, x.norm_ratio);
      lines += x.name + numbers + (x.refusal.empty() ? "" : ": " + x.refusal) + "\n";
    }
    return lines;
  }
};

namespace detail {

/// Numbers in scalar T.
template <class T>
std::vector<T> converted(const std::vector<double>& numbers) {
  std::vector<T> values;
  for (const double x : numbers) values.push_back(T(x));
  return values;
}

/// The inputs of an op in scalar T, in the order in which its functions take them.
template <class T, int... Ranks>
struct GradValues {
  std::array<std::vector<T>, sizeof...(Ranks)> values;
  std::tuple<std::array<index_t, Ranks>...> shapes;

  static GradValues of(const std::array<std::vector<double>, sizeof...(Ranks)>& start,
                       const std::array<index_t, Ranks>&... extents) {
    GradValues at{{}, {extents...}};
    for (std::size_t i = 0; i < start.size(); ++i) at.values[i] = converted<T>(start[i]);
    return at;
  }

  auto views() { return views_as<T>(std::make_index_sequence<sizeof...(Ranks)>{}); }
  auto const_views() { return views_as<const T>(std::make_index_sequence<sizeof...(Ranks)>{}); }

 private:
  template <class U, std::size_t... At>
  auto views_as(std::index_sequence<At...>) {
    return std::tuple(View<U, Ranks>(values[At].data(), std::get<At>(shapes))...);
  }
};

/// Derivatives of <d_y, y> by dual numbers.
struct DualDerivative {
  using scalar = Dual<double>;
  template <class Run, class Values>
  double operator()(Run run, Values& x, std::size_t input, const std::vector<double>& direction,
                    const std::vector<double>& d_y) const {
    std::vector<scalar>& at = x.values[input];
    for (std::size_t i = 0; i < at.size(); ++i) at[i].slope = direction[i];
    const std::vector<scalar> y = run(x);
    for (scalar& element : at) element.slope = 0;
    double sum = 0;
    for (std::size_t i = 0; i < y.size(); ++i) sum += d_y[i] * y[i].slope;
    return sum;
  }
};

/// Derivatives of <d_y, y> by central differences of step `step`.
template <class T>
struct CentralDerivative {
  using scalar = T;
  double step;
  template <class Run, class Values>
  double operator()(Run run, Values& x, std::size_t input, const std::vector<double>& direction,
                    const std::vector<double>& d_y) const {
    std::vector<T>& at = x.values[input];
    const std::vector<T> middle = at;
    const auto moved = [&](double by) {
      for (std::size_t i = 0; i < at.size(); ++i) at[i] = T(double(middle[i]) + by * direction[i]);
      return run(x);
    };
    const std::vector<T> ahead = moved(step), behind = moved(-step);
    at = middle;
    double sum = 0;
    for (std::size_t i = 0; i < ahead.size(); ++i) {
      sum += d_y[i] * (double(ahead[i]) - double(behind[i])) / (2 * step);
    }
    return sum;
  }
};

inline std::vector<double> normal_values(std::size_t count, RandomStream random) {
  std::vector<double> values(count);
  for (std::size_t i = 0; i < count; ++i) values[i] = normal(random, i);
  return values;
}

template <class T>
bool all_finite(const std::vector<T>& values) {
  return std::all_of(values.begin(), values.end(), [](const T& x) { return math::finite(x); });
}

inline double dot(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

inline double largest(const std::vector<double>& a) {
  double top = 0;
  for (const double x : a) top = std::max(top, std::abs(x));
  return top;
}

/// Fills errors, cosine and norm ratio of two vectors of derivatives.
inline void compare_derivatives(GradInputReport& report, const std::vector<double>& by_hand,
                                const std::vector<double>& from_forward) {
  const double scale = std::max(largest(by_hand), largest(from_forward));
  report.compared = static_cast<index_t>(by_hand.size());
  for (std::size_t i = 0; i < by_hand.size(); ++i) {
    const double difference = std::abs(by_hand[i] - from_forward[i]);
    const double error = scale > 0 ? difference / scale : 0;
    if (i == 0 || error > report.worst_error) {
      report.worst_error = error, report.worst_at = static_cast<index_t>(i);
      report.by_hand = by_hand[i], report.from_forward = from_forward[i];
    }
  }
  const double hand = std::sqrt(dot(by_hand, by_hand));
  const double forward = std::sqrt(dot(from_forward, from_forward));
  report.cosine = hand > 0 && forward > 0 ? dot(by_hand, from_forward) / hand / forward : 0;
  report.norm_ratio = forward > 0 ? hand / forward : 0;
}

/// The op under check: its two functions, called with the values of all inputs.
template <int OutRank, class Forward, class Backward>
struct GradOp {
  std::array<index_t, OutRank> out_shape;
  Forward& forward;
  Backward& backward;

  index_t out_size() const { return View<double, OutRank>(nullptr, out_shape).size(); }

  template <class T, int... Ranks>
  std::vector<T> output(GradValues<T, Ranks...>& x) const {
    std::vector<T> y(static_cast<std::size_t>(out_size()), T(0));
    std::apply([&](auto... views) { forward(views..., View<T, OutRank>(y.data(), out_shape)); },
               x.const_views());
    return y;
  }

  /// What the backward makes of d_x; tells in `refusal` where it writes to d_y.
  template <class T, int... Ranks>
  auto gradients(GradValues<T, Ranks...>& x, const std::vector<T>& d_y, GradValues<T, Ranks...> d_x,
                 std::string& refusal) const {
    std::vector<T> given = d_y;
    std::apply(
        [&](auto... in) {
          std::apply(
              [&](auto... d) {
                backward(in..., View<const T, OutRank>(given.data(), out_shape), d...);
              },
              d_x.views());
        },
        x.const_views());
    if (given != d_y) refusal = "the backward wrote to d_y";
    return d_x.values;
  }
};

/// The gradients of all inputs by hand.
template <class T, std::size_t Count>
struct GradientsByHand {
  using Buffers = std::array<std::vector<T>, Count>;
  Buffers alone;        ///< added to zeros
  Buffers held, added;  ///< what buffers held, and that with the gradient added to it
};

/// Runs the backward into zeros, and into buffers that hold something already.
template <class Op, class T, int... Ranks>
auto gradients_by_hand(const Op& op, GradValues<T, Ranks...>& x, const std::vector<T>& d_y,
                       const RandomStream& random, std::string& refusal) {
  GradientsByHand<T, sizeof...(Ranks)> found;
  GradValues<T, Ranks...> zeros = x, held = x;
  for (auto& values : zeros.values) std::fill(values.begin(), values.end(), T(0));
  found.alone = op.gradients(x, d_y, zeros, refusal);
  for (std::size_t i = 0; i < sizeof...(Ranks); ++i) {
    const std::vector<double> gradient(found.alone[i].begin(), found.alone[i].end());
    const auto extra = normal_values(gradient.size(), random.substream(2000 + i));
    const double scale = all_finite(gradient) && largest(gradient) > 0 ? largest(gradient) : 1;
    for (std::size_t c = 0; c < extra.size(); ++c) held.values[i][c] = T(scale * (2 + extra[c]));
  }
  found.held = held.values;
  found.added = op.gradients(x, d_y, held, refusal);
  return found;
}

/// Why an input cannot be checked; empty where it can.
template <int Rank>
std::string refusal_of_input(const GradInput<Rank>& input) {
  const index_t size = View<double, Rank>(nullptr, input.shape).size();
  if (size < 1) return "input " + input.name + " is empty, nothing would be checked";
  if (input.values.empty() || static_cast<index_t>(input.values.size()) == size) return "";
  return "input " + input.name + " has " + std::to_string(input.values.size()) + " values for " +
         std::to_string(size) + " elements";
}

/// The values of an input that can be checked: those given, or normal numbers.
template <int Rank>
std::vector<double> start_of(const GradInput<Rank>& input, const RandomStream& random) {
  if (!input.values.empty()) return input.values;
  const index_t size = View<double, Rank>(nullptr, input.shape).size();
  return normal_values(static_cast<std::size_t>(size), random);
}

/// Whether the forward gives in the scalar that takes the derivative what it gives in the backward's.
template <class T, class U>
bool outputs_agree(const std::vector<T>& y, const std::vector<U>& y_again, double tolerance) {
  double scale = 0, difference = 0;
  for (std::size_t i = 0; i < y.size(); ++i) {
    scale = std::max(scale, std::abs(double(y[i])));
    difference = std::max(difference, std::abs(double(y[i]) - math::to_double(y_again[i])));
  }
  return difference <= tolerance * scale;
}

/// Whether `added` is `held` with the gradient added to it.
template <class T>
bool is_sum(const std::vector<T>& added, const std::vector<T>& held,
            const std::vector<double>& gradient, double tolerance) {
  double error = 0;
  for (std::size_t c = 0; c < gradient.size(); ++c) {
    const double expected = double(held[c]) + gradient[c];
    error = std::max(error, std::abs(double(added[c]) - expected));
    if (!math::finite(added[c])) error = HUGE_VAL;
  }
  return error <= tolerance * largest(std::vector<double>(held.begin(), held.end()));
}

/// Why a gradient and the derivatives along some directions, by hand and of the forward, are not right;
/// empty where they are. `error` is what compare_derivatives found.
inline std::string refusal_of_gradient(const std::vector<double>& gradient,
                                       const std::vector<double>& from_forward, double error,
                                       bool zero_expected, double tolerance) {
  if (!all_finite(from_forward)) return "the derivative of the forward is not finite";
  const bool zero_by_hand = largest(gradient) == 0, zero_forward = largest(from_forward) == 0;
  if (zero_expected) return zero_by_hand && zero_forward ? "" : "expected to be zero, and is not";
  if (zero_by_hand && zero_forward)
    return "zero by hand and by the forward: use expect_zero() if this is meant";
  if (zero_by_hand || zero_forward) return "zero by one of the two ways";
  return error <= tolerance ? "" : "the error is above the tolerance";
}

/// Compares a gradient by hand with the forward's derivatives: along every coordinate where it is small,
/// else along random directions. derivative(direction) is that of the forward.
template <class Derivative>
GradInputReport compare_gradient(const GradOptions& options, const std::vector<double>& gradient,
                                 bool zero_expected, const RandomStream& random,
                                 Derivative derivative) {
  GradInputReport found;
  const std::size_t size = gradient.size();
  found.by_coordinate = static_cast<index_t>(size) <= options.coordinates;
  if (!all_finite(gradient)) {
    found.refusal = "the gradient is not finite";
    return found;
  }
  std::vector<double> by_hand, from_forward;
  const std::size_t probes =
      found.by_coordinate ? size
                          : static_cast<std::size_t>(std::max<index_t>(1, options.directions));
  for (std::size_t probe = 0; probe < probes; ++probe) {
    std::vector<double> direction(size, 0.0);
    if (found.by_coordinate) {
      direction[probe] = 1;
    } else {
      direction = normal_values(size, random.substream(probe));
    }
    by_hand.push_back(dot(gradient, direction));
    from_forward.push_back(derivative(direction));
  }
  compare_derivatives(found, by_hand, from_forward);
  found.refusal = refusal_of_gradient(gradient, from_forward, found.worst_error, zero_expected,
                                      options.tolerance);
  return found;
}

template <class Derivative, class Op, int... Ranks>
GradReport check_gradients(const GradOptions& options, Derivative derivative, const Op& op,
                           const GradInput<Ranks>&... inputs) {
  using T = typename Derivative::scalar;
  using B = std::conditional_t<std::is_same_v<T, Dual<double>>, double, T>;  // backward's scalar
  constexpr std::size_t count = sizeof...(Ranks);
  static_assert(count > 0, "grad_check needs at least one GradInput");
  GradReport report;
  if (op.out_size() < 1) report.refusal = "the output is empty, nothing would be checked";
  for (const std::string& refusal : {refusal_of_input(inputs)...})
    if (report.refusal.empty()) report.refusal = refusal;
  if (!report.refusal.empty()) return report;

  const RandomStream random{options.seed, 0};
  std::uint64_t number = 0;
  const std::array<std::vector<double>, count> start{
      start_of(inputs, random.substream(number++))...};
  auto x = GradValues<B, Ranks...>::of(start, inputs.shape...);
  const auto untouched = x.values;
  const std::vector<B> y = op.output(x);
  const std::vector<B> d_y = converted<B>(normal_values(y.size(), random.substream(1000)));
  const auto by_hand = gradients_by_hand(op, x, d_y, random, report.refusal);

  auto x_forward = GradValues<T, Ranks...>::of(start, inputs.shape...);
  const std::vector<T> y_again = op.output(x_forward);
  if (!all_finite(y)) {
    report.refusal = "the output is not finite";
  } else if (x.values != untouched) {
    report.refusal = "an input was written to";
  } else if (!outputs_agree(y, y_again, options.tolerance)) {
    report.refusal = "the forward gives other values in the scalar that takes the derivative";
  }

  const std::array<std::string, count> names{inputs.name...};
  const std::array<bool, count> zero_expected{inputs.zero_expected...};
  const std::vector<double> d_y_values(d_y.begin(), d_y.end());
  const auto run = [&](auto& at) { return op.output(at); };
  for (std::size_t i = 0; i < count; ++i) {
    const std::vector<double> gradient(by_hand.alone[i].begin(), by_hand.alone[i].end());
    GradInputReport found = compare_gradient(
        options, gradient, zero_expected[i], random.substream(3000 + i),
        [&](const auto& along) { return derivative(run, x_forward, i, along, d_y_values); });
    found.name = names[i];
    if (found.refusal.empty() &&
        !is_sum(by_hand.added[i], by_hand.held[i], gradient, options.tolerance)) {
      found.refusal = "the gradient is not added to what was there";
    }
    report.inputs.push_back(found);
  }
  return report;
}

}  // namespace detail

/// Compares a backward with dual numbers through its forward.
///   shape     of the output
///   forward   forward(x..., y): y is zero when it is called; x are views of const T, y of T, where T
///             is double and Dual<double>
///   backward  backward(x..., d_y, d_x...): views of double; adds to d_x
///   inputs    one GradInput for each x
/// Cost: one forward in dual numbers for every element of a small input, `directions` for a large one.
template <std::size_t OutRank, class Forward, class Backward, int... Ranks>
GradReport grad_check(const GradOptions& options, const index_t (&shape)[OutRank], Forward forward,
                      Backward backward, const GradInput<Ranks>&... inputs) {
  const detail::GradOp<static_cast<int>(OutRank), Forward, Backward> op{std::to_array(shape),
                                                                        forward, backward};
  return detail::check_gradients(options, detail::DualDerivative{}, op, inputs...);
}

template <std::size_t OutRank, class Forward, class Backward, int... Ranks>
GradReport grad_check(const index_t (&shape)[OutRank], Forward forward, Backward backward,
                      const GradInput<Ranks>&... inputs) {
  return grad_check(GradOptions{}, shape, forward, backward, inputs...);
}

/// The same by central differences in T, for ops that cannot run with dual numbers. `step` divides
/// two kinds of error: about 1e-5 and a tolerance of 1e-7 suit double, 1e-2 and 1e-3 float.
template <class T, std::size_t OutRank, class Forward, class Backward, int... Ranks>
GradReport grad_check_by_differences(const GradOptions& options, double step,
                                     const index_t (&shape)[OutRank], Forward forward,
                                     Backward backward, const GradInput<Ranks>&... inputs) {
  const detail::GradOp<static_cast<int>(OutRank), Forward, Backward> op{std::to_array(shape),
                                                                        forward, backward};
  return detail::check_gradients(options, detail::CentralDerivative<T>{step}, op, inputs...);
}

}  // namespace srformer
