// SPDX-License-Identifier: Apache-2.0
// What every program with flags does alike; errors.hpp has how programs end. command_line/program.cpp is compiled once for
// all of them.
#pragma once

#include <CLI/CLI.hpp>
#include <span>
#include <string>
#include <vector>

#include "errors.hpp"
#include "presets.hpp"

namespace srformer::program {

/// Holds a number to `least` and above.
CLI::Validator at_least(index_t least);

/// Parses the command line; --help and --dump_config exit with 0, bad use with 2. Of an option that is given several times
/// the last counts, as in transformers, and a notice says so. Flags of transformers' scripts that the program does not
/// have are answered as hf_flags.hpp says.
///   presets   what --preset, an option of the program, chooses from
/// Returns the names of the flags that a preset gave.
std::vector<std::string> parse(CLI::App& app, int argc, char** argv,
                               std::span<const Preset> presets = {});

}  // namespace srformer::program
