// SPDX-License-Identifier: Apache-2.0
// Every header that needs Eigen alone, after macros that system headers define: sys/sysmacros.h, complex.h, X11.
#include <bits/stdc++.h>

#include <Eigen/Core>
#if defined(_OPENMP)
#include <omp.h>
#endif
#if defined(SRF_HAS_ONEDNN)
#include <oneapi/dnnl/dnnl.hpp>
#endif

#undef major
#undef minor
#undef I
#define major (poisoned)
#define minor (poisoned)
#define I (poisoned)
#define Always (poisoned)
#define Bool (poisoned)
#define Complex (poisoned)
#define False (poisoned)
#define None (poisoned)
#define Status (poisoned)
#define Success (poisoned)
#define True (poisoned)
#define linux (poisoned)
#define unix (poisoned)

#include "plain_headers.hpp"
