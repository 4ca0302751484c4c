// SPDX-License-Identifier: Apache-2.0
// expect: a variant has Options, an aggregate with
#define LACKS_OPTIONS
#include "lacking_variant.hpp"
