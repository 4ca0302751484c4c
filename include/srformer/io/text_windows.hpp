// SPDX-License-Identifier: Apache-2.0
// Texts cut into windows to pretrain on. As T5 does, windows run on over the ends of texts, so that all but the last are
// full; or each text has windows of its own. docs/pretraining.md
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <srformer/core/error.hpp>
#include <srformer/io/denoising.hpp>

namespace srformer {

struct TextWindowOptions {
  index_t max_ids = 512;  ///< ids of a window at most
  index_t max_words = 0;  ///< words of a window at most; 0: any number
  WordBeginnings
      beginnings{};  ///< where given, a window ends at the end of a word unless one word fills it
  bool concatenate = true;  ///< false: no window has parts of two texts
  index_t min_ids = 1;      ///< shorter windows are left out
};

/// Calls use(std::span<const std::int32_t>) for each window of the texts that are added. Memory: one window.
template <class Use>
class TextWindows {
 public:
  /// Throws shape_error for options out of range.
  TextWindows(TextWindowOptions options, Use use)
      : options_(std::move(options)), use_(std::move(use)) {
    require(options_.min_ids >= 1 && options_.max_ids >= options_.min_ids, "TextWindows",
            "windows of " + std::to_string(options_.min_ids) + " to " +
                std::to_string(options_.max_ids) + " ids cannot be");
    require(options_.max_words >= 0, "TextWindows",
            "max_words must be at least 1, or 0 for any number");
  }

  /// The ids of the next text, without special tokens.
  void add(std::span<const std::int32_t> text) {
    for (const std::int32_t id : text) put(id);
    if (!options_.concatenate) finish();
  }

  /// The window that is not full yet.
  void finish() { hand_on(window_.size()); }

  index_t windows() const { return windows_; }    ///< handed on
  index_t left_out() const { return left_out_; }  ///< ids of windows that were too short

 private:
  void put(std::int32_t id) {
    const bool begins = window_.empty() || detail::begins_word(options_.beginnings, id);
    if (begins && !window_.empty() && words_ == options_.max_words) hand_on(window_.size());
    if (begins) last_word_ = window_.size(), ++words_;
    if (std::ssize(window_) == options_.max_ids)
      hand_on(last_word_ > 0 ? last_word_ : window_.size());
    if (window_.empty()) last_word_ = 0, words_ = 1;
    window_.push_back(id);
  }

  /// The first ids of the window; what follows them is a word or part of one, and stays.
  void hand_on(std::size_t count) {
    const auto ids = std::span<const std::int32_t>(window_).first(count);
    if (std::ssize(ids) >= options_.min_ids) {
      use_(ids);
      ++windows_;
    } else {
      left_out_ += std::ssize(ids);
    }
    window_.erase(window_.begin(), window_.begin() + static_cast<std::ptrdiff_t>(count));
    last_word_ = 0, words_ = window_.empty() ? 0 : 1;
  }

  TextWindowOptions options_;
  Use use_;
  std::vector<std::int32_t> window_;
  std::size_t last_word_ = 0;  // where the last word of the window begins
  index_t words_ = 0, windows_ = 0, left_out_ = 0;
};

}  // namespace srformer
