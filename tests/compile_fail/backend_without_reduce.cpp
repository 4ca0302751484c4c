// SPDX-License-Identifier: Apache-2.0
// expect: a backend needs reduce\(n, f, out\)
#define LACKS_REDUCE
#include "lacking_backend.hpp"
