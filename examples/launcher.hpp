// SPDX-License-Identifier: Apache-2.0
// Whether mpirun or srun has started this process as one of several, by the variables that they set. MPI is started in that
// case alone: a program that was started as always does not wait for it.
#pragma once

#include <sched.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include "errors.hpp"

namespace srformer::program {

/// What a launcher has said of this process.
struct Launch {
  int ranks = 1;   ///< 0: several or one, which MPI knows
  int rank = 0;    ///< as far as the variables say
  std::string by;  ///< the variable that says how many; empty: none does

  /// Whether MPI has to be started.
  bool together() const { return ranks != 1; }
};

/// The value of a variable of the environment, or nothing where it is not set.
using Environment = std::function<std::optional<std::string>(const char* name)>;

inline std::optional<std::string> process_environment(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr ? std::optional<std::string>(value) : std::nullopt;
}

namespace detail {

/// Throws usage_error for what is no number of `least` and above.
inline std::optional<int> launcher_number(const Environment& variable, const char* name,
                                          int least) {
  const std::optional<std::string> text = variable(name);
  if (!text) return std::nullopt;
  int number = 0;
  const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), number);
  if (error != std::errc() || end != text->data() + text->size() || number < least)
    throw usage_error(std::string(name) + " is \"" + one_line(*text, 40) +
                      "\", expected a number of at least " + std::to_string(least) +
                      "; unset it, or start with mpirun or srun");
  return number;
}

}  // namespace detail

/// Open MPI, then what speaks PMI (MPICH, Intel MPI, srun --mpi=pmi2), MVAPICH, and PMIx (srun --mpi=pmix). Throws usage_error
/// where srun has started several processes that cannot find each other, and for numbers that are none.
inline Launch launch_of(const Environment& variable) {
  using detail::launcher_number;
  for (const auto& [size, rank] :
       {std::pair{"OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"},
        std::pair{"PMI_SIZE", "PMI_RANK"}, std::pair{"MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK"}})
    if (const auto ranks = launcher_number(variable, size, 1))
      return {*ranks, launcher_number(variable, rank, 0).value_or(0), size};
  const auto tasks = launcher_number(variable, "SLURM_STEP_NUM_TASKS", 1);
  if (const auto rank = launcher_number(variable, "PMIX_RANK", 0))
    return {tasks.value_or(0), *rank, tasks ? "SLURM_STEP_NUM_TASKS" : "PMIX_RANK"};
  if (const auto rank = launcher_number(variable, "PMI_RANK", 0))
    return {tasks.value_or(0), *rank, tasks ? "SLURM_STEP_NUM_TASKS" : "PMI_RANK"};
  if (tasks.value_or(1) > 1)
    throw usage_error("srun has started " + std::to_string(*tasks) +
                      " processes (SLURM_STEP_NUM_TASKS) that cannot find each other; give srun "
                      "--mpi=pmix or --mpi=pmi2, as srun --mpi=list has it");
  return {};
}

/// Threads for each of the ranks of a machine: its processors shared out, at least one, and no more than this process may
/// run on.
///   processors   of the machine
///   allowed      those of them that this process is bound to
struct ThreadShare {
  int threads = 1;
  bool bound = false;  ///< whether the launcher leaves fewer processors than the share
};
inline ThreadShare thread_share(int processors, int allowed, int local_ranks) {
  const int share = std::max(1, processors / std::max(1, local_ranks));
  return {std::clamp(allowed, 1, share), allowed < share};
}

/// Processors that this process may run on.
inline int allowed_processors() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (::sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
  return static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
}

/// Processors of the machine.
inline int machine_processors() {
  const long online = ::sysconf(_SC_NPROCESSORS_ONLN);
  return online > 0 ? static_cast<int>(online) : 1;
}

}  // namespace srformer::program
