// SPDX-License-Identifier: Apache-2.0
// The attention and everything under it, on the CPU: needs Eigen alone. Models, training, text and
// files are not in it, as they need more; include their headers one by one.
#pragma once

#include <srformer/attention/cross_attention.hpp>
#include <srformer/attention/decode.hpp>
#include <srformer/attention/position_bias.hpp>
#include <srformer/backend/eigen.hpp>
#include <srformer/backend/tensor.hpp>
#include <srformer/core/dual.hpp>
#include <srformer/core/random.hpp>
#include <srformer/core/scalar.hpp>
#include <srformer/ops/activation.hpp>
#include <srformer/ops/cross_entropy.hpp>
#include <srformer/ops/dropout.hpp>
#include <srformer/ops/embedding.hpp>
#include <srformer/ops/linear.hpp>
#include <srformer/ops/norm.hpp>
#include <srformer/ops/softmax.hpp>
