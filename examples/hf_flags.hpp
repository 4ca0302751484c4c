// SPDX-License-Identifier: Apache-2.0
// The flags of transformers' run_summarization.py and Seq2SeqTrainingArguments that finetune does not have itself: which
// have no effect here, and what to give in place of the others. docs/from_run_summarization.md is made of this list.
#pragma once

#include <algorithm>
#include <cctype>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace srformer::program {

/// One flag of transformers. Its `neutral` values, with | between them, say what is done here anyway ("*": all do,
/// "": none does); any other value is answered with `instead`.
struct HfFlag {
  std::string_view name, neutral, instead;
};

inline constexpr HfFlag hf_flags[] = {
    // What is done.
    {"do_train", "*", ""},  // finetune has these three
    {"do_eval", "*", ""},
    {"do_predict", "*", ""},
    {"eval_strategy", "*", ""},
    {"evaluation_strategy", "*", ""},
    {"eval_on_start", "*", ""},
    {"save_strategy", "*", ""},
    {"load_best_model_at_end", "*", ""},
    {"metric_for_best_model", "*", ""},
    {"greater_is_better", "*", ""},
    {"report_to", "*", ""},
    {"logging_dir", "*", ""},
    {"overwrite_cache", "*", ""},
    {"eval_delay", "0", "evaluations begin with the first --eval_steps"},
    {"logging_strategy", "steps", "give --logging_steps"},
    {"logging_first_step", "*", ""},
    {"prediction_loss_only", "false", "give --predict_with_generate=false"},
    {"ignore_data_skip", "false", "a run that is resumed goes on in the data where it stopped"},
    {"save_only_model", "false",
     "checkpoints hold the optimizer, too; give --save_steps 0 for none"},
    // The model and its files.
    {"config_name", "", "--model_name_or_path is a folder with config.json; init_model makes one"},
    {"tokenizer_name", "",
     "--model_name_or_path is a folder with the tokenizer; copy its files there"},
    {"cache_dir", "*", ""},
    {"use_fast_tokenizer", "*", ""},
    {"model_revision", "main", "--model_name_or_path is a folder; fetch that revision first"},
    {"token", "*", ""},
    {"use_auth_token", "*", ""},
    {"hub_token", "*", ""},
    {"trust_remote_code", "*", ""},
    {"resize_position_embeddings", "false",
     "give a --max_source_length within the model's positions"},
    {"use_cache", "*", ""},
    {"generation_config", "",
     "put generation_config.json into the model's folder, or give its options as flags"},
    {"generation_max_length", "", "give --max_length"},
    {"generation_num_beams", "", "give --num_beams"},
    {"forced_bos_token", "", "give --forced_bos_token_id"},
    {"lang", "", "models of several languages are not read"},
    // The data.
    {"dataset_name", "",
     "give --train_file; load_dataset(...)[\"train\"].to_json(\"train.jsonl\") writes one"},
    {"dataset_config_name", "",
     "give --train_file; load_dataset(...)[\"train\"].to_json(\"train.jsonl\") writes one"},
    {"preprocessing_num_workers", "*", ""},
    {"val_max_target_length", "",
     "give --max_target_length for both, and --max_length for what is generated"},
    {"pad_to_max_length", "*", ""},
    {"ignore_pad_token_for_loss", "true", "padding never counts in the loss"},
    {"data_seed", "", "give --seed, which orders the data as well"},
    {"dataloader_drop_last", "false", "the last batch of an epoch is smaller and is used"},
    {"dataloader_num_workers", "*", ""},
    {"dataloader_pin_memory", "*", ""},
    {"dataloader_persistent_workers", "*", ""},
    {"dataloader_prefetch_factor", "*", ""},
    {"dataloader_multiprocessing_context", "*", ""},
    {"dataloader_in_order", "true", "data come in their order"},
    {"remove_unused_columns", "*", ""},
    {"label_names", "*", ""},
    {"length_column_name", "*", ""},
    {"train_sampling_strategy", "random", "give --group_by_length"},
    {"sortish_sampler", "false", "give --group_by_length"},
    // The optimizer and its numbers.
    {"optim_target_modules", "", "every parameter is trained"},
    {"adafactor", "false", "give --optim adafactor"},
    {"neftune_noise_alpha", "0", "no noise is added to embeddings"},
    {"average_tokens_across_devices", "*", ""},
    {"auto_find_batch_size", "false", "give a --per_device_train_batch_size that fits"},
    {"per_gpu_train_batch_size", "", "give --per_device_train_batch_size"},
    {"per_gpu_eval_batch_size", "", "give --per_device_eval_batch_size"},
    {"eval_accumulation_steps", "*", ""},
    {"eval_do_concat_batches", "*", ""},
    {"batch_eval_metrics", "*", ""},
    {"include_for_metrics", "*", ""},
    {"include_inputs_for_metrics", "*", ""},
    {"past_index", "-1", "models have no memory between steps"},
    // Numbers and memory.
    {"fp16", "false", "training is in float32; leave it out"},
    {"bf16", "false", "training is in float32; leave it out"},
    {"fp16_full_eval", "false",
     "evaluation is in the --dtype of training; summarize has --dtype float16"},
    {"bf16_full_eval", "false",
     "evaluation is in the --dtype of training; summarize has --dtype bfloat16"},
    {"fp16_opt_level", "*", ""},
    {"fp16_backend", "*", ""},
    {"half_precision_backend", "*", ""},
    {"tf32", "*", ""},
    {"gradient_checkpointing", "*", ""},
    {"gradient_checkpointing_kwargs", "*", ""},
    {"activation_checkpointing", "*", ""},
    {"activation_checkpointing_kwargs", "*", ""},
    {"torch_empty_cache_steps", "*", ""},
    {"torch_compile", "*", ""},
    {"torch_compile_backend", "*", ""},
    {"torch_compile_mode", "*", ""},
    {"torchdynamo", "*", ""},
    {"use_liger_kernel", "*", ""},
    {"liger_kernel_config", "*", ""},
    {"jit_mode_eval", "*", ""},
    {"use_ipex", "*", ""},
    {"full_determinism", "*", ""},
    // Machines.
    {"use_cpu", "true", "give --device"},
    {"no_cuda", "true", "give --device"},
    {"use_mps_device", "false", "give --device, which has no Metal"},
    {"tpu_num_cores", "", "give --device, which has no TPU"},
    {"tpu_metrics_debug", "*", ""},
    {"local_rank", "-1|0", "start ranks with mpirun or srun"},
    {"deepspeed", "", "give --zero 1"},
    {"fsdp", "", "give --zero 1"},
    {"fsdp_config", "*", ""},
    {"fsdp_min_num_params", "*", ""},
    {"fsdp_transformer_layer_cls_to_wrap", "*", ""},
    {"sharded_ddp", "", "give --zero 1"},
    {"parallelism_config", "", "ranks divide batches alone"},
    {"accelerator_config", "*", ""},
    {"split_batches", "*", ""},
    {"dispatch_batches", "*", ""},
    {"mp_parameters", "*", ""},
    {"xpu_backend", "*", ""},
    {"ray_scope", "*", ""},
    {"ddp_backend", "*", ""},
    {"ddp_find_unused_parameters", "*", ""},
    {"ddp_bucket_cap_mb", "*", ""},
    {"ddp_broadcast_buffers", "*", ""},
    {"ddp_static_graph", "*", ""},
    // What is told, and where.
    {"run_name", "*", ""},
    {"project", "*", ""},
    {"trackio_space_id", "*", ""},
    {"trackio_bucket_id", "*", ""},
    {"trackio_static_space_id", "*", ""},
    {"log_level", "*", ""},
    {"log_level_replica", "*", ""},
    {"log_on_each_node", "*", ""},
    {"logging_nan_inf_filter", "*", ""},
    {"include_num_input_tokens_seen", "*", ""},
    {"include_tokens_per_second", "*", ""},
    {"disable_tqdm", "*", ""},
    {"debug", "*", ""},
    {"skip_memory_metrics", "*", ""},
    {"save_on_each_node", "*", ""},
    {"save_safetensors", "true", "models are saved as safetensors"},
    {"enable_jit_checkpoint", "*", ""},
    {"restore_callback_states_from_checkpoint", "*", ""},
    {"eval_use_gather_object", "*", ""},
    {"push_to_hub", "false", "nothing is uploaded; huggingface-cli upload does it afterwards"},
    {"push_to_hub_model_id", "*", ""},
    {"push_to_hub_organization", "*", ""},
    {"push_to_hub_token", "*", ""},
    {"hub_model_id", "*", ""},
    {"hub_strategy", "*", ""},
    {"hub_private_repo", "*", ""},
    {"hub_always_push", "*", ""},
    {"hub_revision", "*", ""},
};

/// Flags of transformers that stood on a command line.
struct HfFlagsGiven {
  std::vector<std::string> without_effect;  ///< "--report_to"
  std::vector<std::string> refused;         ///< "--dataset_name xsum: what to do instead"
};

/// The flag of that name, also behind --no_, as HfArgumentParser has it of flags that are on by default.
inline const HfFlag* find_hf_flag(std::string_view name, bool& negated) {
  const auto find = [](std::string_view wanted) {
    const auto* found = std::ranges::find(hf_flags, wanted, &HfFlag::name);
    return found == std::end(hf_flags) ? nullptr : found;
  };
  negated = false;
  if (const HfFlag* flag = find(name)) return flag;
  negated = name.starts_with("no_");
  return negated ? find(name.substr(3)) : nullptr;
}

/// What a word says as transformers reads it: true or false, or neither.
inline std::optional<bool> truth_of(std::string word) {
  std::ranges::transform(word, word.begin(), [](unsigned char c) { return char(std::tolower(c)); });
  for (const char* yes : {"true", "t", "yes", "y", "1"})
    if (word == yes) return true;
  for (const char* no : {"false", "f", "no", "n", "0"})
    if (word == no) return false;
  return std::nullopt;
}

/// Whether `value` is one of those that change nothing here.
inline bool is_neutral(const HfFlag& flag, const std::string& value) {
  if (flag.neutral == "*") return true;
  for (std::string_view rest = flag.neutral; !rest.empty();) {
    const std::size_t end = std::min(rest.find('|'), rest.size());
    const std::string neutral(rest.substr(0, end));
    const bool truth = neutral == "true" || neutral == "false";
    if (value == neutral || (truth && truth_of(value) == truth_of(neutral))) return true;
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }
  return false;
}

/// Takes the flags of the list, with their values, out of the words of a command line. `known` says which names the
/// program has itself; those stay.
template <class Known>
HfFlagsGiven take_hf_flags(std::vector<std::string>& words, Known known) {
  HfFlagsGiven given;
  std::vector<std::string> kept;
  for (std::size_t i = 0; i < words.size(); ++i) {
    std::string name = words[i], value;
    const std::size_t equals = name.find('=');
    if (equals != std::string::npos) value = name.substr(equals + 1), name.resize(equals);
    bool negated = false;
    const HfFlag* flag = name.starts_with("--") && !known(name)
                             ? find_hf_flag(std::string_view(name).substr(2), negated)
                             : nullptr;
    if (flag == nullptr) {
      kept.push_back(words[i]);
      continue;
    }
    const auto is_value = [](const std::string& word) {
      return !word.starts_with('-') || (word.size() > 1 && word[1] >= '0' && word[1] <= '9');
    };
    for (; equals == std::string::npos && i + 1 < words.size() && is_value(words[i + 1]); ++i)
      value += (value.empty() ? "" : " ") + words[i + 1];
    if (value.empty()) value = "true";
    if (negated) value = truth_of(value) == false ? "true" : "false";
    if (is_neutral(*flag, value)) {
      given.without_effect.push_back(name);
    } else {
      given.refused.push_back(name + (value == "true" ? "" : " " + value.substr(0, 40)) + ": " +
                              std::string(flag->instead));
    }
  }
  words = std::move(kept);
  return given;
}

}  // namespace srformer::program
