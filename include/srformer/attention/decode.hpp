// SPDX-License-Identifier: Apache-2.0
// The rows of decoding, and self-attention one step at a time. A row is a hypothesis: rows go in groups of equal
// size, one group per source, and the rows of a group share all that belongs to the source.
//
// Every step writes q, k and v of its rows once, and no later step moves them. Which row of step s a row of step
// t >= s goes back to is in a table: places[r, s], as beams change rows. The cache and the table are the only state.
//
// The steps of cross-attention are with their variants: prepare and step of attention/cross_attention.hpp.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include <srformer/attention/full.hpp>
#include <srformer/backend/device_loops.hpp>

namespace srformer {

namespace SRF_DETAIL {

/// places[r, s] for every step s up to this one.
struct FollowParents {
  const std::int32_t *parents, *before;  // parents null: rows stay where they are
  std::int32_t* places;
  index_t max_steps, step;
  SRF_HD void operator()(index_t i) const {
    const index_t r = i / (step + 1), s = i % (step + 1);
    places[r * max_steps + s] =
        s == step ? static_cast<std::int32_t>(r) : before[parents[r] * max_steps + s];
  }
};
struct StayInPlace {
  std::int32_t* places;
  index_t max_steps, step;
  SRF_HD void operator()(index_t r) const {
    places[r * max_steps + step] = static_cast<std::int32_t>(r);
  }
};

/// out[i] = x . row i for n rows of `width` elements that lie apart, row i at from(i).
template <class Team, class From, class C>
SRF_HD void dots_with_rows(const Team& team, index_t n, index_t width, const C* x, From from,
                           C* out) {
#if !defined(__CUDA_ARCH__)
  if constexpr (std::is_same_v<Team, SerialTeam>) {
    for (index_t i = 0; i < n; ++i) {
      const auto row = from(i);
      out[i] = team.template sum<C>(width, [=](index_t c) { return x[c] * as_computed(row[c]); });
    }
    return;
  }
#endif
  team.for_each(n, [=](index_t i) {
    const auto row = from(i);
    C sum(0);
    for (index_t c = 0; c < width; ++c) sum = sum + x[c] * C(row[c]);
    out[i] = sum;
  });
}

/// out [width] = the sum of weights_i row i.
///   sums [width]  scratch
template <class Team, class T, class From, class C>
SRF_HD void sum_of_rows(const Team& team, index_t n, index_t width, const C* weights, From from,
                        [[maybe_unused]] C* sums, T* out) {
#if !defined(__CUDA_ARCH__)
  if constexpr (std::is_same_v<Team, SerialTeam>) {
    team.for_each(width, [=](index_t c) { sums[c] = C(0); });
    for (index_t i = 0; i < n; ++i) {
      const auto row = from(i);
      const C weight = weights[i];
      team.for_each(width, [=](index_t c) { sums[c] = sums[c] + weight * as_computed(row[c]); });
    }
    team.for_each(width, [=](index_t c) { out[c] = T(sums[c]); });
    return;
  }
#endif
  team.for_each(width, [=](index_t c) {
    C sum(0);
    for (index_t start = 0; start < n; start += read_ahead) {
      C held[read_ahead];
      for (index_t e = 0; e < read_ahead; ++e)
        held[e] = start + e < n ? weights[start + e] * C(from(start + e)[c]) : C(0);
      for (index_t e = 0; e < read_ahead; ++e) sum = sum + held[e];
    }
    out[c] = T(sum);
  });
}

/// How many steps a team takes of those that a row goes back to, where there are many teams.
template <class B>
inline constexpr index_t steps_of_a_team = 128;

/// Self-attention of a row and head to some of the steps, as a team has it:
///   a = sum_s p_s v_s,  p = softmax(q . k_s + bias_s),  lse = log sum_s exp(q . k_s + bias_s)
template <class T, class Space>
struct SelfStep {
  using C = compute_t<T>;
  View<const T, 3, Space> qkv;  // [steps,R,3*H*D]
  const std::int32_t* places;
  index_t max_steps, step, heads;
  ScoreMask<C, Space> mask;
  View<T, 2, Space> out;  // [R,H*D]
  index_t parts, each;    // of the steps
  C* partial;             // a, then lse, [R*H,parts,D+1], where there are several parts

  /// One row is one row, head and part.
  template <class Team>
  SRF_HD void operator()(const Team& team, index_t row, void* scratch) const {
    const index_t lane = row / parts, first = row % parts * each;
    const index_t r = lane / heads, h = lane % heads, n = end_of(first) - first;
    const index_t inner = out.extent(1), D = inner / heads;
    C *weights = static_cast<C*>(scratch), *query = weights + n, *sums = query;
    const T* q = &qkv(step, r, h * D);
    team.for_each(D, [=](index_t c) { query[c] = C(q[c]); });
    dots_with_rows(team, n, D, query, places_of(r, first, inner + h * D), weights);
    mask.add(team, 0, h, 0, first, n, weights);
    const C lse = softmax_row(team, n, weights);
    const auto values = places_of(r, first, 2 * inner + h * D);
    if (parts == 1) return sum_of_rows(team, n, D, weights, values, sums, &out(r, h * D));
    C* to = partial + row * (D + 1);
    sum_of_rows(team, n, D, weights, values, sums, to);
    if (team.leader()) to[D] = lse;
  }

 private:
  SRF_HD index_t end_of(index_t first) const {
    return first + each < step + 1 ? first + each : step + 1;
  }
  /// Where `column` of the rows is that row r goes back to, from step `first` on.
  SRF_HD auto places_of(index_t r, index_t first, index_t column) const {
    const std::int32_t* place = places + r * max_steps + first;
    const index_t per_step = qkv.stride(0), per_row = qkv.stride(1);
    const T* from = qkv.data + column + first * per_step;
    return [=](index_t s) { return from + s * per_step + place[s] * per_row; };
  }
};

/// out = sum_p w_p a_p,  w = softmax(lse), over the parts of a row and head.
template <class T, class Space>
struct JoinParts {
  using C = compute_t<T>;
  const C* partial;  // [R*H,parts,D+1]
  index_t parts, head_size;
  View<T, 2, Space> out;
  SRF_HD void operator()(index_t i) const {
    const index_t D = head_size, c = i % D, stride = D + 1, inner = out.extent(1);
    const C* from = partial + i / D * parts * stride;
    C top = from[D], sum(0), total(0);
    for (index_t p = 1; p < parts; ++p) top = math::max(top, from[p * stride + D]);
    for (index_t p = 0; p < parts; ++p) {
      const C weight = math::exp(from[p * stride + D] - top);
      sum = sum + weight * from[p * stride + c], total = total + weight;
    }
    out(i / inner, i % inner) = T(sum / total);
  }
};

template <class T, class Space>
struct GatherHeads {
  static constexpr index_t keys_each = 16;
  View<const T, 4, Space> x;
  T* out;
  /// One row is some keys of one source and head.
  template <class Team>
  SRF_HD void operator()(const Team& team, index_t row, void*) const {
    const index_t H = x.extent(1), N = x.extent(2), D = x.extent(3);
    const index_t parts = (N + keys_each - 1) / keys_each, lane = row / parts;
    const index_t first = row % parts * keys_each;
    const index_t count = N - first < keys_each ? N - first : keys_each;
    const Rows<const T> rows = head_rows(x, lane / H, lane % H).from(first);
    copy_rows(
        team, count, D, [=](index_t i) { return rows.row(i); }, out + (lane * N + first) * D);
  }
};

}  // namespace SRF_DETAIL

/// A copy of x [B,H,N,D] in which the rows of a head follow each other, as every step reads them.
template <class B, class T>
requires BackendFor<B, T> Tensor<B, T, 4> gather_heads(B& be, In<B, T, 4> x) {
  require(x.stride(3) == 1, "gather_heads", "the last axis of x must be contiguous");
  Tensor<B, T, 4> out(be, x.extents);
  using Gather = detail::GatherHeads<T, typename B::space>;
  const index_t parts = (x.extent(2) + Gather::keys_each - 1) / Gather::keys_each;
  be.for_each_row(x.extent(0) * x.extent(1) * parts, 0, Gather{x, out.data()});
  return out;
}

/// How the rows of a decoder step go on from those of the step before: row r continues row parents[r],
/// and the rows of group g, parents.size() / sources.size() of them, belong to source sources[g]. Both
/// empty: the rows stay as they are.
struct NextRows {
  std::span<const std::int32_t> parents{}, sources{};
};

/// The rows of a decoder step, and the table of the rows of earlier steps that they go back to. The first
/// step has one row for each source.
template <class B>
class DecodeRows {
 public:
  DecodeRows() = default;

  /// Up to `most_rows` rows a step, which is no less than the sources.
  DecodeRows(B& be, index_t sources, index_t most_rows, index_t max_steps)
      : all_sources_(sources),
        most_(most_rows),
        max_steps_(max_steps),
        rows_(sources),
        groups_(sources),
        said_(be, {2 * most_rows}),
        places_(be, {most_rows, max_steps}),
        before_(be, {most_rows, max_steps}) {
    require(sources >= 1 && most_rows >= sources && max_steps >= 1, "DecodeRows",
            "there must be a source, a row for each and a step");
  }

  index_t rows() const { return rows_; }
  index_t groups() const { return groups_; }
  index_t most_rows() const { return most_; }
  index_t max_steps() const { return max_steps_; }
  /// The source of each group, on the backend; null: group g has source g.
  const std::int32_t* sources() const { return moved_ ? said_.data() + most_ : nullptr; }
  const std::int32_t* places() const { return places_.data(); }

  /// Makes the table that of the rows of `step`. Throws for rows that are not there.
  void go_on(B& be, index_t step, const NextRows& next) {
    if (next.parents.empty() && next.sources.empty()) {
      return be.for_each(rows_, detail::StayInPlace{places_.data(), max_steps_, step});
    }
    const auto rows = static_cast<index_t>(next.parents.size());
    const auto groups = static_cast<index_t>(next.sources.size());
    require(step >= 1, "DecodeRows", "the first step has no rows before it to go on from");
    require(groups >= 1 && rows >= groups && rows % groups == 0 && rows <= most_, "DecodeRows",
            std::to_string(rows) + " rows in " + std::to_string(groups) +
                " groups, expected groups of equal size and " + std::to_string(most_) +
                " rows at most");
    const auto all = [](std::span<const std::int32_t> x, index_t end) {
      return std::ranges::all_of(x, [=](std::int32_t i) { return i >= 0 && i < end; });
    };
    require(all(next.parents, rows_), "DecodeRows", "a parent is no row of the step before");
    require(all(next.sources, all_sources_), "DecodeRows",
            "a group has a source that is not there");
    be.from_host(said_.data(), next.parents.data(), rows);
    be.from_host(said_.data() + most_, next.sources.data(), groups);
    std::swap(places_, before_);
    be.for_each(rows * (step + 1), detail::FollowParents{said_.data(), before_.data(),
                                                         places_.data(), max_steps_, step});
    rows_ = rows, groups_ = groups, moved_ = true;
  }

 private:
  index_t all_sources_ = 0, most_ = 0, max_steps_ = 0, rows_ = 0, groups_ = 0;
  bool moved_ = false;
  Tensor<B, std::int32_t, 1> said_;  // parents, then sources
  Tensor<B, std::int32_t, 2> places_, before_;
};

/// out = the self-attention of the rows at `step`, each to those that it goes back to and to itself.
///   qkv   [steps,R,3*H*D]  q, k and v of every step; those of this step are there already
///   out   [rows,H*D]
///   mask  of it relative alone counts: its column relative_zero + s is the bias towards step s
/// Cost 4 (step + 1) H D a row.
template <class B, class T>
requires BackendFor<B, T>
void self_attention_step(B& be, In<B, T, 3> qkv, const DecodeRows<B>& rows, index_t step,
                         index_t heads, const ScoreMask<compute_t<T>, typename B::space>& mask,
                         View<T, 2, typename B::space> out) {
  constexpr auto name = "self_attention_step";
  check_shape(name, "qkv", "[steps,R,3*H*D]", qkv.extents,
              std::array{rows.max_steps(), rows.most_rows(), 3 * out.extent(1)});
  require(out.extent(0) == rows.rows() && heads >= 1 && out.extent(1) % heads == 0, name,
          "out is not [rows,H*D]");
  require(qkv.stride(2) == 1 && out.stride(1) == 1, name,
          "the last axis of qkv and out must be contiguous");
  require(step >= 0 && step < rows.max_steps(), name, "the step is outside the cache");
  using C = compute_t<T>;
  const index_t n = step + 1, D = out.extent(1) / heads, lanes = out.extent(0) * heads;
  const index_t each = ManyTeams<B> ? std::min(n, detail::steps_of_a_team<B>) : n;
  const index_t parts = (n + each - 1) / each;
  Tensor<B, C, 1> partial(be, {parts == 1 ? 0 : lanes * parts * (D + 1)});
  be.for_each_row(
      lanes * parts, (each + D) * static_cast<index_t>(sizeof(C)),
      detail::SelfStep<T, typename B::space>{qkv, rows.places(), rows.max_steps(), step, heads,
                                             mask, out, parts, each, partial.data()});
  if (parts > 1) {
    be.for_each(lanes * D, detail::JoinParts<T, typename B::space>{partial.data(), parts, D, out});
  }
}

}  // namespace srformer
