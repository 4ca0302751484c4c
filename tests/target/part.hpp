// SPDX-License-Identifier: Apache-2.0
// One part of a program whose files are compiled with different flags.
#pragma once

#include <srformer/core/view.hpp>

/// q [B,H,M,D], k, v [B,H,N,D], weight [D,D], in memory of another part.
struct PartInputs {
  srformer::View<const float, 4> q, k, v;
  const float *weight, *leak, *threshold;
};

struct Part {
  const char* target;     ///< SRF_TARGET
  bool avx, fma;          ///< whether its compiler was told of them
  int (*vector_bytes)();  ///< of the registers that its kernels use
  int (*threads)();       ///< of a backend that is asked for three
  void (*attend)(const PartInputs&,
                 srformer::View<float, 4> out);  ///< segmented recurrent attention
  void (*multiply)(srformer::index_t n, const float* a, const float* b,
                   float* c);                                  ///< c = a b, [n,n]
  srformer::View<float, 4> (*half)(srformer::View<float, 4>);  ///< the first half of the first axis
};

Part part_native();
Part part_baseline();
Part part_one_thread();
