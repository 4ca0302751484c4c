// SPDX-License-Identifier: Apache-2.0
// How every program here ends: exit codes, and one line per error.
#pragma once

#include <cstdio>
#include <exception>
#include <new>
#include <srformer/core/error.hpp>
#include <srformer/core/utf8.hpp>
#include <stdexcept>
#include <string>
#include <type_traits>

namespace srformer::program {

/// Ends the program with a code and nothing more to say.
struct Exit {
  int code;
};

/// Bad use of a program: exits with 2.
class usage_error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Who reports errors, as "rank 2: "; empty of the first of several processes, as of one that is alone.
inline std::string speaker;

/// Whether this process keeps notices to itself, as another tells the same.
inline bool quiet = false;

/// A line on standard error that is no error.
inline void print_notice(const std::string& text) {
  if (!quiet) std::fprintf(stderr, "%s\n", text.c_str());
}

/// Writes an error on one line of at most 500 bytes. Returns `code`.
inline int report_error(int code, const std::string& what) {
  constexpr std::size_t most = 480;  // with "error: " and what stands for the rest
  std::fflush(stdout);
  std::fprintf(stderr, "error: %s\n", one_line(speaker + what, most).c_str());
  return code;
}

/// The same of what no input should bring about.
inline int report_internal_error(const std::string& what) {
  return report_error(
      1, "internal error, " + one_line(what, 300) + "; please report it with the command line");
}

/// Says what is being thrown. Returns the exit code: 2 for bad use, that of an Exit, otherwise 1. To be called while an
/// exception is handled.
inline int report_exception() {
  try {
    throw;
  } catch (const Exit& exit) {
    return exit.code;
  } catch (const usage_error& error) {
    return report_error(2, error.what());
  } catch (const std::bad_alloc&) {
    return report_error(1, "out of memory; use a smaller batch or a shorter source");
  } catch (const std::length_error& error) {
    return report_internal_error(std::string("std::length_error: ") + error.what());
  } catch (const std::out_of_range& error) {
    return report_internal_error(std::string("std::out_of_range: ") + error.what());
  } catch (const std::exception& error) {
    return report_error(1, error.what());
  } catch (...) {
    return report_internal_error("an exception of unknown type");
  }
}

/// Runs a program's body and returns the exit code: what it returns, 0 where it returns nothing, and as report_exception
/// says where it throws.
template <class Body>
int run(Body body) {
  try {
    if constexpr (std::is_void_v<decltype(body())>) {
      body();
      return 0;
    } else {
      return body();
    }
  } catch (...) {
    return report_exception();
  }
}

}  // namespace srformer::program
