// SPDX-License-Identifier: Apache-2.0
// expect: a view of a temporary matrix would outlive it; give the matrix a name first
#include <srformer/interop/eigen.hpp>

Eigen::MatrixXd a(2, 3);
#if defined(SRF_CONTROL)
const auto view = srformer::as_view(a.transpose());
#else
const auto view = srformer::as_view(Eigen::MatrixXd(a.transpose()));
#endif
