// SPDX-License-Identifier: Apache-2.0
// A list of variants that takes the place of examples/variants.hpp, as docs/custom_variant.md says.
#pragma once

#include "../../examples/sliding_window.hpp"

namespace srformer::program {

using ProgramVariants = Variants<Full, SlidingWindow>;

}  // namespace srformer::program
