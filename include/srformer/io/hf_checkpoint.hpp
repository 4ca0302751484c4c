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

/// Parses a JSON file, which must be no pipe or device with `regular`; throws io_error with path, byte and reason.
inline nlohmann::json read_json_file(const std::filesystem::path& path, bool regular = false) {
  const MappedFile file(path, regular);
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
  const std::string got = value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  throw io_error(path + ": \"" + std::string(key) + "\" is " + one_line(got, 60) + ", expected " +
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
  /// Stored types it is filled from, beside F64, F32, F16 and BF16.
  std::optional<DType> other_dtype{};
};

/// A slot whose values are converted straight into host memory, row-major.
template <class T>
TensorSlot host_slot(std::string name, std::vector<std::string> aliases, std::vector<index_t> shape,
                     std::span<T> out) {
  return {std::move(name),
          std::move(aliases),
          std::move(shape),
          true,
          [out](const SafetensorsFile& file, const std::string& stored_name) {
            file.read(stored_name, out);
          },
          dtype_of<T>};
}

/// '*' stands for any characters.
struct LoadOptions {
  /// Stored names to pass over without a word when no slot takes them.
  std::vector<std::string> ignore_unexpected{};
  /// Stored names that must not be left over.
  std::vector<std::string> refuse_unexpected{};
  /// A prefix that stored names may lack: "model." for BART, whose base model is stored without.
  std::string optional_prefix{};
  /// One that they may have besides: "transformer." for T5, as models for other tasks store it.
  std::string other_prefix{};
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

inline bool matches_any(std::string_view name, std::span<const std::string> patterns) {
  return std::any_of(patterns.begin(), patterns.end(),
                     [&](const std::string& pattern) { return matches_pattern(name, pattern); });
}

namespace detail {

/// The value as a type stores it.
inline double rounded_to(DType dtype, double value) {
  switch (dtype) {
    case DType::f32:
      return static_cast<double>(static_cast<float>(value));
    case DType::f16:
      return static_cast<double>(decode_f16(encode_f16(round_to_odd(value))));
    case DType::bf16:
      return static_cast<double>(decode_bf16(encode_bf16(round_to_odd(value))));
    default:
      return value;
  }
}

/// A stored tensor.
struct StoredTensor {
  const SafetensorsFile& file;
  const std::string& name;
  const TensorInfo& info() const { return file.info(name); }
};

/// Whether tensors hold the same numbers, in whatever type they are stored; `rounded`: whether b is a rounded to the type of
/// b, or the same.
inline bool equal_numbers(const StoredTensor& a, const StoredTensor& b, bool rounded) {
  const TensorInfo &x = a.info(), &y = b.info();
  if (x.shape != y.shape) return false;
  const bool same_bytes = x.dtype == y.dtype && std::ranges::equal(x.bytes, y.bytes);
  if (same_bytes || !holds_numbers(x.dtype) || !holds_numbers(y.dtype)) return same_bytes;
  constexpr index_t piece = index_t{1} << 14;
  std::vector<double> p, q;
  for (index_t first = 0; first < x.count; first += piece) {
    const auto size = static_cast<std::size_t>(std::min(piece, x.count - first));
    p.resize(size), q.resize(size);
    a.file.read_part(a.name, first, std::span(p)), b.file.read_part(b.name, first, std::span(q));
    if (rounded)
      for (double& value : p) value = rounded_to(y.dtype, value);
    if (p != q) return false;
  }
  return true;
}

/// What wraps a model puts into the names of its tensors.
inline constexpr std::string_view wrapper_names[] = {"_orig_mod.", "module.",
                                                     "_fsdp_wrapped_module.", "_forward_module."};

/// `name` without `part`, wherever it begins a component.
inline std::string without_part(std::string name, std::string_view part) {
  for (std::size_t at = 0; (at = name.find(part, at)) != std::string::npos;)
    if (at == 0 || name[at - 1] == '.')
      name.erase(at, part.size());
    else
      ++at;
  return name;
}

/// The components that all names begin with, the last dot included.
inline std::string common_components(std::span<const std::string> names) {
  std::string_view common = names.empty() ? std::string_view() : names.front();
  for (const std::string& name : names) {
    const auto end = std::ranges::mismatch(common, name).in1;
    common = common.substr(0, static_cast<std::size_t>(end - common.begin()));
  }
  const std::size_t dot = common.rfind('.');
  return std::string(common.substr(0, dot == std::string_view::npos ? 0 : dot + 1));
}

/// What keeps a checkpoint from being loaded, by kind.
struct Misfits {
  std::vector<std::string> missing, misshapen, unreadable, untied, unexpected;

  /// One line of bounded length; nothing where all fits.
  std::string text() const {
    const std::pair<const char*, const std::vector<std::string>*> kinds[] = {
        {"missing: ", &missing},
        {"not used by this model: ", &unexpected},
        {"of another shape: ", &misshapen},
        {"of a type that is quantized or no weight's: ", &unreadable},
        {"stored as copies of one tensor that differ: ", &untied}};
    const auto some =
        std::ranges::count_if(kinds, [](auto& kind) { return !kind.second->empty(); });
    std::string text;
    for (const auto& [kind, names] : kinds)
      if (!names->empty())
        text += (text.empty() ? "" : "; ") + std::string(kind) +
                listed(*names, 270 / static_cast<std::size_t>(some));
    return text;
  }
};

}  // namespace detail

/// An opened checkpoint folder: parsed configuration and mapped, checked weights.
class HfCheckpoint {
 public:
  /// Opens a folder; throws io_error naming what is absent, damaged or contradictory in it.
  explicit HfCheckpoint(std::filesystem::path folder) : folder_(std::move(folder)) {
    const std::string shown = folder_.string();
    std::error_code ignored;
    if (!std::filesystem::is_directory(folder_, ignored))
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

  /// How many numbers all tensors together have, copies of tied ones included.
  index_t stored_numbers() const {
    index_t numbers = 0;
    for (const auto& [name, file] : stored_) numbers += file->info(name).count;
    return numbers;
  }

  /// The file that holds a tensor; throws io_error when none does.
  const SafetensorsFile& file_of(const std::string& name) const {
    const auto found = stored_.find(name);
    if (found == stored_.end())
      throw io_error(folder_.string() + ": has no tensor \"" + name + "\" among its " +
                     std::to_string(stored_.size()) + "; check the name or the checkpoint");
    return *found->second;
  }

  /// Whether two stored tensors have one shape and the same numbers, in whatever type they are stored.
  bool equal_numbers(const std::string& a, const std::string& b) const {
    return detail::equal_numbers({file_of(a), a}, {file_of(b), b}, false);
  }

  /// Fills every slot, or throws one io_error that names missing, misshapen and quantized tensors, tied copies that
  /// differ and those of refuse_unexpected; then no slot has been filled. Returns the names of stored tensors that no
  /// slot took and ignore_unexpected does not pass over.
  std::vector<std::string> load(std::span<const TensorSlot> slots,
                                const LoadOptions& options = {}) const {
    detail::Misfits misfits;
    std::vector<std::pair<const TensorSlot*, std::string>> found;
    std::set<std::string> known;  // under these names the model has tensors
    for (const TensorSlot& slot : slots) {
      const std::vector<std::string> forms = forms_of(slot, options), copies = stored_of(forms);
      known.insert(forms.begin(), forms.end());
      if (copies.empty() && slot.required) misfits.missing.push_back(slot.name);
      if (copies.empty()) continue;
      const std::string& widest = widest_of(copies);
      check_copies(slot, copies, widest, misfits);
      found.emplace_back(&slot, widest);
    }
    std::vector<std::string> left_over;
    for (const auto& [name, file] : stored_) {
      if (known.contains(name) || matches_any(name, options.ignore_unexpected)) continue;
      (matches_any(name, options.refuse_unexpected) ? misfits.unexpected : left_over)
          .push_back(name);
    }
    refuse_wrapped(misfits.missing);
    refuse_absent(misfits.missing, known, options);
    if (const std::string text = misfits.text(); !text.empty())
      throw io_error(folder_.string() + ": the tensors are not those of the model: " + text +
                     whole_part(misfits.missing, found) +
                     "; check that config.json belongs to these weights");
    for (const auto& [slot, name] : found) {
      if (slot->fill) slot->fill(file_of(name), name);
      file_of(name).forget(name);
    }
    return left_over;
  }

 private:
  bool holds(const std::string& name) const {
    std::error_code ignored;
    return std::filesystem::exists(folder_ / name, ignored);
  }

  nlohmann::json read_object(const char* name) const {
    nlohmann::json object = read_json_file(folder_ / name, true);
    if (!object.is_object())
      throw io_error((folder_ / name).string() + ": byte 0: is not a JSON object; correct it");
    return object;
  }

  /// Of a tensor that stands in several files the last counts, as in transformers.
  const SafetensorsFile& open_shard(const std::string& name) {
    files_.push_back(std::make_unique<SafetensorsFile>(folder_ / name));
    for (const std::string& tensor : files_.back()->names())
      stored_.insert_or_assign(tensor, files_.back().get());
    return *files_.back();
  }

  std::string index_path() const { return (folder_ / "model.safetensors.index.json").string(); }

  /// Opens the shards that the index names. What they hold counts, not what the index says of it.
  void open_index() {
    const nlohmann::json index = read_object("model.safetensors.index.json");
    const auto fail = [&](const std::string& what) {
      throw io_error(index_path() + ": " + what + "; fetch the index and all its shards again");
    };
    const auto map = index.find("weight_map");
    if (map == index.end() || !map->is_object()) fail("has no object \"weight_map\"");
    std::set<std::string> shards;
    for (const auto& [tensor, shard] : map->items()) {
      if (!shard.is_string()) fail("names no file for tensor \"" + one_line(tensor) + "\"");
      shards.insert(shard.get<std::string>());
    }
    for (const std::string& shard : shards) {
      const bool elsewhere = shard.empty() || shard == "." || shard == ".." ||
                             shard.find_first_of(std::string_view("/\0", 2)) != shard.npos;
      if (elsewhere)
        fail("names the shard \"" + one_line(shard) + "\", which is not a file of this folder");
      if (!holds(shard))
        fail("shard " + one_line(shard) + " of " + std::to_string(shards.size()) + " is missing");
      open_shard(shard);
    }
    for (const auto& [tensor, shard] : map->items())
      if (!contains(tensor)) absent_.emplace(tensor, shard.get<std::string>());
  }

  /// Every name under which a slot may be stored.
  static std::vector<std::string> forms_of(const TensorSlot& slot, const LoadOptions& options) {
    std::vector<std::string> forms;
    const auto add = [&](const std::string& name) {
      forms.push_back(name);
      if (!options.other_prefix.empty()) forms.push_back(options.other_prefix + name);
      if (!options.optional_prefix.empty() && name.starts_with(options.optional_prefix))
        forms.push_back(name.substr(options.optional_prefix.size()));
    };
    add(slot.name);
    for (const std::string& alias : slot.aliases) add(alias);
    return forms;
  }

  std::vector<std::string> stored_of(const std::vector<std::string>& forms) const {
    std::vector<std::string> copies;
    for (const std::string& name : forms)
      if (contains(name) && std::ranges::find(copies, name) == copies.end()) copies.push_back(name);
    return copies;
  }

  /// Of copies that are stored in several types the first in the widest.
  const std::string& widest_of(const std::vector<std::string>& copies) const {
    return *std::ranges::max_element(copies, {}, [&](const std::string& copy) {
      const DType dtype = file_of(copy).info(copy).dtype;
      return holds_numbers(dtype) ? properties(dtype).bits : 0;
    });
  }

  void check_copies(const TensorSlot& slot, const std::vector<std::string>& copies,
                    const std::string& widest, detail::Misfits& misfits) const {
    for (const std::string& copy : copies) {
      const TensorInfo& got = file_of(copy).info(copy);
      if (!holds_numbers(got.dtype) && slot.other_dtype != got.dtype)
        misfits.unreadable.push_back(copy + " is " + std::string(properties(got.dtype).name));
      else if (got.shape != slot.shape)
        misfits.misshapen.push_back(copy + ": expected " + shape_text(slot.shape) + ", got " +
                                    one_line(shape_text(got.shape), 40));
      else if (copy != widest &&
               !detail::equal_numbers({file_of(widest), widest}, {file_of(copy), copy}, true))
        misfits.untied.push_back(widest + " and " + copy);
    }
  }

  /// Throws where the missing tensors are there under names that a wrapper has changed.
  void refuse_wrapped(const std::vector<std::string>& missing) const {
    if (missing.empty()) return;
    const std::set<std::string, std::less<>> wanted(missing.begin(), missing.end());
    const auto refuse = [&](std::string_view part, std::size_t names) {
      throw io_error(folder_.string() + ": the names of " + std::to_string(names) +
                     " tensors hold \"" + one_line(part, 60) +
                     "\", as a wrapper (torch.compile, DataParallel) leaves them; save the model "
                     "inside the wrapper, or rename them");
    };
    const auto named = [&](auto bare_name) {
      return static_cast<std::size_t>(std::ranges::count_if(
          stored_, [&](const auto& stored) { return wanted.contains(bare_name(stored.first)); }));
    };
    for (const std::string_view part : detail::wrapper_names)
      if (const std::size_t names =
              named([&](const std::string& name) { return detail::without_part(name, part); });
          2 * names > missing.size())
        refuse(part, names);
    std::size_t longest = 0;
    for (const std::string& name : missing) longest = std::max(longest, name.size());
    std::map<std::string, std::size_t> prefixes;  // with how many of the missing stand behind them
    for (const auto& [stored, file] : stored_)
      for (std::size_t dot = stored.find('.'); dot != stored.npos; dot = stored.find('.', dot + 1))
        if (const auto name = std::string_view(stored).substr(dot + 1);
            name.size() <= longest && wanted.contains(name))
          ++prefixes[stored.substr(0, dot + 1)];
    for (const auto& [prefix, names] : prefixes)
      if (2 * names > missing.size() && contains(prefix + missing.front())) refuse(prefix, names);
  }

  /// Throws where a tensor is in no shard that the index names and the model has not got under another name.
  void refuse_absent(const std::vector<std::string>& missing, const std::set<std::string>& known,
                     const LoadOptions& options) const {
    std::vector<std::string> names;
    for (const auto& [name, shard] : absent_) {
      const bool needed = std::ranges::find(missing, name) != missing.end();
      if (needed || (!known.contains(name) && !matches_any(name, options.ignore_unexpected)))
        names.push_back(name);
    }
    if (names.empty()) return;
    throw io_error(index_path() + ": tensor \"" + one_line(names.front()) +
                   "\" is not in its shard " + one_line(absent_.at(names.front())) +
                   (names.size() > 1
                        ? ", nor are " + std::to_string(names.size() - 1) + " more in theirs"
                        : "") +
                   "; fetch the index and all its shards again");
  }

  /// Where a whole part of the model is missing, that it is.
  static std::string whole_part(
      const std::vector<std::string>& missing,
      const std::vector<std::pair<const TensorSlot*, std::string>>& found) {
    const std::string part = detail::common_components(missing);
    const bool some = std::ranges::any_of(
        found, [&](const auto& item) { return item.first->name.starts_with(part); });
    return missing.size() < 2 || part.empty() || some
               ? ""
               : ", so nothing is there of " + part.substr(0, part.size() - 1);
  }

  std::filesystem::path folder_;
  nlohmann::json config_;
  nlohmann::json generation_config_ = nlohmann::json::object();
  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  std::map<std::string, const SafetensorsFile*> stored_;
  std::map<std::string, std::string>
      absent_;  // that the index names but its shards lack, with the shard
};

namespace detail {

/// Before the model_type of an architecture whose cross-attention is a variant, so that transformers does not take it for
/// the plain one: "srformer_t5".
inline constexpr std::string_view variant_prefix = "srformer_";

}  // namespace detail

/// The model_type of the architecture: "t5" of "t5" and of "srformer_t5".
inline std::string_view plain_model_type(std::string_view type) {
  if (type.starts_with(detail::variant_prefix)) type.remove_prefix(detail::variant_prefix.size());
  return type;
}

/// A file of a folder and what it holds.
struct NamedText {
  std::string name;
  std::string_view text;
};

/// Saves a model as transformers reads it, with `others`, creating the folder. The files are whole on the disk
/// before the first is renamed, weights first and config.json last: a full disk changes nothing,
/// and a folder that never had a checkpoint has none until all of it is there.
inline void save_checkpoint(const std::filesystem::path& folder, SafetensorsWriter tensors,
                            const nlohmann::json& config, const nlohmann::json& generation_config,
                            std::span<const NamedText> others = {}) {
  create_folder(folder);
  tensors.set_metadata("format", "pt");
  std::vector<ReplacementFile> files;
  files.reserve(3 + others.size());
  for (const NamedText& other : others) {
    files.emplace_back(folder / other.name);
    files.back().write(other.text);
  }
  files.emplace_back(folder / "model.safetensors");
  tensors.write(files.back());
  files.emplace_back(folder / "generation_config.json");
  write_json(files.back(), generation_config);
  files.emplace_back(folder / "config.json");
  write_json(files.back(), config);
  commit_together(files);
}

}  // namespace srformer
