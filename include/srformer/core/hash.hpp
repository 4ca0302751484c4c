// SPDX-License-Identifier: Apache-2.0
// FNV-1a, a hash that detects accidental changes. It is no protection against intended ones.
// Source: Fowler, Noll and Vo, "The FNV non-cryptographic hash algorithm", draft-eastlake-fnv.
#pragma once

#include <cstdint>
#include <string_view>

#include <srformer/core/config.hpp>

namespace srformer {

/// The hash of 64 bits of what it was given, in order. FNV-1a takes octets; what is larger is taken as one.
class Fnv1a {
 public:
  constexpr void add(std::uint64_t x) { hash_ = (hash_ ^ x) * 0x100000001b3ULL; }
  constexpr std::uint64_t value() const { return hash_; }

 private:
  std::uint64_t hash_ = 0xcbf29ce484222325ULL;
};

/// The hash of a text.
constexpr std::uint64_t text_hash(std::string_view text) {
  Fnv1a hash;
  for (const char c : text) hash.add(static_cast<unsigned char>(c));
  return hash.value();
}

}  // namespace srformer
