// SPDX-License-Identifier: Apache-2.0
// expect: a variant has a static prepare<B, T>.*and a static step<B, T>
#define LACKS_STEP
#include "lacking_variant.hpp"
