// SPDX-License-Identifier: Apache-2.0
// A model from a Hugging Face folder and back.
#pragma once

#include <algorithm>
#include <iterator>
#include <memory>
#include <string_view>

#include <srformer/models/architectures.hpp>

namespace srformer {

namespace detail {

/// A slot that fills a parameter, through host memory where the backend is elsewhere.
template <class B, class T>
TensorSlot parameter_slot([[maybe_unused]] B& be, Parameter<B, T>& p) {
  if constexpr (std::is_same_v<typename B::space, host_space>) {
    return host_slot(p.name, p.aliases, p.shape,
                     std::span<T>(p.value, static_cast<std::size_t>(p.count)));
  } else {
    return {p.name,
            p.aliases,
            p.shape,
            true,
            [&be, &p](const SafetensorsFile& file, const std::string& name) {
              const std::vector<T> values = file.read<T>(name);
              be.from_host(p.value, values.data(), p.count);
            },
            dtype_of<T>};
  }
}

/// As config.json writes it.
inline std::string torch_dtype(DType dtype) {
  switch (dtype) {
    case DType::f64:
      return "float64";
    case DType::f16:
      return "float16";
    case DType::bf16:
      return "bfloat16";
    default:
      return "float32";
  }
}

/// The Python file as a raw string, from whose first and last line it takes the quotes.
inline constexpr std::string_view modeling_source =
#include <srformer/models/modeling_srformer.py>
    ;

/// Whether a configuration says that its class is in modeling_srformer.py.
inline bool needs_modeling(const nlohmann::json& config) {
  const auto found = config.find("auto_map");
  return found != config.end() && found->is_object() && std::ranges::any_of(*found, names_modeling);
}

}  // namespace detail

/// modeling_srformer.py: the variants in Python, by which transformers reads a folder of this library with
/// trust_remote_code.
constexpr std::string_view modeling_text() {
  std::string_view text = detail::modeling_source;
  text.remove_prefix(std::string_view("\"\"\"\n").size());
  text.remove_suffix(std::string_view("# ").size());
  return text;
}

/// The configuration of a checkpoint whose architecture is known; io_error for another.
template <ModelConfiguration Config>
Config read_config(const HfCheckpoint& checkpoint) {
  Config config = config_from_json<Config>(checkpoint.config(), checkpoint.config_path());
  complete_from(checkpoint, config);
  return config;
}

/// The names of what the variants of a list add to a cross-attention, as patterns.
template <class List = PaperVariants>
std::vector<std::string> variant_parameter_patterns() {
  std::vector<std::string> patterns;
  for (const VariantDescription& v : List::describe())
    for (const std::string& name : v.learned) patterns.push_back("*." + name);
  return patterns;
}

/// Whether a variant of the list adds a parameter of this name.
template <class List = PaperVariants>
bool is_variant_parameter(std::string_view name) {
  return std::ranges::any_of(variant_parameter_patterns<List>(), [&](const std::string& pattern) {
    return matches_pattern(name, pattern);
  });
}

/// Fills the parameters of a model. Those that a variant adds may be absent only if `new_variant`; they keep their
/// values then, and stored ones that the model has no use for are passed over. Anything else missing, misshapen or
/// quantized is one io_error that names it. Returns the names of stored tensors that the model has no use for, a
/// variant's aside.
template <class Model>
std::vector<std::string> load_parameters(Model& model, const HfCheckpoint& checkpoint,
                                         bool new_variant = false) {
  using List = typename Model::variants;
  model.parameters().require_numbers("load_parameters");
  std::vector<TensorSlot> slots;
  for (auto& p : model.parameters()) {
    slots.push_back(detail::parameter_slot(model.backend(), p));
    if ((new_variant && is_variant_parameter<List>(p.name)) || p.role == Role::constant)
      slots.back().required = false;
  }
  LoadOptions options = model.load_options();
  for (std::string& pattern : variant_parameter_patterns<List>())
    (new_variant ? options.ignore_unexpected : options.refuse_unexpected)
        .push_back(std::move(pattern));
  return checkpoint.load(slots, options);
}

/// A model with the weights of a folder, of the architecture that its config.json says.
template <class T, class List = PaperVariants, class Known = PaperArchitectures, class B>
std::unique_ptr<EncoderDecoder<B, T, List>> load_model(B& be, const std::filesystem::path& folder) {
  const HfCheckpoint checkpoint(folder);
  auto model = Known::template make<T, List>(be, Known::read(checkpoint));
  load_parameters(*model, checkpoint);
  return model;
}

/// A T5 with the weights of a folder.
template <class T, class List = PaperVariants, class B>
std::unique_ptr<T5<B, T, List>> load_t5(B& be, const std::filesystem::path& folder) {
  const HfCheckpoint checkpoint(folder);
  auto model = std::make_unique<T5<B, T, List>>(be, read_config<T5Config>(checkpoint));
  load_parameters(*model, checkpoint);
  return model;
}

/// A BART with the weights of a folder.
template <class T, class List = PaperVariants, class B>
std::unique_ptr<Bart<B, T, List>> load_bart(B& be, const std::filesystem::path& folder) {
  const HfCheckpoint checkpoint(folder);
  auto model = std::make_unique<Bart<B, T, List>>(be, read_config<BartConfig>(checkpoint));
  load_parameters(*model, checkpoint);
  return model;
}

/// Writes config.json, generation_config.json and model.safetensors, which transformers reads back, in the type that
/// config.json then says. With them goes modeling_srformer.py where transformers needs it to read the model: for a T5 or
/// BART whose cross-attention is a variant.
///   generation_config  an object; null is one without options
template <class Model>
void save_model(Model& model, const std::filesystem::path& folder, DType dtype,
                const nlohmann::json& generation_config) {
  using B = typename Model::backend_type;
  using T = typename Model::scalar;
  B& be = model.backend();
  model.parameters().require_numbers("save_model");
  SafetensorsWriter writer;
  for (auto& p : model.parameters()) {
    if constexpr (std::is_same_v<typename B::space, host_space>) {
      writer.add(p.name, dtype, p.shape,
                 std::span<const T>(p.value, static_cast<std::size_t>(p.count)));
    } else {
      writer.add_stream<T>(p.name, dtype, p.shape, [&be, &p](index_t first, std::span<T> out) {
        be.to_host(out.data(), static_cast<const T*>(p.value) + first,
                   static_cast<index_t>(out.size()));
      });
    }
  }
  nlohmann::json config = model.config_json();
  config.erase("torch_dtype");  // the older name of the same
  config["dtype"] = detail::torch_dtype(dtype);
  std::vector<NamedText> others;
  if (detail::needs_modeling(config))
    others.push_back({std::string(detail::modeling_module) + ".py", modeling_text()});
  save_checkpoint(folder, std::move(writer), config,
                  generation_config.is_null() ? nlohmann::json::object() : generation_config,
                  others);
}

}  // namespace srformer
