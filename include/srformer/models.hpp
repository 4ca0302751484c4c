// SPDX-License-Identifier: Apache-2.0
// Everything for whole models: folders, texts, generation, training. Needs what srformer::text needs beside Eigen.
// srformer.hpp has the attention alone.
#pragma once

#include <srformer/api/text_model.hpp>
#include <srformer/backend/eigen.hpp>
#include <srformer/decode/search.hpp>
#include <srformer/models/checkpoint.hpp>
#include <srformer/text/rouge.hpp>
#include <srformer/text/tokenizer.hpp>
#include <srformer/train/checkpoint.hpp>
#include <srformer/train/trainer.hpp>
