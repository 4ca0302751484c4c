// SPDX-License-Identifier: Apache-2.0
// The main of tests that run on several ranks. The first failure ends all of them, as the others would wait for ever.
// Environment: SRF_ONE_THREAD has MPI allow one thread, where it allows several otherwise.
#define CATCH_CONFIG_RUNNER
#include <cstdlib>
#include <srformer/train/mpi_communicator.hpp>

#include "support/catch.hpp"

int main(int argc, char** argv) {
  srformer::MpiSession mpi(std::getenv("SRF_ONE_THREAD") != nullptr ? MPI_THREAD_FUNNELED
                                                                    : MPI_THREAD_MULTIPLE);
  Catch::Session session;
  if (session.applyCommandLine(argc, argv) != 0) mpi.abort(2);
  session.configData().abortAfter = 1;
  if (session.run() != 0) mpi.abort(1);
}
