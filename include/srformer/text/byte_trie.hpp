// SPDX-License-Identifier: Apache-2.0
// Strings with a number each, found by what a text begins with.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

#include <srformer/core/config.hpp>

namespace srformer::detail {

class ByteTrie {
 public:
  /// Gives a non-empty string a number >= 0, in place of the one it has. Returns that, or -1.
  std::int32_t insert(std::string_view text, std::int32_t number) {
    std::size_t node = 0;
    for (const char c : text) {
      const auto byte = std::uint8_t(c);
      const std::uint32_t next = child(node, byte);
      node = next != none ? next : append(node, byte);
    }
    return std::exchange(nodes_[node].number, number);
  }

  /// Calls found(bytes, number) for every string that `text` begins with, the shortest first. O(bytes of the longest).
  template <class Found>
  void prefixes(std::string_view text, Found found) const {
    std::size_t node = 0;
    for (std::size_t i = 0; i < text.size(); ++i) {
      const std::uint32_t next = child(node, std::uint8_t(text[i]));
      if (next == none) return;
      node = next;
      if (nodes_[node].number >= 0) found(i + 1, nodes_[node].number);
    }
  }

  /// Whether some string begins with this byte.
  bool begins(char byte) const { return first_[std::uint8_t(byte)] != none; }

 private:
  static constexpr std::uint32_t none = 0;  // the root is nobody's child

  struct Edge {
    std::uint8_t byte;
    std::uint32_t node;
  };
  struct Node {
    std::vector<Edge> edges;  // by byte; not the root's
    std::int32_t number = -1;
  };

  std::uint32_t child(std::size_t node, std::uint8_t byte) const {
    if (node == 0) return first_[byte];
    const std::vector<Edge>& edges = nodes_[node].edges;
    const auto at = std::ranges::lower_bound(edges, byte, {}, &Edge::byte);
    return at == edges.end() || at->byte != byte ? none : at->node;
  }

  std::uint32_t append(std::size_t node, std::uint8_t byte) {
    const auto next = std::uint32_t(nodes_.size());
    if (node == 0) {
      first_[byte] = next;
    } else {
      std::vector<Edge>& edges = nodes_[node].edges;
      edges.insert(std::ranges::lower_bound(edges, byte, {}, &Edge::byte), {byte, next});
    }
    nodes_.emplace_back();
    return next;
  }

  std::vector<Node> nodes_{Node{}};
  std::array<std::uint32_t, 256> first_{};  // children of the root
};

}  // namespace srformer::detail
