// SPDX-License-Identifier: Apache-2.0
// The flags that say what data files are and which of their columns are read, alike in every program; docs/data.md has
// the rule.
#pragma once

#include <cstdio>
#include <string>
#include <vector>

#include <srformer/io/hf_checkpoint.hpp>
#include <srformer/io/pairs.hpp>
#if defined(SRF_HAS_ZLIB)
#include <srformer/io/gzip.hpp>
#endif

#include "program.hpp"

namespace srformer::program {

/// What makes a .gz file whole again, none in a build without zlib.
inline Decompress decompressor() {
#if defined(SRF_HAS_ZLIB)
  return gunzip;
#else
  return nullptr;
#endif
}

/// A flag that says what a file is.
inline void add_format_flag(CLI::App& app, const std::string& flag, std::string& format,
                            std::vector<std::string> choices = {"auto", "jsonl", "json", "csv",
                                                                "tsv", "text"}) {
  app.add_option(flag, format, "What the files are; auto: told by content and name")
      ->capture_default_str()
      ->check(CLI::IsMember(choices, CLI::ignore_case));
}

struct DataFlags {
  std::string text_column, summary_column, format = "auto";
  bool drop_empty = false;

  /// The flags of a program that reads texts.
  void add_texts_to(CLI::App& app, std::vector<std::string> formats) {
    app.add_option("--text_column", text_column, "Column of the texts; else found by its name");
    add_format_flag(app, "--input_format", format, std::move(formats));
    app.add_flag("--drop_empty", drop_empty,
                 "Leave out rows without a text or a summary, and count them");
  }

  /// Those of one that reads pairs, and of one that reads texts as well.
  void add_pairs_to(CLI::App& app,
                    std::vector<std::string> formats = {"auto", "jsonl", "json", "csv", "tsv"}) {
    app.add_option("--summary_column", summary_column,
                   "Column of the summaries; else found by its name");
    add_texts_to(app, std::move(formats));
  }

  ReadOptions options(SummaryColumn summary) const {
    return {format_from_name(format),
            text_column,
            summary == SummaryColumn::none ? "" : summary_column,
            summary,
            drop_empty,
            decompressor()};
  }
};

/// Notices on standard error, a line each.
inline void tell(const std::vector<std::string>& notices) {
  for (const std::string& notice : notices) std::fprintf(stderr, "%s\n", notice.c_str());
}

/// Which stored tensors a model has no use for; empty where it uses them all.
inline std::string left_over_notice(const HfCheckpoint& checkpoint,
                                    const std::vector<std::string>& names) {
  if (names.empty()) return "";
  return "notice: " + std::to_string(names.size()) + " tensors of " + checkpoint.folder().string() +
         " are not used: " + listed(names);
}

/// What a T5's config.json says should stand before every text, where no prefix was given and the texts, of which
/// `first` is one, do not have it; empty: nothing.
inline std::string prefix_notice(const nlohmann::json& config, bool given, std::string_view first) {
  nlohmann::json prefix = config;  // any part of the path may be absent or null
  for (const char* name : {"task_specific_params", "summarization", "prefix"})
    prefix = prefix.is_object() && prefix.contains(name) ? prefix[name] : nlohmann::json();
  if (given) return "";
  if (!prefix.is_string()) {
    if (first.starts_with("summarize:")) return "";
    const bool t5 = plain_model_type(config.value("model_type", "")) == "t5";
    return t5 ? "notice: T5's own checkpoints expect a prefix, as --source_prefix \"summarize: \"; "
                "this one "
                "names none, and none is given"
              : "";
  }
  const auto text = prefix.get<std::string>();
  if (text.find_first_not_of(' ') == std::string::npos || first.starts_with(text)) return "";
  return "notice: this checkpoint expects --source_prefix " + prefix.dump();
}

}  // namespace srformer::program
