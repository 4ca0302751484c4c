// SPDX-License-Identifier: Apache-2.0
// Settings under a name: what they come to, and that flags go before them.
#include "../../examples/presets.hpp"

#include "../../examples/config_file.hpp"
#include "../io/temporary_folder.hpp"
#include "support/catch.hpp"

using namespace srformer::program;
using Catch::Matchers::ContainsSubstring;

namespace {

using Line = std::vector<std::string>;

/// The command line with the preset's flags in it.
Line with_preset(Line words) {
  expand_preset(words, finetune_presets());
  return words;
}

/// The word of a flag, or nothing.
std::string word_of(const Line& words, const std::string& flag) {
  for (const std::string& word : words)
    if (word.starts_with("--" + flag + "=")) return word.substr(flag.size() + 3);
  return "";
}

}  // namespace

TEST_CASE("the presets have the numbers that the documentation says") {
  CHECK(with_preset({"--preset", "paper-t5-small"}) ==
        Line{"--cross_attention=segmented_recurrent", "--segment_size=64", "--gate=false",
             "--soft_keys=none", "--recurrence_init_scale=1", "--max_source_length=1024",
             "--max_target_length=128", "--per_device_train_batch_size=16", "--num_train_epochs=25",
             "--optim=adamw_torch", "--learning_rate=5e-5", "--lr_scheduler_type=linear",
             "--warmup_steps=0", "--weight_decay=0", "--max_grad_norm=0", "--num_beams=1",
             "--source_prefix=summarize: ", "--preset", "paper-t5-small"});
  const Line bart = with_preset({"--preset=paper-bart-base"});
  CHECK(word_of(bart, "per_device_train_batch_size") == "8");
  CHECK(word_of(bart, "num_beams") == "4");
  CHECK(word_of(bart, "source_prefix").empty());
  CHECK(word_of(bart, "num_train_epochs") == "25");
  CHECK(with_preset({"--preset", "t5-adafactor"}) ==
        Line{"--optim=adafactor",
             "--optim_args=scale_parameter=False,relative_step=False,warmup_init=False,"
             "clip_threshold=1.0",
             "--learning_rate=1e-3", "--lr_scheduler_type=constant", "--weight_decay=0",
             "--max_grad_norm=0", "--preset", "t5-adafactor"});
  CHECK(with_preset({"--preset", "denoise-pilot"}) ==
        Line{"--objective=text_infilling", "--whole_words=true", "--text_length=60",
             "--noise_density=0.08", "--span_length=uniform", "--mean_span_length=2",
             "--denoised_length=40", "--preset", "denoise-pilot"});
}

TEST_CASE("flags go before those of a preset, and take with them what belongs to them") {
  const auto t5 = [](Line words) {
    words.insert(words.end(), {"--preset", "paper-t5-small"});
    return with_preset(words);
  };
  CHECK(word_of(t5({"--learning-rate", "1e-3"}), "learning_rate").empty());
  CHECK(word_of(t5({"--learning_rate=1e-3"}), "learning_rate") == "1e-3");
  CHECK(word_of(t5({"--max_steps", "9"}), "num_train_epochs").empty());
  CHECK(word_of(t5({"--warmup_ratio", "0.1"}), "warmup_steps").empty());
  const Line segmented = t5({"--cross_attention", "full"});
  CHECK((word_of(segmented, "segment_size").empty() &&
         word_of(segmented, "recurrence_init_scale").empty()));
  const Line same = t5({"--cross_attention", "segmented_recurrent"});
  CHECK((word_of(same, "segment_size") == "64" && word_of(same, "recurrence_init_scale") == "1"));
  const Line spans = with_preset({"--preset", "denoise-pilot", "--objective=span_corruption"});
  CHECK((word_of(spans, "whole_words").empty() && word_of(spans, "mean_span_length").empty()));
  // They say what an evaluation is of as well.
  CHECK(word_of(with_preset({"--preset", "denoise-pilot", "--do_eval"}), "text_length") == "60");
  const auto adafactor = with_preset({"--preset", "t5-adafactor", "--optim=sgd"});
  CHECK(word_of(adafactor, "optim_args").empty());
  CHECK(word_of(adafactor, "learning_rate") == "1e-3");
}

TEST_CASE("where nothing is trained a preset says nothing of training") {
  for (const Line& words :
       {Line{"--do_predict"}, {"--do_eval"}, {"--do_train=false", "--do_eval"}}) {
    Line line = words;
    line.insert(line.end(), {"--preset", "paper-t5-small"});
    CHECK(expand_preset(line, finetune_presets()) ==
          Line{"max_source_length", "max_target_length", "num_beams", "source_prefix"});
  }
  CHECK(word_of(with_preset({"--do_eval", "--do_train", "--preset", "paper-t5-small"}), "optim") ==
        "adamw_torch");
}

TEST_CASE("a file of flags may name a preset, and goes before it") {
  const TemporaryFolder folder;
  const std::string path = (folder.path / "flags.json").string();
  srformer::ReplacementFile file(path);
  file.write(R"({"preset": "t5-adafactor", "learning_rate": 1e-4})");
  file.commit();
  Line words{"--config", path};
  expand_config(words);
  words = with_preset(words);
  CHECK(word_of(words, "learning_rate") == "0.0001");
  CHECK(word_of(words, "optim") == "adafactor");
}

TEST_CASE("a name that there is not is left to the parser") {
  CHECK(with_preset({"--preset", "t5"}) == Line{"--preset", "t5"});
  CHECK(with_preset({"--seed", "1"}) == Line{"--seed", "1"});
}

TEST_CASE("a preset says what it changes of a checkpoint, and refuses another architecture") {
  const Preset& preset = *find_preset(finetune_presets(), "paper-t5-small");
  const Line given{"cross_attention", "segment_size", "learning_rate"};
  const auto notice = [&](const nlohmann::json& config) {
    check_preset(preset, config, "model");
    return preset_notice(preset, given, config);
  };
  CHECK(notice({{"model_type", "t5"}}).empty());
  CHECK(notice({{"model_type", "t5"}, {"cross_attention", {{"variant", "full"}}}}).empty());
  CHECK(notice({{"model_type", "srformer_t5"}}).empty());
  CHECK(notice({{"model_type", "t5"},
                {"cross_attention", {{"variant", "segmented_recurrent"}, {"segment_size", 64}}}})
            .empty());
  CHECK(notice({{"model_type", "t5"},
                {"cross_attention", {{"variant", "segmented"}, {"segment_size", 16}}}}) ==
        "notice: --preset paper-t5-small goes over the checkpoint's config.json: cross_attention "
        "segmented_recurrent in place of segmented, segment_size 64 in place of 16");
  CHECK_THROWS_WITH(notice({{"model_type", "bart"}}),
                    ContainsSubstring("is for a t5, and model is a bart"));
  CHECK_NOTHROW(check_preset(*find_preset(finetune_presets(), "t5-adafactor"),
                             {{"model_type", "bart"}}, "model"));
}
