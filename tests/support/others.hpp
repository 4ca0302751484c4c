// SPDX-License-Identifier: Apache-2.0
// The headers of others that most tests read: precompiled once for all of them.
#pragma once

#include "support/catch.hpp"

#include <Eigen/Core>

#if __has_include(<nlohmann/json.hpp>)
#include <nlohmann/json.hpp>
#endif
