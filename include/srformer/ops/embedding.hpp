// SPDX-License-Identifier: Apache-2.0
// Rows of a table by token id.
//
//   y_r = table[ids_r],   d_table[v] += sum over r with ids_r = v of dy_r, in the order of r
//
// Learned positions of sequences of M tokens, as BART has them:
//
//   y_(b,i) = scale y_(b,i) + positions[first + i],   d_positions[first + i] += sum_b dy_(b,i),   dy = scale dy
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <span>
#include <string_view>
#include <vector>

#include <srformer/backend/tensor.hpp>
#include <srformer/ops/linear.hpp>

namespace srformer {

namespace SRF_DETAIL {

template <class T>
struct GatherRows {
  const T* table;
  const std::int32_t* ids;
  T* y;
  index_t columns;
  template <class Team>
  SRF_HD void operator()(const Team& team, index_t row, void*) const {
    const T* in = table + ids[row] * columns;
    T* out = y + row * columns;
    team.for_each(columns, [=](index_t c) { out[c] = in[c]; });
  }
};

/// order holds the rows sorted by id; those of the distinct id u lie in [starts[u], starts[u+1]). They
/// are summed in the compute type and stored once.
template <class T>
struct ScatterRows {
  const T* d_y;
  T* d_table;
  const std::int32_t *ids, *order, *starts;
  index_t columns;
  template <class Team>
  SRF_HD void operator()(const Team& team, index_t distinct, void* scratch) const {
    using C = compute_t<T>;
    T* out = d_table + ids[order[starts[distinct]]] * columns;
    C* sum = static_cast<C*>(scratch);
    team.for_each(columns, [=](index_t c) { sum[c] = C(out[c]); });
    for (std::int32_t i = starts[distinct]; i < starts[distinct + 1]; ++i) {
      const T* in = d_y + order[i] * columns;
      team.for_each(columns, [=](index_t c) { sum[c] = sum[c] + C(in[c]); });
    }
    team.for_each(columns, [=](index_t c) { out[c] = T(sum[c]); });
  }
};

inline void check_ids(std::string_view function, std::span<const std::int32_t> ids,
                      index_t vocabulary) {
  for (std::size_t r = 0; r < ids.size(); ++r) {
    if (ids[r] >= 0 && ids[r] < vocabulary) continue;
    throw shape_error(std::string(function) + ": id " + std::to_string(ids[r]) + " at position " +
                      std::to_string(r) + " is outside the vocabulary of " +
                      std::to_string(vocabulary));
  }
}

}  // namespace SRF_DETAIL

/// The ids of R tokens on the backend: checked and uploaded once, read by every embedding of them and by its
/// backward.
template <class B>
class DeviceTokens {
 public:
  DeviceTokens() = default;

  /// ids are on the host, each in [0,vocabulary), or a shape_error of `function` names the first that is not.
  DeviceTokens(B& be, std::string_view function, std::span<const std::int32_t> ids,
               index_t vocabulary)
      : count_(static_cast<index_t>(ids.size())), vocabulary_(vocabulary) {
    detail::check_ids(function, ids, vocabulary);
    memory_ = Tensor<B, std::int32_t, 1>(be, {count_});
    be.from_host(memory_.data(), ids.data(), count_);
  }

  /// The same for embedding_backward as well, which needs the rows in the order of their ids. Cost O(R log R).
  ///   padding_id  gets no gradient, as torch's padding_idx; -1: there is none
  static DeviceTokens with_gradients(B& be, std::string_view function,
                                     std::span<const std::int32_t> ids, index_t vocabulary,
                                     std::int32_t padding_id = -1) {
    detail::check_ids(function, ids, vocabulary);
    DeviceTokens made;
    made.count_ = static_cast<index_t>(ids.size()), made.vocabulary_ = vocabulary;
    std::vector<std::int32_t> order(ids.size()), starts;
    std::iota(order.begin(), order.end(), 0);
    const auto id_of = [&](std::int32_t row) { return ids[static_cast<std::size_t>(row)]; };
    std::stable_sort(order.begin(), order.end(),
                     [&](auto a, auto b) { return id_of(a) < id_of(b); });
    std::erase_if(order, [&](auto i) { return id_of(i) == padding_id; });
    for (std::size_t i = 0; i < order.size(); ++i)
      if (i == 0 || id_of(order[i]) != id_of(order[i - 1]))
        starts.push_back(static_cast<std::int32_t>(i));
    made.distinct_ = static_cast<index_t>(starts.size());
    starts.push_back(static_cast<std::int32_t>(order.size()));
    std::vector<std::int32_t> all(ids.begin(), ids.end());
    all.insert(all.end(), order.begin(), order.end());
    made.starts_ = static_cast<index_t>(all.size());
    all.insert(all.end(), starts.begin(), starts.end());
    made.memory_ = from_host<std::int32_t, 1>(be, {static_cast<index_t>(all.size())}, all);
    return made;
  }

  index_t size() const { return count_; }
  index_t vocabulary() const { return vocabulary_; }
  const std::int32_t* data() const { return memory_.data(); }  ///< [R]

  bool sorted() const { return distinct_ >= 0; }
  index_t distinct() const { return distinct_; }  ///< ids that get a gradient
  /// The rows that get a gradient, sorted by id, and where the rows of each distinct id begin, with the end behind.
  const std::int32_t* order() const { return memory_.data() + count_; }
  const std::int32_t* starts() const { return memory_.data() + starts_; }

 private:
  index_t count_ = 0, vocabulary_ = 0, distinct_ = -1, starts_ = 0;
  Tensor<B, std::int32_t, 1> memory_;  // ids, and then order and starts
};

namespace SRF_DETAIL {

struct GatherQuantizedRows {
  QuantizedView table;
  const std::int32_t* ids;
  float* y;
  template <class Team>
  void operator()(const Team& team, index_t row, void*) const {
    const index_t columns = table.columns, id = ids[row];
    const std::int8_t* in = table.values + id * columns;
    const float scale = table.scales[id];
    float* out = y + row * columns;
    team.for_each(columns, [=](index_t c) { out[c] = scale * static_cast<float>(in[c]); });
  }
};

}  // namespace SRF_DETAIL

/// y = table[ids].
///   table [V,E], which may be stored in eight bits, y [R,E], contiguous
template <class B, class T>
requires BackendFor<B, T>
void embedding_forward(B& be, const DeviceTokens<B>& ids, const WeightView<B, T>& table,
                       View<T, 2, typename B::space> y) {
  const index_t columns = table.numbers.extent(1);
  check_shape("embedding_forward", "y", "[R,E]", y.extents, std::array{ids.size(), columns});
  require(ids.vocabulary() <= table.numbers.extent(0), "embedding_forward",
          "the ids are of a larger vocabulary than the table");
  if constexpr (can_quantize<B, T>) {
    if (table.quantized)
      return be.for_each_row(ids.size(), 0,
                             detail::GatherQuantizedRows{table.quantized, ids.data(), y.data});
  }
  be.for_each_row(ids.size(), 0,
                  detail::GatherRows<T>{table.numbers.data, ids.data(), y.data, columns});
}

/// The same for ids on the host, each in [0,V) or a shape_error names it.
template <class B, class T>
requires BackendFor<B, T>
void embedding_forward(B& be, std::span<const std::int32_t> ids, const WeightView<B, T>& table,
                       View<T, 2, typename B::space> y) {
  embedding_forward(be, DeviceTokens<B>(be, "embedding_forward", ids, table.numbers.extent(0)),
                    table, y);
}
template <class B, class T>
requires BackendFor<B, T>
void embedding_forward(B& be, std::span<const std::int32_t> ids, In<B, T, 2> table,
                       View<T, 2, typename B::space> y) {
  embedding_forward<B, T>(be, ids, WeightView<B, T>{table, {}}, y);
}

/// d_table += the gradient through embedding_forward; rows of one id are summed in order.
///   ids  made with_gradients
template <class B, class T>
requires BackendFor<B, T>
void embedding_backward(B& be, const DeviceTokens<B>& ids, In<B, T, 2> d_y,
                        View<T, 2, typename B::space> d_table) {
  const index_t columns = d_table.extent(1);
  check_shape("embedding_backward", "d_y", "[R,E]", d_y.extents, std::array{ids.size(), columns});
  require(ids.sorted() && ids.vocabulary() <= d_table.extent(0), "embedding_backward",
          "the ids are not made with_gradients, or of a larger vocabulary than the table");
  be.for_each_row(ids.distinct(), columns * static_cast<index_t>(sizeof(compute_t<T>)),
                  detail::ScatterRows<T>{d_y.data, d_table.data, ids.data(), ids.order(),
                                         ids.starts(), columns});
}

/// The same for ids on the host.
template <class B, class T>
requires BackendFor<B, T>
void embedding_backward(B& be, std::span<const std::int32_t> ids, In<B, T, 2> d_y,
                        View<T, 2, typename B::space> d_table, std::int32_t padding_id = -1) {
  embedding_backward(
      be,
      DeviceTokens<B>::with_gradients(be, "embedding_backward", ids, d_table.extent(0), padding_id),
      d_y, d_table);
}

namespace SRF_DETAIL {

template <class T>
struct AddPositions {
  T* y;
  const T* positions;
  index_t length, columns;
  compute_t<T> scale;
  template <class Team>
  SRF_HD void operator()(const Team& team, index_t row, void*) const {
    using C = compute_t<T>;
    T* out = y + row * columns;
    const T* add = positions + row % length * columns;
    const C s = scale;
    team.for_each(columns, [=](index_t c) { out[c] = T(s * C(out[c]) + C(add[c])); });
  }
};

template <class T>
struct AddPositionsBackward {
  T *d_y, *d_positions;
  index_t sequences, length, columns;
  compute_t<T> scale;
  SRF_HD void operator()(index_t i) const {
    using C = compute_t<T>;
    C sum = C(d_positions[i]);
    for (index_t b = 0; b < sequences; ++b) {
      T& d = d_y[b * length * columns + i];
      sum = sum + C(d);
      d = T(scale * C(d));
    }
    d_positions[i] = T(sum);
  }
};

template <class Space, class T>
void check_positions(const char* function, const View<T, 2, Space>& y, index_t length,
                     const View<const std::remove_const_t<T>, 2, Space>& positions, index_t first) {
  require(length >= 1 && y.extent(0) % length == 0, function,
          std::to_string(y.extent(0)) + " rows are not sequences of " + std::to_string(length));
  require(y.contiguous() && positions.contiguous(), function, "y and positions must be contiguous");
  check_shape(function, "positions", "[P,E]", positions.extents,
              std::array{positions.extent(0), y.extent(1)});
  require(first >= 0 && first + length <= positions.extent(0), function,
          "position " + std::to_string(first + length - 1) + " is beyond the table of " +
              std::to_string(positions.extent(0)));
}

}  // namespace SRF_DETAIL

/// y = scale y + positions, for sequences of `length` rows that begin at row `first` of the table.
///   y [B*length,E], positions [P,E], contiguous
template <class B, class T>
requires BackendFor<B, T>
void add_positions_forward(B& be, index_t length, In<B, T, 2> positions, index_t first,
                           double scale, View<T, 2, typename B::space> y) {
  detail::check_positions("add_positions_forward", y, length, positions, first);
  be.for_each_row(y.extent(0), 0,
                  detail::AddPositions<T>{y.data, positions.data + first * y.extent(1), length,
                                          y.extent(1), compute_t<T>(scale)});
}

/// d_positions += the gradient through add_positions_forward; d_y becomes that of the y before it.
template <class B, class T>
requires BackendFor<B, T>
void add_positions_backward(B& be, index_t length, Out<B, T, 2> d_positions, index_t first,
                            double scale, View<T, 2, typename B::space> d_y) {
  detail::check_positions("add_positions_backward", d_y, length, d_positions.as_const(), first);
  const index_t columns = d_y.extent(1);
  be.for_each(length * columns, detail::AddPositionsBackward<T>{
                                    d_y.data, d_positions.data + first * columns,
                                    d_y.extent(0) / length, length, columns, compute_t<T>(scale)});
}

}  // namespace srformer
