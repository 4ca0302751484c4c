// SPDX-License-Identifier: Apache-2.0
// expect: every variant of a list has a name of its own
#include <srformer/attention/cross_attention.hpp>

struct Other : srformer::Linear {
#ifdef SRF_CONTROL
  static constexpr std::string_view name = "other";
#else
  static constexpr std::string_view name = "full";
#endif
};

using List = srformer::Variants<srformer::Full, Other>;
const List::Options options = List::Options::of<Other>();
