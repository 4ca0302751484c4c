// SPDX-License-Identifier: Apache-2.0
// "post_processor" of tokenizer.json: the ids around those of a text.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include <srformer/core/error.hpp>
#include <srformer/text/folder_tokens.hpp>

namespace srformer::detail {

/// Throws io_error, naming `path`, for more ids around a text than these many.
inline void require_few_ids(const EncodingEnds& ends, const std::filesystem::path& path) {
  constexpr std::size_t most = 1000;
  if (ends.before.size() + ends.after.size() > most)
    throw io_error(path.string() + ": post_processor puts more than " + std::to_string(most) +
                   " ids around a text; take another tokenizer");
}

/// What a TemplateProcessing puts before and after the text.
inline void read_template(const nlohmann::json& step, const std::filesystem::path& path,
                          EncodingEnds& ends) {
  EncodingEnds found;
  auto& [before, after, left] = found;
  int texts = 0;
  for (const auto& part : step.at("single")) {
    if (part.contains("Sequence")) {
      ++texts;
      continue;
    }
    const auto name = part.at("SpecialToken").at("id").get<std::string>();
    for (const auto& id : step.at("special_tokens").at(name).at("ids"))
      (texts > 0 ? after : before).push_back(integer<std::int32_t>(id));
    require_few_ids(found, path);
  }
  if (texts != 1)
    throw io_error(path.string() + ": post_processor has the text " + std::to_string(texts) +
                   " times, expected once; correct it");
  ends.before.insert(ends.before.begin(), before.begin(), before.end());
  ends.after.insert(ends.after.end(), after.begin(), after.end());
}

inline void add_post_processor(const nlohmann::json& step, const std::filesystem::path& path,
                               EncodingEnds& ends) {
  const auto type = step.at("type").get<std::string>();
  if (type == "Sequence") {
    for (const auto& processor : step.at("processors")) add_post_processor(processor, path, ends);
  } else if (type == "RobertaProcessing" || type == "BertProcessing") {
    ends.before.insert(ends.before.begin(), integer<std::int32_t>(step.at("cls").at(1)));
    ends.after.push_back(integer<std::int32_t>(step.at("sep").at(1)));
    require_few_ids(ends, path);
  } else if (type == "TemplateProcessing") {
    read_template(step, path, ends);
  } else if (type != "ByteLevel") {  // which changes offsets only
    throw io_error(path.string() + ": post_processor " + one_line(type) +
                   " is not known here; take a tokenizer without it");
  }
}

/// The ids around a text; throws io_error unless they are below `size`.
inline void read_post_processor(const nlohmann::json& json, index_t size,
                                const std::filesystem::path& path, EncodingEnds& ends) {
  const nlohmann::json* step = given(json, "post_processor");
  if (step == nullptr) return;
  add_post_processor(*step, path, ends);
  require_few_ids(ends, path);
  for (const auto* ids : {&ends.before, &ends.after})
    for (const std::int32_t id : *ids)
      if (id < 0 || id >= size)
        throw io_error(path.string() + ": post_processor has id " + std::to_string(id) +
                       ", expected 0 to " + std::to_string(size - 1) + "; correct it");
}

}  // namespace srformer::detail
