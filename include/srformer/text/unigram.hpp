// SPDX-License-Identifier: Apache-2.0
// The best segmentation of a word under a unigram model (Kudo, "Subword regularization", 2018):
//   max over segmentations x_1...x_n of the word of   sum_i log p(x_i)
// by Viterbi's algorithm over a trie of the pieces. Sums are in double and the leftmost start wins among equals, as in
// Hugging Face's tokenizers; SentencePiece sums in float and so breaks ties (x xx, xx x) otherwise.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <string_view>
#include <vector>

#include <srformer/text/tokenizer_folder.hpp>

namespace srformer::detail {

class UnigramPieces {
 public:
  /// Memory of segment() that is kept from word to word.
  struct Work {
    struct End {  // of the best segmentation that ends here
      double score;
      std::int32_t id;    // its last piece
      std::size_t start;  // and where that starts
    };
    std::vector<End> ends;
  };

  /// Adds the piece of the next id.
  void add(std::string_view piece, double log_probability) {
    std::size_t node = 0;
    for (const char byte : piece) {
      const auto at =
          std::ranges::lower_bound(nodes_[node].edges, std::uint8_t(byte), {}, &Edge::byte);
      if (at != nodes_[node].edges.end() && at->byte == std::uint8_t(byte)) {
        node = at->node;
        continue;
      }
      nodes_[node].edges.insert(at, {std::uint8_t(byte), std::uint32_t(nodes_.size())});
      node = nodes_.size();
      nodes_.emplace_back();
    }
    nodes_[node].id = std::int32_t(scores_.size());
    scores_.push_back(log_probability);
    lowest_ = std::min(lowest_, log_probability);
  }

  /// Appends the ids of a word in UTF-8. A character that is no piece may be unknown, ten below the lowest score, and
  /// unknown neighbours are one `unk_id`. O(bytes times the length of the longest piece).
  void segment(std::string_view word, std::int32_t unk_id, std::vector<std::int32_t>& ids,
               Work& work) const {
    constexpr double unreached = -std::numeric_limits<double>::infinity();
    const double unknown = lowest_ - 10;
    auto& ends = work.ends;
    ends.assign(word.size() + 1, {unreached, -1, 0});
    ends[0].score = 0;
    for (std::size_t start = 0; start < word.size();) {
      const std::size_t character = utf8_step(word.substr(start)).bytes;
      const auto reach = [&](std::size_t end, std::int32_t id, double score) {
        const double sum = ends[start].score + score;
        if (ends[end].id < 0 || sum > ends[end].score) ends[end] = {sum, id, start};
      };
      bool single = false;
      const Node* node = nodes_.data();
      for (std::size_t end = start; end < word.size();) {
        const auto byte = std::uint8_t(word[end++]);
        const auto edge = std::ranges::lower_bound(node->edges, byte, {}, &Edge::byte);
        if (edge == node->edges.end() || edge->byte != byte) break;
        node = &nodes_[edge->node];
        const std::int32_t id = node->id;
        if (id < 0) continue;
        reach(end, id, scores_[std::size_t(id)]);
        single = single || end == start + character;
      }
      if (!single) reach(start + character, unk_id, unknown);
      start += character;
    }

    const std::size_t begin = ids.size();
    for (std::size_t end = word.size(); end > 0; end = ends[end].start)
      if (ends[end].id != unk_id || ids.size() == begin || ids.back() != unk_id)
        ids.push_back(ends[end].id);
    std::reverse(ids.begin() + std::ptrdiff_t(begin), ids.end());
  }

 private:
  struct Edge {
    std::uint8_t byte;
    std::uint32_t node;
  };
  struct Node {
    std::vector<Edge> edges;  // by byte
    std::int32_t id = -1;     // of the piece that ends here
  };

  std::vector<Node> nodes_{Node{}};
  std::vector<double> scores_;  // by id
  double lowest_ = std::numeric_limits<double>::infinity();
};

}  // namespace srformer::detail
