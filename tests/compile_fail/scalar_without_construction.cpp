// SPDX-License-Identifier: Apache-2.0
// expect: a scalar needs a constructor from double
#define LACKS_DOUBLE
#include "lacking_scalar.hpp"
