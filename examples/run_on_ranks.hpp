// SPDX-License-Identifier: Apache-2.0
// Runs a program alone, or on the ranks that mpirun or srun has started where the build has MPI.
#pragma once

#include <chrono>
#include <string>
#include <thread>

#include "ranks.hpp"
#if defined(SRF_HAS_MPI)
#include "mpi_ranks.hpp"
#endif

namespace srformer::program {

/// Runs body(ranks) and returns the exit code of the program, as run() does. Throws nothing. Where several processes were
/// started and the build has no MPI, all of them end with 2, and the first says so: each would do all of the work.
template <class Body>
int run_on_ranks(Body body) {
  return run([&]() -> int {
    const Launch launch = launch_of(process_environment);
    if (!launch.together()) {
      Ranks alone;
      body(alone);
      return 0;
    }
#if defined(SRF_HAS_MPI)
    return run_with_mpi(launch, body);
#else
    if (launch.rank != 0) {
      std::this_thread::sleep_for(std::chrono::seconds(1));  // until the first has said it
      throw Exit{2};
    }
    throw usage_error(
        launch.by + (launch.ranks > 0 ? " is " + std::to_string(launch.ranks) : " is set") +
        ", but this program was built without MPI; install it (libopenmpi-dev) and build again, "
        "or start one process");
#endif
  });
}

}  // namespace srformer::program
