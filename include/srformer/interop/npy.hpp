// SPDX-License-Identifier: Apache-2.0
// Arrays in NumPy's .npy files (format 1.0 to 3.0), for exchange with Python and xtensor: float, double
// and int32, little-endian. Needs neither; xtensor's own load_npy takes a file that ends early for a
// whole one, and misreads the length of a long header.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <srformer/backend/tensor.hpp>
#include <srformer/core/utf8.hpp>

namespace srformer {

namespace detail {

template <class T>
inline constexpr const char* npy_type = nullptr;
template <>
inline constexpr const char* npy_type<float> = "<f4";
template <>
inline constexpr const char* npy_type<double> = "<f8";
template <>
inline constexpr const char* npy_type<std::int32_t> = "<i4";

inline constexpr std::string_view npy_magic = "\x93NUMPY";

/// What stands after `'key':` in a header; io_error where there is none.
inline std::string_view npy_field(const std::string& path, std::string_view header,
                                  std::string_view key) {
  const std::string quoted = "'" + std::string(key) + "'";
  std::size_t at = header.find(quoted);
  if (at != std::string_view::npos) at = header.find(':', at + quoted.size());
  if (at != std::string_view::npos) at = header.find_first_not_of(' ', at + 1);
  if (at == std::string_view::npos) {
    throw io_error(path + ": the header of the npy file has no " + quoted + "; write it again");
  }
  return header.substr(at);
}

/// The numbers of "(2, 3,)...".
inline std::vector<index_t> npy_shape(const std::string& path, std::string_view text) {
  std::vector<index_t> shape;
  const std::size_t end = text.find(')');
  bool sound = text.front() == '(' && end != std::string_view::npos;
  bool in_number = false;
  for (std::size_t i = 1; sound && i < end; ++i) {
    const char c = text[i];
    if (c >= '0' && c <= '9') {
      if (!in_number) shape.push_back(0);
      sound = shape.back() < index_t{1} << 48;
      shape.back() = shape.back() * 10 + (c - '0');
      in_number = true;
    } else {
      sound = c == ' ' || c == ',';
      in_number = false;
    }
  }
  if (!sound) {
    throw io_error(path +
                   ": the shape in the header of the npy file cannot be read; write it again");
  }
  return shape;
}

/// An npy file, open where its elements begin.
struct NpyFile {
  std::ifstream stream;
  std::string header;
  std::uint64_t bytes;  ///< behind the header
};

/// Reads up to the end of the header.
inline NpyFile open_npy(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    throw io_error(path + ": cannot be opened; check that the file exists and may be read");
  }
  std::error_code unknown;
  const auto size = static_cast<std::uint64_t>(std::filesystem::file_size(path, unknown));
  std::array<unsigned char, 12> start{};
  file.read(reinterpret_cast<char*>(start.data()), 10);
  const bool magic =
      std::equal(npy_magic.begin(), npy_magic.end(), reinterpret_cast<const char*>(start.data()));
  if (unknown || !file || !magic) {
    throw io_error(path + ": is not an npy file; save it with numpy.save");
  }
  if (start[6] < 1 || start[6] > 3) {
    throw io_error(path + ": is an npy file of version " + std::to_string(start[6]) +
                   ", and 1 to 3 can be read; save it with numpy.save");
  }
  std::uint64_t length = start[8] + 256u * start[9], first = 10;
  if (start[6] > 1) {
    file.read(reinterpret_cast<char*>(start.data()) + 10, 2);
    length += (std::uint64_t{start[10]} << 16) + (std::uint64_t{start[11]} << 24);
    first = 12;
  }
  std::string header;
  if (file && first + length <= size) {
    header.resize(length);
    file.read(header.data(), static_cast<std::streamsize>(length));
  }
  if (!file || header.empty()) {
    throw io_error(path + ": ends within the header of the npy file, at byte " +
                   std::to_string(size) + "; copy or write it again");
  }
  return {std::move(file), std::move(header), size - first - length};
}

/// Throws unless the file holds elements of type T in C order.
template <class T>
void check_npy_elements(const std::string& path, std::string_view header) {
  const std::string_view type = npy_field(path, header, "descr");
  const std::string wanted = "'" + std::string(npy_type<T>) + "'";
  if (!type.starts_with(wanted)) {
    throw io_error(path + ": holds elements of type " +
                   one_line(type.substr(0, type.find_first_of(",}")), 60) + ", expected " + wanted +
                   "; convert it with astype");
  }
  if (!npy_field(path, header, "fortran_order").starts_with("False")) {
    throw io_error(path +
                   ": is in Fortran order, expected C order; save numpy.ascontiguousarray of it");
  }
}

/// The number of elements of a shape; throws unless they take just the bytes that are there. A shape with an extent of 0 must
/// fit into memory without it, as in NumPy.
inline std::uint64_t npy_count(const std::string& path, const std::vector<index_t>& shape,
                               std::uint64_t bytes, std::uint64_t element) {
  std::uint64_t room = static_cast<std::uint64_t>(std::numeric_limits<index_t>::max()) / element;
  std::uint64_t count = 1;
  bool fits = true, none = false;
  for (const index_t extent : shape) {
    const auto factor = static_cast<std::uint64_t>(extent);
    none = none || factor == 0;
    fits = fits && factor <= room;
    if (fits && factor > 0) room /= factor, count *= factor;
  }
  if (none) count = 0;
  if (!fits || bytes != count * element) {
    throw io_error(path + ": has " + std::to_string(bytes) +
                   " bytes after its header, which is not what shape " + shape_text(shape) +
                   " needs; copy or write it again");
  }
  return count;
}

/// The elements, and their shape, of a file of type T in C order.
template <class T>
std::vector<T> read_npy_values(const std::string& path, std::vector<index_t>& shape) {
  static_assert(npy_type<T> != nullptr, "an npy file holds float, double or std::int32_t here");
  static_assert(std::endian::native == std::endian::little);
  NpyFile file = open_npy(path);
  check_npy_elements<T>(path, file.header);
  shape = npy_shape(path, npy_field(path, file.header, "shape"));
  std::vector<T> values(npy_count(path, shape, file.bytes, sizeof(T)));
  file.stream.read(reinterpret_cast<char*>(values.data()),
                   static_cast<std::streamsize>(values.size() * sizeof(T)));
  if (!file.stream) throw io_error(path + ": could not be read to its end; try again");
  return values;
}

}  // namespace detail

/// The array in an .npy file, as a tensor of a backend. io_error, in one sentence with the path, for a file
/// that is cut short or too long, of another type, rank or order.
template <class T, int Rank, class B>
Tensor<B, T, Rank> read_npy(B& be, const std::string& path) {
  std::vector<index_t> found;
  const std::vector<T> values = detail::read_npy_values<T>(path, found);
  if (found.size() != static_cast<std::size_t>(Rank)) {
    throw io_error(path + ": holds an array of shape " + shape_text(found) + ", expected " +
                   std::to_string(Rank) + (Rank == 1 ? " axis" : " axes") + "; reshape it");
  }
  std::array<index_t, Rank> shape{};
  std::copy(found.begin(), found.end(), shape.begin());
  return from_host<T, Rank>(be, shape, values);
}

/// Writes a view of host memory, of any strides, as an .npy file in C order. An existing file is replaced
/// when the whole is written; io_error where it cannot be.
template <class T, int Rank>
void write_npy(const std::string& path, const View<T, Rank>& view) {
  using U = std::remove_const_t<T>;
  static_assert(detail::npy_type<U> != nullptr,
                "an npy file holds float, double or std::int32_t here");
  std::string shape;
  for (const index_t extent : view.extents) shape += std::to_string(extent) + ", ";
  if (Rank > 1) shape.resize(shape.size() - 2);
  std::string header = "{'descr': '" + std::string(detail::npy_type<U>) +
                       "', 'fortran_order': False, 'shape': (" + shape + "), }";
  header.append(63 - (10 + header.size()) % 64, ' ') += '\n';
  const std::string aside = path + ".part";
  std::ofstream file(aside, std::ios::binary | std::ios::trunc);
  file << detail::npy_magic << '\x01' << '\0' << static_cast<char>(header.size() % 256)
       << static_cast<char>(header.size() / 256) << header;
  std::array<index_t, Rank> at{};
  for (index_t i = 0; i < view.size(); ++i) {
    index_t offset = 0;
    for (int axis = 0; axis < Rank; ++axis) offset += at[axis] * view.strides[axis];
    file.write(reinterpret_cast<const char*>(view.data + offset), sizeof(U));
    for (int axis = Rank - 1; axis >= 0 && ++at[axis] == view.extents[axis]; --axis) at[axis] = 0;
  }
  file.close();
  std::error_code failed;
  if (file) std::filesystem::rename(aside, path, failed);
  if (!file || failed) {
    std::error_code ignored;
    std::filesystem::remove(aside, ignored);
    throw io_error(path + ": cannot be written; check the folder, its rights and the space left");
  }
}

/// The same from a tensor of any backend.
template <class B, class T, int Rank>
void write_npy(B& be, const std::string& path, const Tensor<B, T, Rank>& tensor) {
  const std::vector<T> values = to_host(be, tensor);
  write_npy(path, View<const T, Rank>(values.data(), tensor.view().extents));
}

}  // namespace srformer
