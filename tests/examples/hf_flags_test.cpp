// SPDX-License-Identifier: Apache-2.0
#include <fstream>
#include <set>
#include <sstream>

#include "../../examples/hf_flags.hpp"
#include "support/catch.hpp"

using namespace srformer::program;
using Words = std::vector<std::string>;

namespace {

/// A program that has --seed and --num_beams.
HfFlagsGiven take(Words& words) {
  return take_hf_flags(
      words, [](const std::string& name) { return name == "--seed" || name == "--num_beams"; });
}

}  // namespace

TEST_CASE("flags of transformers are taken out of the command line with their values",
          "[hf_flags]") {
  Words words{"--seed",    "3",         "--report_to",
              "none",      "wandb",     "--num_beams=4",
              "--do_eval", "--fp16",    "False",
              "in.txt",    "--no_cuda", "--local_rank",
              "-1",        "--strange", "x"};
  const HfFlagsGiven given = take(words);
  CHECK(words == Words{"--seed", "3", "--num_beams=4", "--strange", "x"});
  CHECK(given.without_effect == Words{"--report_to", "--do_eval", "--no_cuda", "--local_rank"});
  CHECK(given.refused == Words{"--fp16 False in.txt: training is in float32; leave it out"});
}

TEST_CASE("a value that would have an effect is answered", "[hf_flags]") {
  const auto answer = [](Words words) {
    const HfFlagsGiven given = take(words);
    CHECK(words.empty());
    return given.refused.empty() ? "" : given.refused.front();
  };
  for (const Words& words : {Words{"--bf16=false"},
                             {"--bf16", "FALSE"},
                             {"--bf16", "0"},
                             {"--adafactor=no"},
                             {"--logging_strategy", "steps"},
                             {"--local_rank", "0"},
                             {"--eval_delay=0"},
                             {"--no_push_to_hub"},
                             {"--do_train"},
                             {"--no_remove_unused_columns"}})
    CHECK(answer(words).empty());
  CHECK(answer({"--bf16"}) == "--bf16: training is in float32; leave it out");
  CHECK(answer({"--bf16=true"}) == answer({"--bf16"}));
  CHECK(answer({"--adafactor"}) == "--adafactor: give --optim adafactor");
  CHECK(answer({"--logging_strategy", "epoch"}).starts_with("--logging_strategy epoch: "));
  CHECK(answer({"--dataset_name", "xsum"}).starts_with("--dataset_name xsum: give --train_file"));
  CHECK(answer({"--no_ignore_pad_token_for_loss"})
            .starts_with("--no_ignore_pad_token_for_loss false: "));
  CHECK(answer({"--generation_num_beams", "4"}) == "--generation_num_beams 4: give --num_beams");
}

TEST_CASE("the list has every flag once, with an answer, and so has its page", "[hf_flags]") {
  std::ifstream file(SRF_TESTS_DIR "/../docs/from_run_summarization.md");
  std::stringstream page;
  page << file.rdbuf();
  std::set<std::string_view> names;
  for (const HfFlag& flag : hf_flags) {
    INFO(flag.name);
    CHECK(names.insert(flag.name).second);
    CHECK((flag.neutral == "*") == flag.instead.empty());
    CHECK(flag.instead.size() < 120);
    CHECK(page.str().find("`--" + std::string(flag.name) + "`") != std::string::npos);
    if (!flag.instead.empty()) CHECK(page.str().find(flag.instead) != std::string::npos);
  }
  CHECK(names.size() > 140);
}
