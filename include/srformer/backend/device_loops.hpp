// SPDX-License-Identifier: Apache-2.0
// Loops for a device's memory, which gives much to many threads that each ask for several neighbouring
// elements, and little to one that waits for each. On a processor they are ordinary loops.
#pragma once

#include <srformer/backend/team.hpp>

namespace srformer::detail {

/// Elements that a member of a team reads before it uses the first of them: loads that wait for each other
/// leave a device's memory idle.
inline constexpr int read_ahead = 8;

/// use(i, load(i)) for i in [0,n), where a member loads several before it uses the first.
template <class Team, class Load, class Use>
SRF_HD void for_each_ahead(const Team& team, int n, Load load, Use use) {
  const int apart = (n + read_ahead - 1) / read_ahead;
  team.for_each(apart, [=](index_t first) {
    std::invoke_result_t<Load, int> held[read_ahead];
    for (int e = 0; e < read_ahead; ++e) {
      const int i = static_cast<int>(first) + e * apart;
      if (i < n) held[e] = load(i);
    }
    for (int e = 0; e < read_ahead; ++e) {
      const int i = static_cast<int>(first) + e * apart;
      if (i < n) use(i, held[e]);
    }
  });
}

/// to [rows,width] = rows that lie apart, row i at from(i). Neighbouring members of a team take neighbouring
/// elements; a team of one takes a row at a time.
template <class Team, class From, class T>
SRF_HD void copy_rows(const Team& team, index_t rows, index_t width, From from, T* to) {
  if constexpr (std::is_same_v<Team, SerialTeam>) {
    team.for_each(rows, [=](index_t i) {
      const T* row = from(i);
      for (index_t c = 0; c < width; ++c) to[i * width + c] = row[c];
    });
  } else {
    const int wide = static_cast<int>(width);
    for_each_ahead(
        team, static_cast<int>(rows) * wide, [=](int i) -> T { return from(i / wide)[i % wide]; },
        [=](int i, const T& x) { to[i] = x; });
  }
}

/// f(i) for i in [0,n) as rows of 128 elements, one for each member of a device's team: for loops whose
/// turns take long, of which Thrust gives a thread two.
template <class F>
struct LongTurns {
  static constexpr index_t size = 128;
  F f;
  index_t n;
  template <class Team>
  SRF_HD void operator()(const Team& team, index_t row, void*) const {
    const index_t first = row * size, rest = n - first;
    const F turn = f;
    team.for_each(rest < size ? rest : size, [=](index_t i) { turn(first + i); });
  }
};
template <class B, class F>
void for_each_long(B& be, index_t n, F f) {
  be.for_each_row((n + LongTurns<F>::size - 1) / LongTurns<F>::size, 0, LongTurns<F>{f, n});
}

}  // namespace srformer::detail
