// SPDX-License-Identifier: Apache-2.0
// expect: this op needs exp\(x\) of its scalar, found beside the type of x
#define LACKS_EXP
#include "lacking_scalar.hpp"
