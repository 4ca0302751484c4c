// SPDX-License-Identifier: Apache-2.0
// Holds the gradients of a cross-attention, derived by hand, against dual numbers through its forward, and its decoder
// steps against its forward.
//
//   check_gradient --cross_attention segmented_recurrent --segment_size 5 --gate true
//   check_gradient --break leak          scales one gradient by 1.001: it is refused, exit code 1
//
// Inputs are normal numbers, as are the gradients at the output. --lengths says how many keys each source of the
// batch has; the rest are padding.
#include <cstdio>
#include <srformer/testing/check_variant.hpp>

#include "cross_attention_flags.hpp"

namespace {

using namespace srformer;
using program::ProgramVariants;

/// The names of what has a gradient.
std::vector<std::string> inputs_of(const ProgramVariants::Options& options) {
  std::vector<std::string> names{"q", "k", "v"};
  ProgramVariants::visit_learned(options, {},
                                 [&](const LearnedInfo& info) { names.emplace_back(info.name); });
  return names;
}

/// One line per input; returns how many gradients are refused.
int print(const VariantReport& report) {
  if (!report.gradients.refusal.empty()) throw std::runtime_error(report.gradients.refusal);
  int refused = 0;
  for (const GradInputReport& x : report.gradients.inputs) {
    // Where one segment holds all keys, say, the recurrent part is zero.
    if (x.worst_error == 0 && x.norm_ratio == 0) {
      std::printf("%-14s %4td zeros, by hand and by dual numbers\n", x.name.c_str(), x.compared);
      continue;
    }
    std::printf("%-14s %4td %s, worst relative difference %.1e%s%s\n", x.name.c_str(), x.compared,
                x.by_coordinate ? "elements" : "directions", x.worst_error,
                x.refusal.empty() ? "" : "  REFUSED: ", x.refusal.c_str());
    refused += !x.refusal.empty();
  }
  std::printf("decoder steps differ from the forward by %.1e of its largest number\n",
              report.step_difference);
  return refused;
}

}  // namespace

int main(int argc, char** argv) {
  return program::run([&] {
    VariantCase sizes;
    sizes.zeros_allowed = true;
    double tolerance = 1e-10;
    program::CrossAttentionFlags flags;
    CLI::App app("Check the gradients of a cross-attention against dual numbers");
    const auto size = CLI::Range(index_t{1}, index_t{1} << 20);
    flags.add_to(app);
    for (const char* unused : {"--generation_horizon", "--recurrence_init_scale",
                               "--binary_firing"})  // its backward is not its derivative
      if (app.get_option_no_throw(unused) != nullptr) app.remove_option(app.get_option(unused));
    app.add_option("--batch", sizes.batch, "Sources")->check(size)->capture_default_str();
    app.add_option("--heads", sizes.heads, "Heads")->check(size)->capture_default_str();
    app.add_option("--queries", sizes.queries, "Queries of a source")
        ->check(size)
        ->capture_default_str();
    app.add_option("--keys", sizes.keys, "Keys of a source")->check(size)->capture_default_str();
    app.add_option("--head_size", sizes.head_size, "Features of a head")
        ->check(size)
        ->capture_default_str();
    app.add_option("--lengths", sizes.lengths, "Keys that are not padding, for each source")
        ->check(size);
    app.add_option("--seed", sizes.seed, "Of all numbers")->capture_default_str();
    app.add_option("--tolerance", tolerance, "On the relative difference")->capture_default_str();
    app.add_option("--break", sizes.broken, "Scale the gradient of this input by 1.001");
    program::parse(app, argc, argv);

    nlohmann::json config = {{"cross_attention", {{"variant", "segmented_recurrent"}}}};
    if (flags.variant) config["cross_attention"]["variant"] = *flags.variant;
    if (program::offers_option("segment_size")) config["cross_attention"]["segment_size"] = 5;
    flags.apply(config);
    const auto options =
        cross_attention_options<ProgramVariants>(cross_attention_from_json(config, "the flags"));
    if (!sizes.lengths.empty() && std::ssize(sizes.lengths) != sizes.batch)
      throw program::usage_error("--lengths has " + std::to_string(sizes.lengths.size()) +
                                 " numbers for a batch of " + std::to_string(sizes.batch));
    const std::vector<std::string> inputs = inputs_of(options);
    if (!sizes.broken.empty() && std::ranges::find(inputs, sizes.broken) == inputs.end()) {
      std::string names;
      for (const std::string& name : inputs) names += (names.empty() ? "" : ", ") + name;
      throw program::usage_error("--break " + sizes.broken + " is not one of " + names);
    }

    std::printf("%s, q [%td,%td,%td,%td], k and v [%td,%td,%td,%td]\n",
                std::string(options.name()).c_str(), sizes.batch, sizes.heads, sizes.queries,
                sizes.head_size, sizes.batch, sizes.heads, sizes.keys, sizes.head_size);
    const VariantReport report = check_variant<ProgramVariants>(
        options, sizes, {.tolerance = tolerance, .coordinates = 1024, .seed = sizes.seed});
    const int refused = print(report);
    if (refused > 0)
      throw std::runtime_error(std::to_string(refused) + " of " + std::to_string(inputs.size()) +
                               " gradients are not those of the forward");
    if (!report.steps_agree())
      throw std::runtime_error("the decoder steps are not the forward's rows");
  });
}
