// SPDX-License-Identifier: Apache-2.0
// The merges of byte pair encoding (Sennrich, Haddow and Birch, "Neural machine translation of rare words with subword
// units", 2016): which pairs of tokens become one, and in which order.
#pragma once

#include <algorithm>
#include <cstdint>
#include <unordered_map>
#include <utility>
#include <vector>

#include <srformer/core/config.hpp>

namespace srformer::detail {

inline std::uint64_t pair_key(std::int32_t left, std::int32_t right) {
  return std::uint64_t(std::uint32_t(left)) << 32 | std::uint32_t(right);
}

struct PairHash {
  std::size_t operator()(std::uint64_t key) const {
    key = (key ^ key >> 32) * 0x9e3779b97f4a7c15u;
    return std::size_t(key ^ key >> 29);
  }
};

/// Which pairs of tokens become one, and in which order.
class MergeTable {
 public:
  void add(std::int32_t left, std::int32_t right, std::int32_t rank, std::int32_t merged) {
    merges_.insert_or_assign(pair_key(left, right), Merge{rank, merged});
  }

  /// Memory of merge() that is kept from word to word.
  struct Work {
    struct Symbol {
      std::int32_t id, previous, next;  // id -1: merged into the one before
    };
    struct Candidate {
      std::int32_t rank, position, merged;
      bool operator<(const Candidate& other) const {  // the last is the lowest rank, leftmost first
        return std::pair(rank, position) > std::pair(other.rank, other.position);
      }
    };
    std::vector<Symbol> symbols;
    std::vector<Candidate> candidates;
  };

  /// Replaces ids[begin, end) by their merges, the lowest rank first and, among equals, the leftmost: O(n log n).
  void merge(std::vector<std::int32_t>& ids, std::size_t begin, Work& work) const {
    auto& [symbols, candidates] = work;
    symbols.clear();
    candidates.clear();
    const auto count = std::int32_t(ids.size() - begin);
    for (std::int32_t i = 0; i < count; ++i)
      symbols.push_back({ids[begin + std::size_t(i)], i - 1, i + 1 < count ? i + 1 : -1});
    const auto at = [&](std::int32_t i) -> Work::Symbol& { return work.symbols[std::size_t(i)]; };
    const auto find = [&](std::int32_t left) -> const Merge* {
      if (left < 0 || at(left).next < 0) return nullptr;
      const auto found = merges_.find(pair_key(at(left).id, at(at(left).next).id));
      return found == merges_.end() ? nullptr : &found->second;
    };
    for (std::int32_t i = 0; i < count; ++i)
      if (const Merge* merge = find(i)) candidates.push_back({merge->rank, i, merge->merged});
    std::make_heap(candidates.begin(), candidates.end());
    while (!candidates.empty()) {
      std::pop_heap(candidates.begin(), candidates.end());
      const Work::Candidate best = candidates.back();
      candidates.pop_back();
      if (at(best.position).id < 0) continue;
      const Merge* current = find(best.position);
      if (current == nullptr || current->merged != best.merged) continue;
      Work::Symbol& left = at(best.position);
      Work::Symbol& right = at(left.next);
      left.id = best.merged;
      left.next = right.next;
      right.id = -1;
      if (left.next >= 0) at(left.next).previous = best.position;
      for (const std::int32_t i : {left.previous, best.position})
        if (const Merge* merge = find(i)) {
          candidates.push_back({merge->rank, i, merge->merged});
          std::push_heap(candidates.begin(), candidates.end());
        }
    }
    ids.resize(begin);
    for (const Work::Symbol& symbol : symbols)
      if (symbol.id >= 0) ids.push_back(symbol.id);
  }

 private:
  struct Merge {
    std::int32_t rank, merged;
  };
  std::unordered_map<std::uint64_t, Merge, PairHash> merges_;
};

}  // namespace srformer::detail
