// SPDX-License-Identifier: Apache-2.0
// The best segmentation of a word under a unigram model (Kudo, "Subword regularization", 2018):
//   max over segmentations x_1...x_n of the word of   sum_i log p(x_i)
// by Viterbi's algorithm over a trie of the pieces. Sums are in double and the leftmost start wins among equals, as in
// Hugging Face's tokenizers; SentencePiece sums in float and so breaks ties (x xx, xx x) otherwise.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <srformer/text/byte_trie.hpp>
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

  /// Adds the piece of the next id; the last of equal ones counts. Throws io_error, naming `path`, for one of more than
  /// 1000 bytes.
  void add(std::string_view piece, double log_probability, const std::filesystem::path& path = {}) {
    require_token_length(piece, path);
    if (!piece.empty()) trie_.insert(piece, std::int32_t(scores_.size()));
    scores_.push_back(log_probability);
    lowest_ = std::min(lowest_, log_probability);
  }

  /// Spells unknown characters by the ids of their bytes (-1: no piece), but not the text of the unknown piece itself.
  void spell_unknown(const std::array<std::int32_t, 256>& byte_ids, std::string unk_piece) {
    byte_ids_ = byte_ids;
    unk_piece_ = std::move(unk_piece);
  }

  /// Appends the ids of a word in UTF-8. A character that is no piece may be unknown, ten below the lowest score, and
  /// unknown neighbours are one `unk_id`, or their bytes after spell_unknown. O(bytes times the length of the longest
  /// piece).
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
      trie_.prefixes(word.substr(start), [&](std::size_t bytes, std::int32_t id) {
        reach(start + bytes, id, scores_[std::size_t(id)]);
        single = single || bytes == character;
      });
      if (!single) reach(start + character, unk_id, unknown);
      start += character;
    }

    const std::size_t begin = ids.size();
    for (std::size_t end = word.size(); end > 0;) {
      const std::int32_t id = ends[end].id;
      std::size_t from = ends[end].start;
      if (id != unk_id) {
        ids.push_back(id);
      } else {
        while (from > 0 && ends[from].id == unk_id) from = ends[from].start;
        push_unknown(word.substr(from, end - from), unk_id, ids);
      }
      end = from;
    }
    std::reverse(ids.begin() + std::ptrdiff_t(begin), ids.end());
  }

 private:
  /// Unknown neighbours, the last byte first.
  void push_unknown(std::string_view text, std::int32_t unk_id,
                    std::vector<std::int32_t>& ids) const {
    bool spelt = byte_ids_.has_value() && text != unk_piece_;
    for (std::size_t i = 0; spelt && i < text.size(); ++i)
      spelt = (*byte_ids_)[std::uint8_t(text[i])] >= 0;
    if (!spelt) return ids.push_back(unk_id);
    for (std::size_t i = text.size(); i-- > 0;) ids.push_back((*byte_ids_)[std::uint8_t(text[i])]);
  }

  ByteTrie trie_;               // the number of a piece is its id
  std::vector<double> scores_;  // by id
  double lowest_ = std::numeric_limits<double>::infinity();
  std::optional<std::array<std::int32_t, 256>> byte_ids_;
  std::string unk_piece_;
};

}  // namespace srformer::detail
