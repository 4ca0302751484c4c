// SPDX-License-Identifier: Apache-2.0
#include <srformer/core/hash.hpp>

#include "support/catch.hpp"

using namespace srformer;

TEST_CASE("Hashes of texts are those that the authors of FNV-1a list") {
  CHECK(text_hash("") == 0xcbf29ce484222325ULL);
  CHECK(text_hash("a") == 0xaf63dc4c8601ec8cULL);
  CHECK(text_hash("foobar") == 0x85944171f73967e8ULL);
}
