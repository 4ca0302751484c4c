// SPDX-License-Identifier: Apache-2.0
// check_values VALUES REPLAY attention|models float64|float32 [--no-steps]: runs REPLAY on the inputs of
// every reference file below VALUES and compares what it computed; --no-steps leaves out the parameters
// after the optimizer's steps. Fails for a file that is in neither list
// below, for one that is absent, and for one of `not_yet` that REPLAY can run after all.
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <set>

#include "comparison.hpp"
#include "io/temporary_folder.hpp"

namespace srformer::reference {
namespace {

namespace fs = std::filesystem;
using Names = std::set<std::string>;

/// What `replay` must reproduce.
const Names attention_files{"ablation_1_no_segment",
                            "ablation_2_no_normalization",
                            "ablation_3_no_raf",
                            "ablation_4_segment_product",
                            "advance_token",
                            "dead_feature",
                            "full",
                            "gate",
                            "global_tokens_even",
                            "global_tokens_few_queries",
                            "global_tokens_one_query",
                            "global_tokens_one_segment",
                            "global_tokens_ragged",
                            "horizon",
                            "horizon_short",
                            "linear",
                            "mask_tail_global_tokens",
                            "mask_tail_segmented",
                            "mask_tail_segmented_recurrent",
                            "mask_tail_transformer_xl",
                            "recurrent_bart_even",
                            "recurrent_bart_few_queries",
                            "recurrent_bart_one_query",
                            "recurrent_bart_one_segment",
                            "recurrent_bart_ragged",
                            "recurrent_t5_even",
                            "recurrent_t5_few_queries",
                            "recurrent_t5_one_query",
                            "recurrent_t5_one_segment",
                            "recurrent_t5_ragged",
                            "segmented_even",
                            "segmented_few_queries",
                            "segmented_one_query",
                            "segmented_one_segment",
                            "segmented_ragged",
                            "sigma",
                            "sigma_gate",
                            "token_clamp",
                            "transformer_xl_even",
                            "transformer_xl_few_queries",
                            "transformer_xl_one_query",
                            "transformer_xl_one_segment",
                            "transformer_xl_ragged"};
const Names model_folders{
    "t5_full",          "t5_gated_untied",      "t5_global_tokens",  "t5_segmented", "t5_srformer",
    "t5_srformer_gate", "t5_srformer_upstream", "t5_transformer_xl", "t5_wide_heads"};

/// What it refuses so far, for want of BART.
const Names attention_not_yet{};
const Names models_not_yet{"bart_full", "bart_srformer", "bart_srformer_upstream"};

/// Whether the program said that it knows no such kind of model, and nothing else went wrong.
bool not_known(const std::string& said) {
  return said.find("\"model_type\" is ") != std::string::npos;
}

/// The generate calls that there are so far.
const std::vector<std::string> generate_calls{"greedy"};

std::string quoted(const fs::path& path) {
  std::string text = "'";
  for (const char c : path.string()) text += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return text + "'";
}

std::string text_of(const fs::path& path) {
  std::ifstream file(path);
  std::string text{std::istreambuf_iterator<char>(file), {}};
  while (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

/// One run of the program on the inputs of one file or folder.
struct Run {
  bool ended_well = false;
  std::string said;  ///< on stderr
  std::optional<Comparison> comparison{};
};

Run run(const fs::path& replay, const fs::path& reference, const std::string& dtype, bool steps) {
  const TemporaryFolder folder;
  const bool model = fs::is_directory(reference);
  const fs::path inputs = folder.path / reference.filename(), out = folder.path / "out";
  fs::path expected = reference;
  if (model) {
    expected /= "reference.safetensors";
    fs::create_directory(inputs);
    for (const auto& entry : fs::directory_iterator(reference)) {
      if (entry.path().filename() != "reference.safetensors") {
        fs::copy(entry.path(), inputs / entry.path().filename());
      }
    }
    strip(expected, inputs / "reference.safetensors");
  } else {
    strip(expected, inputs);
  }
  const std::string command = quoted(replay) + " " + quoted(inputs) + " " + quoted(out) +
                              " --dtype " + dtype + " --threads 1 2>" +
                              quoted(folder.path / "said");
  Run result;
  result.ended_well = std::system(command.c_str()) == 0;
  result.said = text_of(folder.path / "said");
  if (result.ended_well && fs::exists(out)) {
    Rules rules;
    rules.tolerance = dtype == "float64" ? 1e-9 : 1e-4;
    rules.steps = steps;
    if (model) rules.generate = generate_calls;
    result.comparison = compare(SafetensorsFile(expected), SafetensorsFile(out), rules);
  }
  return result;
}

int check(const fs::path& values, const fs::path& replay, const std::string& kind,
          const std::string& dtype, bool steps) {
  const bool models = kind == "models";
  const Names& wanted = models ? model_folders : attention_files;
  const Names& not_yet = models ? models_not_yet : attention_not_yet;
  Names present;
  for (const auto& entry : fs::directory_iterator(values / kind)) {
    present.insert(entry.path().stem().string());
  }
  std::size_t failures = 0;
  double worst = 0;
  const auto line = [&](const std::string& name, bool good, const std::string& text) {
    std::cout << (good ? "  " : "X ") << name << ": " << text << std::endl;
    failures += !good;
  };
  const auto path = [&](const std::string& name) {
    return values / kind / (models ? name : name + ".safetensors");
  };
  for (const std::string& name : wanted) {
    if (!present.contains(name)) {
      line(name, false, "absent");
      continue;
    }
    const Run done = run(replay, path(name), dtype, steps);
    if (!done.comparison) {
      line(name, false, "replay failed: " + done.said);
      continue;
    }
    line(name, done.comparison->ok(), done.comparison->text());
    worst = std::max(worst, done.comparison->worst);
  }
  for (const std::string& name : not_yet) {
    if (!present.contains(name)) {
      line(name, false, "absent");
      continue;
    }
    const Run done = run(replay, path(name), dtype, steps);
    line(name, !done.ended_well && not_known(done.said),
         done.ended_well
             ? "is listed as not there yet, but replay runs it; move it to the other list"
             : "not there yet: " + done.said);
  }
  for (const std::string& name : present) {
    if (!wanted.contains(name) && !not_yet.contains(name)) {
      line(name, false, "is in no list of check_values.cpp; add it");
    }
  }
  std::printf("%s %s: %zu compared, %zu not there yet, %zu failed, worst error %.2e\n",
              kind.c_str(), dtype.c_str(), wanted.size(), not_yet.size(), failures, worst);
  return failures == 0 ? 0 : 1;
}

}  // namespace
}  // namespace srformer::reference

int main(int argc, char** argv) {
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  const auto is_one = [&](std::size_t i, const char* a, const char* b) {
    return arguments[i] == a || arguments[i] == b;
  };
  if (arguments.size() < 4 || arguments.size() > 5 || !is_one(2, "attention", "models") ||
      !is_one(3, "float64", "float32") || (arguments.size() == 5 && arguments[4] != "--no-steps")) {
    std::cerr << "usage: check_values VALUES REPLAY attention|models float64|float32 "
                 "[--no-steps]\n";
    return 2;
  }
  try {
    return srformer::reference::check(arguments[0], arguments[1], arguments[2], arguments[3],
                                      arguments.size() == 4);
  } catch (const std::exception& error) {
    std::cerr << "check_values: " << error.what() << '\n';
    return 1;
  }
}
