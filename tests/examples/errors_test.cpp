// SPDX-License-Identifier: Apache-2.0
// Whatever a program throws ends it with one line and an exit code.
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <system_error>

#include "../../examples/errors.hpp"
#include "io/temporary_folder.hpp"
#include "support/catch.hpp"

using namespace srformer::program;
using Catch::Matchers::ContainsSubstring;
namespace fs = std::filesystem;

namespace {

struct Ended {
  int code;
  std::string text;  ///< of standard error
};

std::string text_of(const fs::path& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// Runs a program's body with standard error in a file.
template <class Body>
Ended end_of(Body body) {
  const TemporaryFolder folder;
  const fs::path path = folder.path / "error";
  std::fflush(stderr);
  const int before = ::dup(STDERR_FILENO);
  std::FILE* file = std::fopen(path.c_str(), "w");
  REQUIRE(file != nullptr);
  ::dup2(::fileno(file), STDERR_FILENO);
  const int code = run(body);
  std::fflush(stderr);
  ::dup2(before, STDERR_FILENO);
  ::close(before);
  std::fclose(file);
  return {code, text_of(path)};
}

/// The one line of a program that ends with `code`.
template <class Body>
std::string line_of(int code, Body body) {
  const Ended end = end_of(body);
  CHECK(end.code == code);
  CHECK(std::ranges::count(end.text, '\n') == 1);
  CHECK(end.text.ends_with('\n'));
  CHECK(end.text.size() <= 500);
  CHECK(end.text.starts_with("error: "));
  return end.text;
}

struct Strange {};

}  // namespace

TEST_CASE("every kind of exception is one line and a code") {
  const auto thrown = [](auto what) { return line_of(1, [&] { throw what; }); };
  CHECK_THAT(thrown(std::bad_alloc()), ContainsSubstring("out of memory; use a smaller batch"));
  CHECK_THAT(thrown(std::bad_array_new_length()), ContainsSubstring("out of memory"));
  CHECK_THAT(
      thrown(std::length_error("vector::reserve")),
      ContainsSubstring("internal error, std::length_error: vector::reserve; please report"));
  CHECK_THAT(thrown(std::out_of_range("vector::at")),
             ContainsSubstring("internal error, std::out_of_range: vector::at; please report"));
  CHECK_THAT(thrown(std::runtime_error("a.json: is not JSON")),
             ContainsSubstring("error: a.json: is not JSON\n"));
  CHECK_THAT(thrown(srformer::io_error("b")), ContainsSubstring("error: b\n"));
  CHECK_THAT(thrown(std::system_error(std::make_error_code(std::errc::no_space_on_device), "out")),
             ContainsSubstring("out: No space left on device"));
  CHECK_THAT(thrown(fs::filesystem_error("cannot remove", "some/path",
                                         std::make_error_code(std::errc::permission_denied))),
             ContainsSubstring("some/path"));
  CHECK_THAT(thrown(Strange()), ContainsSubstring("internal error, an exception of unknown type"));
  CHECK_THAT(thrown(7), ContainsSubstring("unknown type"));
  CHECK_THAT(line_of(2, [] { throw usage_error("--a needs --b"); }),
             ContainsSubstring("error: --a needs --b\n"));
}

TEST_CASE("what the standard library and nlohmann-json throw themselves is one line") {
  const nlohmann::json json{{"a", "text"}};
  CHECK_THAT(line_of(1, [&] { static_cast<void>(json.at("a").get<int>()); }),
             ContainsSubstring("type must be number"));
  CHECK_THAT(line_of(1, [&] { json.at("b"); }), ContainsSubstring("key 'b' not found"));
  CHECK_THAT(line_of(1, [] { const auto parsed = nlohmann::json::parse("{\n\n  ]"); }),
             ContainsSubstring("parse error"));
  CHECK_THAT(line_of(1, [] { nlohmann::json("\xff").dump(); }), ContainsSubstring("UTF-8"));
  CHECK_THAT(line_of(1, [] { static_cast<void>(fs::file_size("/nowhere/at/all")); }),
             ContainsSubstring("/nowhere/at/all"));
  CHECK_THAT(line_of(1, [] { static_cast<void>(std::string().substr(3)); }),
             ContainsSubstring("std::out_of_range"));
  CHECK_THAT(line_of(1, [] { std::vector<int>().reserve(std::size_t(-1)); }),
             ContainsSubstring("std::length_error"));
}

TEST_CASE("an error of many bytes or lines is one short line") {
  const std::string lines =
      line_of(1, [] { throw std::runtime_error("one\ntwo\r\nthree\x1b[2J"); });
  CHECK_THAT(lines, ContainsSubstring("one\\x0atwo\\x0d\\x0athree\\x1b[2J"));
  for (const std::string& part :
       {std::string("a"), std::string("\n"), std::string("\xe2\x82\xac")}) {
    std::string text;
    while (text.size() < 5000) text += part;
    for (const int code : {1, 2})
      line_of(code, [&] {
        if (code == 2) throw usage_error(text);
        throw srformer::io_error(text);
      });
    line_of(1, [&] { throw std::length_error(text); });
    line_of(1, [&] {
      throw fs::filesystem_error(text, text, std::error_code(1, std::system_category()));
    });
  }
}

TEST_CASE("a body that ends by itself gives its code and no line") {
  for (const int code : {0, 1, 130}) {
    const Ended thrown = end_of([&] { throw Exit{code}; }), returned = end_of([&] { return code; });
    CHECK(thrown.code == code);
    CHECK(thrown.text.empty());
    CHECK(returned.code == code);
    CHECK(returned.text.empty());
  }
  CHECK(end_of([] {}).code == 0);
}

TEST_CASE("every program in examples/ ends through run") {
  int programs = 0;
  for (const auto& entry : fs::directory_iterator(SRF_TESTS_DIR "/../examples")) {
    if (entry.path().extension() != ".cpp") continue;
    CAPTURE(entry.path().filename());
    const std::string text = text_of(entry.path());
    const std::size_t start = text.find("\nint main(");
    REQUIRE(start != std::string::npos);
    // run_on_ranks ends through run as well.
    CHECK_THAT(text.substr(start, 260),
               ContainsSubstring("run([&]") || ContainsSubstring("run_on_ranks([&]"));
    ++programs;
  }
  CHECK(programs >= 14);
}
