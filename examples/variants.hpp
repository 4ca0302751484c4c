// SPDX-License-Identifier: Apache-2.0
// The cross-attentions that the programs offer. A header of one's own that defines ProgramVariants takes this one's
// place with cmake -DSRFORMER_VARIANTS_HEADER=/path/to/header.hpp.
#pragma once

#ifdef SRF_VARIANTS_HEADER
#include SRF_VARIANTS_HEADER
#else
#include <srformer/attention/cross_attention.hpp>

namespace srformer::program {

using ProgramVariants = PaperVariants;

}  // namespace srformer::program
#endif
