// SPDX-License-Identifier: Apache-2.0
// expect: a variant has a static backward<B, T>\(be, in, parameters
#define LACKS_BACKWARD
#include "lacking_variant.hpp"
