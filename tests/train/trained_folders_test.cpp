// SPDX-License-Identifier: Apache-2.0
// Training that goes on in other hands: folders that transformers has trained for ten steps
// (data/trained, trained_with_transformers.py) go on here with the losses and generate the ids that they
// do there, and what is trained here goes on so in transformers.
#include <cstdlib>
#include <fstream>

#include <srformer/backend/eigen.hpp>
#include <srformer/decode/search.hpp>
#include <srformer/models/checkpoint.hpp>
#include <srformer/train/adamw.hpp>

#include "io/temporary_folder.hpp"
#include "support/catch.hpp"

using namespace srformer;

namespace {

namespace fs = std::filesystem;
using Rows = std::vector<std::vector<std::int32_t>>;

/// batch.json of a folder.
Batch stored_batch(const fs::path& folder) {
  const nlohmann::json json = read_json_file(folder / "batch.json");
  Batch batch;
  for (const auto& row : json.at("input_ids").get<Rows>())
    batch.source_ids.insert(batch.source_ids.end(), row.begin(), row.end());
  for (const auto& row : json.at("attention_mask").get<Rows>())
    batch.source_lengths.push_back(std::ranges::count(row, 1));
  for (const auto& row : json.at("labels").get<Rows>())
    batch.labels.insert(batch.labels.end(), row.begin(), row.end());
  batch.rows = std::ssize(batch.source_lengths);
  batch.source_width = std::ssize(batch.source_ids) / batch.rows;
  batch.target_width = std::ssize(batch.labels) / batch.rows;
  return batch;
}

/// The losses of the next steps of a new AdamW, as the script makes them.
template <class Model>
std::vector<double> next_losses(Model& model, const Batch& batch, index_t steps) {
  auto& be = model.backend();
  AdamW optimizer(be, model.parameters(), {.weight_decay = 0.01, .decayed = all_roles()});
  const auto labels = static_cast<double>(
      std::ranges::count_if(batch.labels, [](std::int32_t label) { return label >= 0; }));
  std::vector<double> losses;
  for (index_t step = 1; step <= steps; ++step) {
    model.parameters().zero_gradients();
    auto sum = zeros<double, 1>(be, {1});
    model.add_gradients(batch, {.scale = 1 / labels}, sum.view());
    losses.push_back(to_host(be, sum)[0] / labels);
    optimizer.update(be, model.parameters(), 0.01, step);
  }
  return losses;
}

/// Holds ids and losses of a model to expected.json of `folder`, whose options it generates with.
template <class Model>
void check_goes_on(Model& model, const fs::path& folder) {
  const nlohmann::json expected = read_json_file(folder / "expected.json");
  const Batch batch = stored_batch(folder);
  GenerationConfig config = generation_config(HfCheckpoint(folder));
  CHECK(config.num_beams == 3);
  const auto generated = [&](const char* name) {
    const auto got = generate(model, batch.source_ids, batch.source_lengths, config).padded();
    std::vector<std::int32_t> ids;
    for (const auto& row : expected.at(name).get<Rows>())
      ids.insert(ids.end(), row.begin(), row.end());
    CHECK(ids.size() > 12);
    CHECK(got == ids);
  };
  generated("file");
  config.num_beams = 1, config.early_stopping = EarlyStopping::no, config.length_penalty = 1;
  generated("greedy");
  const auto losses = expected.at("losses").get<std::vector<double>>();
  const auto got = next_losses(model, batch, std::ssize(losses));
  REQUIRE(losses.size() == 5);
  CHECK(losses.back() < 0.9 * losses.front());
  for (std::size_t i = 0; i < losses.size(); ++i)
    CHECK(got[i] == Approx(losses[i]).epsilon(1e-6));  // T5's norms there are of float32
}

const fs::path trained = fs::path(SRF_TESTS_DIR) / "train/data/trained";

/// Trains the folder's model further, saves it, has transformers go on from there, and does the same.
template <class Model>
void check_other_way(Model& model, const fs::path& folder, const std::string& python) {
  const TemporaryFolder ours;
  next_losses(model, stored_batch(folder), 3);
  save_model(model, ours.path, DType::f64, generation_options_alone(HfCheckpoint(folder)));
  fs::copy(folder / "batch.json", ours.path);
  const std::string command = python +
                              " " SRF_TESTS_DIR "/train/trained_with_transformers.py continue " +
                              ours.path.string() + " >" + (ours.path / "said").string() + " 2>&1";
  const bool loaded = std::system(command.c_str()) == 0;
  std::ifstream said(ours.path / "said");
  INFO(std::string(std::istreambuf_iterator<char>(said), {}));
  REQUIRE(loaded);
  check_goes_on(model, ours.path);
}

}  // namespace

TEST_CASE("what transformers has trained goes on here with the same losses and ids") {
  EigenBackend be(1);
  check_goes_on(*load_t5<double>(be, trained / "t5"), trained / "t5");
  check_goes_on(*load_bart<double>(be, trained / "bart"), trained / "bart");
}

TEST_CASE("what is trained here goes on in transformers with the same losses and ids", "[python]") {
  const char* chosen = std::getenv("SRFORMER_PYTHON");
  const std::string python = chosen != nullptr ? chosen : "python3";
  const std::string look =
      " -c 'from importlib.util import find_spec as f; exit(not (f(\"torch\") and "
      "f(\"transformers\")))' >/dev/null 2>&1";
  if (std::system((python + look).c_str()) != 0) {
    WARN("skipped: " << python
                     << " lacks torch or transformers; set SRFORMER_PYTHON to one that has them");
    SUCCEED("nothing to compare with");
    return;
  }
  EigenBackend be(1);
  check_other_way(*load_t5<double>(be, trained / "t5"), trained / "t5", python);
  check_other_way(*load_bart<double>(be, trained / "bart"), trained / "bart", python);
}
