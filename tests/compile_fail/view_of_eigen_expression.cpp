// SPDX-License-Identifier: Apache-2.0
// expect: an Eigen expression has no memory to view; evaluate it into a matrix first
#include <srformer/interop/eigen.hpp>

Eigen::MatrixXd a(2, 3), b(2, 3);
#if defined(SRF_CONTROL)
Eigen::MatrixXd sum = a + b;
const auto view = srformer::as_view(sum);
#else
const auto view = srformer::as_view(a + b);
#endif
