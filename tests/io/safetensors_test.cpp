// SPDX-License-Identifier: Apache-2.0
#include <sys/resource.h>
#include <unistd.h>

#include <Eigen/Core>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <srformer/core/dual.hpp>
#include <srformer/io/safetensors.hpp>

#include "support/catch.hpp"
#include "temporary_folder.hpp"

using namespace srformer;
using Catch::Matchers::ContainsSubstring;

namespace {

/// A file's bytes: length of the header (or a lie), header, values.
std::string file_bytes(const std::string& header, const std::string& values,
                       std::optional<std::uint64_t> length = {}) {
  const std::uint64_t stated = length.value_or(header.size());
  return std::string(reinterpret_cast<const char*>(&stated), 8) + header + values;
}

std::string refusal(const std::string& bytes) {
  try {
    SafetensorsFile file(std::as_bytes(std::span(bytes)), "weights");
  } catch (const io_error& error) {
    return error.what();
  }
  return "accepted";
}

std::string refusal(const std::string& header, const std::string& values) {
  return refusal(file_bytes(header, values));
}

std::string bytes_of(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

template <class T>
T written_and_read(double value, DType dtype) {
  const TemporaryFolder folder;
  SafetensorsWriter writer;
  writer.add<double>("x", dtype, {}, std::span(&value, 1));
  writer.write(folder.path / "x.safetensors");
  return SafetensorsFile(folder.path / "x.safetensors").read<T>("x").at(0);
}

}  // namespace

TEST_CASE("a file by hand is read", "[safetensors]") {
  const float values[3] = {1.5f, -2.0f, 3.25f};
  const std::int32_t ids[2] = {-7, 8};
  std::string data(reinterpret_cast<const char*>(values), 12);
  data.append(reinterpret_cast<const char*>(ids), 8);
  const std::string bytes = file_bytes(
      R"({"__metadata__":{"format":"pt"},"ids":{"dtype":"I32","shape":[2],"data_offsets":[12,20]},)"
      R"("none":{"dtype":"F32","shape":[4,0,2],"data_offsets":[12,12]},)"
      R"("x":{"dtype":"F32","shape":[1,3],"data_offsets":[0,12]}}   )",
      data);
  // Every alignment of the whole file: the header's length promises none.
  for (std::size_t shift = 0; shift < 8; ++shift) {
    const std::string moved = std::string(shift, '?') + bytes;
    const SafetensorsFile file(std::as_bytes(std::span(moved)).subspan(shift), "weights");
    CHECK(file.names() == std::vector<std::string>{"ids", "none", "x"});
    CHECK(file.metadata().at("format") == "pt");
    CHECK(file.info("x").shape == std::vector<index_t>{1, 3});
    CHECK(file.read<float>("x") == std::vector<float>{1.5f, -2.0f, 3.25f});
    CHECK(file.read<double>("x") == std::vector<double>{1.5, -2.0, 3.25});
    CHECK(file.read_ids("ids") == std::vector<std::int64_t>{-7, 8});
    CHECK(file.info("none").count == 0);
    CHECK(file.read<float>("none").empty());
    CHECK_FALSE(file.contains("y"));
  }
}

TEST_CASE("reading refuses what does not fit", "[safetensors]") {
  const std::string bytes = file_bytes(
      R"({"i":{"dtype":"I64","shape":[],"data_offsets":[8,16]},"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})",
      std::string(16, '\0'));
  const SafetensorsFile file(std::as_bytes(std::span(bytes)), "weights");
  std::vector<float> three(3);
  CHECK_THROWS_WITH(
      file.read("x", std::span(three)),
      ContainsSubstring("\"x\" has 3 elements, expected 2") && ContainsSubstring("[2]"));
  CHECK_THROWS_AS(file.read("x", std::span(three)), shape_error);
  CHECK_THROWS_WITH(file.read<float>("i"), ContainsSubstring("\"i\" is I64, expected F64"));
  CHECK_THROWS_WITH(file.read_ids("x"), ContainsSubstring("\"x\" is F32, expected I64"));
  CHECK_THROWS_WITH(file.read<float>("y"), ContainsSubstring("weights: has no tensor \"y\""));
  CHECK_THROWS_AS(file.read_part("x", 1, std::span(three).first(2)), shape_error);
  CHECK_THROWS_AS(file.read_part("x", -1, std::span(three).first(1)), shape_error);
}

TEST_CASE("a part is read from its first element", "[safetensors]") {
  const double values[4] = {1, 2, 3, 4};
  const std::string bytes = file_bytes(R"({"x":{"dtype":"F64","shape":[4],"data_offsets":[0,32]}})",
                                       std::string(reinterpret_cast<const char*>(values), 32));
  const SafetensorsFile file(std::as_bytes(std::span(bytes)), "weights");
  std::vector<double> same(2);
  std::vector<float> other(2);
  file.read_part("x", 1, std::span(same));
  file.read_part("x", 2, std::span(other));
  CHECK(same == std::vector<double>{2, 3});
  CHECK(other == std::vector<float>{3, 4});
}

TEST_CASE("a tensor that is forgotten leaves memory and is read again", "[safetensors]") {
  const TemporaryFolder folder;
  const std::vector<float> values(std::size_t{4} << 20, 1.5f), few(3, -2.0f);
  SafetensorsWriter writer;
  writer.add<float>("a", DType::f32, {3}, few);
  writer.add<float>("b", DType::f32, {std::ssize(values)}, values);
  writer.write(folder.path / "x.safetensors");
  const SafetensorsFile file(folder.path / "x.safetensors");
  const auto resident = [] {  // pages of files in this process
    index_t all = 0, here = 0, shared = 0;
    std::ifstream("/proc/self/statm") >> all >> here >> shared;
    return shared * ::sysconf(_SC_PAGESIZE);
  };
  REQUIRE(file.read<float>("b") == values);
  const index_t before = resident();
  file.forget("b");
  REQUIRE(before - resident() > index_t{8} << 20);
  REQUIRE(file.read<float>("b") == values);
  file.forget("a");
  REQUIRE(file.read<float>("a") == few);
  REQUIRE_THROWS_WITH(file.forget("c"), ContainsSubstring("has no tensor \"c\""));
  const std::string header = R"({"a":{"dtype":"F32","shape":[3],"data_offsets":[0,12]}})";
  const std::string bytes =
      file_bytes(header, std::string(reinterpret_cast<const char*>(few.data()), 12));
  const SafetensorsFile in_memory(std::as_bytes(std::span(bytes)), "weights");
  in_memory.forget("a");
  REQUIRE(in_memory.read<float>("a") == few);
}

TEST_CASE("a damaged file is refused with byte, tensor and advice", "[safetensors]") {
  const std::string f4(4, '\0');
  const std::string good = R"({"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})";
  REQUIRE(refusal(good, f4) == "accepted");
  REQUIRE(refusal("{}", "") == "accepted");

  const std::pair<std::string, std::string> cases[] = {
      {refusal(""), "byte 0: ends within the 8 bytes"},
      {refusal("1234567"), "byte 7: ends within"},
      {refusal(file_bytes(good, f4, 1000)), "byte 0: header length 1000 exceeds the 58"},
      {refusal(file_bytes(good, f4, 100'000'001)), "exceeds the format's limit"},
      {refusal(file_bytes(good, f4, ~0ull)), "exceeds the format's limit"},
      {refusal(file_bytes(good, f4, 20)), "not valid JSON"},
      {refusal(file_bytes("", "")), "not valid JSON"},
      {refusal("[]", ""), "header is not a JSON object"},
      {refusal("\xef\xbb\xbf{}", ""), "header is not a JSON object"},
      {refusal(std::string("{}\0x", 4), ""), "byte 10: not valid JSON: a NUL"},
      {refusal("{\"x\":tru}", ""), "weights: byte 16: not valid JSON"},
      {refusal("{\"x\":" + std::string(1000, '['), ""), "byte 112: nests deeper than 100"},
      {refusal("{\"x\":1e999}", ""), "number overflow"},
      {refusal("version https://git-lfs.github.com/spec/v1\noid sha256:00"), "git lfs pull"},
      {refusal(good, "123"), "tensor \"x\" ends at 4 of 3 bytes"},
      {refusal(good, "12345"), "1 bytes after tensor \"x\" belong to no tensor"},
      {refusal("{}", "12345"), "5 bytes after the header"},
      {refusal(R"({"x":{"shape":[1],"data_offsets":[0,4]}})", f4), "\"x\" has no dtype"},
      {refusal(R"({"x":{"dtype":"F32","data_offsets":[0,4]}})", f4), "\"x\" has no shape"},
      {refusal(R"({"x":{"dtype":"F32","shape":[1]}})", f4), "\"x\" has no data_offsets"},
      {refusal(R"({"x":7})", f4), "\"x\" is not described by an object"},
      {refusal(R"({"x":{"dtype":"F31","shape":[1],"data_offsets":[0,4]}})", f4), "dtype \"F31\""},
      {refusal(R"({"x":{"dtype":32,"shape":[1],"data_offsets":[0,4]}})", f4), "dtype 32"},
      {refusal(R"({"x":{"dtype":"F32","shape":1,"data_offsets":[0,4]}})", f4), "not a list"},
      {refusal(R"({"x":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})", f4),
       "-1 is not a size"},
      {refusal(R"({"x":{"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}})", f4),
       "1.0 is not a size"},
      {refusal(R"({"x":{"dtype":"F32","shape":["1"],"data_offsets":[0,4]}})", f4), "is not a size"},
      {refusal(R"({"x":{"dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,4]}})", f4),
       "is not a size"},
      {refusal(R"({"x":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4]}})", f4),
       "too large"},
      // The product is 2^64 + 4 bytes: right if it wrapped around.
      {refusal(R"({"x":{"dtype":"U8","shape":[20,922337203685477581],"data_offsets":[0,4]}})", f4),
       "too large"},
      {refusal(R"({"x":{"dtype":"F32","shape":[4294967296,4294967296,0],"data_offsets":[0,0]}})",
               ""),
       "too large"},
      {refusal(R"({"x":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})", f4),
       "has 4 bytes, but \"F32\" of shape [2] needs 8"},
      {refusal(R"({"x":{"dtype":"F4","shape":[3],"data_offsets":[0,2]}})", "12"), "whole bytes"},
      {refusal(R"({"x":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}})", f4), "after its end"},
      {refusal(R"({"x":{"dtype":"F32","shape":[1],"data_offsets":[0]}})", f4), "not two positions"},
      {refusal(R"({"x":{"dtype":"F32","shape":[1],"data_offsets":[-4,0]}})", f4),
       "not two positions"},
      {refusal(
           R"({"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},"b":{"dtype":"U8","shape":[2],"data_offsets":[2,4]}})",
           f4),
       "tensor \"b\" overlaps tensor \"a\""},
      {refusal(
           R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})",
           f4),
       "overlaps"},
      {refusal(
           R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"U8","shape":[1],"data_offsets":[3,4]}})",
           f4),
       "2 bytes between tensor \"a\" and tensor \"b\""},
      {refusal(R"({"b":{"dtype":"U8","shape":[3],"data_offsets":[1,4]}})", f4),
       "1 bytes between the header and tensor \"b\""},
      {refusal(
           R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"z":{"dtype":"U8","shape":[0],"data_offsets":[2,2]}})",
           f4),
       "overlaps"},
      {refusal(
           R"({"x":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"x":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}})",
           f4 + f4),
       "4 bytes between the header and tensor \"x\""},
      {refusal(R"({"__metadata__":{},"__metadata__":{}})", ""),
       "name \"__metadata__\" occurs twice"},
      {refusal(R"({"x":{"dtype":"U8","dtype":"I8","shape":[4],"data_offsets":[0,4]}})", f4),
       "name \"dtype\" occurs twice"},
      {refusal(R"({"__metadata__":{"a":1}})", ""), "__metadata__ has \"a\", not a string"},
      {refusal(R"({"__metadata__":"a"})", ""), "not an object of strings"},
  };
  for (const auto& [message, expected] : cases) {
    CHECK_THAT(message, ContainsSubstring(expected));
    CHECK_THAT(message, ContainsSubstring("weights: "));
    CHECK((message.find("overflow") != std::string::npos) ==
          (message.find("weights: byte ") == std::string::npos));
    CHECK_THAT(message, ContainsSubstring("; "));
  }
}

TEST_CASE("headers that the safetensors library takes are taken", "[safetensors]") {
  const std::string f4(4, '\0'), x = R"("x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]})";
  CHECK(refusal("{\"__metadata__\":null," + x + "}", f4) == "accepted");
  CHECK(refusal("{\"__metadata__\":{\"a\":\"b\",\"a\":\"c\"}," + x + "}", f4) == "accepted");
  CHECK(refusal(" \n{" + x + "}", f4) == "accepted");
  CHECK(refusal("{" + x + "," + x + "}", f4) == "accepted");
  // the last of two counts, whatever the first says
  CHECK(refusal(R"({"x":{"dtype":"U8","shape":[9],"data_offsets":[4,13]},)" + x + "}", f4) ==
        "accepted");
  CHECK(refusal(R"({"x":{"dtype":"F32","note":{"by":[{}]},"shape":[1],"data_offsets":[0,4]}})",
                f4) == "accepted");
  // products are taken from the left
  CHECK(refusal(R"({"x":{"dtype":"U8","shape":[0,4611686018427387904,8],"data_offsets":[0,0]}})",
                "") == "accepted");
  CHECK_THAT(
      refusal(R"({"x":{"dtype":"U8","shape":[4611686018427387904,8,0],"data_offsets":[0,0]}})", ""),
      ContainsSubstring("too large"));
}

TEST_CASE("what is wrong with a file is said on one short line", "[safetensors]") {
  const std::string long_name(5000, 'n'), lines = R"(a\nb\u2028c\u0085d)";
  for (const std::string& name : {long_name, lines}) {
    const std::string message = refusal("{\"" + name + "\":{\"dtype\":\"" + name + "\"}}", "");
    CAPTURE(message);
    CHECK(message != "accepted");
    CHECK(message.size() < 300);
    CHECK(message.find('\n') == std::string::npos);
    CHECK(message.find("\xe2\x80\xa8") == std::string::npos);
    CHECK(message.find("\xc2\x85") == std::string::npos);
  }
  std::string extents = "1";
  for (int i = 0; i < 3000; ++i) extents += ",1";
  CHECK(refusal(R"({"x":{"dtype":"F32","shape":[)" + extents + R"(],"data_offsets":[0,9]}})",
                "123456789")
            .size() < 300);
}

TEST_CASE("names on one line") {
  CHECK(one_line("a\tb\x7f") == "a\\x09b\\x7f");
  CHECK(one_line("\u00e9\u6f22\u00a0") == "\u00e9\u6f22\u00a0");
  CHECK(one_line("\u0085\u2028") == "\\xc2\\x85\\xe2\\x80\\xa8");
  CHECK(one_line("\u6f22\u6f22\u6f22", 7) == "\u6f22\u6f22...");
  CHECK(one_line("\u6f22\u6f22", 6) == "\u6f22\u6f22");
  CHECK(one_line("abc", 2) == "ab...");
  const std::vector<std::string> names{"first", "second", "third"};
  CHECK(listed(names) == "first, second, third");
  CHECK(listed(names, 12) == "first, second and 1 more");
  CHECK(listed(names, 2) == "fi... and 2 more");
  CHECK(listed({}) == "");
}

TEST_CASE("the byte in an error is where the tensor is", "[safetensors]") {
  const std::string header =
      R"({"first":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"second":{"dtype":"U8","shape":[1],"data_offsets":[3,4]}})";
  CHECK_THAT(refusal(header, "1234"),
             ContainsSubstring("byte " + std::to_string(8 + header.size() + 3) + ":"));
  const std::string bad =
      R"({"first":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"second":{}})";
  CHECK_THAT(refusal(bad, ""),
             ContainsSubstring("byte " + std::to_string(8 + bad.find("\"second\"")) + ":"));
}

TEST_CASE("a missing file, a folder and an empty file are refused", "[safetensors]") {
  const TemporaryFolder folder;
  CHECK_THROWS_WITH(SafetensorsFile(folder.path / "none"), ContainsSubstring("No such file"));
  CHECK_THROWS_WITH(SafetensorsFile(folder.path), ContainsSubstring("Is a directory"));
  std::ofstream(folder.path / "empty").close();
  CHECK_THROWS_WITH(SafetensorsFile(folder.path / "empty"), ContainsSubstring("ends within"));
}

TEST_CASE("every binary16 and bfloat16 survives decoding and encoding", "[safetensors]") {
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto half = static_cast<std::uint16_t>(bits);
    const double sign = half & 0x8000 ? -1 : 1;
    const int exponent = half >> 10 & 31;
    const int mantissa = half & 1023;
    const float value = decode_f16(half);
    if (exponent == 31 && mantissa != 0) {
      REQUIRE(std::isnan(value));
      REQUIRE(std::isnan(decode_f16(encode_f16(value))));
    } else {
      const double expected = exponent == 31  ? std::numeric_limits<double>::infinity()
                              : exponent == 0 ? std::ldexp(mantissa, -24)
                                              : std::ldexp(1024 + mantissa, exponent - 25);
      REQUIRE(static_cast<double>(value) == sign * expected);
      REQUIRE(encode_f16(value) == half);
    }
    const float wide = decode_bf16(half);
    if (std::isnan(wide))
      REQUIRE(std::isnan(decode_bf16(encode_bf16(wide))));
    else
      REQUIRE(encode_bf16(wide) == half);
  }
}

TEST_CASE("encoding rounds to nearest, ties to even", "[safetensors]") {
  // The midpoint of neighbours goes to the even one, and a hair aside of it to the nearer one; from
  // double, where rounding to float first would meet the midpoint.
  const auto check = [](auto decode, auto encode, std::uint32_t largest) {
    for (std::uint32_t bits = 0; bits < largest; bits += 7) {
      const double low = static_cast<double>(decode(static_cast<std::uint16_t>(bits)));
      const double high = static_cast<double>(decode(static_cast<std::uint16_t>(bits + 1)));
      const double middle = low + (high - low) / 2;
      const std::uint32_t even = bits + (bits & 1);
      for (const double sign : {1.0, -1.0}) {
        const std::uint32_t flag = sign < 0 ? 0x8000 : 0;
        REQUIRE(encode(round_to_odd(sign * middle)) == (even | flag));
        REQUIRE(encode(static_cast<float>(sign * middle)) == (even | flag));
        REQUIRE(encode(round_to_odd(sign * std::nextafter(middle, high))) == (bits + 1 | flag));
        REQUIRE(encode(round_to_odd(sign * std::nextafter(middle, low))) == (bits | flag));
      }
    }
  };
  check(decode_f16, encode_f16, 0x7bff);
  check(decode_bf16, encode_bf16, 0x7f7f);
  CHECK(encode_f16(65519.996f) == 0x7bff);
  CHECK(encode_f16(65520.0f) == 0x7c00);
  CHECK(encode_f16(-1e30f) == 0xfc00);
  CHECK(encode_f16(1e-30f) == 0);
  CHECK(encode_f16(-0.0f) == 0x8000);
  CHECK(encode_f16(std::numeric_limits<float>::denorm_min()) == 0);
  CHECK(encode_bf16(std::numeric_limits<float>::max()) == 0x7f80);
  CHECK(encode_bf16(round_to_odd(1e300)) == 0x7f80);
  CHECK(std::isnan(decode_bf16(encode_bf16(std::bit_cast<float>(0x7f800001u)))));
  CHECK(std::isnan(decode_f16(encode_f16(round_to_odd(std::nan(""))))));
}

TEST_CASE("what is written is read back", "[safetensors]") {
  const TemporaryFolder folder;
  const std::vector<double> x{1, -0.1, 3e-5, 70000, 5, 6};
  const std::vector<std::int64_t> ids{std::numeric_limits<std::int64_t>::min(), 4};
  const double scalar = 0.1;
  SafetensorsWriter writer;
  for (const DType dtype : {DType::f64, DType::f32, DType::f16, DType::bf16})
    writer.add<double>(std::string(properties(dtype).name), dtype, {2, 3}, x);
  writer.add_ids("ids", {2}, ids);
  writer.add<double>("scalar", DType::f64, {}, std::span(&scalar, 1));
  writer.add<double>("one", DType::bf16, {1}, std::span(&scalar, 1));
  writer.add<float>("empty", DType::bf16, {0, 5}, {});
  writer.set_metadata("format", "pt");
  writer.write(folder.path / "a.safetensors");

  const SafetensorsFile file(folder.path / "a.safetensors");
  CHECK(file.names().size() == 8);
  CHECK(file.metadata() == std::map<std::string, std::string>{{"format", "pt"}});
  CHECK(file.read<double>("F64") == x);
  CHECK(file.read_ids("ids") == ids);
  CHECK(file.read<double>("scalar") == std::vector<double>{0.1});
  CHECK(file.info("scalar").shape.empty());
  CHECK(file.info("empty").shape == std::vector<index_t>{0, 5});
  const auto f32 = file.read<double>("F32"), f16 = file.read<double>("F16"),
             bf16 = file.read<double>("BF16");
  for (std::size_t i = 0; i < x.size(); ++i) {
    CHECK(f32[i] == static_cast<double>(static_cast<float>(x[i])));
    CHECK(f16[i] == static_cast<double>(static_cast<float>(Eigen::half(static_cast<float>(x[i])))));
    CHECK(bf16[i] ==
          static_cast<double>(static_cast<float>(Eigen::bfloat16(static_cast<float>(x[i])))));
  }
  // Every tensor is aligned to its element, in a file whose header is padded to eight bytes.
  for (const auto& name : file.names())
    CHECK(reinterpret_cast<std::uintptr_t>(file.info(name).bytes.data()) %
              (properties(file.info(name).dtype).bits / 8) ==
          0);
}

TEST_CASE("16-bit and derivative-carrying types are stored", "[safetensors]") {
  const TemporaryFolder folder;
  const std::vector<Eigen::half> half{Eigen::half(1.5f), Eigen::half(-2.0f)};
  const std::vector<Eigen::bfloat16> bf16{Eigen::bfloat16(1.5f), Eigen::bfloat16(3.0f)};
  const std::vector<Dual<double>> dual{Dual<double>(0.25), Dual<double>(8)};
  SafetensorsWriter writer;
  writer.add<Eigen::half>("half", DType::f16, {2}, half);
  writer.add<Eigen::bfloat16>("bf16", DType::f32, {2}, bf16);
  writer.add<Dual<double>>("dual", DType::f64, {2}, dual);
  writer.write(folder.path / "a");
  const SafetensorsFile file(folder.path / "a");
  CHECK(file.read<Eigen::half>("half") == half);
  CHECK(file.read<Eigen::bfloat16>("half")[1] == Eigen::bfloat16(-2.0f));
  CHECK(file.read<float>("bf16") == std::vector<float>{1.5f, 3.0f});
  CHECK(file.read<Eigen::bfloat16>("bf16") == bf16);
  CHECK(primal(file.read<Dual<double>>("dual")[1]) == 8);
  CHECK(file.read<long double>("dual")[0] == 0.25L);
}

TEST_CASE("more than one piece is written in order", "[safetensors]") {
  const TemporaryFolder folder;
  const index_t count = 2 * 65536 + 17;
  std::vector<float> x(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i);
  SafetensorsWriter writer;
  writer.add<float>("converted", DType::f64, {count}, x);
  writer.add<float>("copied", DType::f32, {count}, x);
  index_t next = 0;
  writer.add_stream<float>("streamed", DType::f32, {count},
                           [&](index_t first, std::span<float> out) {
                             CHECK(first == next);
                             next += static_cast<index_t>(out.size());
                             for (std::size_t i = 0; i < out.size(); ++i)
                               out[i] = x[static_cast<std::size_t>(first) + i];
                           });
  writer.write(folder.path / "a");
  CHECK(next == count);
  const SafetensorsFile file(folder.path / "a");
  for (const char* name : {"converted", "copied", "streamed"}) CHECK(file.read<float>(name) == x);
}

TEST_CASE("the bytes depend on the tensors alone", "[safetensors]") {
  const TemporaryFolder folder;
  const std::vector<float> x{1, 2};
  SafetensorsWriter one, two;
  one.add<float>("a", DType::f32, {2}, x);
  one.add<float>("b", DType::f16, {2}, x);
  two.add<float>("b", DType::f16, {2}, x);
  two.add<float>("a", DType::f32, {2}, x);
  one.write(folder.path / "1");
  two.write(folder.path / "2");
  CHECK(bytes_of(folder.path / "1") == bytes_of(folder.path / "2"));
  const std::uint64_t length = static_cast<unsigned char>(bytes_of(folder.path / "1").at(0));
  CHECK(length % 8 == 0);
}

TEST_CASE("the writer refuses what it cannot store", "[safetensors]") {
  const std::vector<float> x{1, 2};
  SafetensorsWriter writer;
  writer.add<float>("x", DType::f32, {2}, x);
  CHECK_THROWS_WITH(writer.add<float>("x", DType::f32, {2}, x), ContainsSubstring("added before"));
  CHECK_THROWS_WITH(writer.add<float>("y", DType::f32, {3}, x),
                    ContainsSubstring("\"y\" has 2 values, expected 3 for shape [3]"));
  CHECK_THROWS_AS(writer.add<float>("y", DType::f32, {-1, -2}, x), shape_error);
  CHECK_THROWS_AS(writer.add<float>("y", DType::i64, {2}, x), shape_error);
  CHECK_THROWS_AS(writer.add<float>("y", DType::u8, {2}, x), shape_error);
  CHECK_THROWS_AS(writer.add<float>("__metadata__", DType::f32, {2}, x), shape_error);
  writer.add<float>("\xff", DType::f32, {2}, x);
  const TemporaryFolder folder;
  CHECK_THROWS_WITH(writer.write(folder.path / "a"), ContainsSubstring("not UTF-8"));
  CHECK(folder.entries() == 0);
}

TEST_CASE("a full disk overwrites nothing and leaves nothing aside", "[safetensors]") {
  const TemporaryFolder folder;
  const auto path = folder.path / "model.safetensors";
  std::ofstream(path) << "before";
  const std::vector<float> x(100'000, 1.0f);
  SafetensorsWriter writer;
  writer.add<float>("x", DType::f32, {100'000}, x);

  // The system refuses to let a file grow past the limit, in the middle of a write, as a full disk
  // does.
  rlimit before{};
  REQUIRE(getrlimit(RLIMIT_FSIZE, &before) == 0);
  const rlimit small{150'001, before.rlim_max};
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  REQUIRE(setrlimit(RLIMIT_FSIZE, &small) == 0);
  std::string message;
  try {
    writer.write(path);
  } catch (const io_error& error) {
    message = error.what();
  }
  setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);

  CHECK_THAT(message, ContainsSubstring("at byte 150001: File too large") &&
                          ContainsSubstring("nothing was overwritten"));
  CHECK(bytes_of(path) == "before");
  CHECK(folder.entries() == 1);

  writer.write(path);
  CHECK(SafetensorsFile(path).read<float>("x") == x);
  CHECK(folder.entries() == 1);
}

TEST_CASE("a value that cannot be fetched overwrites nothing", "[safetensors]") {
  const TemporaryFolder folder;
  std::ofstream(folder.path / "a") << "before";
  SafetensorsWriter writer;
  writer.add_stream<float>("x", DType::f32, {1},
                           [](index_t, std::span<float>) { throw backend_error("lost"); });
  CHECK_THROWS_AS(writer.write(folder.path / "a"), backend_error);
  CHECK(bytes_of(folder.path / "a") == "before");
  CHECK(folder.entries() == 1);
}

TEST_CASE("only regular files are replaced", "[safetensors]") {
  const TemporaryFolder folder;
  const SafetensorsWriter writer;
  CHECK_THROWS_WITH(writer.write(folder.path), ContainsSubstring("folder or device"));
  REQUIRE(::mkfifo((folder.path / "pipe").c_str(), 0600) == 0);
  CHECK_THROWS_WITH(writer.write(folder.path / "pipe"), ContainsSubstring("folder or device"));
  CHECK_THROWS_WITH(writer.write(folder.path / "none" / "a"),
                    ContainsSubstring("cannot create") && ContainsSubstring("No such file"));
}

TEST_CASE("an open file outlives its replacement", "[safetensors]") {
  const TemporaryFolder folder;
  const auto path = folder.path / "a";
  const std::vector<float> old_values(5000, 1.0f), new_values{2.0f};
  SafetensorsWriter first, second;
  first.add<float>("x", DType::f32, {5000}, old_values);
  first.write(path);
  const SafetensorsFile file(path);
  second.add<float>("x", DType::f32, {1}, new_values);
  second.write(path);
  CHECK(file.read<float>("x") == old_values);
  CHECK(SafetensorsFile(path).read<float>("x") == new_values);
}

TEST_CASE("Python reads what is written, and the reverse", "[safetensors][python]") {
  const std::string python =
      std::getenv("SRFORMER_PYTHON") ? std::getenv("SRFORMER_PYTHON") : "python3";
  const std::string quiet = " >/dev/null 2>&1";
  if (std::system((python + " -c 'import safetensors.numpy'" + quiet).c_str()) != 0) {
    WARN("skipped: " << python << " lacks safetensors; set SRFORMER_PYTHON to one that has it");
    SUCCEED("skipped");
    return;
  }
  const TemporaryFolder folder;
  const std::vector<double> x{1, -0.1, 3e-5, 60000, 5, 6};
  const std::vector<std::int64_t> ids{-3, 4};
  SafetensorsWriter writer;
  writer.add<double>("f64", DType::f64, {2, 3}, x);
  writer.add<double>("f32", DType::f32, {3, 2}, x);
  writer.add<double>("f16", DType::f16, {6}, x);
  writer.add<double>("scalar", DType::f64, {}, std::span(x).first(1));
  writer.add<double>("empty", DType::f32, {0, 2}, {});
  writer.add_ids("ids", {2}, ids);
  writer.set_metadata("format", "pt");
  writer.write(folder.path / "ours.safetensors");
  const auto program = std::filesystem::path(__FILE__).parent_path() / "safetensors_peer.py";
  const std::string command = python + " " + program.string() + " " + folder.path.string();
  REQUIRE(std::system(command.c_str()) == 0);

  const SafetensorsFile file(folder.path / "theirs.safetensors");
  CHECK(file.names() ==
        std::vector<std::string>{"empty", "f16", "f32", "f64", "i32", "ids", "scalar"});
  CHECK(file.metadata().at("format") == "np");
  CHECK(file.read<double>("f64") == x);
  CHECK(file.read<double>("f16") ==
        SafetensorsFile(folder.path / "ours.safetensors").read<double>("f16"));
  CHECK(file.read_ids("ids") == ids);
  CHECK(file.read_ids("i32") == ids);
  CHECK(file.info("empty").shape == std::vector<index_t>{0, 2});
  CHECK(file.info("scalar").shape.empty());
}

TEST_CASE("a double is stored to the nearest value of each dtype", "[safetensors]") {
  CHECK(written_and_read<double>(0.1, DType::f64) == 0.1);
  CHECK(written_and_read<float>(0.1, DType::f32) == 0.1f);
  CHECK(written_and_read<double>(1 + 0x1p-11 + 0x1p-40, DType::f16) == 1 + 0x1p-10);
  CHECK(written_and_read<double>(1 + 0x1p-8 + 0x1p-40, DType::bf16) == 1 + 0x1p-7);
}
