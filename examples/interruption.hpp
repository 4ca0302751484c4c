// SPDX-License-Identifier: Apache-2.0
// A request from outside to end a long run: SIGINT (Ctrl-C), SIGTERM (kill, a batch system, a shutdown), SIGHUP (a
// terminal that is closed) and SIGUSR1 (a batch system ahead of its time limit, and what mpirun passes on).
#pragma once

#include <csignal>
#include <string>

#include "program.hpp"

namespace srformer::program {

/// The first of those signals that came; 0: none.
inline volatile std::sig_atomic_t interruption = 0;

inline bool keep_going() { return interruption == 0; }

/// Whether the program was started with SIGHUP ignored, as under nohup. Looked up before the constructors of libraries run,
/// of which that of UCX, which Open MPI 5 brings, takes the signal for its own debugger.
inline bool hangups_ignored = false;

namespace detail {

inline bool hangups_noted = false;

inline void note_hangups() {
  if (hangups_noted) return;
  hangups_noted = true;
  struct sigaction at_start {};
  hangups_ignored = ::sigaction(SIGHUP, nullptr, &at_start) == 0 && at_start.sa_handler == SIG_IGN;
}
#if defined(__ELF__)
[[gnu::section(".preinit_array"),
  gnu::used]] static void (*const note_hangups_first)() = note_hangups;
#endif

}  // namespace detail

/// From now on each of those signals requests a stop, and a SIGINT after another of them ends the program at once. The
/// others may come twice, as SIGHUP does from a shell and the system. A SIGHUP that was ignored, as under nohup, stays so,
/// and a run goes on when what reads its output has ended.
inline void catch_interruptions() {
  // A stack of its own: without one, an interrupt now and then ended in an abort of malloc under the sgemm of oneDNN 2.6.
  alignas(64) static char memory[1 << 16];
  stack_t stack{};
  stack.ss_sp = memory, stack.ss_size = sizeof(memory);
  ::sigaltstack(&stack, nullptr);
  struct sigaction action {};
  action.sa_handler = [](int signal) {
    if (interruption != 0 && signal == SIGINT) {
      std::signal(signal, SIG_DFL);
      std::raise(signal);  // taken when the handler returns
    }
    if (interruption == 0) interruption = signal;
  };
  action.sa_flags = SA_RESTART | SA_ONSTACK;
  ::sigemptyset(&action.sa_mask);
  std::signal(SIGPIPE, SIG_IGN);
  detail::note_hangups();  // where no section of the program could do it earlier
  for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGUSR1}) {
    if (signal == SIGHUP && hangups_ignored)
      std::signal(signal, SIG_IGN);
    else
      ::sigaction(signal, &action, nullptr);
  }
}

/// The end of an interrupted program: exit code 128 and the signal, as a shell has it of a program that a signal ended.
inline Exit interrupted_exit() { return {128 + static_cast<int>(interruption)}; }

}  // namespace srformer::program
