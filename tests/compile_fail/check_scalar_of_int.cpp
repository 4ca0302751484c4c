// SPDX-License-Identifier: Apache-2.0
// expect: an integer is no scalar
#include <srformer/testing/conformance.hpp>

#if defined(SRF_CONTROL)
using Element = double;
#else
using Element = int;
#endif

bool check() { return srformer::check_scalar<Element>().ok(); }
