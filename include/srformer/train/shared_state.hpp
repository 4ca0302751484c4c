// SPDX-License-Identifier: Apache-2.0
// The state of an optimizer that ranks have divided among them, read as a whole by rank 0 and no other, piece by piece: for a
// checkpoint that does not depend on the number of ranks.
#pragma once

#include <algorithm>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <srformer/train/same_settings.hpp>

namespace srformer {

/// The tensors of a state of C in the memory of backends B, divided among the ranks of Comm. All ranks make theirs at the same
/// time; then rank 0 reads while the others serve(), until it calls end().
template <class B, class C, class Comm>
class SharedState {
 public:
  /// A part of a tensor, and where its numbers are on the rank that has it.
  struct Piece {
    int rank;
    ArrayRange at;
    C* values;
  };
  struct Tensor {
    std::string name;
    std::vector<index_t> shape;
    std::vector<Piece> pieces;  ///< in rising order
  };

  /// Throws backend_error where pieces do not make up whole tensors.
  ///   visit(f)   calls f(name, shape, first, values, count), as SharedOptimizer's visit_share
  template <class Visit>
  SharedState(Comm& comm, B& be, Visit visit) : comm_(&comm), be_(&be) {
    std::vector<double> own;  // tensor, first, count
    visit([&](const std::string& name, const std::vector<index_t>& shape, index_t first, C* values,
              index_t count) {
      if (tensors_.empty() || tensors_.back().name != name) tensors_.push_back({name, shape, {}});
      if (count == 0) return;
      tensors_.back().pieces.push_back({comm.rank(), {first, count}, values});
      for (const index_t number : {std::ssize(tensors_) - 1, first, count})
        own.push_back(static_cast<double>(number));
    });
    add_others(own);
    for (const Tensor& tensor : tensors_) check(tensor);
  }

  const std::vector<Tensor>& tensors() const { return tensors_; }

  /// On rank 0: elements first, first + 1, ... of a tensor.
  void read(std::size_t tensor, index_t first, std::span<C> out) {
    for (std::size_t i = 0; i < tensors_[tensor].pieces.size(); ++i) {
      const Piece& piece = tensors_[tensor].pieces[i];
      const index_t from = std::max(first, piece.at.first),
                    end = std::min(first + std::ssize(out), piece.at.end());
      if (from >= end) continue;
      C* to = out.data() + (from - first);
      if (piece.rank == 0) {
        be_->to_host(to, static_cast<const C*>(piece.values) + (from - piece.at.first), end - from);
        continue;
      }
      send({1, static_cast<double>(tensor), static_cast<double>(i), static_cast<double>(from),
            static_cast<double>(end - from)});
      give(piece, {from, end - from}, to);
    }
  }

  /// On rank 0: no more is read. On other ranks serve() then returns `well`.
  void end(bool well) { send({well ? 2.0 : 3.0, 0, 0, 0, 0}); }

  /// On other ranks: gives to rank 0 what it reads until it ends.
  bool serve() {
    for (;;) {
      const std::vector<double> wanted = send({0, 0, 0, 0, 0});
      if (wanted[0] != 1) return wanted[0] == 2;
      const auto index = [&](std::size_t i) { return static_cast<std::size_t>(wanted[i]); };
      give(tensors_[index(1)].pieces[index(2)],
           {static_cast<index_t>(wanted[3]), static_cast<index_t>(wanted[4])}, nullptr);
    }
  }

 private:
  /// The numbers of rank 0 on every rank.
  std::vector<double> send(const std::vector<double>& numbers) {
    auto sent = from_host<double, 1>(*be_, {std::ssize(numbers)}, numbers);
    comm_->broadcast(*be_, sent.data(), sent.size(), 0);
    return to_host(*be_, sent);
  }

  /// Sends elements `range` of a tensor from the rank that has the piece; rank 0 puts them at `to`.
  void give(const Piece& piece, const ArrayRange& range, C* to) {
    srformer::Tensor<B, C, 1> sent(*be_, {range.count});
    if (piece.rank == comm_->rank())
      be_->copy(sent.data(), static_cast<const C*>(piece.values) + (range.first - piece.at.first),
                range.count);
    comm_->broadcast(*be_, sent.data(), range.count, piece.rank);
    if (to != nullptr) be_->to_host(to, static_cast<const C*>(sent.data()), range.count);
  }

  void add_others(const std::vector<double>& own) {
    const std::vector<double> sizes =
        detail::numbers_of_all(*comm_, *be_, {static_cast<double>(own.size())});
    std::vector<ArrayRange> shares;
    for (const double size : sizes)
      shares.push_back({shares.empty() ? 0 : shares.back().end(), static_cast<index_t>(size)});
    srformer::Tensor<B, double, 1> all(*be_, {shares.back().end()});
    const auto self = static_cast<std::size_t>(comm_->rank());
    be_->from_host(all.data() + shares[self].first, own.data(), std::ssize(own));
    all_gather(*comm_, *be_, all.data(), shares);
    const std::vector<double> numbers = to_host(*be_, all);
    for (std::size_t r = 0; r < shares.size(); ++r) {
      if (r == self) continue;
      for (index_t i = shares[r].first; i < shares[r].end(); i += 3) {
        const double* of = numbers.data() + i;
        tensors_.at(static_cast<std::size_t>(of[0]))
            .pieces.push_back({static_cast<int>(r),
                               {static_cast<index_t>(of[1]), static_cast<index_t>(of[2])},
                               nullptr});
      }
    }
    for (Tensor& tensor : tensors_)
      std::ranges::sort(tensor.pieces, {}, [](const Piece& piece) { return piece.at.first; });
  }

  static void check(const Tensor& tensor) {
    index_t count = 1, end = 0;
    for (const index_t extent : tensor.shape) count *= extent;
    for (const Piece& piece : tensor.pieces) end = piece.at.first == end ? piece.at.end() : -1;
    if (end != count)
      throw backend_error("SharedState: the ranks have not all of \"" + tensor.name +
                          "\", or some of it twice");
  }

  Comm* comm_;
  B* be_;
  std::vector<Tensor> tensors_;
};

}  // namespace srformer
