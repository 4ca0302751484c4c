// SPDX-License-Identifier: Apache-2.0
// From a step's logits to candidates: transformers' processors in transformers' order, and the best
// tokens of every row, on the backend, where every 2048 scores are a team's.
//
//   repetition_penalty               seen tokens: s < 0 ? s p : s / p
//   no_repeat_ngram_size, encoder_no_repeat_ngram_size, bad_words_ids, min_length
//                                    some tokens: -inf
//   forced_bos_token_id, forced_eos_token_id
//                                    the forced: 0, all others: -inf
//   suppress_tokens, begin_suppress_tokens
//                                    some tokens: -inf
//
// Every processor changes a few tokens of a row, or all but a few, which the sequences of tokens on the
// host decide. So what goes to the backend is a list of tokens a row, and what comes back its candidates.
#pragma once

#include <limits>
#include <numeric>
#include <span>

#include <srformer/backend/tensor.hpp>
#include <srformer/decode/generation_config.hpp>

namespace srformer {

/// What the processors do to one row of scores.
struct ScoreChanges {
  std::vector<std::int32_t> penalized;  ///< each once
  std::vector<std::int32_t> banned;     ///< after `forced`
  std::vector<std::int32_t> forced;     ///< where not empty: all other tokens are out
};

/// The processors of a configuration, for a batch of sources.
class LogitsProcessors {
 public:
  using Ids = std::span<const std::int32_t>;

  /// `config` must stay. Sources are looked at where encoder_no_repeat_ngram_size asks for it: ids
  /// [B,N] padded, of the given lengths; padding does not count.
  LogitsProcessors(const GenerationConfig& config, Ids eos, Ids source_ids,
                   std::span<const index_t> source_lengths)
      : config_(config), eos_(eos.begin(), eos.end()) {
    const std::size_t rows = source_lengths.size();
    for (std::size_t b = 0; b < rows && config.encoder_no_repeat_ngram_size > 0; ++b) {
      sources_.push_back(source_ids.subspan(b * (source_ids.size() / rows),
                                            static_cast<std::size_t>(source_lengths[b])));
    }
  }

  /// Whether any row can be changed.
  bool any() const {
    const GenerationConfig& c = config_;
    return c.repetition_penalty != 1 || c.no_repeat_ngram_size > 0 ||
           c.encoder_no_repeat_ngram_size > 0 || !c.bad_words_ids.empty() || c.shortest() > 0 ||
           c.forced_bos_token_id || !c.forced_eos_token_id.empty() || !c.suppress_tokens.empty() ||
           !c.begin_suppress_tokens.empty();
  }

  /// The changes to the scores of the token after `sequence`, which begins with the start token.
  ScoreChanges changes(Ids sequence, std::size_t source) const {
    const GenerationConfig& c = config_;
    const auto length = static_cast<index_t>(sequence.size());
    ScoreChanges out;
    const auto ban = [&](const std::vector<std::int32_t>& ids) {
      out.banned.insert(out.banned.end(), ids.begin(), ids.end());
    };
    if (length == 1 && c.forced_bos_token_id) out.forced = {*c.forced_bos_token_id};
    if (length == c.longest() - 1 && !c.forced_eos_token_id.empty())
      out.forced = c.forced_eos_token_id;
    if (out.forced.empty()) {
      if (c.repetition_penalty != 1) {
        out.penalized.assign(sequence.begin(), sequence.end());
        std::ranges::sort(out.penalized);
        out.penalized.erase(std::unique(out.penalized.begin(), out.penalized.end()),
                            out.penalized.end());
      }
      if (c.no_repeat_ngram_size > 0)
        ban_completions(sequence, sequence, c.no_repeat_ngram_size, out.banned);
      if (c.encoder_no_repeat_ngram_size > 0)
        ban_completions(sources_[source], sequence, c.encoder_no_repeat_ngram_size, out.banned);
      for (const auto& words : c.bad_words_ids) ban_bad_word(words, sequence, out.banned);
      if (length < c.shortest()) ban(eos_);
    }
    ban(c.suppress_tokens);
    if (length == (c.forced_bos_token_id ? 2 : 1)) ban(c.begin_suppress_tokens);
    return out;
  }

 private:
  /// Bans the last token of every n-gram of `text` whose other tokens end `sequence`.
  static void ban_completions(Ids text, Ids sequence, index_t n,
                              std::vector<std::int32_t>& banned) {
    const auto prefix = static_cast<std::size_t>(n - 1);
    if (sequence.size() < prefix) return;
    const Ids end = sequence.last(prefix);
    for (std::size_t i = 0; i + prefix < text.size(); ++i) {
      if (std::ranges::equal(text.subspan(i, prefix), end)) banned.push_back(text[i + prefix]);
    }
  }

  /// Bans the last of the words where the others end `sequence`. An end token alone is no bad word.
  void ban_bad_word(Ids words, Ids sequence, std::vector<std::int32_t>& banned) const {
    if (words.size() == 1 && std::ranges::find(eos_, words.front()) != eos_.end()) return;
    const std::size_t prefix = words.size() - 1;
    if (sequence.size() < prefix) return;
    if (std::ranges::equal(words.first(prefix), sequence.last(prefix)))
      banned.push_back(words.back());
  }

  const GenerationConfig& config_;
  std::vector<std::int32_t> eos_;
  std::vector<Ids> sources_;
};

/// The best tokens of rows of scores, with the scores as processed.
struct Candidates {
  index_t count = 0;           ///< of each row
  std::vector<double> scores;  ///< [R,count], falling; of equal ones the first token comes first
  std::vector<std::int32_t> tokens;  ///< [R,count]
  /// [R], the log of the sum of exponentials of the processed scores; NaN or infinity where one of them is.
  std::vector<double> log_totals;
};

namespace SRF_DETAIL {

inline constexpr double no_score = -std::numeric_limits<double>::infinity();

/// A row of scores is looked at in parts, and these in blocks of which the largest scores are kept.
inline constexpr index_t scores_of_a_block = 256, scores_of_a_part = 2048;

/// A sum of exponentials: of the largest exponent, and the rest of all over it.
template <class C>
struct ExponentialSum {
  C top, over_top;
  SRF_HD C log() const { return math::finite(top) ? top + math::log(over_top) : top; }
};

template <class Team, class C>
SRF_HD C largest_of(const Team& team, index_t n, const C* x) {
  return team.max(n, x[0], [=](index_t c) { return x[c]; });
}

/// The sum of the exponentials of f(i) for i in [0,n), the largest of which is top.
template <class Team, class C, class F>
SRF_HD ExponentialSum<C> exponential_sum(const Team& team, index_t n, const C& top, F f) {
  if (!math::finite(top))
    return {top, math::negative(top) ? C(0) : top - top};  // NaN except for -inf
  return {top, team.template sum<C>(n, [=](index_t i) { return math::exp(f(i) - top); })};
}

/// The sum of the sums of parts.
template <class C>
SRF_HD ExponentialSum<C> add_sums(index_t parts, const ExponentialSum<C>* sums) {
  C top = sums[0].top;
  for (index_t p = 1; p < parts; ++p) top = math::max(top, sums[p].top);
  if (!math::finite(top)) return {top, C(0)};  // a NaN of a later part comes with its sum
  C sum(0);
  for (index_t p = 0; p < parts; ++p) {
    // a part without scores has minus infinity for top
    if (!math::zero(sums[p].over_top)) sum = sum + sums[p].over_top * math::exp(sums[p].top - top);
  }
  return {top, sum};
}

inline index_t parts_of_scores(index_t columns) {
  return (columns + scores_of_a_part - 1) / scores_of_a_part;
}
inline index_t blocks_of_scores(index_t columns) {
  return (columns + scores_of_a_block - 1) / scores_of_a_block;
}

/// Some of the scores of a row.
struct ScoreSpan {
  index_t row, first, count;
};

/// The scores of rows [R,columns] as they are made from logits.
template <class T>
struct ScoredRows {
  using C = compute_t<T>;
  const T* logits;
  index_t columns, parts, blocks;
  C penalty;
  const std::int32_t *starts,
      *ids;  // penalized, banned and forced of row r: three lists from starts[3r]; null: no changes
  ExponentialSum<C>* logit_sums;  // [R,parts] of the logits, or null: scores are logits
  C* values;                      // [R,columns]
  C* tops;                        // [R,blocks]
  ExponentialSum<C>* sums;        // [R,parts]

  SRF_HD ScoreSpan part(index_t i) const {
    const index_t first = i % parts * scores_of_a_part, rest = columns - first;
    return {i / parts, first, rest < scores_of_a_part ? rest : scores_of_a_part};
  }
};

/// The sum of the exponentials of a part's logits.
template <class T>
struct SumLogits {
  using C = compute_t<T>;
  ScoredRows<T> rows;
  template <class Team>
  SRF_HD void operator()(const Team& team, index_t i, void*) const {
    const ScoreSpan part = rows.part(i);
    const T* in = rows.logits + part.row * rows.columns + part.first;
    const auto logit = [=](index_t c) { return C(in[c]); };
    const C top = team.max(part.count, logit(0), logit);
    const ExponentialSum<C> sum = exponential_sum(team, part.count, top, logit);
    if (team.leader()) rows.logit_sums[i] = sum;
  }
};

/// A part's scores, processed, the sum of their exponentials and the largest of each block.
template <class T>
struct ScorePart {
  using C = compute_t<T>;
  ScoredRows<T> rows;
  template <class Team>
  SRF_HD void operator()(const Team& team, index_t i, void*) const {
    const ScoreSpan part = rows.part(i);
    const index_t n = part.count;
    const T* in = rows.logits + part.row * rows.columns + part.first;
    C* values = rows.values + part.row * rows.columns + part.first;
    const C total = rows.logit_sums == nullptr
                        ? C(0)
                        : add_sums(rows.parts, rows.logit_sums + part.row * rows.parts).log();
    team.for_each(n, [=](index_t c) { values[c] = C(in[c]) - total; });
    if (rows.starts != nullptr) change(team, rows.starts + 3 * part.row, part.first, n, values);
    C* tops = rows.tops + part.row * rows.blocks + part.first / scores_of_a_block;
    C top = values[0];
    for (index_t from = 0, block = 0; from < n; from += scores_of_a_block, ++block) {
      const index_t count = n - from < scores_of_a_block ? n - from : scores_of_a_block;
      const C here = largest_of(team, count, values + from);
      if (team.leader()) tops[block] = here;
      top = math::max(top, here);
    }
    ExponentialSum<C> sum = exponential_sum(team, n, top, [=](index_t c) { return values[c]; });
    if (!math::finite(total) && !math::negative(total)) sum.top = total - total;  // NaN
    if (team.leader()) rows.sums[i] = sum;
  }

 private:
  /// What the lists say of the tokens from `first` to first + n.
  template <class Team>
  SRF_HD void change(const Team& team, const std::int32_t* start, index_t first, index_t n,
                     C* values) const {
    const C out(no_score), p = rows.penalty;
    const std::int32_t* list = rows.ids;
    const std::int32_t penalized = start[0], banned = start[1], forced = start[2], end = start[3];
    const auto each = [&](std::int32_t from, std::int32_t to, auto f) {
      team.for_each(to - from, [=](index_t i) {
        const index_t token = list[from + i] - first;
        if (token >= 0 && token < n) f(values[token]);
      });
    };
    each(penalized, banned, [=](C& s) { s = math::negative(s) ? s * p : s / p; });
    if (end > forced) {
      team.for_each(n, [=](index_t c) { values[c] = out; });
      each(forced, end, [=](C& s) { s = C(0); });
    }
    each(banned, forced, [=](C& s) { s = out; });
  }
};

/// The best tokens of a row: the `count` largest of its scores, falling, of equal ones the first first. They
/// are taken out of the values.
template <class T>
struct TakeBest {
  using C = compute_t<T>;
  ScoredRows<T> rows;
  index_t count;
  C *scores, *log_totals;  // [R,count], [R]
  std::int32_t* tokens;    // [R,count]

  template <class Team>
  SRF_HD void operator()(const Team& team, index_t r, void*) const {
    const index_t n = rows.columns, blocks = rows.blocks, parts = rows.parts;
    C *values = rows.values + r * n, *tops = rows.tops + r * blocks;
    if (team.leader()) log_totals[r] = add_sums(parts, rows.sums + r * parts).log();
    for (index_t i = 0; i < count; ++i) {
      const C top = largest_of(team, blocks, tops);
      const index_t block = first_at(team, blocks, tops, top), from = block * scores_of_a_block;
      const index_t size = n - from < scores_of_a_block ? n - from : scores_of_a_block;
      C* x = values + from;
      const index_t at = first_at(team, size, x, top);
      team.sync();
      if (team.leader()) {
        scores[r * count + i] = top;
        tokens[r * count + i] = static_cast<std::int32_t>(from + at);
        x[at] = C(no_score);
      }
      team.sync();
      const C rest = largest_of(team, size, x);
      if (team.leader()) tops[block] = rest;
      team.sync();
    }
  }

 private:
  /// The first of x that is not below top: the greatest of size - i.
  template <class Team>
  static SRF_HD index_t first_at(const Team& team, index_t size, const C* x, const C& top) {
    const double rest = team.max(size, 0.0, [=](index_t i) {
      return primal(x[i]) < primal(top) ? 0.0 : static_cast<double>(size - i);
    });
    return size - static_cast<index_t>(rest);
  }
};

/// The lists of all rows one after another: first where each begins and, last, where all end.
inline std::vector<std::int32_t> packed(std::span<const ScoreChanges> changes) {
  if (changes.empty()) return {};
  std::vector<std::int32_t> lists(3 * changes.size() + 1);
  std::size_t at = 0;
  for (const ScoreChanges& change : changes) {
    for (const auto* list : {&change.penalized, &change.banned, &change.forced}) {
      lists[at + 1] = lists[at] + static_cast<std::int32_t>(list->size());
      ++at;
      lists.insert(lists.end(), list->begin(), list->end());
    }
  }
  return lists;
}

/// Adds all tokens of a row to the candidates, the best first; of equal ones the first token.
template <class C>
void add_sorted(std::span<const C> row, Candidates& all) {
  std::vector<std::int32_t> order(row.size());
  std::iota(order.begin(), order.end(), 0);
  const auto score = [&](std::int32_t c) { return primal(row[static_cast<std::size_t>(c)]); };
  std::ranges::stable_sort(order, [&](auto a, auto b) { return score(b) < score(a); });
  for (const std::int32_t c : order) {
    all.tokens.push_back(c);
    all.scores.push_back(math::to_double(score(c)));
  }
}

}  // namespace SRF_DETAIL

/// Processes the scores of every row and finds the best tokens.
///   logits       [R,V], contiguous; they stay as they are
///   changes      [R], or empty for none
///   count        of candidates a row; 0: all V, sorted, which copies them to the host
///   log_softmax  the scores are log-probabilities before they are processed, as in beam search
/// Cost O(RV). -inf among the candidates means that there are no more;
/// its token means nothing.
template <class B, class T>
requires BackendFor<B, T> Candidates best_tokens(B& be, In<B, T, 2> logits,
                                                 std::span<const ScoreChanges> changes,
                                                 double repetition_penalty, index_t count,
                                                 bool log_softmax) {
  using C = compute_t<T>;
  const index_t R = logits.extent(0), V = logits.extent(1);
  require(logits.contiguous() && logits.size() > 0, "best_tokens",
          "logits must be contiguous and not empty");
  require(changes.empty() || static_cast<index_t>(changes.size()) == R, "best_tokens",
          "there must be changes for every row, or none");
  require(count >= 0 && count <= V, "best_tokens", "count must be from 0 to the vocabulary's size");
  const std::vector<std::int32_t> lists = detail::packed(changes);
  Tensor<B, std::int32_t, 1> device_lists(be, {static_cast<index_t>(lists.size())});
  be.from_host(device_lists.data(), lists.data(), device_lists.size());
  Tensor<B, C, 1> numbers(be, {R * count + R});
  Tensor<B, std::int32_t, 1> tokens(be, {R * count});
  const std::int32_t* starts = changes.empty() ? nullptr : device_lists.data();
  using Sum = detail::ExponentialSum<C>;
  const index_t parts = detail::parts_of_scores(V), blocks = detail::blocks_of_scores(V);
  Tensor<B, C, 2> all(be, {R, V}), tops(be, {R, blocks});
  Tensor<B, Sum, 2> sums(be, {R, parts}), logit_sums(be, {log_softmax ? R : 0, parts});
  const detail::ScoredRows<T> rows{logits.data,
                                   V,
                                   parts,
                                   blocks,
                                   C(repetition_penalty),
                                   starts,
                                   starts == nullptr ? nullptr : starts + 3 * R + 1,
                                   log_softmax ? logit_sums.data() : nullptr,
                                   all.data(),
                                   tops.data(),
                                   sums.data()};
  if (log_softmax) be.for_each_row(R * parts, 0, detail::SumLogits<T>{rows});
  be.for_each_row(R * parts, 0, detail::ScorePart<T>{rows});
  be.for_each_row(
      R, 0, detail::TakeBest<T>{rows, count, numbers.data() + R, numbers.data(), tokens.data()});
  const auto found = to_host(be, numbers);
  const auto wide = [&](index_t i) { return math::to_double(found[static_cast<std::size_t>(i)]); };
  Candidates best{count, {}, to_host(be, tokens), {}};
  for (index_t r = 0; r < R; ++r) best.log_totals.push_back(wide(r));
  for (index_t i = 0; i < R * count; ++i) best.scores.push_back(wide(R + i));
  if (count > 0) return best;
  best.count = V;
  const auto values = to_host(be, all);
  for (index_t r = 0; r < R; ++r)
    detail::add_sorted(std::span<const C>(values.data() + r * V, static_cast<std::size_t>(V)),
                       best);
  return best;
}

}  // namespace srformer
