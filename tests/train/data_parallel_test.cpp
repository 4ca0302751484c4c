// SPDX-License-Identifier: Apache-2.0
// Training over several ranks, which are threads here; tests/mpi runs it over processes.
#include <cstring>
#include <fstream>
#include <map>
#include <memory>
#include <mutex>
#include <srformer/train/checkpoint.hpp>

#include "bigram_model.hpp"
#include "io/temporary_folder.hpp"
#include "models/tiny_bart.hpp"
#include "models/tiny_t5.hpp"
#include "sign_descent.hpp"
#include "support/catch.hpp"
#include "thread_ranks.hpp"

using namespace srformer;
using Catch::Matchers::ContainsSubstring;

namespace {

/// A model and the backend that it is on.
template <class Model>
struct Placed {
  std::unique_ptr<EigenBackend> be = std::make_unique<EigenBackend>(1);
  std::unique_ptr<Model> model{};
};

Placed<T5<EigenBackend, double>> placed_t5() {
  Placed<T5<EigenBackend, double>> placed;
  placed.model = std::make_unique<T5<EigenBackend, double>>(
      *placed.be, testing::tiny_config(testing::cross_options(Variant::segmented_recurrent)));
  placed.model->initialize({1, 2}, 0.5);
  return placed;
}
Placed<Bart<EigenBackend, double>> placed_bart() {
  Placed<Bart<EigenBackend, double>> placed;
  placed.model = std::make_unique<Bart<EigenBackend, double>>(
      *placed.be, testing::tiny_bart_config(testing::cross_options(Variant::segmented_recurrent)));
  placed.model->initialize({1, 2}, 0.5);
  return placed;
}
template <class T>
Placed<BigramModel<T>> placed_bigram() {
  Placed<BigramModel<T>> placed;
  placed.model = std::make_unique<BigramModel<T>>(*placed.be);
  return placed;
}

/// The bits of all parameters, and the numbers that reports say.
template <class T>
struct Outcome {
  std::vector<T> values;
  std::vector<double> losses, norms;
  index_t tokens = 0, examples = 0;

  bool same_bits(const Outcome& other) const {
    return values.size() == other.values.size() && !values.empty() &&
           std::memcmp(values.data(), other.values.data(), values.size() * sizeof(T)) == 0 &&
           losses == other.losses && norms == other.norms && tokens == other.tokens &&
           examples == other.examples;
  }
  double distance(const Outcome& other) const {
    REQUIRE(values.size() == other.values.size());
    REQUIRE(losses.size() == other.losses.size());
    REQUIRE(tokens == other.tokens);
    REQUIRE(examples == other.examples);
    double most = 0;
    const auto apart = [&](double a, double b) { most = std::max(most, std::abs(a - b)); };
    for (std::size_t i = 0; i < values.size(); ++i)
      apart(math::to_double(values[i]), math::to_double(other.values[i]));
    for (std::size_t i = 0; i < losses.size(); ++i) apart(losses[i], other.losses[i]);
    for (std::size_t i = 0; i < norms.size(); ++i) apart(norms[i], other.norms[i]);
    return most;
  }
};

/// Steps a trainer to its end.
template <class T, class Trainer>
Outcome<T> run_to_end(Trainer& trainer) {
  Outcome<T> outcome;
  trainer.run([&](const StepReport& report) {
    outcome.losses.push_back(report.loss), outcome.norms.push_back(report.gradient_norm);
    outcome.tokens += report.tokens, outcome.examples += report.examples;
    return true;
  });
  const auto values = trainer.model().parameters().values();
  outcome.values.assign(values.data, values.data + values.size());
  return outcome;
}

/// Trains the model that `place()` gives on every rank and returns the outcome, which must be the same on all of them.
template <class Place>
auto outcome_on(int ranks, Place place, const std::vector<Example>& examples,
                const TrainingOptions& options) {
  using Model = std::remove_reference_t<decltype(*place().model)>;
  using T = typename Model::scalar;
  std::vector<Outcome<T>> outcomes(static_cast<std::size_t>(ranks));
  on_ranks(ranks, [&](ThreadRank& comm) {
    const auto placed = place();
    Trainer trainer(*placed.model, Examples(examples), options, comm);
    outcomes[static_cast<std::size_t>(comm.rank())] = run_to_end<T>(trainer);
  });
  for (const auto& outcome : outcomes) REQUIRE(outcome.same_bits(outcomes[0]));
  return outcomes[0];
}

template <class Place>
auto outcome_alone(Place place, const std::vector<Example>& examples,
                   const TrainingOptions& options) {
  using T = typename std::remove_reference_t<decltype(*place().model)>::scalar;
  const auto placed = place();
  Trainer trainer(*placed.model, Examples(examples), options);
  return run_to_end<T>(trainer);
}

/// Steps of 4 micro-batches, of which the last one of an epoch has 2, and one of those is short.
TrainingOptions parallel_options() {
  TrainingOptions options;
  options.batch_size = 3, options.accumulation = 4, options.epochs = 2;
  options.learning_rate = 0.02, options.label_smoothing = 0.1;
  options.optimizer = AdamWOptions{.weight_decay = 0.1, .max_grad_norm = 0.5};
  options.dropout = DropoutRates{0.1, 0.1, 0.1};
  options.bucket_bytes = 3000;
  return options;
}
const std::size_t parallel_examples = 29;

template <class Place>
void check_ranks(Place place, const TrainingOptions& options) {
  const auto examples = odd_examples(parallel_examples);
  const auto alone = outcome_alone(place, examples, options);
  REQUIRE(alone.losses.size() >= 4);
  for (const int ranks : {1, 2, 3, 4}) {
    const auto whole = outcome_on(ranks, place, examples, options);
    CHECK(whole.distance(alone) < 1e-10);
    if (ranks == 1) CHECK(whole.same_bits(alone));
    CHECK(outcome_on(ranks, place, examples, options).same_bits(whole));
    TrainingOptions zero = options;
    zero.zero = 1;
    CHECK(outcome_on(ranks, place, examples, zero).same_bits(whole));
  }
}

std::string text_of(const std::exception_ptr& error) {
  try {
    if (error) std::rethrow_exception(error);
  } catch (const std::exception& e) {
    return e.what();
  }
  return "";
}

}  // namespace

TEST_CASE("Any number of ranks trains T5 and BART alike, with and without ZeRO") {
  SECTION("T5") { check_ranks(placed_t5, parallel_options()); }
  SECTION("BART") { check_ranks(placed_bart, parallel_options()); }
  SECTION("batches by tokens") {
    TrainingOptions options = parallel_options();
    options.max_tokens_per_batch = 60, options.batch_size = 5;
    check_ranks(placed_t5, options);
  }
  SECTION("a bucket for all") {
    TrainingOptions options = parallel_options();
    options.bucket_bytes = index_t{1} << 30;
    check_ranks(placed_bart, options);
  }
}

TEST_CASE("Any number of ranks trains with any optimizer alike, with and without ZeRO") {
  TrainingOptions options = parallel_options();
  options.bucket_bytes = 200;
  for (const OptimizerOptions& optimizer :
       {OptimizerOptions(AdamWOptions{}), OptimizerOptions(SgdOptions{.momentum = 0.9}),
        OptimizerOptions(SgdOptions{.weight_decay = 0.1, .max_grad_norm = 0.1}),
        OptimizerOptions(AdafactorOptions{.weight_decay = 0.1, .max_grad_norm = 0.5}),
        OptimizerOptions(AdafactorOptions{.beta1 = 0.9, .scale_parameter = true})}) {
    options.optimizer = optimizer;
    check_ranks(placed_bigram<double>, options);
  }
  SECTION("Adafactor of a T5") {
    options.optimizer = AdafactorOptions{.beta1 = 0.9, .scale_parameter = true};
    check_ranks(placed_t5, options);
  }
}

TEST_CASE("Ranks divide the examples of micro-batches that are fewer than they") {
  TrainingOptions options = parallel_options();
  options.batch_size = 7, options.dropout = DropoutRates{};
  for (const index_t accumulation : {1, 2, 3}) {
    options.accumulation = accumulation;
    const auto examples = odd_examples(parallel_examples);
    const auto alone = outcome_alone(placed_t5, examples, options);
    for (const int ranks : {2, 3, 4, 5, 9})
      CHECK(outcome_on(ranks, placed_t5, examples, options).distance(alone) < 1e-10);
  }
  // More ranks than examples.
  const auto few = odd_examples(2);
  options.accumulation = 1;
  CHECK(outcome_on(5, placed_t5, few, options).distance(outcome_alone(placed_t5, few, options)) <
        1e-10);
}

namespace {

/// Keeps the streams of dropout that it is given.
struct ListeningModel : BigramModel<double> {
  using BigramModel<double>::BigramModel;
  std::vector<std::uint64_t> streams;

  void add_gradients(const Batch& batch, const LossOptions& options, LossSum loss_sum) {
    streams.push_back(options.random.stream);
    BigramModel<double>::add_gradients(batch, options, loss_sum);
  }
};

/// Those of all ranks and steps, sorted.
std::vector<std::uint64_t> dropout_streams(int ranks, const TrainingOptions& options) {
  const auto examples = odd_examples(parallel_examples);
  std::vector<std::uint64_t> all;
  std::mutex mutex;
  on_ranks(ranks, [&](ThreadRank& comm) {
    EigenBackend be(1);
    ListeningModel model(be);
    Trainer trainer(model, Examples(examples), options, comm);
    trainer.run([](const StepReport&) { return true; });
    const std::lock_guard lock(mutex);
    all.insert(all.end(), model.streams.begin(), model.streams.end());
  });
  std::ranges::sort(all);
  return all;
}

}  // namespace

TEST_CASE("Dropout is that of the micro-batch, and parts of one have their own") {
  TrainingOptions options = parallel_options();
  const auto alone = dropout_streams(1, options);
  REQUIRE(alone.size() == 20);
  for (const int ranks : {2, 3, 4}) CHECK(dropout_streams(ranks, options) == alone);
  for (const index_t accumulation : {1, 2, 3}) {
    options.accumulation = accumulation;
    const auto streams = dropout_streams(7, options);
    CHECK(streams.size() > 20);
    CHECK(std::ranges::adjacent_find(streams) == streams.end());
  }
}

TEST_CASE("Texts that are denoised anew in every epoch are the same over ranks") {
  auto texts = odd_examples(parallel_examples);
  for (Example& text : texts) text.target.clear();
  TrainingOptions options = parallel_options();
  // How many labels a text gives is known when its words are counted alone.
  TextInfillingOptions infilling{.mark = 3, .target_length = 2};
  for (int id = 0; id < 64; ++id) infilling.word_beginnings.push_back(id % 3 == 0);
  options.denoising = infilling;
  for (const index_t accumulation : {1, 4}) {
    options.accumulation = accumulation;
    options.dropout = DropoutRates{};
    const auto alone = outcome_alone(placed_t5, texts, options);
    REQUIRE(alone.losses.size() >= 4);
    for (const int ranks : {2, 3, 4}) {
      const auto whole = outcome_on(ranks, placed_t5, texts, options);
      CHECK(whole.distance(alone) < 1e-10);
      TrainingOptions zero = options;
      zero.zero = 1;
      CHECK(outcome_on(ranks, placed_t5, texts, zero).same_bits(whole));
    }
  }
}

TEST_CASE("Narrow scalars have the same bits twice, and with ZeRO") {
  const auto examples = odd_examples(parallel_examples);
  const auto check = [&](auto place) {
    for (const index_t bucket_bytes : {7, 64, 1000}) {
      TrainingOptions options = parallel_options();
      options.bucket_bytes = bucket_bytes;
      for (const int ranks : {2, 3, 4}) {
        options.zero = 0;
        const auto first = outcome_on(ranks, place, examples, options);
        CHECK(outcome_on(ranks, place, examples, options).same_bits(first));
        options.zero = 1;
        CHECK(outcome_on(ranks, place, examples, options).same_bits(first));
      }
    }
  };
  check(placed_bigram<float>);
  check(placed_bigram<Eigen::bfloat16>);
  check(placed_bigram<Eigen::half>);
}

TEST_CASE("A model says truly after which stage a gradient is final") {
  const auto check = [](auto& model) {
    using T = double;
    auto& parameters = model.parameters();
    parameters.allocate_gradients();
    parameters.zero_gradients();
    const auto gradients = parameters.gradients();
    const auto now = [&] {
      return std::vector<T>(gradients.data, gradients.data + gradients.size());
    };
    std::vector<std::pair<index_t, std::vector<T>>> seen;
    const auto examples = odd_examples(5);
    const std::vector<index_t> rows{0, 1, 2, 3, 4};
    auto loss = zeros<T, 1>(model.backend(), {1});
    model.add_gradients(make_batch(examples, rows, 0),
                        {.finished = [&](index_t stage) { seen.emplace_back(stage, now()); }},
                        loss.view());
    const std::vector<T> final = now();
    index_t early = 0, all = 0;
    REQUIRE(seen.size() >= 4);
    for (const auto& p : parameters) {
      bool announced = p.final_stage == end_of_backward;
      for (const auto& [stage, then] : seen) {
        if (p.final_stage > stage) continue;
        announced = true;
        CAPTURE(p.name, stage);
        CHECK(std::equal(then.begin() + p.offset, then.begin() + p.offset + p.count,
                         final.begin() + p.offset));
      }
      CHECK(announced);
      all += p.count, early += p.final_stage == end_of_backward ? 0 : p.count;
    }
    CHECK(std::ranges::is_sorted(seen, {}, [](const auto& at) { return at.first; }));
    CHECK(early > all / 2);  // of the layers, all except the first of the encoder
  };
  EigenBackend be(1);
  for (const auto& [name, config] : testing::variant_configs())
    for (const bool tied : {true, false}) {
      T5Config c = config;
      c.tie_word_embeddings = tied;
      T5<EigenBackend, double> model(be, c);
      model.initialize({1, 2}, 0.5);
      check(model);
    }
  for (const auto& [name, config] : testing::bart_variant_configs()) {
    Bart<EigenBackend, double> model(be, config);
    model.initialize({1, 2}, 0.5);
    check(model);
  }
}

TEST_CASE("Buckets go out while the backward pass runs") {
  const auto examples = odd_examples(parallel_examples);
  TrainingOptions options = parallel_options();
  options.max_steps = 1;
  struct Seen {
    int buckets, begun, progress_calls;
    StepReport report;
  };
  std::vector<Seen> all(2);
  on_ranks(2, [&](ThreadRank& comm) {
    const auto placed = placed_t5();
    Trainer trainer(*placed.model, Examples(examples), options, comm);
    const StepReport report = trainer.step();
    all[static_cast<std::size_t>(comm.rank())] = {
        static_cast<int>(trainer.exchange().buckets().size()), comm.begun, comm.progress_calls,
        report};
  });
  for (const Seen& seen : all) {
    CHECK(seen.buckets > 4);
    CHECK(seen.begun == seen.buckets);
    CHECK(seen.progress_calls >= 3);
    CHECK(seen.report.exchange_seconds > 0);
    CHECK(seen.report.exchange_seconds <= seen.report.seconds);
  }
}

namespace {

/// Parameters of given sizes and stages, without memory.
Parameters<EigenBackend, float> parameters_of(
    EigenBackend& be, const std::vector<std::pair<index_t, index_t>>& counts_and_stages) {
  Parameters<EigenBackend, float> parameters(be);
  for (const auto& [count, stage] : counts_and_stages)
    parameters.add("p" + std::to_string(count), Role::weight, {count, 1}).final_stage = stage;
  return parameters;
}

/// Checks that buckets hold every element once, are in order and no larger than they may be, and returns what each rank owns.
std::vector<index_t> check_buckets(const Parameters<EigenBackend, float>& parameters, int ranks,
                                   index_t most, bool whole) {
  const auto buckets = gradient_buckets(parameters, ranks, most, whole);
  REQUIRE(std::ranges::is_sorted(buckets, {}, &GradientBucket::stage));
  std::vector<int> owner(static_cast<std::size_t>(parameters.size()), -1);
  std::vector<index_t> stage(owner.size());
  for (const GradientBucket& bucket : buckets) {
    REQUIRE(std::ssize(bucket.shares) == ranks);
    index_t count = 0;
    for (int r = 0; r < ranks; ++r) {
      const ArrayRange& share = bucket.shares[static_cast<std::size_t>(r)];
      count += share.count;
      for (index_t i = share.first; i < share.end(); ++i) {
        REQUIRE(owner[static_cast<std::size_t>(i)] == -1);
        owner[static_cast<std::size_t>(i)] = r, stage[static_cast<std::size_t>(i)] = bucket.stage;
      }
    }
    REQUIRE(count > 0);
    REQUIRE(count <= most + (whole ? 0 : detail::ShareDivision::granule));
  }
  for (const auto& p : parameters)
    for (index_t i = p.offset; i < p.offset + p.count; ++i) {
      REQUIRE(stage[static_cast<std::size_t>(i)] >= p.final_stage);
      if (whole)
        REQUIRE(owner[static_cast<std::size_t>(i)] == owner[static_cast<std::size_t>(p.offset)]);
    }
  std::vector<index_t> owned;
  for (int r = 0; r < ranks; ++r) {
    owned.push_back(std::ranges::count(owner, r));
    index_t in_share = 0;
    for (const ArrayRange& range : owned_share(buckets, r)) in_share += range.count;
    REQUIRE(in_share == owned.back());
  }
  REQUIRE(std::ranges::count(owner, -1) == 0);
  return owned;
}

/// Sizes and stages of a T5-small.
std::vector<std::pair<index_t, index_t>> t5_small_sizes() {
  const index_t table = 32128 * 512, square = 512 * 512, wide = 4 * square, norm = 512;
  std::vector<std::pair<index_t, index_t>> sizes{{table, end_of_backward}};
  for (const bool decoder : {false, true}) {
    for (index_t l = 0; l < 6; ++l) {
      const index_t stage = decoder ? 6 - l : l > 0 ? 12 - l : end_of_backward;
      const auto add = [&](std::initializer_list<index_t> counts) {
        for (const index_t count : counts) sizes.emplace_back(count, stage);
      };
      add({square, square, square, square});
      if (l == 0) add({32 * 8});
      add({norm});
      if (decoder) add({square, square, square, square, norm});
      add({wide, wide, norm});
    }
    sizes.emplace_back(norm, decoder ? 1 : 7);
  }
  return sizes;
}

/// The most that a rank owns, in parts of an even share.
double imbalance(const std::vector<GradientBucket>& buckets, int ranks, index_t size) {
  index_t most = 0;
  for (int r = 0; r < ranks; ++r)
    most = std::max(most, detail::share_size(owned_share(buckets, r)));
  return static_cast<double>(most) * ranks / static_cast<double>(size);
}

}  // namespace

TEST_CASE("Ranks own alike of a T5-small") {
  EigenBackend be(1);
  const auto parameters = parameters_of(be, t5_small_sizes());
  REQUIRE(parameters.size() == 60506624);
  const index_t most = (index_t{8} << 20) / 4;
  // Whole parameters cannot be even where the table, 0.27 of all, is more than the share of a rank.
  const std::map<int, double> bounds{{2, 1.02}, {4, 1.10}, {8, 2.19}};
  for (const auto& [ranks, bound] : bounds) {
    const auto even = gradient_buckets(parameters, ranks, most, false);
    const auto whole = gradient_buckets(parameters, ranks, most, true);
    CHECK(imbalance(even, ranks, parameters.size()) < 1.0001);
    CHECK(imbalance(whole, ranks, parameters.size()) < bound);
    INFO(ranks << " ranks: " << imbalance(whole, ranks, parameters.size()));
    CHECK(even.size() < 45);
    CHECK(whole.size() < 60);
  }
}

TEST_CASE("Buckets hold every gradient once, and ranks own alike") {
  EigenBackend be(1);
  const RandomStream random{3, 1};
  std::uint64_t at = 0;
  const auto draw = [&](std::uint64_t below) {
    return static_cast<index_t>(random_below(random, at++, below));
  };
  for (int round = 0; round < 60; ++round) {
    std::vector<std::pair<index_t, index_t>> sizes;
    for (index_t n = 1 + draw(30); n > 0; --n) {
      const index_t stage = draw(8);
      sizes.emplace_back(draw(4) == 0 ? draw(3000) : draw(60), stage < 6 ? stage : end_of_backward);
    }
    const auto parameters = parameters_of(be, sizes);
    if (parameters.size() == 0) continue;
    const int ranks = static_cast<int>(1 + draw(9));
    for (const index_t most : {index_t{1}, 1 + draw(500), index_t{1} << 40})
      for (const bool whole : {false, true})
        if (most > 1 || parameters.size() < 2000) check_buckets(parameters, ranks, most, whole);
  }
}

TEST_CASE("A step that is not finite is refused by all ranks in the same words") {
  const auto examples = odd_examples(parallel_examples);
  for (const int zero : {0, 1}) {
    TrainingOptions options = parallel_options();
    options.zero = zero, options.bucket_bytes = 100;
    for (const char* where : {"table", "bias", "weight"}) {
      const auto train = [&](ThreadRank& comm) {
        const auto placed = placed_bigram<double>();
        Trainer trainer(*placed.model, Examples(examples), options, comm);
        trainer.step();
        const auto& p = placed.model->parameters().at(where);
        p.value[p.count - 1] = std::numeric_limits<double>::quiet_NaN();
        const auto values = placed.model->parameters().values();
        const std::vector<double> before(values.data, values.data + values.size());
        const StepReport report = trainer.step();
        if (!report.skipped) throw io_error("the step was not skipped");
        if (std::memcmp(before.data(), values.data, before.size() * sizeof(double)) != 0)
          throw io_error("the parameters were changed");
      };
      options.skip_nonfinite = false;
      for (const auto& error : errors_of_ranks(3, train))
        CHECK_THAT(text_of(error), ContainsSubstring("step 2: the loss is") &&
                                       ContainsSubstring(": the value of \"" + std::string(where) +
                                                         "\" is not finite"));
      options.skip_nonfinite = true;
      for (const auto& error : errors_of_ranks(3, train)) CHECK(text_of(error).empty());
    }
  }
}

TEST_CASE("Ranks that were not started alike are refused") {
  const auto examples = odd_examples(parallel_examples);
  const auto refusals = [&](auto change) {
    return errors_of_ranks(3, [&](ThreadRank& comm) {
      TrainingOptions options = parallel_options();
      change(comm.rank(), options);
      const auto placed = placed_bigram<double>();
      Trainer trainer(*placed.model, Examples(examples), options, comm);
    });
  };
  for (const auto& error : refusals([](int rank, TrainingOptions&options) {
         if (rank == 2) options.batch_size = 5;
       }))
    CHECK(text_of(error) ==
          "rank 2: batch_size is \"5\", and on rank 0 it is \"3\"; start all ranks with the same "
          "settings");
  for (const auto& error :
       refusals([](int rank, TrainingOptions&options) { options.zero = rank > 0 ? 1 : 0; }))
    CHECK_THAT(text_of(error), ContainsSubstring("ranks 1, 2: zero is \"1\""));
  for (const auto& error : refusals([](int, TrainingOptions& options) { options.zero = 2; }))
    CHECK_THAT(text_of(error), ContainsSubstring("zero must be 0 or 1"));
  for (const auto& error :
       refusals([](int, TrainingOptions& options) { options.bucket_bytes = 0; }))
    CHECK_THAT(text_of(error), ContainsSubstring("bucket_bytes must be at least 1"));

  const auto settings = [](Settings of_rank_1) {
    return errors_of_ranks(4, [&](ThreadRank& comm) {
      EigenBackend be(1);
      require_same_settings(comm, be,
                            comm.rank() == 1 ? of_rank_1 : Settings{{"a", "x"}, {"b", ""}});
    });
  };
  for (const auto& error : settings({{"a", "x"}, {"b", ""}})) CHECK(text_of(error).empty());
  for (const auto& error : settings({{"a", "x"}, {"b", std::string(999, 'y') + "\n"}})) {
    CHECK_THAT(text_of(error), ContainsSubstring("rank 1: b is \"yyy"));
    CHECK(text_of(error).size() < 500);
  }
  for (const Settings& other : {Settings{{"a", "x"}}, Settings{{"a", "x"}, {"c", ""}}, Settings{}})
    for (const auto& error : settings(other))
      CHECK_THAT(text_of(error), ContainsSubstring("rank 1: the settings have other names"));

  // Parameters that were loaded or drawn otherwise.
  for (const auto& error : errors_of_ranks(3, [&](ThreadRank& comm) {
         const auto placed = placed_bigram<double>();
         if (comm.rank() == 1) placed.model->parameters().values()(5) += 1e-3;
         Trainer trainer(*placed.model, Examples(examples), parallel_options(), comm);
         trainer.step();
       }))
    CHECK_THAT(text_of(error), ContainsSubstring("rank 1: the parameters are not those of rank 0"));
}

TEST_CASE(
    "An optimizer of one's own trains over ranks, and is refused where it would have a share") {
  const auto examples = odd_examples(parallel_examples);
  const auto train = [&](int zero, auto make_trainer) {
    TrainingOptions options = parallel_options();
    options.zero = zero;
    const auto placed = placed_bigram<double>();
    auto& parameters = placed.model->parameters();
    auto trainer = make_trainer(*placed.model, options,
                                SignDescent<EigenBackend, double>(*placed.be, parameters, 0.5));
    return run_to_end<double>(trainer);
  };
  const auto alone = train(0, [&](auto& model, const auto& options, auto optimizer) {
    return Trainer(model, Examples(examples), options, std::move(optimizer));
  });
  std::vector<Outcome<double>> outcomes(3);
  on_ranks(3, [&](ThreadRank& comm) {
    outcomes[static_cast<std::size_t>(comm.rank())] =
        train(0, [&](auto& model, const auto& options, auto optimizer) {
          return Trainer(model, Examples(examples), options, std::move(optimizer), comm);
        });
  });
  for (const auto& outcome : outcomes) CHECK(outcome.distance(alone) < 1e-10);
  for (const auto& error : errors_of_ranks(2, [&](ThreadRank& comm) {
         train(1, [&](auto& model, const auto& options, auto optimizer) {
           return Trainer(model, Examples(examples), options, std::move(optimizer), comm);
         });
       }))
    CHECK_THAT(text_of(error), ContainsSubstring("the trainer must make the optimizer itself"));
}

namespace {

std::string bytes_of(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// Saves after `steps` steps on so many ranks; returns the folder.
std::filesystem::path saved_by(const std::filesystem::path& folder, int ranks,
                               const TrainingOptions& options, index_t steps) {
  const auto examples = odd_examples(parallel_examples);
  std::filesystem::path path;
  on_ranks(ranks, [&](ThreadRank& comm) {
    const auto placed = placed_t5();
    Trainer trainer(*placed.model, Examples(examples), options, comm);
    for (index_t i = 0; i < steps; ++i) trainer.step();
    const auto written = save_training(folder, trainer, [&](const std::filesystem::path& to) {
      const auto values = placed.model->parameters().values();
      std::ofstream(to / "values", std::ios::binary)
          .write(reinterpret_cast<const char*>(values.data),
                 static_cast<std::streamsize>(sizeof(double)) * values.size());
    });
    if (comm.rank() == 0) path = written;
  });
  return path;
}

/// Goes on from a checkpoint on so many ranks: saves at once in `again`, and returns the outcome of the rest.
Outcome<double> resumed_on(int ranks, const std::filesystem::path& checkpoint,
                           const TrainingOptions& options, const std::filesystem::path& again) {
  const auto examples = odd_examples(parallel_examples);
  std::vector<Outcome<double>> outcomes(static_cast<std::size_t>(ranks));
  on_ranks(ranks, [&](ThreadRank& comm) {
    const auto placed = placed_t5();
    const std::string values = bytes_of(checkpoint / "values");
    auto all = placed.model->parameters().values();
    std::memcpy(all.data, values.data(), values.size());
    Trainer trainer(*placed.model, Examples(examples), options, comm);
    load_training(checkpoint, trainer);
    save_training(again, trainer, [](const std::filesystem::path&) {});
    outcomes[static_cast<std::size_t>(comm.rank())] = run_to_end<double>(trainer);
  });
  for (const auto& outcome : outcomes) REQUIRE(outcome.same_bits(outcomes[0]));
  return outcomes[0];
}

}  // namespace

TEST_CASE("A checkpoint depends on neither ranks nor ZeRO and goes on with others") {
  const TemporaryFolder folder;
  for (const OptimizerOptions& optimizer : {OptimizerOptions(AdamWOptions{.max_grad_norm = 0.5}),
                                            OptimizerOptions(AdafactorOptions{.beta1 = 0.9})}) {
    TrainingOptions whole = parallel_options(), zero = whole;
    whole.optimizer = zero.optimizer = optimizer;
    zero.zero = 1;
    const std::string state = "optimizer.safetensors";
    const auto a = saved_by(folder.path / "a", 4, whole, 2),
               b = saved_by(folder.path / "b", 4, zero, 2);
    REQUIRE(bytes_of(a / state).size() > 1000);
    CHECK(bytes_of(a / state) == bytes_of(b / state));
    CHECK(bytes_of(a / "values") == bytes_of(b / "values"));
    const auto examples = odd_examples(parallel_examples);
    const auto alone = outcome_alone(placed_t5, examples, whole);
    for (const int ranks : {1, 2, 3, 4})
      for (const TrainingOptions& options : {whole, zero}) {
        const auto again = folder.path / "again";
        const auto rest = resumed_on(ranks, b, options, again);
        CHECK(bytes_of(again / b.filename() / state) == bytes_of(b / state));
        REQUIRE(rest.losses.size() + 2 == alone.losses.size());
        double most = 0;
        for (std::size_t i = 0; i < alone.values.size(); ++i)
          most = std::max(most, std::abs(rest.values[i] - alone.values[i]));
        CHECK(most < 1e-10);
      }
  }
}

TEST_CASE("Where one rank cannot write or read a checkpoint, all ranks say so") {
  const TemporaryFolder folder;
  const auto examples = odd_examples(parallel_examples);
  for (const int zero : {0, 1}) {
    TrainingOptions options = parallel_options();
    options.zero = zero;
    const auto saved = saved_by(folder.path / std::to_string(zero), 3, options, 1);
    const auto errors = errors_of_ranks(3, [&](ThreadRank& comm) {
      const auto placed = placed_t5();
      Trainer trainer(*placed.model, Examples(examples), options, comm);
      save_training(folder.path / "none", trainer,
                    [](const std::filesystem::path&) { throw io_error("the disk is full"); });
    });
    CHECK(text_of(errors[0]) == "the disk is full");
    for (const std::size_t r : {1, 2})
      CHECK_THAT(text_of(errors[r]), ContainsSubstring("checkpoint-0: was not written (rank 0"));
    CHECK(training_checkpoints(folder.path / "none").empty());

    const auto unread = errors_of_ranks(3, [&](ThreadRank& comm) {
      const auto placed = placed_t5();
      Trainer trainer(*placed.model, Examples(examples), options, comm);
      load_training(comm.rank() == 1 ? folder.path / "nowhere" : saved, trainer);
    });
    CHECK_THAT(text_of(unread[1]), ContainsSubstring("nowhere"));
    for (const std::size_t r : {0, 2})
      CHECK_THAT(text_of(unread[r]), ContainsSubstring("another rank could not read it (rank 1"));
  }
}
