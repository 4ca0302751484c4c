// SPDX-License-Identifier: Apache-2.0
// A library that takes SIGHUP for itself when it is loaded, as that of UCX does, which comes with Open MPI 5.
#include <csignal>

[[gnu::constructor]] static void take() {
  std::signal(SIGHUP, [](int) {});
}
