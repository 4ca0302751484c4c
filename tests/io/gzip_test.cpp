// SPDX-License-Identifier: Apache-2.0
#include <srformer/io/gzip.hpp>

#include "gzip_bytes.hpp"
#include "support/catch.hpp"

using namespace srformer;
using Catch::Matchers::ContainsSubstring;

namespace {

std::string whole(const std::string& bytes) {
  return gunzip(std::as_bytes(std::span(bytes)), "t.gz");
}

}  // namespace

TEST_CASE("gzip gives back what was compressed", "[gzip]") {
  std::string mixed;
  for (int i = 0; i < 100'000; ++i) mixed += std::to_string(i * 7919 % 100'003) + "\n";
  for (const std::string& text : {std::string(), std::string("a"), std::string(3'000'000, 'w'),
                                  std::string(65'536, 'x'), mixed})
    REQUIRE(whole(gzip_bytes(text)) == text);
  CHECK(whole(gzip_bytes("one\n") + gzip_bytes("") + gzip_bytes("two\n")) == "one\ntwo\n");
  CHECK(whole(gzip_bytes("a") + std::string(700, '\0')) == "a");
}

TEST_CASE("gzip that is damaged or cut is refused", "[gzip]") {
  std::string bytes = gzip_bytes("some text that is long enough to be cut anywhere");
  for (std::size_t size = 0; size < bytes.size(); ++size)
    REQUIRE_THROWS_WITH(whole(bytes.substr(0, size)),
                        ContainsSubstring("t.gz: byte ") && ContainsSubstring("end early"));
  CHECK_THROWS_WITH(whole(bytes + "more"), ContainsSubstring("is not gzip"));
  bytes[bytes.size() - 6] = static_cast<char>(bytes[bytes.size() - 6] ^ 1);  // the checksum
  CHECK_THROWS_WITH(whole(bytes), ContainsSubstring("damaged"));
  CHECK_THROWS_AS(whole("no gzip at all"), io_error);
}
