// SPDX-License-Identifier: Apache-2.0
// The architectures that the programs know. A header of one's own that defines ProgramArchitectures takes this one's
// place with cmake -DSRFORMER_ARCHITECTURES_HEADER=/path/to/header.hpp.
#pragma once

#ifdef SRF_ARCHITECTURES_HEADER
#include SRF_ARCHITECTURES_HEADER
#else
#include <srformer/models/architectures.hpp>

namespace srformer::program {

using ProgramArchitectures = PaperArchitectures;

}  // namespace srformer::program
#endif

namespace srformer::program {

/// The configuration of any of them.
using ModelConfig = ProgramArchitectures::Config;

}  // namespace srformer::program
