// SPDX-License-Identifier: Apache-2.0
// expect: a variant has a static constexpr std::string_view name
#define LACKS_NAME
#include "lacking_variant.hpp"
