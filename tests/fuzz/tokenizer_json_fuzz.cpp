// SPDX-License-Identifier: Apache-2.0
// Sections of any bytes as tokenizer.json with the small files beside it, and as a text.
#include "tokenizer.hpp"

namespace {
const srformer::fuzz::Target tokenizer_json_target("tokenizer_json", srformer::fuzz::run_tokenizer);
}
