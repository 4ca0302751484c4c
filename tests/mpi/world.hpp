// SPDX-License-Identifier: Apache-2.0
// The communicators of these tests.
#pragma once

#include <srformer/train/mpi_communicator.hpp>

inline bool allows_threads() {
  int threads = MPI_THREAD_SINGLE;
  MPI_Query_thread(&threads);
  return threads == MPI_THREAD_MULTIPLE;
}

/// Of all ranks, with a thread of its own where MPI allows it, as on several machines.
inline srformer::MpiCommunicator world(srformer::index_t most = srformer::index_t{1} << 30) {
  return srformer::MpiCommunicator(MPI_COMM_WORLD, most, allows_threads());
}
