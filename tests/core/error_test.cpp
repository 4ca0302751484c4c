// SPDX-License-Identifier: Apache-2.0
#include <srformer/core/error.hpp>

#include <array>
#include <vector>

#include "support/catch.hpp"

using namespace srformer;
using Catch::Matchers::Equals;

TEST_CASE("shapes are written in brackets") {
  CHECK(shape_text(std::array<index_t, 3>{2, 8, 64}) == "[2,8,64]");
  CHECK(shape_text(std::array<index_t, 1>{-1}) == "[-1]");
  CHECK(shape_text({}) == "[]");
  CHECK(shape_text(std::vector<index_t>(8, 1)) == "[1,1,1,1,1,1,1,1]");
  CHECK(shape_text(std::vector<index_t>(5000, 1)) == "[1,1,1,1,1,1,1,1,... 5000 axes]");
}

TEST_CASE("a shape error names function, argument, letters and numbers") {
  const std::array<index_t, 2> got{2, 3}, same{2, 3}, other{2, 4};
  const std::array<index_t, 3> longer{2, 3, 1};
  CHECK_NOTHROW(check_shape("op", "x", "[R,C]", got, same));
  CHECK_THROWS_WITH(check_shape("op", "x", "[R,C]", got, other),
                    Equals("op: x is [2,3], expected [R,C] = [2,4]"));
  CHECK_THROWS_AS(check_shape("op", "x", "[R,C]", got, longer), shape_error);
  CHECK_THROWS_AS(check_shape("op", "x", "[R,C]", got, longer), std::invalid_argument);
}

TEST_CASE("require says who and what") {
  CHECK_NOTHROW(require(true, "op", "unseen"));
  CHECK_THROWS_WITH(require(false, "op", "the rate is 2"), Equals("op: the rate is 2"));
  CHECK_THROWS_AS(require(false, "op", ""), shape_error);
}

TEST_CASE("errors of files and devices are runtime errors") {
  CHECK_THROWS_AS(throw io_error("a"), std::runtime_error);
  CHECK_THROWS_AS(throw backend_error("b"), std::runtime_error);
}
