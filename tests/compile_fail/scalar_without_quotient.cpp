// SPDX-License-Identifier: Apache-2.0
// expect: a scalar needs operator/ of two
#define LACKS_QUOTIENT
#include "lacking_scalar.hpp"
