// SPDX-License-Identifier: Apache-2.0
// Checks a cross-attention of a list of variants: its gradients by hand against dual numbers through its
// forward, for q, k, v and every learned parameter, and its decoder steps against its forward.
//
//   using Mine = Variants<Full, SlidingWindow>;
//   const auto report = check_variant<Mine>(Mine::Options::of<SlidingWindow>({.window = 5}));
//   if (!report.ok()) std::cerr << report.text();
#pragma once

#include <srformer/attention/cross_attention.hpp>
#include <srformer/backend/eigen.hpp>
#include <srformer/testing/grad_check.hpp>

namespace srformer {

/// The sizes of a check, and what it allows.
struct VariantCase {
  index_t batch = 2, heads = 2, queries = 7, keys = 23, head_size = 4;
  std::vector<index_t> lengths{};  ///< keys of each source that are not padding; empty: all
  std::uint64_t seed = 1;          ///< of all numbers
  bool zeros_allowed = false;      ///< a gradient may be zero, by hand and by dual numbers
  std::string broken{};  ///< an input whose gradient is scaled by 1.001, to see it refused
};

struct VariantReport {
  GradReport gradients;
  double step_difference = 0;  ///< largest |step - forward| over the largest |forward|
  double tolerance = 1e-10;

  bool steps_agree() const { return step_difference <= tolerance; }
  bool ok() const { return gradients.ok() && steps_agree(); }
  std::string text() const {
    char line[120];
    std::snprintf(line, sizeof line, "decoder steps: relative difference from forward %.2e%s\n",
                  step_difference, steps_agree() ? "" : ": above the tolerance");
    return gradients.text() + line;
  }
};

namespace detail {

/// A variant on random numbers, in double and in dual numbers.
template <class List>
class VariantCheck {
 public:
  VariantCheck(const typename List::Options& options, const VariantCase& c, const GradOptions& grad)
      : options_(options), c_(c), grad_(grad) {
    require(c.lengths.empty() || std::ssize(c.lengths) == c.batch, "check_variant",
            "there must be a length for each source, or none");
    const index_t of_q = c.batch * c.heads * c.queries * c.head_size;
    const index_t of_k = c.batch * c.heads * c.keys * c.head_size;
    add("q", of_q, 1, 0), add("k", of_k, 1, 0), add("v", of_k, 1, 0);
    List::visit_learned(options, {c.heads, c.head_size}, [&](const LearnedInfo& info) {
      const index_t columns = info.columns > 0 ? info.columns : info.rows;
      const bool scalar = info.role == Role::scalar;
      add(std::string(info.name), info.rows * std::max<index_t>(info.columns, 1),
          scalar ? 0.25 : 1 / std::sqrt(static_cast<double>(columns)),
          scalar ? info.initial.value + 0.25 : 0);
    });
  }

  /// One input at a time, the others as they are.
  GradReport gradients() const {
    GradReport all;
    for (std::size_t i = 0; i < names_.size(); ++i) {
      const index_t sizes[] = {static_cast<index_t>(values_[i].size())};
      const index_t out[] = {c_.batch, c_.heads, c_.queries, c_.head_size};
      GradReport one = grad_check(
          grad_, out,
          [&]<class T>(View<const T, 1> x, View<T, 4> y) {
            Numbers<T> numbers = as<T>();
            numbers[i].assign(x.data, x.data + x.size());
            EigenBackend be(1);
            typename List::template Saved<EigenBackend, T> saved;
            List::forward(be, inputs<T>(numbers), learned<T>(numbers), options_, saved, y);
          },
          [&](View<const double, 1> x, View<const double, 4> d_y, View<double, 1> d_x) {
            backward(i, x, d_y, d_x);
          },
          GradInput<1>(names_[i], sizes, values_[i]));
      if (!one.refusal.empty()) all.refusal = names_[i] + ": " + one.refusal;
      for (GradInputReport& report : one.inputs) {
        if (c_.zeros_allowed && report.worst_error == 0 && report.norm_ratio == 0)
          report.refusal.clear();
        all.inputs.push_back(std::move(report));
      }
    }
    return all;
  }

  double step_difference() const {
    using B = EigenBackend;
    B be(1);
    Numbers<double> numbers = as<double>();
    const AttentionInputs<B, double> in = inputs<double>(numbers);
    const auto pointers = learned<double>(numbers);
    typename List::template Saved<B, double> saved;
    std::vector<double> together(values_[0].size(), std::nan("")), apart = together;
    const View<double, 4> out(together.data(), in.q.extents), steps(apart.data(), in.q.extents);
    List::forward(be, in, pointers, options_.for_generation(c_.queries), saved, out);
    const auto prepared = List::template prepare<B, double>(
        be, clone<B, const double, 4>(be, in.k), clone<B, const double, 4>(be, in.v), in.context,
        pointers, options_, {.steps = c_.queries, .horizon = c_.queries});
    for (index_t i = 0; i < c_.queries; ++i)
      List::step(be, in.q.slice(2, i, 1), in.context, pointers, prepared, {.step = i},
                 steps.slice(2, i, 1));
    double largest = 0, difference = 0;
    for (std::size_t i = 0; i < together.size(); ++i) {
      const double gap = std::abs(together[i] - apart[i]);
      largest = std::max(largest, std::abs(together[i]));
      difference = std::isfinite(gap) ? std::max(difference, gap) : HUGE_VAL;
    }
    return largest > 0 ? difference / largest : HUGE_VAL;
  }

 private:
  template <class T>
  using Numbers = std::vector<std::vector<T>>;

  void add(std::string name, index_t count, double scale, double center) {
    const RandomStream random = RandomStream{c_.seed, 3}.substream(names_.size() + 1);
    std::vector<double> values(static_cast<std::size_t>(count));
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = center + scale * normal(random, i);
    names_.push_back(std::move(name)), values_.push_back(std::move(values));
  }

  template <class T>
  Numbers<T> as() const {
    Numbers<T> numbers;
    for (const auto& values : values_) numbers.emplace_back(values.begin(), values.end());
    return numbers;
  }
  template <class T>
  AttentionInputs<EigenBackend, T> inputs(const Numbers<T>& x) const {
    const std::array q{c_.batch, c_.heads, c_.queries, c_.head_size};
    const std::array k{c_.batch, c_.heads, c_.keys, c_.head_size};
    AttentionInputs<EigenBackend, T> in{{x[0].data(), q}, {x[1].data(), k}, {x[2].data(), k}, {}};
    in.context.mask.lengths = c_.lengths.empty() ? nullptr : c_.lengths.data();
    return in;
  }
  template <class T>
  static LearnedPointers<T> learned(Numbers<T>& x) {
    LearnedPointers<T> pointers;
    for (std::size_t i = 3; i < x.size(); ++i) pointers.add(x[i].data());
    return pointers;
  }

  /// d_x of input i.
  void backward(std::size_t i, View<const double, 1> x, View<const double, 4> d_y,
                View<double, 1> d_x) const {
    EigenBackend be(1);
    Numbers<double> numbers = as<double>(), d = numbers;
    numbers[i].assign(x.data, x.data + x.size());
    for (auto& gradient : d) std::ranges::fill(gradient, 0.0);
    d[i].assign(d_x.data, d_x.data + d_x.size());
    const AttentionInputs<EigenBackend, double> in = inputs<double>(numbers);
    const auto pointers = learned<double>(numbers);
    typename List::template Saved<EigenBackend, double> saved;
    std::vector<double> y(values_[0].size());
    List::forward(be, in, pointers, options_, saved, View<double, 4>(y.data(), in.q.extents));
    List::backward(
        be, in, pointers, options_, saved,
        {d_y, View<double, 4>(d[0].data(), in.q.extents),
         View<double, 4>(d[1].data(), in.k.extents), View<double, 4>(d[2].data(), in.k.extents)},
        learned<double>(d));
    const double factor = names_[i] == c_.broken ? 1.001 : 1;
    for (std::size_t e = 0; e < d[i].size(); ++e) {
      const double before = d_x.data[e];
      d_x.data[e] = before + factor * (d[i][e] - before);
    }
  }

  typename List::Options options_;
  VariantCase c_;
  GradOptions grad_;
  std::vector<std::string> names_;
  std::vector<std::vector<double>> values_;
};

}  // namespace detail

/// Checks the variant that `options` choose. Parameters of role scalar lie around their initial value, all
/// other numbers are normal. Not for options whose backward is not the derivative (binary_firing).
/// Cost: one forward in dual numbers for every number of a small input, grad.directions for a large one.
template <class List>
VariantReport check_variant(const typename List::Options& options, const VariantCase& c = {},
                            const GradOptions& grad = {}) {
  const detail::VariantCheck<List> check(options, c, grad);
  return {check.gradients(), check.step_difference(), grad.tolerance};
}

}  // namespace srformer
