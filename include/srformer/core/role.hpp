// SPDX-License-Identifier: Apache-2.0
// What a parameter is for.
#pragma once

#include <srformer/core/config.hpp>

namespace srformer {

/// What a parameter is for; weight decay and initialisation go by it. A constant is stored with the
/// model and has no gradient.
enum class Role { weight, bias, norm, embedding, scalar, constant };

}  // namespace srformer
