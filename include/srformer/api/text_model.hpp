// SPDX-License-Identifier: Apache-2.0
// A folder opened as a whole: model, tokenizer and generation options, for texts in and texts out.
//
//   srformer::TextModel model("t5-small");
//   std::string summary = model.generate("summarize: " + article);
//
// Architecture and scalar are those of the files; the backend is a type. Programs that choose the backend when they run
// are built on the headers beneath: examples/device.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include <srformer/backend/eigen.hpp>
#include <srformer/decode/batches.hpp>
#include <srformer/decode/generation_config.hpp>
#include <srformer/models/checkpoint.hpp>
#include <srformer/text/tokenizer.hpp>
#include <srformer/train/trainer.hpp>

namespace srformer {

/// The scalar that most numbers of a checkpoint are stored in; io_error where that is no floating-point type.
inline DType stored_dtype(const HfCheckpoint& checkpoint) {
  std::map<DType, std::size_t> bytes;
  for (const std::string& name : checkpoint.names()) {
    const TensorInfo& info = checkpoint.file_of(name).info(name);
    bytes[info.dtype] += info.bytes.size();
  }
  const auto most =
      std::ranges::max_element(bytes, {}, [](const auto& entry) { return entry.second; });
  if (most == bytes.end())
    throw io_error(checkpoint.folder().string() + ": holds no tensors; fetch the weights again");
  return most->first;
}

/// A text and what is to be made of it.
struct TextPair {
  std::string text, target;
};

/// How a folder is opened.
struct OpenOptions {
  std::optional<DType> dtype{};  ///< f32, f64, bf16 or f16 in place of that of the files
};

template <class B = EigenBackend, class List = PaperVariants, class Known = PaperArchitectures>
class TextModel {
 public:
  template <class T>
  using Model = EncoderDecoder<B, T, List>;

  /// io_error names what is absent, damaged or not supported in the folder.
  explicit TextModel(const std::filesystem::path& folder, const OpenOptions& options = {},
                     std::shared_ptr<B> backend = std::make_shared<B>())
      : be_(std::move(backend)), folder_(folder), tokenizer_(folder) {
    const HfCheckpoint checkpoint(folder);
    generation_ = srformer::generation_config(checkpoint);
    generation_json_ = generation_options_alone(checkpoint);
    const DType dtype = options.dtype.value_or(stored_dtype(checkpoint));
    switch (dtype) {
      case DType::f32:
        load<float>(checkpoint);
        break;
      case DType::f64:
        load<double>(checkpoint);
        break;
      case DType::bf16:
        load<Eigen::bfloat16>(checkpoint);
        break;
      case DType::f16:
        load<Eigen::half>(checkpoint);
        break;
      default:
        throw io_error(folder.string() + ": its weights are stored as " +
                       std::string(properties(dtype).name) +
                       ", expected F32, F64, BF16 or F16; convert the checkpoint");
    }
  }

  const Tokenizer& tokenizer() const { return tokenizer_; }
  const CommonConfig& config() const {
    return visit([](auto& model) -> const CommonConfig& { return model.config(); });
  }
  /// The folder's options of generation, to be changed and given to generate.
  const GenerationConfig& generation_config() const { return generation_; }
  /// f(model) with the EncoderDecoder of the scalar that was opened.
  template <class F>
  decltype(auto) visit(F&& f) const {
    return std::visit([&](const auto& model) -> decltype(auto) { return f(*model); }, model_);
  }

  /// The ids of a text. shape_error for a text longer than the model's positions, where `cut` is not set.
  std::vector<std::int32_t> encode(std::string_view text, bool cut = false) const {
    std::vector<std::int32_t> ids = tokenizer_.encode(text);
    const index_t longest = config().max_positions;
    if (longest == 0 || std::ssize(ids) <= longest) return ids;
    require(cut, "TextModel::encode",
            "a text of " + std::to_string(ids.size()) + " tokens is longer than the model's " +
                std::to_string(longest) + " positions; cut it, or ask for that");
    truncate(ids, longest, config().eos_token_id);
    return ids;
  }

  /// What the model writes for a text, by the folder's options or others.
  std::string generate(std::string_view text) { return generate(text, generation_); }
  std::string generate(std::string_view text, const GenerationConfig& options) {
    const std::string texts[] = {std::string(text)};
    return generate_all(texts, options).front();
  }

  /// The same for many, in batches of similar length; options.num_return_sequences of each, after each other.
  std::vector<std::string> generate_all(std::span<const std::string> texts,
                                        const GenerationConfig& options, index_t batch_size = 16) {
    std::vector<std::vector<std::int32_t>> sources;
    for (const std::string& text : texts) sources.push_back(encode(text));
    std::vector<std::string> made;
    for (const Generated& sequence : generate_ids(sources, options, batch_size))
      made.push_back(tokenizer_.decode(sequence.ids));
    return made;
  }

  /// The same from ids to ids.
  std::vector<Generated> generate_ids(std::span<const std::vector<std::int32_t>> sources,
                                      const GenerationConfig& options, index_t batch_size = 16) {
    return visit([&](auto& model) {
      return generate_in_batches(
          sources, batch_size, config().pad_token_id, options.num_return_sequences,
          [&](const auto& ids, const auto& lengths, std::uint64_t first) {
            return srformer::generate(model, ids, lengths, options, first);
          },
          [](std::size_t, std::size_t) {});
    });
  }

  /// Tells `write` the parts of the text as they are generated. Not with beams, which change theirs until they end.
  void stream(std::string_view text, const GenerationConfig& options,
              const std::function<void(const std::string&)>& write) {
    require(options.num_beams == 1 && options.num_return_sequences == 1, "TextModel::stream",
            "beams change their text until they end, and one text is streamed; take num_beams 1 "
            "and num_return_sequences 1");
    const std::vector<std::int32_t> ids = encode(text);
    const index_t length = std::ssize(ids);
    TextStream parts(tokenizer_);
    const auto told = [&](const std::string& part) {
      if (!part.empty()) write(part);
    };
    visit([&](auto& model) {
      srformer::generate(model, ids, std::span(&length, 1), options, 0,
                         [&](index_t, std::int32_t token) { told(parts.add(token)); });
    });
    told(parts.finish());
  }

  /// The logarithm of the probability that the model gives to `target` for `text`, its end token included.
  double score(std::string_view text, std::string_view target) {
    const Example example{encode(text), encode(target)};
    const index_t first[] = {0};
    const Batch batch = make_batch(std::span(&example, 1), first, config().pad_token_id);
    return visit([&]<class T>(Model<T>& model) {
      auto sum = zeros<accumulate_t<T>, 1>(*be_, {1});
      model.add_loss(batch, 0, sum.view());
      return -read_number(*be_, sum.data());
    });
  }

  /// Trains on pairs; longer texts are cut to the model's positions. after_step(report) may return false to stop.
  /// backend_error for 16 bits, which lose the small steps of an optimizer: open the folder as f32.
  void train(std::span<const TextPair> pairs, const TrainingOptions& options,
             const std::function<bool(const StepReport&)>& after_step = {}) {
    std::vector<Example> examples;
    for (const TextPair& pair : pairs)
      examples.push_back({encode(pair.text, true), encode(pair.target, true)});
    visit([&]<class T>(Model<T>& model) {
      if constexpr (std::is_floating_point_v<T>) {
        Trainer trainer(model, std::span<const Example>(examples), options);
        trainer.run([&](const StepReport& report) { return !after_step || after_step(report); });
      } else {
        throw backend_error(
            "TextModel::train: parameters stored in 16 bits lose the small steps of the "
            "optimizer; open the folder with {.dtype = DType::f32}");
      }
    });
  }

  /// Writes what transformers and this class open: model, tokenizer and generation options.
  void save(const std::filesystem::path& folder) {
    visit([&]<class T>(Model<T>& model) {
      save_model(model, folder, *dtype_of<T>, generation_json_);
    });
    copy_tokenizer_files(folder_, folder);
  }

 private:
  template <class T>
  void load(const HfCheckpoint& checkpoint) {
    auto model = Known::template make<T, List>(*be_, Known::read(checkpoint));
    load_parameters(*model, checkpoint);
    model_ = std::move(model);
  }

  std::shared_ptr<B> be_;
  std::filesystem::path folder_;
  Tokenizer tokenizer_;
  GenerationConfig generation_;
  nlohmann::json generation_json_;
  std::variant<std::unique_ptr<Model<float>>, std::unique_ptr<Model<double>>,
               std::unique_ptr<Model<Eigen::bfloat16>>, std::unique_ptr<Model<Eigen::half>>>
      model_;
};

}  // namespace srformer
