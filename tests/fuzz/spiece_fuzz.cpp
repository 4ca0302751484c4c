// SPDX-License-Identifier: Apache-2.0
// Sections of any bytes as spiece.model with the small files beside it, and as a text.
#include "tokenizer.hpp"

namespace {
const srformer::fuzz::Target spiece_target("spiece", srformer::fuzz::run_tokenizer);
}
