// SPDX-License-Identifier: Apache-2.0
// Greedy search, beam search and sampling, token for token those of transformers' generate.
//
// Beam search, per source, with K beams, E end tokens, and s the sum of processed log-probabilities:
//
//   candidates  the best max(2, E + 1) K tokens of all beams by s
//   running     the K best of those that do not end
//   finished    those among the first K that end, with s / length^penalty: the K best of all steps
//   the end     when no running hypothesis is expected to come among the finished: EarlyStopping
//
// A source is over as if it stood alone: its rows leave the batch, and rows that ended are not computed.
// The rows of one source share what belongs to the source. A model is asked for one step at a time
// (models/seq2seq.hpp); no state is kept anywhere else.
#pragma once

#include <functional>
#include <numeric>

#include <srformer/core/random.hpp>
#include <srformer/decode/logits.hpp>
#include <srformer/decode/nonfinite.hpp>
#include <srformer/models/seq2seq.hpp>

namespace srformer {

/// What was generated. With n sequences for each source those of source b are b n, b n + 1, ..., the best
/// first where they were searched for with beams.
struct Generation {
  index_t per_source = 1;
  /// From the start token on, up to an end token or max_length.
  std::vector<std::vector<std::int32_t>> sequences;
  /// The sum of the log-probabilities of a sequence's tokens / tokens^length_penalty, the start token
  /// not counted. With beams it is transformers' sequences_scores.
  std::vector<double> scores;
  /// Of every token after the start token: its log-probability after processing, and so for greedy
  /// search and sampling among the tokens that could be chosen.
  std::vector<std::vector<double>> token_log_probs;
  std::int32_t filling = 0;  ///< what transformers pads sequences with

  /// The sequences in one width, [sequences, width], as transformers returns them.
  std::vector<std::int32_t> padded() const {
    std::size_t width = 0;
    for (const auto& row : sequences) width = std::max(width, row.size());
    std::vector<std::int32_t> all;
    for (const auto& row : sequences) {
      all.insert(all.end(), row.begin(), row.end());
      all.insert(all.end(), width - row.size(), filling);
    }
    return all;
  }
};

/// Told every token of a sequence as it is chosen, its start token first, with the sequence's place in
/// Generation::sequences.
using OnToken = std::function<void(index_t sequence, std::int32_t token)>;

namespace detail {

/// A hypothesis: tokens from the start token on, and what they cost.
struct Hypothesis {
  std::vector<std::int32_t> tokens;
  std::vector<double> log_probs;
  double score = 0;

  Hypothesis extended(std::int32_t token, double log_prob, double with_score) const {
    Hypothesis next = *this;
    next.tokens.push_back(token);
    next.log_probs.push_back(log_prob);
    next.score = with_score;
    return next;
  }
};

/// The scores and tokens of one row, falling.
struct CandidateRow {
  std::span<const double> scores;
  std::span<const std::int32_t> tokens;
};

inline CandidateRow row_of(const Candidates& all, index_t r) {
  const auto n = static_cast<std::size_t>(all.count), at = static_cast<std::size_t>(r) * n;
  return {std::span(all.scores).subspan(at, n), std::span(all.tokens).subspan(at, n)};
}

/// temperature, top_k and top_p in this order: the scores that are left, falling.
///   least  tokens that stay in any case
inline std::vector<double> warped(std::span<const double> scores, const GenerationConfig& config,
                                  std::size_t least) {
  std::vector<double> left;
  const std::size_t most =
      config.top_k > 0 ? std::max(static_cast<std::size_t>(config.top_k), least) : scores.size();
  for (std::size_t i = 0; i < std::min(most, scores.size()) && std::isfinite(scores[i]); ++i) {
    left.push_back(scores[i] / config.temperature);
  }
  if (left.empty() || config.top_p >= 1) return left;
  double total = 0;
  for (const double s : left) total += std::exp(s - left.front());
  // from the smallest on, those out whose sum of probabilities does not pass 1 - top_p
  double sum = 0;
  std::size_t keep = left.size();
  for (; keep > std::max<std::size_t>(least, 1); --keep) {
    sum += std::exp(left[keep - 1] - left.front()) / total;
    if (sum > 1 - config.top_p) break;
  }
  left.resize(std::min(keep, left.size()));
  return left;
}

/// How many tokens of a row warping can leave, for best_tokens; 0: all.
inline index_t warped_most(const GenerationConfig& config, index_t least, index_t vocabulary) {
  return config.top_k == 0 ? 0 : std::min(std::max(config.top_k, least), vocabulary);
}

/// What all kinds of search have in common: the model, its state, and the rows at hand.
template <DecodesStepByStep Model>
class Search {
 public:
  using T = typename Model::scalar;
  using B = typename Model::backend_type;
  using Ids = std::span<const std::int32_t>;

  Search(Model& model, Ids ids, std::span<const index_t> lengths, const GenerationConfig& config)
      : model_(model),
        config_(config),
        start_(config.decoder_start_token_id.value_or(model.config().decoder_start_token_id)),
        pad_(config.pad_token_id.value_or(model.config().pad_token_id)),
        eos_(config.eos_token_id.value_or(std::vector{model.config().eos_token_id})),
        sources_(static_cast<index_t>(lengths.size())),
        processors_(config, eos_, ids, lengths),
        state_(model.start_decoding(ids, lengths, config.longest() - 1, config.horizon,
                                    std::max(config.num_beams, config.num_return_sequences))) {}

  /// Greedy search, and sampling of num_return_sequences for each source.
  Generation one_by_one(std::uint64_t first_source, const OnToken& on_token) {
    const index_t each = config_.num_return_sequences;
    const auto tell = [&](index_t sequence, std::int32_t token) {
      if (on_token) on_token(sequence, token);
    };
    for (index_t i = 0; i < sources_ * each; ++i) tell(i, start_);
    std::vector<SingleRow> rows, ended;
    for (index_t b = 0; b < sources_; ++b) rows.push_back({b, 0, {{start_}, {}, 0}});
    std::vector<std::int32_t> parents, of;
    for (index_t length = 1; !rows.empty(); ++length) {
      const Candidates best = step(rows, {parents, of});
      std::vector<SingleRow> next;
      parents.clear(), of.clear();
      const index_t copies = length == 1 ? each : 1;
      for (std::size_t r = 0; r < rows.size(); ++r) {
        for (index_t copy = 0; copy < copies; ++copy) {
          SingleRow row = rows[r];
          row.number += copy;
          add_token(best, r, first_source, row);
          tell(row.source * each + row.number, row.so_far.tokens.back());
          if (is_end(row.so_far.tokens.back()) || length + 1 == config_.longest()) {
            ended.push_back(std::move(row));
          } else {
            parents.push_back(static_cast<std::int32_t>(r));
            of.push_back(static_cast<std::int32_t>(row.source));
            next.push_back(std::move(row));
          }
        }
      }
      if (next.size() == rows.size() && copies == 1) parents.clear(), of.clear();
      rows = std::move(next);
    }
    return in_order(std::move(ended));
  }

  /// Beam search, and with do_sample its candidates drawn instead of the best.
  Generation beams(std::uint64_t first_source) {
    const index_t K = config_.num_beams, V = model_.config().vocab_size;
    const auto ends = static_cast<index_t>(eos_.size());
    const index_t keep = std::max<index_t>(2, 1 + ends) * K;
    require(keep <= K * V, "generate", "the vocabulary is too small for so many beams");
    const index_t count = config_.do_sample ? warped_most(config_, ends + 1, V) : std::min(keep, V);
    std::vector<BeamSource> live;
    std::vector<BeamSource> over;
    for (index_t b = 0; b < sources_; ++b) live.push_back(BeamSource(b, K, start_));
    std::vector<std::int32_t> parents, of, last(live.size(), start_);
    for (index_t length = 1; !live.empty(); ++length) {
      const index_t rows_each = length == 1 ? 1 : K;  // beams are all the same at first
      std::vector<ScoreChanges> changes;
      for (std::size_t g = 0; processors_.any() && g < live.size(); ++g) {
        for (index_t i = 0; i < rows_each; ++i) {
          changes.push_back(processors_.changes(live[g].running[static_cast<std::size_t>(i)].tokens,
                                                static_cast<std::size_t>(live[g].source)));
        }
      }
      const Candidates best = step(last, {parents, of}, changes, count, true);
      std::vector<BeamSource> next;
      parents.clear(), of.clear(), last.clear();
      for (std::size_t g = 0; g < live.size(); ++g) {
        BeamSource& source = live[g];
        std::vector<CandidateRow> rows;
        for (index_t i = 0; i < K; ++i)
          rows.push_back(row_of(best, static_cast<index_t>(g) * rows_each + i % rows_each));
        const auto found = config_.do_sample ? drawn(source, rows, static_cast<std::size_t>(keep),
                                                     length, first_source)
                                             : merged(source, rows, static_cast<std::size_t>(keep));
        const std::vector<index_t> from = advance(source, rows, found, length);
        if (source.over) {
          over.push_back(std::move(source));
          continue;
        }
        for (std::size_t i = 0; i < from.size(); ++i) {
          parents.push_back(
              static_cast<std::int32_t>(static_cast<index_t>(g) * rows_each + from[i] % rows_each));
          last.push_back(source.running[i].tokens.back());
        }
        of.push_back(static_cast<std::int32_t>(source.source));
        next.push_back(std::move(source));
      }
      live = std::move(next);
    }
    std::ranges::sort(over, {}, &BeamSource::source);
    Generation out;
    out.per_source = config_.num_return_sequences;
    out.filling = pad_ != 0 || eos_.empty() ? pad_ : eos_.front();  // as transformers has it
    for (BeamSource& source : over) {
      for (index_t i = 0; i < out.per_source; ++i)
        add(out, std::move(source.finished[static_cast<std::size_t>(i)]));
    }
    return out;
  }

 private:
  static constexpr double far_below = -1e9;  // transformers' score of what is not there

  /// A sequence of greedy search or sampling.
  struct SingleRow {
    index_t source, number;  // of the source, and of its sequences
    Hypothesis so_far;
  };

  /// The search of one source: K running and K finished hypotheses, the best first.
  struct BeamSource {
    index_t source;
    std::vector<Hypothesis> running, finished;
    std::vector<bool> done;  // whether finished[i] is there
    bool over = false;

    BeamSource(index_t b, index_t beams, std::int32_t start)
        : source(b),
          running(static_cast<std::size_t>(beams), {{start}, {}, far_below}),
          finished(running),
          done(running.size(), false) {
      running.front().score = 0;
    }
    bool all_done() const {
      return std::ranges::all_of(done, [](bool is_done) { return is_done; });
    }
  };

  /// A token that may follow a beam, with the score of both.
  struct Continuation {
    std::size_t beam, place;  // and its place among the beam's candidates
    double score;
  };

  bool is_end(std::int32_t token) const { return std::ranges::find(eos_, token) != eos_.end(); }

  Candidates step(Ids last, const NextRows& next, std::span<const ScoreChanges> changes,
                  index_t count, bool log_softmax) {
    const auto logits = model_.decode_step(state_, last, next);
    Candidates best = best_tokens<B, T>(model_.backend(), logits, changes,
                                        config_.repetition_penalty, count, log_softmax);
    check_totals(best.log_totals, model_, state_);
    return best;
  }

  /// The candidates of greedy search or sampling for the token after each row.
  Candidates step(const std::vector<SingleRow>& rows, const NextRows& next) {
    std::vector<std::int32_t> last;
    std::vector<ScoreChanges> changes;
    for (const SingleRow& row : rows) {
      last.push_back(row.so_far.tokens.back());
      if (processors_.any())
        changes.push_back(
            processors_.changes(row.so_far.tokens, static_cast<std::size_t>(row.source)));
    }
    const index_t count =
        config_.do_sample ? warped_most(config_, 1, model_.config().vocab_size) : 1;
    return step(last, next, changes, count, false);
  }

  /// Adds to a sequence the best candidate of row r, or a drawn one.
  void add_token(const Candidates& best, std::size_t r, std::uint64_t first_source,
                 SingleRow& row) const {
    const CandidateRow candidates = row_of(best, static_cast<index_t>(r));
    if (!config_.do_sample)
      return choose(candidates, 0, candidates.scores[0] - best.log_totals[r], row.so_far);
    const RandomStream own = RandomStream{config_.seed, 0x73616D70}
                                 .substream(first_source + static_cast<std::uint64_t>(row.source))
                                 .substream(static_cast<std::uint64_t>(row.number));
    const auto length = static_cast<std::uint64_t>(row.so_far.tokens.size());
    draw(candidates, uniform(own, length), row.so_far);
  }

  /// What was generated from the sequences of greedy search or sampling, in whatever order they ended.
  Generation in_order(std::vector<SingleRow> ended) const {
    const index_t each = config_.num_return_sequences;
    std::ranges::sort(ended, {},
                      [=](const SingleRow& row) { return row.source * each + row.number; });
    Generation out;
    out.per_source = each, out.filling = pad_;
    for (SingleRow& row : ended) {
      const auto tokens = static_cast<double>(row.so_far.log_probs.size());
      row.so_far.score /= std::pow(tokens, config_.length_penalty);
      add(out, std::move(row.so_far));
    }
    return out;
  }

  static void choose(const CandidateRow& row, std::size_t place, double log_prob, Hypothesis& to) {
    to = to.extended(row.tokens[place], log_prob, to.score + log_prob);
  }

  /// Adds the token in whose share of the warped probabilities u in [0,1) falls.
  void draw(const CandidateRow& row, double u, Hypothesis& to) const {
    const std::vector<double> scores = warped(row.scores, config_, 1);
    if (scores.empty()) return choose(row, 0, no_score, to);
    double total = 0;
    for (const double s : scores) total += std::exp(s - scores.front());
    std::size_t place = 0;
    for (double sum = 0; place + 1 < scores.size(); ++place) {
      sum += std::exp(scores[place] - scores.front()) / total;
      if (u < sum) break;
    }
    choose(row, place, scores[place] - scores.front() - std::log(total), to);
  }

  /// The best continuations of all beams, falling; of equal ones the first beam and token.
  static std::vector<Continuation> merged(const BeamSource& source,
                                          const std::vector<CandidateRow>& rows, std::size_t keep) {
    std::vector<Continuation> all;
    for (std::size_t beam = 0; beam < rows.size(); ++beam) {
      for (std::size_t i = 0; i < rows[beam].scores.size(); ++i)
        all.push_back({beam, i, rows[beam].scores[i] + source.running[beam].score});
    }
    std::ranges::stable_sort(all, std::greater{}, &Continuation::score);
    all.resize(std::min(all.size(), keep));
    return all;
  }

  /// Continuations drawn without replacement, each with the probability of its score among those left:
  /// the largest of score + Gumbel noise.
  std::vector<Continuation> drawn(const BeamSource& source, std::vector<CandidateRow>& rows,
                                  std::size_t keep, index_t length, std::uint64_t first_source) {
    const RandomStream own =
        RandomStream{config_.seed, 0x6265616D}
            .substream(first_source + static_cast<std::uint64_t>(source.source))
            .substream(static_cast<std::uint64_t>(length));
    warped_.assign(rows.size(), {});
    std::vector<Continuation> all;
    std::vector<double> keys;
    for (std::size_t beam = 0; beam < rows.size(); ++beam) {
      warped_[beam] = warped(rows[beam].scores, config_, eos_.size() + 1);
      rows[beam].scores = warped_[beam];
      for (std::size_t i = 0; i < warped_[beam].size(); ++i) {
        const double u =
            uniform(own.substream(beam), static_cast<std::uint64_t>(rows[beam].tokens[i]));
        all.push_back({beam, i, warped_[beam][i] + source.running[beam].score});
        keys.push_back(all.back().score - std::log(-std::log1p(-u)));
      }
    }
    std::vector<std::size_t> order(all.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::ranges::stable_sort(order, std::greater{}, [&](std::size_t i) { return keys[i]; });
    std::vector<Continuation> taken;
    for (std::size_t i = 0; i < std::min(order.size(), keep); ++i) taken.push_back(all[order[i]]);
    return taken;
  }

  /// One step of a source. Returns the beam that each running hypothesis continues.
  std::vector<index_t> advance(BeamSource& source, const std::vector<CandidateRow>& rows,
                               const std::vector<Continuation>& found, index_t length) const {
    const std::size_t K = source.running.size();
    const auto token = [&](const Continuation& c) { return rows[c.beam].tokens[c.place]; };
    const auto ends = [&](const Continuation& c) {
      return is_end(token(c)) || length + 1 == config_.longest();
    };
    const auto extended = [&](const Continuation& c, double score) {
      return source.running[c.beam].extended(token(c), rows[c.beam].scores[c.place], score);
    };

    struct Finished {
      const Continuation* added;  // null: it was there
      std::size_t place;
      double score;
      bool done;
    };
    std::vector<Finished> finished;
    for (std::size_t i = 0; i < K; ++i)
      finished.push_back({nullptr, i, source.finished[i].score, source.done[i]});
    std::vector<std::pair<double, const Continuation*>> running;
    for (std::size_t i = 0; i < found.size(); ++i) {
      const Continuation& c = found[i];
      const double share = c.score / std::pow(static_cast<double>(length), config_.length_penalty);
      const bool done = ends(c) && i < K;
      finished.push_back({&c, i, share + (done ? 0 : far_below), done});
      running.emplace_back(c.score + (ends(c) ? far_below : 0), &c);
    }
    std::ranges::stable_sort(finished, std::greater{}, &Finished::score);
    std::ranges::stable_sort(running, std::greater{}, [](const auto& r) { return r.first; });

    std::vector<Hypothesis> now_finished, now_running;
    for (std::size_t i = 0; i < K; ++i) {
      const Finished& f = finished[i];
      now_finished.push_back(f.added == nullptr ? source.finished[f.place]
                                                : extended(*f.added, f.score));
      source.done[i] = f.done;
    }
    std::vector<index_t> from;
    for (std::size_t i = 0; i < std::min(K, running.size()); ++i) {
      now_running.push_back(extended(*running[i].second, running[i].first));
      from.push_back(static_cast<index_t>(running[i].second->beam));
    }
    source.finished = std::move(now_finished);
    source.over = now_running.size() < K || std::ranges::all_of(found, ends);
    source.running = std::move(now_running);
    source.over = source.over || !may_improve(source, length + 1) ||
                  (config_.early_stopping == EarlyStopping::yes && source.all_done());
    return from;
  }

  /// Whether the best running hypothesis is expected to come among the finished: transformers' guess
  /// is its score at the present length, or for `never` at the greatest where that is better.
  bool may_improve(const BeamSource& source, index_t length) const {
    if (source.running.empty()) return false;
    const bool at_greatest =
        config_.early_stopping == EarlyStopping::never && config_.length_penalty > 0;
    const index_t then = at_greatest ? config_.longest() : length;
    const double best = source.running.front().score /
                        std::pow(static_cast<double>(then - 1), config_.length_penalty);
    const double worst = source.all_done() ? source.finished.back().score : far_below;
    return best > worst;
  }

  static void add(Generation& out, Hypothesis&& hypothesis) {
    out.sequences.push_back(std::move(hypothesis.tokens));
    out.token_log_probs.push_back(std::move(hypothesis.log_probs));
    out.scores.push_back(hypothesis.score);
  }

  Model& model_;
  const GenerationConfig& config_;
  std::int32_t start_, pad_;
  std::vector<std::int32_t> eos_;
  index_t sources_;
  LogitsProcessors processors_;
  decltype(std::declval<Model&>().start_decoding({}, {}, 1, 1, 1)) state_;
  std::vector<std::vector<double>> warped_;  // what the candidates of drawn() look at
};

}  // namespace detail

/// Generates with the options of `config`: greedy search, with num_beams beam search, with do_sample
/// sampling, with both transformers' beam sampling.
///   ids [B,N] padded, lengths [B]
///   first_source  the number of the first source, where a batch is part of a larger run: sampling
///                 draws from (seed, source, sequence, step) alone
///   on_token      for text that appears as it is generated, without beams: what stands in theirs
///                 changes until they end
/// Throws nonfinite_error, which names a parameter or a layer, where scores are NaN or infinite.
/// Cost a step: that of the model for the rows still running, and O(RV) for their scores.
template <DecodesStepByStep Model>
Generation generate(Model& model, std::span<const std::int32_t> ids,
                    std::span<const index_t> lengths, const GenerationConfig& config = {},
                    std::uint64_t first_source = 0, const OnToken& on_token = {}) {
  check_generation(config, model.config().vocab_size);
  require(!on_token || config.num_beams == 1, "generate",
          "on_token needs num_beams 1: the tokens of beams change until they end");
  detail::Search<Model> search(model, ids, lengths, config);
  return config.num_beams > 1 ? search.beams(first_source)
                              : search.one_by_one(first_source, on_token);
}

}  // namespace srformer
