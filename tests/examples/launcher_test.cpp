// SPDX-License-Identifier: Apache-2.0
// Whether a launcher has started several processes, what each gets of its machine, and which ranks are given up.
#include "../../examples/launcher.hpp"

#include <map>

#include "../../examples/rank_watch.hpp"
#include "../../examples/ranks.hpp"
#include "support/catch.hpp"

using namespace srformer;
using namespace srformer::program;
using Catch::Matchers::ContainsSubstring;
using Variables = std::map<std::string, std::string>;

namespace {

Environment environment_of(Variables variables) {
  return [variables = std::move(variables)](const char* name) -> std::optional<std::string> {
    const auto found = variables.find(name);
    return found != variables.end() ? std::optional(found->second) : std::nullopt;
  };
}

std::string refused_launch(const Variables& variables) {
  try {
    launch_of(environment_of(variables));
  } catch (const usage_error& error) {
    return error.what();
  }
  return "accepted";
}

/// Ranks of which this one shares its machine with others.
class RanksOfMachine : public Ranks {
 public:
  RanksOfMachine(int size, int local_size) { size_ = size, local_size_ = local_size; }
};

}  // namespace

TEST_CASE("MPI is started where a launcher has started several processes") {
  const std::vector<std::tuple<Variables, int, int>> cases{
      {{}, 1, 0},
      {{{"OMPI_COMM_WORLD_SIZE", "4"}, {"OMPI_COMM_WORLD_RANK", "2"}, {"PMIX_RANK", "2"}}, 4, 2},
      {{{"OMPI_COMM_WORLD_SIZE", "1"}, {"OMPI_COMM_WORLD_RANK", "0"}, {"PMIX_RANK", "0"}}, 1, 0},
      {{{"PMI_SIZE", "3"}, {"PMI_RANK", "1"}}, 3, 1},
      {{{"MV2_COMM_WORLD_SIZE", "8"}, {"MV2_COMM_WORLD_RANK", "7"}}, 8, 7},
      {{{"PMIX_RANK", "5"}, {"SLURM_STEP_NUM_TASKS", "6"}, {"SLURM_NTASKS", "6"}}, 6, 5},
      {{{"PMIX_RANK", "0"}, {"SLURM_STEP_NUM_TASKS", "1"}}, 1, 0},
      {{{"PMIX_RANK", "1"}}, 0, 1},  // MPI has to say how many
      {{{"SLURM_NTASKS", "6"}, {"SLURM_PROCID", "0"}},
       1,
       0},  // in a script of sbatch, without srun
      {{{"SLURM_STEP_NUM_TASKS", "1"}, {"SLURM_NTASKS", "6"}}, 1, 0}};
  for (const auto& [variables, ranks, rank] : cases) {
    const Launch launch = launch_of(environment_of(variables));
    INFO((variables.empty() ? "none" : variables.begin()->first));
    REQUIRE(launch.ranks == ranks);
    REQUIRE(launch.rank == rank);
    REQUIRE(launch.together() == (ranks != 1));
  }
}

TEST_CASE("processes that cannot find each other, and numbers that are none, are refused") {
  REQUIRE_THAT(refused_launch({{"SLURM_STEP_NUM_TASKS", "2"}}),
               ContainsSubstring("srun --mpi=pmix"));
  for (const char* value : {"", "four", "-1", "0", "4x", "99999999999"})
    REQUIRE_THAT(refused_launch({{"OMPI_COMM_WORLD_SIZE", value}}),
                 ContainsSubstring("OMPI_COMM_WORLD_SIZE is \""));
}

TEST_CASE("threads are the processors shared out") {
  const std::vector<std::tuple<int, int, int, int, bool>> cases{
      {16, 16, 1, 16, false}, {16, 16, 4, 4, false}, {16, 16, 3, 5, false}, {16, 8, 2, 8, false},
      {16, 1, 2, 1, true},    {2, 2, 4, 1, false},   {16, 8, 1, 8, true},   {4, 4, 0, 4, false}};
  for (const auto& [processors, allowed, local, threads, bound] : cases) {
    INFO(processors << " processors, " << allowed << " allowed, " << local << " ranks");
    const ThreadShare share = thread_share(processors, allowed, local);
    REQUIRE(share.threads == threads);
    REQUIRE(share.bound == bound);
  }
}

TEST_CASE("what the user says of threads goes first") {
  const RanksOfMachine two(2, 2);
  const Ranks alone;
  std::string notice;
  const auto threads = [&](const Ranks& ranks, int flag, Variables variables) {
    return threads_of_rank(ranks, flag, environment_of(std::move(variables)), notice);
  };
  REQUIRE(threads(two, 3, {{"OMP_NUM_THREADS", "5"}}) == 3);
  REQUIRE(threads(two, 0, {{"OMP_NUM_THREADS", "5"}}) == 5);
  REQUIRE(threads(two, 0, {{"OMP_NUM_THREADS", "6,2"}}) == 6);
  REQUIRE(threads(two, 0, {}) >= 1);
  REQUIRE(threads(alone, 0, {{"OMP_NUM_THREADS", "5"}}) == 0);  // as a program always was
  REQUIRE_THROWS_AS(threads(two, 0, {{"OMP_NUM_THREADS", "many"}}), usage_error);
}

TEST_CASE("what runs together is told in a line") {
  REQUIRE(ranks_text(Ranks(), 4).empty());
  REQUIRE(ranks_text(RanksOfMachine(4, 4), 8) == "4 ranks on 1 machine, 8 threads each");
  REQUIRE(ranks_text(RanksOfMachine(4, 4), 1) == "4 ranks on 1 machine, 1 thread each");
  REQUIRE(ranks_text(RanksOfMachine(4, 4), 0) == "4 ranks on 1 machine");
}

TEST_CASE("a rank that says nothing is given up, and no other") {
  RankWatch watch(3, {.silent = 10, .behind = 100});
  for (int second = 1; second <= 20; ++second) {
    watch.heard(0, 5), watch.heard(2, 5);
    const auto lost = watch.tick(1);
    REQUIRE(lost.has_value() == (second > 10));
    if (!lost) continue;
    REQUIRE(lost->ranks == std::vector<int>{1});
    REQUIRE(lost->text({"a", "process 7 on b", "c"}) ==
            "rank 1 (process 7 on b) has given no sign of life for 10 s");
  }
}

TEST_CASE("a silent rank is given up sooner once the run is to end") {
  RankWatch watch(2, {.silent = 60, .behind = 100, .silent_at_end = 10});
  for (int second = 1; second <= 20; ++second) {
    watch.heard(0, 5);
    REQUIRE_FALSE(watch.tick(1).has_value());
  }
  watch.heard(0, 5);
  const auto lost = watch.tick(1, true);
  REQUIRE(lost.has_value());
  REQUIRE(lost->ranks == std::vector<int>{1});
  REQUIRE(lost->seconds == 10);
  watch.heard(1, 5);
  for (int second = 1; second <= 10; ++second) {  // those that speak may end in peace
    watch.heard(0, 5);
    REQUIRE_FALSE(watch.tick(1, true).has_value());
  }
  REQUIRE(watch.tick(1, true).has_value());
  RankWatch hasty(1, {.silent = 5, .behind = 100, .silent_at_end = 10});
  for (int second = 1; second <= 5; ++second) REQUIRE_FALSE(hasty.tick(1, true).has_value());
  REQUIRE(hasty.tick(1, true)->seconds == 5);
}

TEST_CASE("ranks that keep the others waiting are given up") {
  RankWatch watch(4, {.silent = 10, .behind = 100});
  const auto beat = [&](std::vector<std::uint64_t> calls) {
    for (std::size_t r = 0; r < calls.size(); ++r) watch.heard(static_cast<int>(r), calls[r]);
    return watch.tick(1);
  };
  for (int second = 1; second <= 300; ++second)  // all compute for long, none waits
    REQUIRE_FALSE(beat({5, 5, 5, 5}).has_value());
  REQUIRE_FALSE(beat({6, 5, 6, 5}).has_value());  // the waiting begins here
  for (int second = 1; second <= 99; ++second) REQUIRE_FALSE(beat({6, 5, 6, 5}).has_value());
  const auto lost = beat({6, 5, 6, 5});
  REQUIRE(lost.has_value());
  REQUIRE(lost->ranks == std::vector<int>{1, 3});
  REQUIRE_THAT(
      lost->text({"a", "b", "c", "d"}),
      ContainsSubstring("waited 100 s for ranks 1 (b), 3 (d); give a higher --ddp_timeout"));
  REQUIRE_FALSE(beat({6, 6, 6, 6}).has_value());  // they have come
}

TEST_CASE("a run that is suspended as a whole goes on") {
  RankWatch watch(2, {.silent = 10, .behind = 20});
  watch.heard(0, 5), watch.heard(1, 4);
  for (int i = 0; i < 4; ++i) {
    REQUIRE_FALSE(watch.tick(3600).has_value());
    watch.heard(0, 5), watch.heard(1, 4);
  }
}

TEST_CASE("many lost ranks are counted") {
  const LostRanks lost{{1, 2, 3, 4, 5, 6}, true, 60};
  REQUIRE(lost.text({"a", "b", "c", "d", "e", "f", "g"}) ==
          "ranks 1 (b), 2 (c), 3 (d), 4 (e) and 2 more have given no sign of life for 60 s");
}
