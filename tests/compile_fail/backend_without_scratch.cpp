// SPDX-License-Identifier: Apache-2.0
// expect: a backend needs for_each_row\(rows, scratch, f\)
#define LACKS_SHAPE_OF_ROWS
#include "lacking_backend.hpp"
