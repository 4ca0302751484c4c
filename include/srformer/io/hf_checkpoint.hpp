// SPDX-License-Identifier: Apache-2.0
// Checkpoint folders in the layout of transformers: config.json, generation_config.json, and the
// weights in model.safetensors or in the shards that model.safetensors.index.json lists.
#pragma once

#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <type_traits>

#include <srformer/io/safetensors.hpp>

namespace srformer {

/// Parses a JSON file; throws io_error with path, byte and reason.
inline nlohmann::json read_json_file(const std::filesystem::path& path) {
  const MappedFile file(path);
  return parse_json(file.text(), path.string());
}

/// Replaces `path` by `value`, indented by two, with a final newline.
inline void write_json(ReplacementFile& file, const nlohmann::json& value) {
  try {
    file.write(value.dump(2));
  } catch (const nlohmann::json::type_error&) {
    throw io_error(file.target().string() +
                   ": a string to be saved is not UTF-8; correct it and save again");
  }
  file.write("\n");
}

/// The same as a file of its own, replaced whole or not at all.
inline void write_json_file(const std::filesystem::path& path, const nlohmann::json& value) {
  ReplacementFile file(path);
  write_json(file, value);
  file.commit();
}

namespace detail {

template <class T>
constexpr std::string_view json_kind() {
  if constexpr (std::is_same_v<T, bool>)
    return "true or false";
  else if constexpr (std::is_integral_v<T>)
    return "an integer";
  else if constexpr (std::is_floating_point_v<T>)
    return "a number";
  else
    return "a string";
}

template <class T>
bool json_holds(const nlohmann::json& value) {
  if constexpr (std::is_same_v<T, bool>) {
    return value.is_boolean();
  } else if constexpr (std::is_integral_v<T>) {
    if (value.is_number_unsigned()) return std::in_range<T>(value.get<std::uint64_t>());
    return value.is_number_integer() && std::in_range<T>(value.get<std::int64_t>());
  } else if constexpr (std::is_floating_point_v<T>) {
    return value.is_number();
  } else {
    static_assert(std::is_same_v<T, std::string>,
                  "a JSON field is read as bool, an integer, a floating-point type or std::string");
    return value.is_string();
  }
}

[[noreturn]] inline void refuse_field(const std::string& path, std::string_view key,
                                      const nlohmann::json& value, std::string_view expected) {
  std::string got = value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  if (got.size() > 60) got = got.substr(0, 60) + "...";
  throw io_error(path + ": \"" + std::string(key) + "\" is " + got + ", expected " +
                 std::string(expected) + "; correct it");
}

}  // namespace detail

/// A field that may be absent or null; throws io_error when it is there with another type or too
/// large for T. T is bool, an integer, a floating-point type or std::string.
template <class T>
std::optional<T> json_optional(const nlohmann::json& object, std::string_view key,
                               const std::string& path) {
  const auto found = object.find(key);
  if (found == object.end() || found->is_null()) return std::nullopt;
  if (!detail::json_holds<T>(*found))
    detail::refuse_field(path, key, *found, detail::json_kind<T>());
  return found->template get<T>();
}

/// A field that may be absent or null, which gives `otherwise`.
template <class T>
T json_field_or(const nlohmann::json& object, std::string_view key, const std::string& path,
                T otherwise) {
  return json_optional<T>(object, key, path).value_or(std::move(otherwise));
}

/// A field that must be there; throws io_error when it is absent, null or of another type.
template <class T>
T json_field(const nlohmann::json& object, std::string_view key, const std::string& path) {
  if (auto value = json_optional<T>(object, key, path)) return *std::move(value);
  throw io_error(path + ": has no \"" + std::string(key) + "\", expected " +
                 std::string(detail::json_kind<T>()) +
                 "; add it or take the file that belongs to these weights");
}

/// A size, which must be there and at least 1.
inline index_t json_size(const nlohmann::json& object, std::string_view key,
                         const std::string& path) {
  const index_t size = json_field<index_t>(object, key, path);
  if (size < 1) detail::refuse_field(path, key, object.at(std::string(key)), "at least 1");
  return size;
}

/// A size that may be absent or null, which gives `otherwise`.
inline index_t json_size_or(const nlohmann::json& object, std::string_view key,
                            const std::string& path, index_t otherwise) {
  return json_optional<index_t>(object, key, path) ? json_size(object, key, path) : otherwise;
}

/// A parameter of a model that waits for its values. Tied weights are one slot with aliases: they
/// may be stored under any of the names, and under several only if the copies are equal.
struct TensorSlot {
  std::string name;
  std::vector<std::string> aliases;
  std::vector<index_t> shape;
  bool required = true;
  /// Called once, after every slot is known to fit, with the file and the name found in it.
  std::function<void(const SafetensorsFile&, const std::string& stored_name)> fill;
};

/// A slot whose values are converted straight into host memory, row-major.
template <class T>
TensorSlot host_slot(std::string name, std::vector<std::string> aliases, std::vector<index_t> shape,
                     std::span<T> out) {
  return {std::move(name), std::move(aliases), std::move(shape), true,
          [out](const SafetensorsFile& file, const std::string& stored_name) {
            file.read(stored_name, out);
          }};
}

struct LoadOptions {
  /// Stored names to pass over when no slot takes them; '*' stands for any characters.
  std::vector<std::string> ignore_unexpected;
  /// A prefix that stored names may lack: "model." for BART, whose base model is stored without.
  std::string optional_prefix;
};

/// Whether `name` is `pattern`, in which '*' stands for any characters.
inline bool matches_pattern(std::string_view name, std::string_view pattern) {
  const std::size_t star = pattern.find('*');
  if (star == std::string_view::npos) return name == pattern;
  if (!name.starts_with(pattern.substr(0, star))) return false;
  const std::string_view rest = pattern.substr(star + 1);
  for (std::size_t at = star; at <= name.size(); ++at)
    if (matches_pattern(name.substr(at), rest)) return true;
  return false;
}

/// An opened checkpoint folder: parsed configuration and mapped, checked weights.
class HfCheckpoint {
 public:
  /// Opens a folder; throws io_error naming what is absent, damaged or contradictory in it.
  explicit HfCheckpoint(std::filesystem::path folder) : folder_(std::move(folder)) {
    const std::string shown = folder_.string();
    if (!std::filesystem::is_directory(folder_))
      throw io_error(shown + ": is not a folder; give the folder that holds config.json");
    if (!holds("config.json"))
      throw io_error(shown + ": holds no config.json; give the folder of a complete checkpoint");
    config_ = read_object("config.json");
    if (holds("generation_config.json")) generation_config_ = read_object("generation_config.json");
    if (holds("model.safetensors"))
      open_shard("model.safetensors");
    else if (holds("model.safetensors.index.json"))
      open_index();
    else if (holds("pytorch_model.bin") || holds("pytorch_model.bin.index.json"))
      throw io_error(shown +
                     ": holds pytorch_model.bin but no model.safetensors; convert it with: python "
                     "-c \"from transformers import AutoModelForSeq2SeqLM as M; "
                     "M.from_pretrained('" +
                     shown + "').save_pretrained('" + shown + "')\"");
    else
      throw io_error(shown +
                     ": holds neither model.safetensors nor model.safetensors.index.json; fetch "
                     "the weights of this checkpoint");
  }

  const std::filesystem::path& folder() const { return folder_; }
  std::string config_path() const { return (folder_ / "config.json").string(); }
  std::string generation_config_path() const {
    return (folder_ / "generation_config.json").string();
  }
  const nlohmann::json& config() const { return config_; }
  /// generation_config.json, or an empty object where there is none.
  const nlohmann::json& generation_config() const { return generation_config_; }

  /// Every stored name, sorted.
  std::vector<std::string> names() const {
    std::vector<std::string> names;
    for (const auto& [name, file] : stored_) names.push_back(name);
    return names;
  }
  bool contains(const std::string& name) const { return stored_.contains(name); }

  /// The file that holds a tensor; throws io_error when none does.
  const SafetensorsFile& file_of(const std::string& name) const {
    const auto found = stored_.find(name);
    if (found == stored_.end())
      throw io_error(folder_.string() + ": has no tensor \"" + name + "\" among its " +
                     std::to_string(stored_.size()) + "; check the name or the checkpoint");
    return *found->second;
  }

  /// Fills every slot, or throws one io_error that lists all missing, unexpected and misshapen
  /// tensors and all tied copies that differ; then no slot has been filled.
  void load(std::span<const TensorSlot> slots, const LoadOptions& options = {}) const {
    std::vector<std::string> missing, misshapen, untied, unexpected;
    std::vector<std::pair<const TensorSlot*, std::string>> found;
    std::set<std::string> taken;
    for (const TensorSlot& slot : slots) {
      const std::vector<std::string> copies = stored_copies(slot, options);
      taken.insert(copies.begin(), copies.end());
      if (copies.empty() && slot.required) missing.push_back(slot.name);
      if (copies.empty()) continue;
      for (const std::string& copy : copies) {
        const std::vector<index_t>& got = file_of(copy).info(copy).shape;
        if (got != slot.shape)
          misshapen.push_back(copy + ": expected " + shape_text(slot.shape) + ", got " +
                              shape_text(got));
        else if (!equal_bytes(copies.front(), copy))
          untied.push_back(copies.front() + " and " + copy);
      }
      found.emplace_back(&slot, copies.front());
    }
    for (const auto& [name, file] : stored_) {
      const auto ignored = [&stored = name](const std::string& pattern) {
        return matches_pattern(stored, pattern);
      };
      if (!taken.contains(name) &&
          std::none_of(options.ignore_unexpected.begin(), options.ignore_unexpected.end(), ignored))
        unexpected.push_back(name);
    }
    std::string problems;
    list_problems(problems, "missing: ", missing);
    list_problems(problems, "unexpected: ", unexpected);
    list_problems(problems, "of another shape: ", misshapen);
    list_problems(problems, "stored as copies of one tensor that differ: ", untied);
    if (!problems.empty())
      throw io_error(folder_.string() + ": the tensors are not those of the model: " + problems +
                     "; check that config.json belongs to these weights");
    for (const auto& [slot, name] : found) {
      if (slot->fill) slot->fill(file_of(name), name);
      file_of(name).forget(name);
    }
  }

 private:
  bool holds(const char* name) const { return std::filesystem::exists(folder_ / name); }

  nlohmann::json read_object(const char* name) const {
    nlohmann::json object = read_json_file(folder_ / name);
    if (!object.is_object())
      throw io_error((folder_ / name).string() + ": byte 0: is not a JSON object; correct it");
    return object;
  }

  const SafetensorsFile& open_shard(const std::string& name) {
    files_.push_back(std::make_unique<SafetensorsFile>(folder_ / name));
    for (const std::string& tensor : files_.back()->names())
      stored_.emplace(tensor, files_.back().get());
    return *files_.back();
  }

  void open_index() {
    const std::string path = (folder_ / "model.safetensors.index.json").string();
    const nlohmann::json index = read_object("model.safetensors.index.json");
    const auto fail = [&](const std::string& what) {
      throw io_error(path + ": " + what + "; fetch the index and all its shards again");
    };
    if (!index.contains("weight_map") || !index["weight_map"].is_object())
      fail("has no object \"weight_map\"");
    std::map<std::string, std::set<std::string>> shards;
    for (const auto& [tensor, shard] : index["weight_map"].items()) {
      if (!shard.is_string()) fail("names no file for tensor \"" + tensor + "\"");
      shards[shard.get<std::string>()].insert(tensor);
    }
    std::uint64_t total = 0;
    for (const auto& [shard, tensors] : shards) {
      if (shard.empty() || std::filesystem::path(shard).filename() != shard || shard == "..")
        fail("names the shard \"" + shard + "\", which is not a file of this folder");
      if (!holds(shard.c_str()))
        fail("shard " + shard + " of " + std::to_string(shards.size()) + " is missing");
      const SafetensorsFile& file = open_shard(shard);
      for (const std::string& tensor : tensors)
        if (!file.contains(tensor)) fail("tensor \"" + tensor + "\" is not in its shard " + shard);
      for (const std::string& tensor : file.names()) {
        if (!tensors.contains(tensor))
          fail("tensor \"" + tensor + "\" is in " + shard + ", which the index does not say");
        total += file.info(tensor).bytes.size();
      }
    }
    const nlohmann::json metadata = index.value("metadata", nlohmann::json::object());
    const auto stated = metadata.is_object() && metadata.contains("total_size")
                            ? metadata["total_size"]
                            : nlohmann::json(total);
    if (stated != nlohmann::json(total))
      throw io_error(path + ": states a total_size of " + stated.dump() + ", but the shards hold " +
                     std::to_string(total) +
                     " bytes; fetch them again, or remove total_size where the shards are right");
  }

  std::vector<std::string> stored_copies(const TensorSlot& slot, const LoadOptions& options) const {
    std::vector<std::string> copies;
    const auto add = [&](const std::string& name) {
      const bool seen = std::find(copies.begin(), copies.end(), name) != copies.end();
      if (contains(name) && !seen) copies.push_back(name);
    };
    const auto add_forms = [&](const std::string& name) {
      add(name);
      if (!options.optional_prefix.empty() && name.starts_with(options.optional_prefix))
        add(name.substr(options.optional_prefix.size()));
    };
    add_forms(slot.name);
    for (const std::string& alias : slot.aliases) add_forms(alias);
    return copies;
  }

  bool equal_bytes(const std::string& a, const std::string& b) const {
    const TensorInfo& x = file_of(a).info(a);
    const TensorInfo& y = file_of(b).info(b);
    return x.dtype == y.dtype && x.bytes.size() == y.bytes.size() &&
           (x.bytes.data() == y.bytes.data() || x.bytes.empty() ||
            std::memcmp(x.bytes.data(), y.bytes.data(), x.bytes.size()) == 0);
  }

  static void list_problems(std::string& problems, std::string_view kind,
                            const std::vector<std::string>& names) {
    if (names.empty()) return;
    if (!problems.empty()) problems += "; ";
    problems += kind;
    for (std::size_t i = 0; i < names.size(); ++i) problems += (i > 0 ? ", " : "") + names[i];
  }

  std::filesystem::path folder_;
  nlohmann::json config_;
  nlohmann::json generation_config_ = nlohmann::json::object();
  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  std::map<std::string, const SafetensorsFile*> stored_;
};

/// Saves a model as transformers reads it, creating the folder. The files are whole on the disk
/// before the first is renamed, weights first and config.json last: a full disk changes nothing,
/// and a folder that never had a checkpoint has none until all of it is there.
inline void save_checkpoint(const std::filesystem::path& folder, SafetensorsWriter tensors,
                            const nlohmann::json& config, const nlohmann::json& generation_config) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error)
    throw_system_error(folder.string(), "cannot create the folder", error.value(),
                       "choose another folder");
  tensors.set_metadata("format", "pt");
  std::vector<ReplacementFile> files;
  files.reserve(3);
  files.emplace_back(folder / "model.safetensors");
  tensors.write(files.back());
  files.emplace_back(folder / "generation_config.json");
  write_json(files.back(), generation_config);
  files.emplace_back(folder / "config.json");
  write_json(files.back(), config);
  commit_together(files);
}

}  // namespace srformer
