// SPDX-License-Identifier: Apache-2.0
// Recycled memory: after the first step of a loop that asks for the same sizes, nothing is
// allocated any more.
#pragma once

#include <cstddef>
#include <map>
#include <new>
#include <vector>

#include <srformer/core/config.hpp>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace srformer {

inline namespace SRF_TARGET {

/// Keeps freed blocks by size class. Not for use by several threads at once: a backend allocates
/// between its parallel loops, never inside them.
///   Source  has void* acquire(bytes) and void release(void*, bytes)
template <class Source>
class MemoryPool {
 public:
  MemoryPool() = default;
  MemoryPool(const MemoryPool&) = delete;
  MemoryPool& operator=(const MemoryPool&) = delete;
  ~MemoryPool() { trim(); }

  /// At least `bytes` bytes, aligned to 64.
  void* acquire(std::size_t bytes) {
    const std::size_t size = size_class(bytes);
    std::vector<void*>& blocks = free_[size];
    in_use_ += size;
    peak_ = in_use_ > peak_ ? in_use_ : peak_;
    if (!blocks.empty()) {
      void* block = blocks.back();
      blocks.pop_back();
      return block;
    }
    ++acquisitions_;
    return source_.acquire(size);
  }

  void release(void* block, std::size_t bytes) {
    const std::size_t size = size_class(bytes);
    in_use_ -= size;
    free_[size].push_back(block);
  }

  /// Gives everything that is not in use back to the source.
  void trim() {
    for (auto& [size, blocks] : free_) {
      for (void* block : blocks) source_.release(block, size);
      blocks.clear();
    }
  }

  std::size_t bytes_in_use() const { return in_use_; }
  std::size_t peak_bytes() const { return peak_; }
  std::size_t acquisitions() const { return acquisitions_; }

 private:
  /// Eight classes to the doubling: at most an eighth is wasted.
  static std::size_t size_class(std::size_t bytes) {
    if (bytes <= 512) return 512;
    std::size_t step = 64;
    while (step * 16 <= bytes) step *= 2;
    return (bytes + step - 1) / step * step;
  }

  Source source_;
  std::map<std::size_t, std::vector<void*>> free_;
  std::size_t in_use_ = 0, peak_ = 0, acquisitions_ = 0;
};

/// Host memory on 64-byte boundaries. Blocks as large as a huge page ask for such pages: who reads all of them
/// looks up 512 times fewer addresses then.
struct AlignedSource {
  static constexpr std::size_t huge_page = std::size_t{2} << 20;

  static std::align_val_t alignment(std::size_t bytes) {
    return std::align_val_t{bytes >= huge_page ? huge_page : 64};
  }
  void* acquire(std::size_t bytes) {
    void* block = ::operator new(bytes, alignment(bytes));
#if defined(MADV_HUGEPAGE)
    if (bytes >= huge_page) ::madvise(block, bytes, MADV_HUGEPAGE);  // advice: may be refused
#endif
    return block;
  }
  void release(void* block, std::size_t bytes) { ::operator delete(block, alignment(bytes)); }
};

}  // namespace SRF_TARGET

}  // namespace srformer
