// SPDX-License-Identifier: Apache-2.0
// What a program of somebody else instantiates, read by clang with the warnings that it may have.
#include <srformer/decode/search.hpp>
#include <srformer/models/bart.hpp>
#include <srformer/models/checkpoint.hpp>
#include <srformer/models/t5.hpp>
#include <srformer/srformer.hpp>
#include <srformer/testing/check_variant.hpp>
#include <srformer/train/trainer.hpp>

#include "../../examples/sliding_window.hpp"

using namespace srformer;
using Mine = Variants<Full, SegmentedRecurrent, SlidingWindow>;
using Model = T5<EigenBackend, float, Mine>;

template class srformer::T5<EigenBackend, float, Mine>;
template class srformer::Bart<EigenBackend, double>;
template class srformer::Trainer<Model>;

VariantReport check() { return check_variant<Mine>(Mine::Options::of<SlidingWindow>()); }
Generation summarize(Model& model, std::span<const std::int32_t> ids,
                     std::span<const index_t> lengths) {
  return generate(model, ids, lengths, GenerationConfig{});
}
