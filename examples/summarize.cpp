// SPDX-License-Identifier: Apache-2.0
// Summaries of texts, one a line or in a column of JSON, CSV or TSV, by greedy or beam search or sampling.
//
//   summarize --model_name_or_path model --input_file test.jsonl --output_file summaries.txt
//   echo "A long text." | summarize --model_name_or_path model --stream
#include <unistd.h>
#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include <srformer/decode/batches.hpp>
#include <srformer/models/checkpoint.hpp>
#include <srformer/text/tokenizer.hpp>

#include "data_flags.hpp"
#include "device/device.hpp"
#include "generation_flags.hpp"

namespace {

using srformer::index_t;
using srformer::io_error;
using srformer::program::usage_error;
using Ids = std::vector<std::int32_t>;
using Output = srformer::Generated;

struct Options {
  std::vector<std::string> input{"-"};
  std::string model, output = "-", output_format = "text";
  std::optional<std::string> source_prefix;
  srformer::program::DataFlags data;
  std::optional<index_t> max_source_length, max_target_length;
  index_t batch_size = 16;
  bool truncation = false, stream = false;
  srformer::program::GenerationFlags generation;
  srformer::program::DeviceFlags device;

  void parse(int argc, char** argv) {
    CLI::App app("Summaries of texts");
    const auto at_least_one = srformer::program::at_least(1);
    app.add_option("--model_name_or_path", model, "Checkpoint folder")->required();
    app.add_option("--input_file", input, "Files, folders or patterns to read; - is standard input")
        ->capture_default_str();
    app.add_option("--output_file", output, "File to write; - is standard output")
        ->capture_default_str();
    data.add_texts_to(app, {"auto", "text", "jsonl", "json", "csv", "tsv", "ids"});
    app.get_option("--input_format")
        ->description("auto: told by content and name; ids: {\"input_ids\": [...]} on each line");
    app.add_option(
           "--output_format", output_format,
           "text: one a line; jsonl: {\"output_ids\": [...], \"score\": ..., \"text\": ...}")
        ->capture_default_str()
        ->check(CLI::IsMember({"text", "jsonl"}));
    app.add_option("--source_prefix", source_prefix, "Put before every text");
    app.add_option("--max_source_length", max_source_length, "Tokens of a source at most")
        ->check(at_least_one);
    app.add_flag("--truncation", truncation, "Cut longer sources instead of refusing them");
    app.add_option("--max_target_length", max_target_length,
                   "Tokens of a summary at most; else as generation_config.json says, or 128")
        ->check(at_least_one);
    app.add_option("--batch_size,--per_device_eval_batch_size", batch_size,
                   "Sources decoded together")
        ->capture_default_str()
        ->check(at_least_one);
    app.add_flag("--stream", stream,
                 "Write the summary of one text to standard output as it is generated");
    generation.add_to(app);
    device.add_to(app);
    srformer::program::parse(app, argc, argv);
    if (ids() && (!data.text_column.empty() || data.drop_empty))
      throw usage_error("--text_column and --drop_empty do not go with --input_format ids");
  }

  bool ids() const { return data.format == "ids"; }
};

/// A source and where it came from, as "test.jsonl:7".
struct Source {
  std::string place, text;
  Ids ids;
};

/// The sources, and what is to be said of their files.
struct Input {
  std::vector<Source> sources;
  std::vector<std::string> notices;
};

/// A source for each line {"input_ids": [...]}. Throws io_error for a line that has none.
Input read_ids(const Options& options) {
  Input input;
  const auto read = [&](const srformer::TableFile& file) {
    srformer::for_each_json_line(
        file.text(), [&](std::string_view line, std::size_t number, std::size_t begin) {
          Source source{file.shown() + ":" + std::to_string(number), {}, {}};
          const auto object = srformer::parse_json(line, source.place, begin);
          const auto ids = object.is_object() ? object.find("input_ids") : object.end();
          const bool fits = object.is_object() && ids != object.end() && ids->is_array() &&
                            !ids->empty() &&
                            std::ranges::all_of(*ids, srformer::detail::json_holds<std::int32_t>);
          if (!fits)
            throw io_error(source.place +
                           ": has no list of token ids; write {\"input_ids\": [...]} on each line");
          source.ids = ids->get<Ids>();
          input.sources.push_back(std::move(source));
          return true;
        });
  };
  srformer::ReadOptions as_lines = options.data.options(srformer::SummaryColumn::none);
  as_lines.format = srformer::FileFormat::jsonl;
  srformer::detail::for_each_table(options.input, as_lines, read);
  if (input.sources.empty())
    throw io_error(options.input.front() + ": holds no token ids; give at least one line");
  return input;
}

/// Every row of the input as text or ids. Throws io_error for a row that holds none.
Input read_sources(const Options& options) {
  if (options.ids()) return read_ids(options);
  auto read = srformer::read_column(
      options.input, {.name = options.data.text_column, .known = srformer::known_text_names()},
      options.data.options(srformer::SummaryColumn::none));
  Input input{{}, std::move(read.notices)};
  for (auto& [place, text] : read.rows)
    input.sources.push_back({std::move(place), std::move(text), {}});
  return input;
}

/// Fills in the ids of every source and holds them to the vocabulary and the greatest length.
void encode_sources(std::vector<Source>& sources, const Options& options,
                    const srformer::Tokenizer* tokenizer, const srformer::CommonConfig& config) {
  const index_t positions = config.max_positions, vocabulary = config.vocab_size;
  const bool flag =
      options.max_source_length && (positions == 0 || *options.max_source_length <= positions);
  const index_t longest = flag ? *options.max_source_length : positions;  // 0: no limit
  const std::string limit = flag ? "--max_source_length" : "the model's positions,";
  index_t cut = 0;
  for (Source& source : sources) {
    if (tokenizer != nullptr && !options.ids()) {
      try {
        source.ids = tokenizer->encode(options.source_prefix.value_or("") + source.text);
      } catch (const srformer::shape_error& error) {
        throw io_error(source.place + ": " + error.what() + "; correct the line");
      }
    }
    for (const std::int32_t id : source.ids)
      if (id < 0 || id >= vocabulary)
        throw io_error(source.place + ": token id " + std::to_string(id) +
                       " is outside the model's vocabulary of " + std::to_string(vocabulary) +
                       "; take the tokenizer of this model");
    if (longest == 0 || std::ssize(source.ids) <= longest) continue;
    if (!options.truncation)
      throw io_error(source.place + ": has " + std::to_string(source.ids.size()) +
                     " tokens, more than " + limit + " " + std::to_string(longest) +
                     "; give --truncation to cut longer sources");
    srformer::truncate(source.ids, longest, config.eos_token_id);
    ++cut;
  }
  if (cut > 0)
    std::fprintf(stderr, "%td of %zu sources were cut to %td tokens\n", cut, sources.size(),
                 longest);
}

/// What generation goes by.
srformer::GenerationConfig generation_of(const Options& options,
                                         const srformer::HfCheckpoint& checkpoint) {
  srformer::program::GenerationFlags flags = options.generation;
  if (options.max_target_length) {
    if (flags.max_length || flags.max_new_tokens)
      throw usage_error(
          "--max_target_length says the same as --max_length and --max_new_tokens; give one of "
          "them");
    flags.max_new_tokens = options.max_target_length;
  }
  return flags.over(checkpoint, 129);
}

/// Throws usage_error where no text could be written as it is generated.
void check_stream(const Options& options, const srformer::GenerationConfig& generation) {
  if (!options.stream) return;
  if (generation.num_beams > 1)
    throw usage_error(
        "--stream does not go with beams, which change their text until they end; give "
        "--num_beams 1");
  if (generation.num_return_sequences > 1)
    throw usage_error("--stream writes one output; give --num_return_sequences 1");
  if (options.output_format != "text" || options.output != "-")
    throw usage_error(
        "--stream writes text to standard output; leave out --output_format jsonl and "
        "--output_file");
}

/// A line on a terminal that is written over; nothing elsewhere.
class Progress {
 public:
  explicit Progress(std::size_t total) : total_(total), terminal_(::isatty(STDERR_FILENO) == 1) {}
  ~Progress() {
    if (terminal_) std::fputs("\r\033[K", stderr);
  }
  void add(std::size_t sources, std::size_t tokens) {
    done_ += sources, tokens_ += tokens;
    const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - start_;
    if (terminal_)
      std::fprintf(stderr, "\r%zu of %zu, %.0f tokens/s\033[K", done_, total_,
                   static_cast<double>(tokens_) / passed.count());
  }

 private:
  std::size_t total_, done_ = 0, tokens_ = 0;
  bool terminal_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

/// The outputs of every source, in the order of the sources.
std::vector<Output> generate(srformer::program::AnyModel& model, const std::vector<Source>& sources,
                             index_t batch_size, const srformer::GenerationConfig& generation) {
  std::vector<Ids> ids;
  for (const Source& source : sources) ids.push_back(source.ids);
  Progress progress(sources.size());
  return srformer::generate_in_batches(
      ids, batch_size, model.config().pad_token_id, generation.num_return_sequences,
      [&](const Ids& batch, const std::vector<index_t>& lengths, std::uint64_t first) {
        return model.generate(batch, lengths, generation, first);
      },
      [&](std::size_t made, std::size_t tokens) { progress.add(made, tokens); });
}

void write_text(const std::string& path, const std::string& text) {
  if (path != "-") {
    srformer::ReplacementFile file(path);
    file.write(text);
    file.commit();
  } else if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() ||
             std::fflush(stdout) != 0) {
    throw io_error("standard output cannot be written; see where it leads");
  }
}

/// Writes the text of the only source's only output as it is generated, and ends the line.
void stream(srformer::program::AnyModel& model, const Source& source,
            const srformer::Tokenizer& tokenizer, const srformer::GenerationConfig& generation) {
  srformer::TextStream text(tokenizer);
  const auto write = [](std::string part) {
    std::ranges::replace(part, '\n', ' ');
    write_text("-", part);
  };
  const index_t length = std::ssize(source.ids);
  model.generate(source.ids, {&length, 1}, generation, 0,
                 [&](index_t, std::int32_t token) { write(text.add(token)); });
  write(text.finish());
  write_text("-", "\n");
}

/// One line per output.
std::string as_lines(const std::vector<Output>& outputs, const Options& options,
                     const srformer::Tokenizer* tokenizer) {
  std::string lines;
  for (const auto& [ids, score] : outputs) {
    std::string text = tokenizer != nullptr ? tokenizer->decode(ids) : "";
    if (options.output_format == "text") {
      std::ranges::replace(text, '\n', ' ');
      lines += text;
    } else {
      nlohmann::ordered_json line{{"output_ids", ids}, {"score", score}};
      if (tokenizer != nullptr) line["text"] = std::move(text);
      lines += line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
    }
    lines += '\n';
  }
  return lines;
}

/// Ids in and JSON out do without one.
bool needs_tokenizer(const Options& options) {
  return !options.ids() || options.output_format != "jsonl";
}

bool has_tokenizer(const std::filesystem::path& folder) {
  return std::ranges::any_of(
      std::array{"spiece.model", "tokenizer.json", "vocab.json"},
      [&](const char* name) { return std::filesystem::exists(folder / name); });
}

}  // namespace

int main(int argc, char** argv) {
  return srformer::program::run([&] {
    Options options;
    options.parse(argc, argv);
    const srformer::HfCheckpoint checkpoint(options.model);
    const srformer::GenerationConfig generation = generation_of(options, checkpoint);
    check_stream(options, generation);
    std::optional<srformer::Tokenizer> tokenizer;
    if (needs_tokenizer(options) || has_tokenizer(checkpoint.folder()))
      tokenizer.emplace(checkpoint.folder());
    auto [sources, notices] = read_sources(options);
    if (options.stream && sources.size() > 1)
      throw usage_error("--stream writes the summary of one text, but the input holds " +
                        std::to_string(sources.size()));

    const auto device = srformer::program::open_device(options.device);
    const auto model = device->model(srformer::program::ProgramArchitectures::read(checkpoint));
    const std::string left_over =
        srformer::program::left_over_notice(checkpoint, model->load(checkpoint, false));
    if (!left_over.empty()) srformer::program::tell({left_over});
    const srformer::Tokenizer* words = tokenizer ? &*tokenizer : nullptr;
    encode_sources(sources, options, words, model->config());
    srformer::program::tell(notices);
    const std::string prefix = srformer::program::prefix_notice(
        checkpoint.config(), options.source_prefix || options.ids(), sources.front().text);
    if (!prefix.empty()) srformer::program::tell({prefix});
    if (options.stream) return stream(*model, sources.front(), *tokenizer, generation);
    const auto outputs = generate(*model, sources, options.batch_size, generation);
    write_text(options.output, as_lines(outputs, options, words));
  });
}
