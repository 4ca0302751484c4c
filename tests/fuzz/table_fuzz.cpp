// SPDX-License-Identifier: Apache-2.0
// Any bytes behind the first as a data file, whose name the first byte chooses; from 128 on they are compressed before.
#include <srformer/io/gzip.hpp>
#include <srformer/io/pairs.hpp>

#include "fuzz.hpp"
#include "io/gzip_bytes.hpp"

namespace {

using namespace srformer;

void run_table(std::string_view bytes) {
  if (bytes.empty()) return;
  constexpr const char* names[] = {"x.jsonl", "x.json", "x.csv",     "x.tsv",
                                   "x.txt",   "x",      "x.jsonl.gz"};
  const auto first = static_cast<std::uint8_t>(bytes[0]);
  const std::filesystem::path path = fuzz::folder() / names[first % std::size(names)];
  bytes.remove_prefix(1);
  fuzz::write(path, first < 128 ? std::string(bytes) : gzip_bytes(std::string(bytes)));
  const std::string file = path.string();
  const auto read = [&](ReadOptions options) {
    options.decompress = gunzip;
    fuzz::tolerate([&] {
      for (const Pair& pair : read_pairs(std::span(&file, 1), options).rows)
        fuzz::expect(detail::valid_utf8_prefix(pair.text) == pair.text.size(),
                     "a text is not UTF-8");
    });
    fuzz::tolerate([&] {
      read_column(std::span(&file, 1), {.known = known_text_names(), .sole = true}, options);
    });
  };
  read({.summary = SummaryColumn::if_there, .drop_empty = true});
  read({.text_column = "a", .summary_column = "b", .summary = SummaryColumn::may_be_empty});
  ::unlink(path.c_str());
}

const fuzz::Target table_target("table", run_table);

}  // namespace
