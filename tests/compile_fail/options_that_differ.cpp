// SPDX-License-Identifier: Apache-2.0
// expect: options of the same name in several variants of a list must have the same type
#include <srformer/attention/cross_attention.hpp>

struct Other : srformer::Segmented {
  static constexpr std::string_view name = "other";
  struct Options {
#ifdef SRF_CONTROL
    srformer::index_t segment_size = 8;
#else
    double segment_size = 8;
#endif
    static constexpr void visit(auto& o, auto&& f) {
      f(srformer::option::segment_size, o.segment_size);
    }
  };
};

using List = srformer::Variants<srformer::Segmented, Other>;
const List::Options options = List::Options::of<Other>();
