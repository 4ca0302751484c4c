// SPDX-License-Identifier: Apache-2.0
// expect: a scalar needs a default constructor
#define LACKS_DEFAULT
#include "lacking_scalar.hpp"
