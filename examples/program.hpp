// SPDX-License-Identifier: Apache-2.0
// What every program here does alike: flags, exit codes, one line per error.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>
#include <srformer/core/error.hpp>
#include <string>

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

/// Holds a number to `least` and above.
inline CLI::Validator at_least(index_t least) {
  const std::string text = "at least " + std::to_string(least);
  return CLI::Validator(
      [least, text](std::string& word) {
        index_t value = 0;
        if (!CLI::detail::lexical_cast(word, value) || value < least)
          return "Value " + word + " is not " + text;
        return std::string();
      },
      text);
}

/// Parses the command line; --help exits with 0, bad use with 2.
inline void parse(CLI::App& app, int argc, char** argv) {
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    std::fputs(app.help().c_str(), stdout);
    throw Exit{0};
  } catch (const CLI::ParseError& error) {
    throw usage_error(error.what() + std::string("; --help lists the options"));
  }
}

/// Runs a program's body: 0 when it returns, 2 for bad use, 1 for failure with one line on stderr.
template <class Body>
int run(Body body) {
  const auto report = [](const char* what) {
    std::fflush(stdout);
    std::fprintf(stderr, "error: %s\n", what);
  };
  try {
    body();
    return 0;
  } catch (const Exit& exit) {
    return exit.code;
  } catch (const usage_error& error) {
    report(error.what());
    return 2;
  } catch (const std::bad_alloc&) {
    report("out of memory; use a smaller batch or a shorter source");
    return 1;
  } catch (const std::exception& error) {
    report(error.what());
    return 1;
  }
}

}  // namespace srformer::program
