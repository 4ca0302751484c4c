// SPDX-License-Identifier: Apache-2.0
// expect: an xtensor expression has no memory to view; evaluate it with xt::eval first
#include <srformer/interop/xtensor.hpp>

xt::xtensor<double, 2> a, b;
#if defined(SRF_CONTROL)
auto sum = xt::eval(a + b);
const auto view = srformer::as_view(sum);
#else
const auto view = srformer::as_view(a + b);
#endif
