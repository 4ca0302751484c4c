// SPDX-License-Identifier: Apache-2.0
// Holds the gradients of a cross-attention, derived by hand, against dual numbers through its forward.
//
//   check_gradient --cross_attention segmented_recurrent --segment_size 5 --gate true
//   check_gradient --break weight        scales one gradient by 1.001: it is refused, exit code 1
//
// Inputs are normal numbers, as are the gradients at the output. --lengths says how many keys each source of the
// batch has; the rest are padding.
#include <cstdio>
#include <srformer/attention/cross_attention.hpp>
#include <srformer/backend/eigen.hpp>
#include <srformer/testing/grad_check.hpp>

#include "cross_attention_flags.hpp"

namespace {

using namespace srformer;

struct Setting {
  index_t B = 2, H = 2, M = 7, N = 23, D = 4;
  std::vector<index_t> lengths;
  std::uint64_t seed = 1;
  double tolerance = 1e-10;
  std::string broken;
  CrossAttentionOptions options;
};

template <class T>
AttendContext<T, host_space> context_of(const Setting& s) {
  AttendContext<T, host_space> context;
  context.mask.lengths = s.lengths.empty() ? nullptr : s.lengths.data();
  return context;
}

/// The four parameters of an RNN over F features, one below the other: [2 F + 2, F].
template <class T>
RnnParameters<T> rnn_of(View<T, 2> rows) {
  const index_t F = rows.extent(1);
  return {rows.data, rows.data + F * F, rows.data + 2 * F * F, rows.data + 2 * F * F + F};
}

template <class T>
CrossAttentionParameters<T> parameters_of(const Setting& s, View<T, 2> weight, View<T, 1> leak,
                                          View<T, 1> threshold, View<T, 1> sigma, View<T, 1> gate,
                                          View<T, 2> rnn_key, View<T, 2> rnn_value) {
  return {RecurrentParameters<T>{weight.data, leak.data, threshold.data,
                                 s.options.sigma ? sigma.data : nullptr,
                                 s.options.gate ? gate.data : nullptr},
          rnn_of(rnn_key), rnn_of(rnn_value)};
}

/// The names of the inputs that the options have.
std::vector<std::string> inputs_of(const CrossAttentionOptions& options) {
  std::vector<std::string> names{"q", "k", "v"};
  if (options.has_recurrent_parameters()) {
    if (options.recurrence) names.insert(names.end(), {"weight", "leak", "threshold"});
    if (options.sigma && options.local) names.emplace_back("sigma");
    if (options.gate) names.emplace_back("gate");
  }
  if (options.has_memory()) names.insert(names.end(), {"rnn_key", "rnn_value"});
  return names;
}

GradReport check(const Setting& s) {
  EigenBackend be(1);
  const auto forward = [&]<class T>(View<const T, 4> q, auto k, auto v, auto weight, auto leak,
                                    auto threshold, auto sigma, auto gate, auto rnn_key,
                                    auto rnn_value, View<T, 4> out) {
    cross_attention_forward(
        be, q, k, v, parameters_of(s, weight, leak, threshold, sigma, gate, rnn_key, rnn_value),
        context_of<T>(s), s.options, out);
  };
  const auto backward = [&](auto q, auto k, auto v, auto weight, auto leak, auto threshold,
                            auto sigma, auto gate, auto rnn_key, auto rnn_value, auto d_out,
                            auto d_q, auto d_k, auto d_v, auto d_weight, auto d_leak,
                            auto d_threshold, auto d_sigma, auto d_gate, auto d_rnn_key,
                            auto d_rnn_value) {
    View<double, 1> broken;
    const auto find = [&](const char* name, auto d) {
      if (s.broken == name) broken = View<double, 1>(d.data, {d.size()});
    };
    find("q", d_q), find("k", d_k), find("v", d_v), find("weight", d_weight);
    find("leak", d_leak), find("threshold", d_threshold), find("sigma", d_sigma);
    find("gate", d_gate), find("rnn_key", d_rnn_key), find("rnn_value", d_rnn_value);
    const std::vector<double> before(broken.data, broken.data + broken.size());
    cross_attention_backward(
        be, q, k, v, parameters_of(s, weight, leak, threshold, sigma, gate, rnn_key, rnn_value),
        context_of<double>(s), s.options, d_out, d_q, d_k, d_v,
        parameters_of(s, d_weight, d_leak, d_threshold, d_sigma, d_gate, d_rnn_key, d_rnn_value));
    for (std::size_t i = 0; i < before.size(); ++i)
      broken.data[i] = before[i] + 1.001 * (broken.data[i] - before[i]);
  };

  const std::vector<std::string> used = inputs_of(s.options);
  std::uint64_t drawn = 0;
  const auto input = [&]<std::size_t Rank>(const char* name, const index_t(&shape)[Rank],
                                           double scale = 1, double center = 0) {
    const View<double, int(Rank)> view(nullptr, std::to_array(shape));
    std::vector<double> values(static_cast<std::size_t>(view.size()));
    const RandomStream random = RandomStream{s.seed, 3}.substream(++drawn);
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = center + scale * normal(random, i);
    const GradInput<int(Rank)> made(name, shape, std::move(values));
    return std::find(used.begin(), used.end(), name) != used.end() ? made : made.expect_zero();
  };
  // What the variant does not have is as small as can be.
  const index_t F = s.options.has_memory() ? s.H * s.D : 1;
  const double small = 1 / std::sqrt(double(s.D));
  return grad_check({.tolerance = s.tolerance, .coordinates = 1024, .seed = s.seed},
                    {s.B, s.H, s.M, s.D}, forward, backward, input("q", {s.B, s.H, s.M, s.D}),
                    input("k", {s.B, s.H, s.N, s.D}), input("v", {s.B, s.H, s.N, s.D}),
                    input("weight", {s.D, s.D}, small), input("leak", {1}, 0, 0.5),
                    input("threshold", {1}, 0, 0.3), input("sigma", {1}, 0, 0.6),
                    input("gate", {s.H}, 0.3, 1), input("rnn_key", {2 * F + 2, F}, small),
                    input("rnn_value", {2 * F + 2, F}, small));
}

/// One line per input that the options have; returns how many gradients are refused.
int print(const GradReport& report, const std::vector<std::string>& used) {
  if (!report.refusal.empty()) throw std::runtime_error(report.refusal);
  int refused = 0;
  for (const GradInputReport& x : report.inputs) {
    if (std::find(used.begin(), used.end(), x.name) == used.end()) continue;
    // Where one segment holds all keys, say, the recurrent part is zero.
    const bool zero = x.worst_error == 0 && x.norm_ratio == 0;
    if (zero) {
      std::printf("%-10s %4td zeros, by hand and by dual numbers\n", x.name.c_str(), x.compared);
      continue;
    }
    std::printf("%-10s %4td %s, worst relative difference %.1e%s%s\n", x.name.c_str(), x.compared,
                x.by_coordinate ? "elements" : "directions", x.worst_error,
                x.refusal.empty() ? "" : "  REFUSED: ", x.refusal.c_str());
    refused += !x.refusal.empty();
  }
  return refused;
}

}  // namespace

int main(int argc, char** argv) {
  return program::run([&] {
    Setting s;
    program::CrossAttentionFlags flags;
    CLI::App app("Check the gradients of a cross-attention against dual numbers");
    const auto size = CLI::Range(index_t{1}, index_t{1} << 20);
    flags.add_to(app);
    app.remove_option(app.get_option("--generation_horizon"));
    app.remove_option(app.get_option("--recurrence_init_scale"));
    app.remove_option(app.get_option("--binary_firing"));  // its backward is not its derivative
    app.add_option("--batch", s.B, "Sources")->check(size)->capture_default_str();
    app.add_option("--heads", s.H, "Heads")->check(size)->capture_default_str();
    app.add_option("--queries", s.M, "Queries of a source")->check(size)->capture_default_str();
    app.add_option("--keys", s.N, "Keys of a source")->check(size)->capture_default_str();
    app.add_option("--head_size", s.D, "Features of a head")->check(size)->capture_default_str();
    app.add_option("--lengths", s.lengths, "Keys that are not padding, for each source")
        ->check(size);
    app.add_option("--seed", s.seed, "Of all numbers")->capture_default_str();
    app.add_option("--tolerance", s.tolerance, "On the relative difference")->capture_default_str();
    app.add_option("--break", s.broken, "Scale the gradient of this input by 1.001");
    program::parse(app, argc, argv);

    nlohmann::json config = {
        {"cross_attention", {{"variant", "segmented_recurrent"}, {"segment_size", 5}}}};
    flags.apply(config);
    s.options = cross_attention_from_json(config, "the flags");
    if (!s.lengths.empty() && std::ssize(s.lengths) != s.B)
      throw program::usage_error("--lengths has " + std::to_string(s.lengths.size()) +
                                 " numbers for a batch of " + std::to_string(s.B));
    const std::vector<std::string> used = inputs_of(s.options);
    if (!s.broken.empty() && std::find(used.begin(), used.end(), s.broken) == used.end()) {
      std::string names;
      for (const std::string& name : used) names += (names.empty() ? "" : ", ") + name;
      throw program::usage_error("--break " + s.broken + " is not one of " + names);
    }

    std::printf("%s, q [%td,%td,%td,%td], k and v [%td,%td,%td,%td], segments of %td\n",
                variant_name(s.options.variant), s.B, s.H, s.M, s.D, s.B, s.H, s.N, s.D,
                s.options.segment_size);
    const int refused = print(check(s), used);
    if (refused > 0)
      throw std::runtime_error(std::to_string(refused) + " of " + std::to_string(used.size()) +
                               " gradients are not those of the forward");
  });
}
