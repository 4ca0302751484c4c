// SPDX-License-Identifier: Apache-2.0
// A program for several ranks, built without MPI. Prints the exit code that it has.
#include "../../examples/run_on_ranks.hpp"

#if defined(SRF_HAS_MPI)
#error "this is to be compiled without MPI"
#endif

int main() {
  using namespace srformer::program;
  const int code = run_on_ranks([](Ranks&) { std::puts("all of the work"); });
  std::fprintf(stderr, "ended with %d\n", code);
}
