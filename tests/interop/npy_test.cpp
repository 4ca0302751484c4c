// SPDX-License-Identifier: Apache-2.0
#include <srformer/backend/eigen.hpp>
#include <srformer/interop/npy.hpp>
#include <srformer/interop/xtensor.hpp>

#include <fstream>
#include <iterator>
#include <numeric>
#include <string>
#include <vector>

#include "io/temporary_folder.hpp"
#include "support/catch.hpp"
#if __has_include(<xtensor/io/xnpy.hpp>)
#include <xtensor/io/xnpy.hpp>
#else
#include <xtensor/xnpy.hpp>
#endif

using namespace srformer;
using Catch::Matchers::ContainsSubstring;

namespace {

std::string bytes_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

void write_bytes(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

/// An npy file of version 1 with this header and body.
std::string npy_bytes(std::string header, const std::string& body) {
  header += '\n';
  return std::string("\x93NUMPY\x01", 7) + '\0' + static_cast<char>(header.size() % 256) +
         static_cast<char>(header.size() / 256) + header + body;
}

const std::string six_floats(24, '\0');

}  // namespace

TEMPLATE_TEST_CASE("what is written as npy is read again", "", float, double, std::int32_t) {
  const TemporaryFolder folder;
  const std::string path = (folder.path / "x.npy").string();
  EigenBackend be(1);
  std::vector<TestType> values(24);
  std::iota(values.begin(), values.end(), TestType(-3));
  const View<TestType, 3> all(values.data(), {2, 3, 4});
  write_npy(path, all);
  CHECK(folder.entries() == 1);
  const auto read = read_npy<TestType, 3>(be, path);
  CHECK(read.view().extents == all.extents);
  CHECK(to_host(be, read) == values);

  // Over what is there, from a tensor, and from a view with gaps.
  const auto other = from_host<TestType, 1>(be, {2}, {TestType(5), TestType(6)});
  write_npy(be, path, other);
  CHECK(to_host(be, read_npy<TestType, 1>(be, path)) == to_host(be, other));
  write_npy(path, View<const TestType, 2>(values.data() + 1, {2, 3}, {12, 4}));
  CHECK(to_host(be, read_npy<TestType, 2>(be, path)) ==
        std::vector<TestType>{values[1], values[5], values[9], values[13], values[17], values[21]});
  write_npy(path, View<TestType, 2>(values.data(), {0, 3}));
  CHECK(read_npy<TestType, 2>(be, path).view().extents == std::array<index_t, 2>{0, 3});
  CHECK(folder.entries() == 1);
}

TEST_CASE("xtensor reads what is written as npy, and its files are read") {
  const TemporaryFolder folder;
  const std::string path = (folder.path / "x.npy").string();
  EigenBackend be(1);
  xt::xtensor<double, 3> x = xt::zeros<double>({2, 3, 4});
  std::iota(x.begin(), x.end(), 0.5);
  write_npy(path, as_view(x));
  CHECK((xt::load_npy<double>(path) == x));
  xt::dump_npy(path, x);
  const auto read = read_npy<double, 3>(be, path);
  CHECK((as_xtensor(read.view()) == x));
  const xt::xtensor<float, 1> one = {1.5f};
  write_npy(path, as_view(one));
  CHECK((xt::load_npy<float>(path) == one));
  xt::dump_npy(path, one);
  CHECK(to_host(be, read_npy<float, 1>(be, path)) == std::vector<float>{1.5f});
}

TEST_CASE("npy files of numpy are read, whatever the order of keys, spaces and version") {
  const TemporaryFolder folder;
  const std::string path = (folder.path / "x.npy").string();
  EigenBackend be(1);
  for (const std::string header : {"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }",
                                   "{'shape':(2,3),'fortran_order':False,'descr':'<f4'}",
                                   "{'fortran_order': False, 'shape': (2, 3), 'descr': '<f4', }"}) {
    // Longer than 127 and than 255 bytes.
    for (const std::size_t padding : {0u, 90u, 300u}) {
      write_bytes(path, npy_bytes(header + std::string(padding, ' '), six_floats));
      CHECK(read_npy<float, 2>(be, path).view().extents == std::array<index_t, 2>{2, 3});
    }
  }
  const std::string header = "{'descr': '<f4', 'fortran_order': False, 'shape': (6,), }\n";
  write_bytes(path, std::string("\x93NUMPY\x02", 7) + std::string(1, '\0') +
                        static_cast<char>(header.size()) + std::string(3, '\0') + header +
                        six_floats);
  CHECK(read_npy<float, 1>(be, path).size() == 6);
}

TEST_CASE("npy files that do not fit are refused in one sentence with their path") {
  const TemporaryFolder folder;
  const std::string path = (folder.path / "x.npy").string();
  EigenBackend be(1);
  const auto refused = [&](const std::string& reason) {
    CHECK_THROWS_AS((read_npy<float, 2>(be, path)), io_error);
    CHECK_THROWS_WITH((read_npy<float, 2>(be, path)),
                      ContainsSubstring(path + ": ") && ContainsSubstring(reason));
  };
  refused("cannot be opened");
  write_bytes(path, "");
  refused("is not an npy file");
  write_bytes(path, "PK\x03\x04 an npz is a zip file");
  refused("is not an npy file");
  const std::string sound =
      npy_bytes("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }", six_floats);
  write_bytes(path, sound);
  CHECK_NOTHROW(read_npy<float, 2>(be, path));
  CHECK_THROWS_WITH((read_npy<double, 2>(be, path)),
                    ContainsSubstring("holds elements of type '<f4', expected '<f8'"));
  CHECK_THROWS_WITH((read_npy<float, 3>(be, path)),
                    ContainsSubstring("holds an array of shape [2,3], expected 3 axes"));
  // Cut at every byte.
  for (std::size_t size = 0; size < sound.size(); ++size) {
    write_bytes(path, sound.substr(0, size));
    CHECK_THROWS_AS((read_npy<float, 2>(be, path)), io_error);
  }
  refused("has 23 bytes after its header, which is not what shape [2,3] needs");
  write_bytes(path, sound + "x");
  refused("has 25 bytes after its header");
  write_bytes(path,
              npy_bytes("{'descr': '<f4', 'fortran_order': True, 'shape': (2, 3), }", six_floats));
  refused("is in Fortran order, expected C order");
  write_bytes(path,
              npy_bytes("{'descr': '>f4', 'fortran_order': False, 'shape': (2, 3), }", six_floats));
  refused("holds elements of type '>f4', expected '<f4'");
  write_bytes(path, npy_bytes("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (6,), }",
                              six_floats));
  refused("expected '<f4'");
  write_bytes(
      path, npy_bytes("{'descr': '<f4', 'fortran_order': False, 'shape': (-2, -3), }", six_floats));
  refused("the shape in the header of the npy file cannot be read");
  for (const std::string shape : {"(99999999999999999999999999, 2)", "2, 3"}) {
    write_bytes(path, npy_bytes("{'descr': '<f4', 'fortran_order': False, 'shape': " + shape + " }",
                                six_floats));
    refused("the shape in the header");
  }
  write_bytes(path, npy_bytes("{'descr': '<f4', 'fortran_order': False, 'shape': "
                              "(4294967296, 4294967296), }",
                              six_floats));
  refused("which is not what shape [4294967296,4294967296] needs");
  for (const std::string shape : {"(0, 4294967296, 4294967296)", "(4294967296, 4294967296, 0)"}) {
    write_bytes(path,
                npy_bytes("{'descr': '<f4', 'fortran_order': False, 'shape': " + shape + " }", ""));
    refused("which is not what shape");
  }
  write_bytes(path, npy_bytes("{'descr': '<f4', 'shape': (2, 3), }", six_floats));
  refused("the header of the npy file has no 'fortran_order'");
  std::string later = sound;
  later[6] = 4;
  write_bytes(path, later);
  refused("is an npy file of version 4");
}

TEST_CASE("an npy file that cannot be written is one error, and leaves what was there") {
  const TemporaryFolder folder;
  const std::vector<float> values{1, 2};
  const View<const float, 1> view(values.data(), {2});
  const std::string nowhere = (folder.path / "none" / "x.npy").string();
  CHECK_THROWS_AS(write_npy(nowhere, view), io_error);
  CHECK_THROWS_WITH(write_npy(nowhere, view), ContainsSubstring(nowhere + ": cannot be written"));
  const std::string taken = (folder.path / "taken").string();
  std::filesystem::create_directory(taken);
  write_bytes(taken + "/file", "kept");
  CHECK_THROWS_AS(write_npy(taken, view), io_error);
  CHECK(bytes_of(taken + "/file") == "kept");
  CHECK(folder.entries() == 1);
}
