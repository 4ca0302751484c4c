// SPDX-License-Identifier: Apache-2.0
// Any bytes, or sections header.json and values of a safetensors file, as a cache of ids.
#include <srformer/io/token_cache.hpp>

#include "fuzz.hpp"

namespace {

using namespace srformer;

void run_token_cache(std::string_view bytes) {
  const auto files = fuzz::sections(bytes);
  const auto path = fuzz::folder() / "tokens.safetensors";
  if (const auto header = files.find("header.json"); header != files.end()) {
    const std::uint64_t length = header->second.size();
    std::string whole(reinterpret_cast<const char*>(&length), sizeof length);
    whole += header->second;
    if (const auto values = files.find("values"); values != files.end()) whole += values->second;
    fuzz::write(path, whole);
  } else {
    fuzz::write(path, bytes);
  }
  fuzz::tolerate([&] {
    const TokenCache cache(path);
    std::int64_t sum = 0;
    for (index_t i = 0; i < cache.size(); ++i)
      for (const auto& ids : {cache[i].source, cache[i].target})
        for (const std::int32_t id : ids) sum += id;
    [[maybe_unused]] volatile std::int64_t kept = sum;  // so that every id is read
  });
}

const fuzz::Target token_cache_target("token_cache", run_token_cache);

}  // namespace
