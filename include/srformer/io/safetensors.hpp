// SPDX-License-Identifier: Apache-2.0
// The safetensors format: eight bytes of header length, a JSON header, and the values of the
// tensors without gaps. https://huggingface.co/docs/safetensors
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <concepts>
#include <cstring>
#include <functional>
#include <limits>
#include <map>
#include <optional>
#include <set>

#include <srformer/core/scalar.hpp>
#include <srformer/io/file.hpp>

namespace srformer {

static_assert(std::endian::native == std::endian::little,
              "safetensors values are little-endian and are read in place: this machine is not");

/// The element types of the format.
enum class DType {
  f64,
  f32,
  f16,
  bf16,
  i64,
  i32,
  i16,
  i8,
  u64,
  u32,
  u16,
  u8,
  boolean,
  c64,
  f8_e5m2,
  f8_e4m3,
  f8_e8m0,
  f8_e4m3fnuz,
  f8_e5m2fnuz,
  f6_e2m3,
  f6_e3m2,
  f4,
};

struct DTypeProperties {
  std::string_view name;
  unsigned bits;
};

inline constexpr std::array<DTypeProperties, 22> dtype_table{{
    {"F64", 64},    {"F32", 32},    {"F16", 16},        {"BF16", 16},       {"I64", 64},
    {"I32", 32},    {"I16", 16},    {"I8", 8},          {"U64", 64},        {"U32", 32},
    {"U16", 16},    {"U8", 8},      {"BOOL", 8},        {"C64", 64},        {"F8_E5M2", 8},
    {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8}, {"F6_E2M3", 6},
    {"F6_E3M2", 6}, {"F4", 4},
}};

inline constexpr DTypeProperties properties(DType dtype) {
  return dtype_table[static_cast<std::size_t>(dtype)];
}

inline std::optional<DType> dtype_named(std::string_view name) {
  for (std::size_t i = 0; i < dtype_table.size(); ++i)
    if (dtype_table[i].name == name) return static_cast<DType>(i);
  return std::nullopt;
}

/// Whether values of a dtype convert to other types.
inline constexpr bool holds_numbers(DType dtype) {
  return dtype == DType::f64 || dtype == DType::f32 || dtype == DType::f16 || dtype == DType::bf16;
}

/// The dtype whose bytes are a T; specialise it for a type of your own to have values copied rather
/// than converted.
template <class T>
inline constexpr std::optional<DType> dtype_of = std::nullopt;
template <>
inline constexpr std::optional<DType> dtype_of<double> = DType::f64;
template <>
inline constexpr std::optional<DType> dtype_of<float> = DType::f32;
template <>
inline constexpr std::optional<DType> dtype_of<Eigen::half> = DType::f16;
template <>
inline constexpr std::optional<DType> dtype_of<Eigen::bfloat16> = DType::bf16;
template <>
inline constexpr std::optional<DType> dtype_of<std::int64_t> = DType::i64;

// Normal and subnormal form are both computed and one is masked out, so that loops vectorise; the
// masks are made of a borrow, as compilers turn a comparison back into a branch.

/// IEEE binary16 to binary32, exact.
inline constexpr float decode_f16(std::uint16_t half) {
  const std::uint32_t sign = (half & 0x8000u) << 16;
  const std::uint32_t rest = (half & 0x7fffu) << 13;
  const std::uint32_t exponent = half & 0x7c00u;
  const std::uint32_t normal = rest + (112u << 23) + (exponent == 0x7c00u ? 112u << 23 : 0u);
  const float subnormal = std::bit_cast<float>(rest + (113u << 23)) - 0x1p-14f;
  const std::uint32_t small = 0u - ((exponent - 0x400u) >> 31);
  return std::bit_cast<float>(sign | (std::bit_cast<std::uint32_t>(subnormal) & small) |
                              (normal & ~small));
}

/// binary32 to IEEE binary16, to nearest, ties to even; beyond 65504 to infinity.
inline constexpr std::uint16_t encode_f16(float value) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t sign = (bits >> 16) & 0x8000u;
  const std::uint32_t rest = bits & 0x7fffffffu;
  const std::uint32_t finite = std::min(rest, 0x47800000u);  // 65536 becomes infinity
  const std::uint32_t normal = (finite - (112u << 23) + 0xfffu + ((finite >> 13) & 1u)) >> 13;
  const std::uint32_t small = 0u - ((rest - 0x38800000u) >> 31);
  constexpr float magic = 0.5f;  // its last place is the smallest binary16
  const std::uint32_t subnormal =
      std::bit_cast<std::uint32_t>(std::bit_cast<float>(rest & small) + magic) -
      std::bit_cast<std::uint32_t>(magic);
  const std::uint32_t not_a_number = 0u - ((0x7f800000u - rest) >> 31);
  return static_cast<std::uint16_t>(sign | (subnormal & small) | (normal & ~small) |
                                    (not_a_number & (0x200u | ((rest >> 13) & 0x1ffu))));
}

/// bfloat16 to binary32, exact.
inline constexpr float decode_bf16(std::uint16_t value) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(value) << 16);
}

/// binary32 to bfloat16, to nearest, ties to even; NaN stays NaN.
inline constexpr std::uint16_t encode_bf16(float value) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
  return static_cast<std::uint16_t>(nan ? (bits >> 16) | 0x40u : rounded);
}

/// binary64 to binary32 rounded to odd, after which rounding to 16 bits gives what rounding once
/// would have.
inline float round_to_odd(double value) {
  const float nearest = static_cast<float>(value);
  const double back = static_cast<double>(nearest);
  std::uint32_t bits = std::bit_cast<std::uint32_t>(nearest);
  bits -= std::abs(back) > std::abs(value) ? 1u : 0u;
  bits |= back != value ? 1u : 0u;
  return std::bit_cast<float>(bits);
}

struct TensorInfo {
  DType dtype = DType::f32;
  std::vector<index_t> shape;  ///< empty for a scalar
  index_t count = 0;           ///< elements
  std::span<const std::byte> bytes;
};

namespace detail {

/// Stops nlohmann's parser at a key of a safetensors header that must not stand twice.
class RepeatedKey {
 public:
  bool null() { return true; }
  bool boolean(bool) { return true; }
  bool number_integer(std::int64_t) { return true; }
  bool number_unsigned(std::uint64_t) { return true; }
  bool number_float(double, const std::string&) { return true; }
  bool string(std::string&) { return true; }
  bool binary(nlohmann::json::binary_t&) { return true; }
  bool start_array(std::size_t) { return true; }
  bool end_array() { return true; }
  bool start_object(std::size_t) {
    if (++depth_ == 2) of_tensor_.clear();
    return true;
  }
  bool end_object() {
    --depth_;
    return true;
  }
  bool key(std::string& key) {
    if (depth_ == 1) describes_ = key != "__metadata__";
    const bool once = depth_ == 1 ? !describes_
                                  : depth_ == 2 && describes_ &&
                                        (key == "dtype" || key == "shape" || key == "data_offsets");
    if (!once || (depth_ == 1 ? &of_header_ : &of_tensor_)->insert(key).second) return true;
    name = key;
    return false;
  }
  bool parse_error(std::size_t, const std::string&, const nlohmann::json::exception&) {
    return false;
  }

  std::string name;  ///< the key

 private:
  std::size_t depth_ = 0;
  bool describes_ = false;  ///< a tensor, rather than metadata
  std::set<std::string> of_header_, of_tensor_;
};

}  // namespace detail

/// A safetensors file, mapped and checked: header, dtypes, shapes and offsets are known to be right
/// once it is open.
class SafetensorsFile {
 public:
  static constexpr std::uint64_t max_header = 100'000'000;

  /// Maps `path`; throws io_error with path, byte offset and tensor when anything in it contradicts
  /// the format.
  explicit SafetensorsFile(const std::filesystem::path& path)
      : path_(path.string()), file_(path, true), bytes_(file_.bytes()) {
    read_header();
  }

  /// The same over bytes in memory, which must outlive this object; `path` is what errors call
  /// them.
  SafetensorsFile(std::span<const std::byte> bytes, std::string path)
      : path_(std::move(path)), bytes_(bytes) {
    read_header();
  }

  const std::string& path() const { return path_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  bool contains(std::string_view name) const { return tensors_.find(name) != tensors_.end(); }

  /// Every name, sorted.
  std::vector<std::string> names() const {
    std::vector<std::string> names;
    for (const auto& [name, info] : tensors_) names.push_back(name);
    return names;
  }

  /// Throws io_error when there is no such tensor.
  const TensorInfo& info(std::string_view name) const {
    const auto found = tensors_.find(name);
    if (found == tensors_.end())
      throw io_error(path_ + ": has no tensor " + quoted(name) + " among its " +
                     std::to_string(tensors_.size()) + "; check the name or the file");
    return found->second;
  }

  /// Fills `out` with the tensor converted to T, a type that a double converts to; F64, F32, F16
  /// and BF16 convert, equal types are copied. Throws shape_error unless out.size() is the number
  /// of elements.
  template <class T>
  requires std::constructible_from<T, double>
  void read(std::string_view name, std::span<T> out) const {
    check_count("SafetensorsFile::read", name, out.size());
    read_part(name, 0, out);
  }

  /// Takes the tensor out of this process's memory, once it was read; it can be read again.
  void forget(std::string_view name) const { file_.forget(info(name).bytes); }

  /// The tensor as a new vector.
  template <class T>
  requires std::constructible_from<T, double> std::vector<T> read(std::string_view name)
  const {
    std::vector<T> out(static_cast<std::size_t>(info(name).count));
    read_part(name, 0, std::span<T>(out));
    return out;
  }

  /// Elements first to first + out.size(), for destinations that take a tensor in pieces.
  template <class T>
  requires std::constructible_from<T, double>
  void read_part(std::string_view name, index_t first, std::span<T> out) const {
    const TensorInfo& tensor = info(name);
    const index_t size = static_cast<index_t>(out.size());
    require(first >= 0 && size <= tensor.count - first, "SafetensorsFile::read_part",
            "elements " + std::to_string(first) + " to " + std::to_string(first + size) + " of " +
                quoted(name) + ", which has " + std::to_string(tensor.count));
    const auto at = [&](std::size_t width) {
      return tensor.bytes.data() + static_cast<std::size_t>(first) * width;
    };
    if (dtype_of<T> == tensor.dtype) {
      if (!out.empty()) std::memcpy(out.data(), at(sizeof(T)), out.size_bytes());
      return;
    }
    switch (tensor.dtype) {
      case DType::f64:
        return convert<double>(at(8), out, [](double value) { return value; });
      case DType::f32:
        return convert<float>(at(4), out, [](float value) { return value; });
      case DType::f16:
        return convert<std::uint16_t>(at(2), out, [](std::uint16_t v) { return decode_f16(v); });
      case DType::bf16:
        return convert<std::uint16_t>(at(2), out, [](std::uint16_t v) { return decode_bf16(v); });
      default:
        refuse_type(name, tensor, "F64, F32, F16 or BF16");
    }
  }

  /// An integer tensor as 64-bit values; throws io_error when it is not BOOL or an integer that
  /// fits.
  std::vector<std::int64_t> read_ids(std::string_view name) const {
    const TensorInfo& tensor = info(name);
    std::vector<std::int64_t> ids(static_cast<std::size_t>(tensor.count));
    const auto widen = [&]<class Stored>(Stored) {
      convert<Stored>(tensor.bytes.data(), std::span(ids), [](Stored value) { return value; });
    };
    switch (tensor.dtype) {
      case DType::i64:
        widen(std::int64_t{});
        break;
      case DType::i32:
        widen(std::int32_t{});
        break;
      case DType::i16:
        widen(std::int16_t{});
        break;
      case DType::i8:
        widen(std::int8_t{});
        break;
      case DType::u32:
        widen(std::uint32_t{});
        break;
      case DType::u16:
        widen(std::uint16_t{});
        break;
      case DType::u8:
      case DType::boolean:
        widen(std::uint8_t{});
        break;
      default:
        refuse_type(name, tensor, "I64, I32 or a smaller integer");
    }
    return ids;
  }

 private:
  static std::string quoted(std::string_view name) { return '"' + one_line(name) + '"'; }
  static std::string shown(const nlohmann::json& value) {
    return one_line(value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
  }

  template <class Stored, class T, class Decode>
  static void convert(const std::byte* from, std::span<T> out, Decode decode) {
    for (std::size_t i = 0; i < out.size(); ++i) {
      Stored stored;  // the format does not promise alignment
      std::memcpy(&stored, from + i * sizeof(Stored), sizeof(Stored));
      if constexpr (std::is_arithmetic_v<T>)
        out[i] = static_cast<T>(decode(stored));
      else
        out[i] = static_cast<T>(static_cast<double>(decode(stored)));
    }
  }

  void check_count(std::string_view function, std::string_view name, std::size_t size) const {
    const index_t count = info(name).count;
    require(static_cast<index_t>(size) == count, function,
            "destination of " + quoted(name) + " has " + std::to_string(size) +
                " elements, expected " + std::to_string(count) + " for shape " +
                shape_text(info(name).shape));
  }

  [[noreturn]] void refuse_type(std::string_view name, const TensorInfo& tensor,
                                std::string_view expected) const {
    throw io_error(path_ + ": byte " + std::to_string(tensor.bytes.data() - bytes_.data()) +
                   ": tensor " + quoted(name) + " is " +
                   std::string(properties(tensor.dtype).name) + ", expected " +
                   std::string(expected) + "; convert it before loading");
  }

  [[noreturn]] void fail(std::uint64_t byte, const std::string& what) const {
    throw io_error(path_ + ": byte " + std::to_string(byte) + ": " + what +
                   "; the file is damaged or incomplete, so fetch or convert it again");
  }

  void read_header() {
    std::uint64_t length = 0;
    const std::string_view text(reinterpret_cast<const char*>(bytes_.data()), bytes_.size());
    if (text.starts_with("version https://git-lfs"))
      throw io_error(path_ + ": byte 0: is a Git LFS pointer, not the file; run `git lfs pull`");
    if (bytes_.size() < sizeof(length))
      fail(bytes_.size(), "ends within the 8 bytes of the header length");
    std::memcpy(&length, bytes_.data(), sizeof(length));
    if (length > max_header)
      fail(0, "header length " + std::to_string(length) + " exceeds the format's limit of " +
                  std::to_string(max_header));
    if (length > bytes_.size() - sizeof(length))
      fail(0, "header length " + std::to_string(length) + " exceeds the " +
                  std::to_string(bytes_.size() - sizeof(length)) + " bytes that follow");
    const std::string_view header = text.substr(sizeof(length), length);
    const auto values = bytes_.subspan(sizeof(length) + length);
    if (header.starts_with("\xef\xbb\xbf")) fail(8, "header is not a JSON object");
    const nlohmann::json parsed = parse_header(header);
    if (!parsed.is_object()) fail(8, "header is not a JSON object");

    std::vector<std::pair<const std::string*, const TensorInfo*>> placed;
    for (const auto& [name, entry] : parsed.items()) {
      if (name == "__metadata__") {
        if (!entry.is_null()) read_metadata(entry, 8 + find_key(header, name));
        continue;
      }
      const auto added = tensors_.emplace(name, read_entry(name, entry, header, values)).first;
      placed.emplace_back(&added->first, &added->second);
    }
    check_cover(placed, values);
  }

  /// As the safetensors library reads it: of a tensor that stands twice the last counts, but what describes one, and
  /// __metadata__, stands once.
  nlohmann::json parse_header(std::string_view header) const {
    nlohmann::json parsed = parse_json(header, path_, 8);
    detail::RepeatedKey repeated;
    if (!nlohmann::json::sax_parse(header, &repeated))
      fail(8 + find_key(header, repeated.name), "name " + quoted(repeated.name) + " occurs twice");
    return parsed;
  }

  static std::size_t find_key(std::string_view header, const nlohmann::json& name) {
    const std::size_t at = header.find(name.dump());
    return at == std::string_view::npos ? 0 : at;
  }

  void read_metadata(const nlohmann::json& entry, std::uint64_t byte) {
    if (!entry.is_object()) fail(byte, "__metadata__ is not an object of strings");
    for (const auto& [key, value] : entry.items()) {
      if (!value.is_string()) fail(byte, "__metadata__ has " + quoted(key) + ", not a string");
      metadata_.emplace(key, value.get<std::string>());
    }
  }

  TensorInfo read_entry(const std::string& name, const nlohmann::json& entry,
                        std::string_view header, std::span<const std::byte> values) const {
    const auto refuse = [&](const std::string& what) {
      fail(8 + find_key(header, name), "tensor " + quoted(name) + what);
    };
    if (!entry.is_object()) refuse(" is not described by an object");
    for (const char* key : {"dtype", "shape", "data_offsets"})
      if (!entry.contains(key)) refuse(std::string(" has no ") + key);
    const nlohmann::json& dtype = entry["dtype"];
    const nlohmann::json& shape = entry["shape"];
    const nlohmann::json& offsets = entry["data_offsets"];

    TensorInfo tensor;
    const auto known = dtype.is_string() ? dtype_named(dtype.get<std::string>()) : std::nullopt;
    if (!known) refuse(" has the unknown dtype " + shown(dtype));
    tensor.dtype = *known;

    if (!shape.is_array()) refuse(" has the shape " + shown(shape) + ", not a list");
    constexpr std::uint64_t largest = std::numeric_limits<std::uint64_t>::max();
    std::uint64_t count = 1;
    const auto multiply = [&](std::uint64_t& product, std::uint64_t factor) {
      if (factor != 0 && product > largest / factor)
        refuse(" has the shape " + shown(shape) + ", too large for any memory");
      product *= factor;
    };
    for (const nlohmann::json& extent : shape) {
      if (!extent.is_number_unsigned() || !std::in_range<index_t>(extent.get<std::uint64_t>()))
        refuse(" has the shape " + shown(shape) + ", where " + shown(extent) + " is not a size");
      tensor.shape.push_back(extent.get<index_t>());
      multiply(count, extent.get<std::uint64_t>());
    }
    std::uint64_t bits = count;
    multiply(bits, properties(tensor.dtype).bits);
    tensor.count = static_cast<index_t>(count);
    if (bits % 8 != 0) refuse(" does not fill whole bytes");

    if (!offsets.is_array() || offsets.size() != 2 || !offsets[0].is_number_unsigned() ||
        !offsets[1].is_number_unsigned())
      refuse(" has the data_offsets " + shown(offsets) + ", not two positions");
    const std::uint64_t begin = offsets[0].get<std::uint64_t>();
    const std::uint64_t end = offsets[1].get<std::uint64_t>();
    if (begin > end) refuse(" begins at " + shown(offsets[0]) + " after its end");
    if (end > values.size())
      refuse(" ends at " + shown(offsets[1]) + " of " + std::to_string(values.size()) +
             " bytes of values");
    if (end - begin != bits / 8)
      refuse(" has " + std::to_string(end - begin) + " bytes, but " + shown(dtype) + " of shape " +
             shown(shape) + " needs " + std::to_string(bits / 8));
    tensor.bytes = values.subspan(begin, end - begin);
    return tensor;
  }

  void check_cover(std::vector<std::pair<const std::string*, const TensorInfo*>>& placed,
                   std::span<const std::byte> values) const {
    const auto begin_of = [](const auto& item) { return item.second->bytes.data(); };
    std::sort(placed.begin(), placed.end(), [&](const auto& a, const auto& b) {
      return std::pair(begin_of(a), a.second->bytes.size()) <
             std::pair(begin_of(b), b.second->bytes.size());
    });
    const std::byte* end = values.data();
    std::string before = "the header";
    for (const auto& item : placed) {
      const std::uint64_t byte = static_cast<std::uint64_t>(begin_of(item) - bytes_.data());
      const std::string who = "tensor " + quoted(*item.first);
      if (begin_of(item) < end) fail(byte, who + " overlaps " + before);
      if (begin_of(item) > end)
        fail(byte, std::to_string(begin_of(item) - end) + " bytes between " + before + " and " +
                       who + " belong to no tensor");
      end = begin_of(item) + item.second->bytes.size();
      before = who;
    }
    const auto rest = values.data() + values.size() - end;
    if (rest > 0)
      fail(static_cast<std::uint64_t>(end - bytes_.data()),
           std::to_string(rest) + " bytes after " + before + " belong to no tensor");
  }

  std::string path_;
  MappedFile file_;
  std::span<const std::byte> bytes_;
  std::map<std::string, TensorInfo, std::less<>> tensors_;
  std::map<std::string, std::string> metadata_;
};

/// Collects tensors, which stay where they are, and writes them as one file, converting a piece at
/// a time.
class SafetensorsWriter {
 public:
  /// Adds `values`, row-major, to be stored as F64, F32, F16 or BF16 (nearest, ties to even). The
  /// values are read by write(), not here. Throws shape_error when their number is not that of the
  /// shape or the name is taken.
  template <class T>
  void add(std::string name, DType dtype, std::vector<index_t> shape, std::span<const T> values) {
    const index_t count = element_count<T>("SafetensorsWriter::add", name, dtype, shape);
    require(static_cast<index_t>(values.size()) == count, "SafetensorsWriter::add",
            "tensor \"" + name + "\" has " + std::to_string(values.size()) + " values, expected " +
                std::to_string(count) + " for shape " + shape_text(shape));
    std::function<void(ReplacementFile&)> write_values = [dtype, values](ReplacementFile& file) {
      if (dtype_of<T> == dtype) return file.write(std::as_bytes(values));
      std::vector<std::byte> encoded;
      for (std::size_t first = 0; first < values.size(); first += piece)
        file.write(
            encode(dtype, values.subspan(first, std::min(piece, values.size() - first)), encoded));
    };
    insert(std::move(name), dtype, std::move(shape), count, std::move(write_values));
  }

  /// The same for values that are elsewhere, as on a device: write() calls fill(first, out) for
  /// consecutive pieces, and fill puts elements first to first + out.size() into `out`.
  template <class T>
  void add_stream(std::string name, DType dtype, std::vector<index_t> shape,
                  std::function<void(index_t first, std::span<T> out)> fill) {
    const index_t count = element_count<T>("SafetensorsWriter::add_stream", name, dtype, shape);
    std::function<void(ReplacementFile&)> write_values =
        [dtype, count, fill = std::move(fill)](ReplacementFile& file) {
          std::vector<std::byte> encoded;
          std::vector<T> values(std::min(piece, static_cast<std::size_t>(count)));
          for (std::size_t first = 0; first < static_cast<std::size_t>(count); first += piece) {
            const auto part =
                std::span(values).first(std::min(piece, static_cast<std::size_t>(count) - first));
            fill(static_cast<index_t>(first), part);
            file.write(encode(dtype, std::span<const T>(part), encoded));
          }
        };
    insert(std::move(name), dtype, std::move(shape), count, std::move(write_values));
  }

  /// Adds 64-bit integers, stored as I64.
  void add_ids(std::string name, std::vector<index_t> shape, std::span<const std::int64_t> values) {
    add<std::int64_t>(std::move(name), DType::i64, std::move(shape), values);
  }

  /// Metadata are strings for readers: {"format": "pt"} is what transformers asks for.
  void set_metadata(std::string key, std::string value) {
    metadata_.insert_or_assign(std::move(key), std::move(value));
  }

  /// Names in the order added.
  std::vector<std::string> names() const {
    std::vector<std::string> names;
    for (const Entry& entry : entries_) names.push_back(entry.name);
    return names;
  }

  /// Replaces `path` by these tensors, or throws io_error and leaves it as it was. The bytes depend
  /// on the tensors alone: widest dtype first, then by name, so that every tensor is aligned to its
  /// element.
  void write(const std::filesystem::path& path) const {
    ReplacementFile file(path);
    write(file);
    file.commit();
  }

  /// The same into a file that the caller commits, alone or with others.
  void write(ReplacementFile& file) const {
    std::vector<const Entry*> order;
    for (const Entry& entry : entries_) order.push_back(&entry);
    std::sort(order.begin(), order.end(), [](const Entry* a, const Entry* b) {
      const auto width = [](const Entry* entry) { return properties(entry->dtype).bits; };
      return width(a) != width(b) ? width(a) > width(b) : a->name < b->name;
    });

    nlohmann::json header = nlohmann::json::object();
    if (!metadata_.empty()) header["__metadata__"] = metadata_;
    std::uint64_t begin = 0;
    for (const Entry* entry : order) {
      header[entry->name] = {{"dtype", properties(entry->dtype).name},
                             {"shape", entry->shape},
                             {"data_offsets", {begin, begin + entry->bytes}}};
      begin += entry->bytes;
    }
    std::string text;
    try {
      text = header.dump();
    } catch (const nlohmann::json::type_error&) {
      throw io_error(file.target().string() +
                     ": a tensor's name or metadata is not UTF-8; rename it and save again");
    }
    text.resize((text.size() + 7) / 8 * 8, ' ');
    const std::uint64_t length = text.size();
    file.write(std::as_bytes(std::span(&length, 1)));
    file.write(text);
    for (const Entry* entry : order) entry->write_values(file);
  }

 private:
  static constexpr std::size_t piece = std::size_t{1} << 16;

  struct Entry {
    std::string name;
    DType dtype;
    std::vector<index_t> shape;
    std::uint64_t bytes;
    std::function<void(ReplacementFile&)> write_values;
  };

  template <class T>
  index_t element_count(std::string_view function, const std::string& name, DType dtype,
                        const std::vector<index_t>& shape) const {
    require(!name.empty() && name != "__metadata__", function,
            "\"" + name + "\" cannot name a tensor");
    require(!names_.contains(name), function, "tensor \"" + name + "\" was added before");
    require(holds_numbers(dtype) || dtype_of<T> == dtype, function,
            "tensor \"" + name + "\" as " + std::string(properties(dtype).name) +
                ", expected F64, F32, F16 or BF16, or I64 for 64-bit integers");
    index_t count = 1;
    for (const index_t extent : shape) {
      require(extent >= 0, function, "tensor \"" + name + "\" has shape " + shape_text(shape));
      count *= extent;
    }
    return count;
  }

  void insert(std::string name, DType dtype, std::vector<index_t> shape, index_t count,
              std::function<void(ReplacementFile&)> write_values) {
    names_.insert(name);
    entries_.push_back({std::move(name), dtype, std::move(shape),
                        static_cast<std::uint64_t>(count) * (properties(dtype).bits / 8),
                        std::move(write_values)});
  }

  template <class Stored, class T, class Encode>
  static void encode_each(std::span<const T> values, std::vector<std::byte>& encoded,
                          Encode encode_one) {
    encoded.resize(values.size() * sizeof(Stored));
    for (std::size_t i = 0; i < values.size(); ++i) {
      const Stored stored = encode_one(values[i]);
      std::memcpy(encoded.data() + i * sizeof(Stored), &stored, sizeof(Stored));
    }
  }

  template <class T>
  static std::span<const std::byte> encode(DType dtype, std::span<const T> values,
                                           std::vector<std::byte>& encoded) {
    const auto wide = [](const T& value) { return math::to_double(value); };
    const auto narrow = [&](const T& value) {
      if constexpr (std::is_same_v<T, float>)
        return value;
      else
        return round_to_odd(wide(value));
    };
    if (dtype_of<T> == dtype) return std::as_bytes(values);
    switch (dtype) {
      case DType::f64:
        encode_each<double>(values, encoded, wide);
        break;
      case DType::f32:
        encode_each<float>(values, encoded,
                           [&](const T& v) { return static_cast<float>(wide(v)); });
        break;
      case DType::f16:
        encode_each<std::uint16_t>(values, encoded,
                                   [&](const T& v) { return encode_f16(narrow(v)); });
        break;
      case DType::bf16:
        encode_each<std::uint16_t>(values, encoded,
                                   [&](const T& v) { return encode_bf16(narrow(v)); });
        break;
      default:
        break;  // refused by element_count
    }
    return encoded;
  }

  std::vector<Entry> entries_;
  std::set<std::string> names_;
  std::map<std::string, std::string> metadata_;
};

}  // namespace srformer
