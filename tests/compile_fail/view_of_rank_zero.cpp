// SPDX-License-Identifier: Apache-2.0
// expect: a view has at least one axis; use Rank 1 with extent 1 for a scalar
#include <srformer/core/view.hpp>

#if defined(SRF_CONTROL)
srformer::View<float, 1> view;
#else
srformer::View<float, 0> view;
#endif
