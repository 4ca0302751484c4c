// SPDX-License-Identifier: Apache-2.0
// Counts what a cross-attention of one source costs, while it runs: multiplications, what matrix products read and
// write, and memory, of the forward, the backward and decoding. Prints JSON.
//
//   count_operations --cross_attention segmented_recurrent --segment_size 64 --queries 128 --keys 1024
#include <cstdio>
#include <srformer/testing/operation_counts.hpp>

#include "cross_attention_flags.hpp"

namespace {

using namespace srformer;
using program::ProgramVariants;

nlohmann::ordered_json json_of(const OperationCounts& counts) {
  return {{"multiply_adds", counts.multiply_adds},
          {"multiplications", counts.multiplications},
          {"moved", counts.moved},
          {"scratch", counts.scratch},
          {"allocated", counts.allocated}};
}

}  // namespace

int main(int argc, char** argv) {
  return program::run([&] {
    CountedSizes sizes;
    program::CrossAttentionFlags flags;
    CLI::App app("Count the operations and numbers of a cross-attention");
    flags.add_to(app);
    app.remove_option(app.get_option("--recurrence_init_scale"));
    const auto add = [&](const char* flag, index_t& value, const char* help) {
      app.add_option(flag, value, help)
          ->check(CLI::Range(index_t{1}, index_t{1} << 20))
          ->capture_default_str();
    };
    add("--heads", sizes.heads, "Heads");
    add("--queries", sizes.queries, "Queries, each a step of decoding");
    add("--keys", sizes.keys, "Keys of the source");
    add("--head_size", sizes.head_size, "Features of a head");
    program::parse(app, argc, argv);

    nlohmann::json config = {{"cross_attention", {{"variant", ProgramVariants::Options().name()}}}};
    flags.apply(config);
    const auto options =
        cross_attention_options<ProgramVariants>(cross_attention_from_json(config, "the flags"));
    const AttentionCounts counts = count_operations<ProgramVariants>(options, sizes);
    const nlohmann::ordered_json line{{"cross_attention", config["cross_attention"]},
                                      {"heads", sizes.heads},
                                      {"queries", sizes.queries},
                                      {"keys", sizes.keys},
                                      {"head_size", sizes.head_size},
                                      {"forward", json_of(counts.forward)},
                                      {"backward", json_of(counts.backward)},
                                      {"decoding", json_of(counts.decoding)}};
    std::printf("%s\n", line.dump(1).c_str());
  });
}
