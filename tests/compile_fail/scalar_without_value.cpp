// SPDX-License-Identifier: Apache-2.0
// expect: training, generation and files need the value of a scalar: give it a primal\(x\) of type double
#include "lacking_scalar.hpp"

#if defined(SRF_CONTROL)
double primal(Number);
#endif

double value(Number x) { return srformer::math::to_double(x); }
