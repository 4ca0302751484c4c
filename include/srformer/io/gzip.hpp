// SPDX-License-Identifier: Apache-2.0
// What a .gz file holds, by zlib. Programs that do not include this header need no zlib.
#pragma once

#include <zlib.h>

#include <algorithm>
#include <cstddef>
#include <limits>
#include <span>
#include <string>

#include <srformer/core/error.hpp>

namespace srformer {

/// The bytes that gzip compressed into `bytes`, which may be several members one after another, as `cat a.gz b.gz` and
/// bgzip write them. Throws io_error with `path` for data that are damaged, end early, go on after the last member with
/// anything but zeros, or are more than 64 MiB and 200 times what they were compressed to. Holds the whole result in
/// memory.
inline std::string gunzip(std::span<const std::byte> bytes, const std::string& path) {
  const auto refuse = [&](std::size_t at, const std::string& what) {
    throw io_error(path + ": byte " + std::to_string(at) + ": " + what + "; fetch the file again");
  };
  struct Inflater {
    z_stream stream{};
    ~Inflater() { inflateEnd(&stream); }
  } inflater;
  z_stream& stream = inflater.stream;
  constexpr int gzip_alone = 16 + MAX_WBITS;
  if (inflateInit2(&stream, gzip_alone) != Z_OK) throw std::bad_alloc();
  std::string text;
  std::size_t used = 0, read = 0;
  constexpr std::size_t always = std::size_t{64} << 20, times = 200;
  for (;;) {
    if (used == text.size()) text.resize(std::max<std::size_t>(2 * text.size(), 1 << 16));
    constexpr std::size_t most = std::numeric_limits<uInt>::max();
    const uInt in = static_cast<uInt>(std::min(bytes.size() - read, most));
    const uInt out = static_cast<uInt>(std::min(text.size() - used, most));
    stream.next_in = reinterpret_cast<Bytef*>(const_cast<std::byte*>(bytes.data() + read));
    stream.avail_in = in;
    stream.next_out = reinterpret_cast<Bytef*>(text.data() + used);
    stream.avail_out = out;
    const int status = inflate(&stream, Z_NO_FLUSH);
    read += in - stream.avail_in, used += out - stream.avail_out;
    if (used > always && used / times > bytes.size())
      throw io_error(path + ": becomes more than " + std::to_string(times) +
                     " times as large without gzip, as no text does; gunzip it to see what it is");
    if (status == Z_STREAM_END) {
      const auto rest = bytes.subspan(read);
      if (std::ranges::all_of(rest, [](std::byte b) { return b == std::byte{0}; })) break;
      if (rest.size() < 2 || rest[0] != std::byte{0x1f} || rest[1] != std::byte{0x8b})
        refuse(read, "what follows the compressed data is not gzip");
      inflateReset(&stream);
    } else if (status == Z_MEM_ERROR) {
      throw std::bad_alloc();
    } else if (status != Z_OK && status != Z_BUF_ERROR) {
      refuse(read, "the gzip data are damaged" +
                       (stream.msg != nullptr ? ": " + std::string(stream.msg) : std::string()));
    } else if (read == bytes.size() && stream.avail_out > 0) {
      refuse(read, "the gzip data end early");
    }
  }
  text.resize(used);
  return text;
}

}  // namespace srformer
