// SPDX-License-Identifier: Apache-2.0
// expect: a backend says where its memory is: using space = srformer::host_space
#define LACKS_SPACE
#include "lacking_backend.hpp"

static_assert(Backend<Own>);
