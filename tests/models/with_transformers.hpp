// SPDX-License-Identifier: Apache-2.0
// transformers as a peer, where a Python that has it is at hand.
#pragma once

#include <srformer/io/hf_checkpoint.hpp>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include <srformer/io/dataset.hpp>

#include "support/catch.hpp"

namespace srformer::testing {

/// A Python that has torch and transformers, or nothing.
inline std::string python_with_transformers() {
  const char* chosen = std::getenv("SRFORMER_PYTHON");
  const std::string python = chosen != nullptr ? chosen : "python3";
  const std::string look =
      " -c 'from importlib.util import find_spec as f; exit(not (f(\"torch\") and "
      "f(\"transformers\")))' >/dev/null 2>&1";
  if (std::system((python + look).c_str()) == 0) return python;
  WARN("skipped: " << python
                   << " lacks torch or transformers; set SRFORMER_PYTHON to one that has them");
  SUCCEED("nothing to compare with");
  return "";
}

/// Writes a batch as the Python beside this reads it: batch.json of the folder.
inline void write_batch_file(const std::filesystem::path& folder, const Batch& batch) {
  using nlohmann::json;
  json ids = json::array(), mask = json::array(), labels = json::array();
  for (index_t b = 0; b < batch.rows; ++b) {
    const auto source = batch.source_ids.begin() + b * batch.source_width;
    const auto target = batch.labels.begin() + b * batch.target_width;
    ids.push_back(std::vector<int>(source, source + batch.source_width));
    labels.push_back(std::vector<int>(target, target + batch.target_width));
    std::vector<int> present(static_cast<std::size_t>(batch.source_width), 0);
    std::fill_n(present.begin(), batch.source_lengths[static_cast<std::size_t>(b)], 1);
    mask.push_back(present);
  }
  write_json_file(folder / "batch.json",
                  {{"input_ids", ids}, {"attention_mask", mask}, {"labels", labels}});
}

/// The logits that transformers computes for a batch with the model of a folder, whose weights it makes if
/// `make` says so.
inline std::vector<double> transformers_logits(const std::string& python,
                                               const std::filesystem::path& folder,
                                               const Batch& batch, const std::string& make = "") {
  write_batch_file(folder, batch);
  const std::string command = python + " " SRF_TESTS_DIR "/models/load_with_transformers.py " +
                              folder.string() + " " + make + " >" + (folder / "said").string() +
                              " 2>&1";
  const bool loaded = std::system(command.c_str()) == 0;
  std::ifstream said(folder / "said");
  INFO(std::string(std::istreambuf_iterator<char>(said), {}));
  REQUIRE(loaded);
  std::ifstream file(folder / "logits.txt");
  std::vector<double> logits;
  for (double z = 0; file >> z;) logits.push_back(z);
  return logits;
}

}  // namespace srformer::testing
