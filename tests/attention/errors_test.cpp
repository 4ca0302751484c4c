// SPDX-License-Identifier: Apache-2.0
// What a user reads who hands an attention something that does not fit: one sentence, word for word.
#include <srformer/backend/eigen.hpp>

#include "support/catch.hpp"
#include "support/paper_options.hpp"

using namespace srformer;

namespace {

using Extents = std::array<index_t, 4>;

/// A call of every public entry, whose shapes and options a test changes. All views lie in memory that
/// is large enough for the right ones.
struct Call {
  Extents q{2, 3, 5, 4}, k{2, 3, 9, 4}, v{2, 3, 9, 4}, out{2, 3, 5, 4};
  Extents d_q{2, 3, 5, 4}, d_k{2, 3, 9, 4}, d_v{2, 3, 9, 4}, memory{2, 2, 9, 12};
  CrossAttentionOptions options;
  AttendContext<double, host_space> context;
  double threshold = 0.3;
  bool weight = true, rnn = true, step_of_q = false;

  explicit Call(Variant variant) {
    options.variant = variant;
    options.segment_size = 4;
  }

  std::string name() const {
    const std::string variant = variant_name(options.variant);
    const bool plain = options.variant == Variant::full || options.variant == Variant::segmented ||
                       options.variant == Variant::linear;
    return variant + (plain ? "_attention" : "");
  }

  /// The sentence that `f` throws, or nothing.
  template <class F>
  static std::string sentence(F f) {
    try {
      f();
    } catch (const shape_error& error) {
      return error.what();
    }
    return "";
  }

  std::string forward() {
    return sentence([this] {
      View<const double, 4> query(data(0), q);
      if (step_of_q) query.strides[3] = 2;
      const View<const double, 4> key(data(1), k), value(data(2), v);
      const View<double, 4> to(data(3), out);
      if (options.variant == Variant::transformer_xl) {
        const AttentionInputs<EigenBackend, double> in{query, key, value, context};
        const View<double, 4> remembered(data(4), memory);
        if (!rnn || options.segment_size < 1 || memory[2] == 9)
          transformer_xl_memory(be, in, rnns_of<const double>(5), options.segments(), remembered);
        return transformer_xl_forward(be, in, remembered, options.segments(), to);
      }
      cross_attention_forward(be, query, key, value, recurrent_of<const double>(5), context,
                              options, to);
    });
  }

  std::string backward() {
    return sentence([this] {
      const View<const double, 4> query(data(0), q), key(data(1), k), value(data(2), v);
      const View<const double, 4> d_to(data(3), out), remembered(data(4), memory);
      const View<double, 4> to_q(data(6), d_q), to_k(data(7), d_k), to_v(data(8), d_v);
      if (options.variant == Variant::transformer_xl)
        return transformer_xl_backward<EigenBackend, double>(
            be, {query, key, value, context}, remembered, rnns_of<const double>(5),
            options.segments(), {d_to, to_q, to_k, to_v}, rnns_of<double>(9));
      cross_attention_backward(be, query, key, value, recurrent_of<const double>(5), context,
                               options, d_to, to_q, to_k, to_v, recurrent_of<double>(9));
    });
  }

 private:
  static constexpr index_t each = 1024;
  EigenBackend be{1};
  std::vector<double> memory_ = std::vector<double>(10 * each, 0.25);

  double* data(index_t at) { return memory_.data() + at * each; }
  template <class T>
  XlParameters<T> rnns_of(index_t at) {
    const RnnParameters<T> one{data(at), data(at), data(at), rnn ? data(at) : nullptr};
    return {one, one};
  }
  template <class T>
  CrossAttentionParameters<T> recurrent_of(index_t at) {
    data(5)[100] = threshold;
    return RecurrentParameters<T>{weight ? data(at) : nullptr, data(at) + 50, data(at) + 100,
                                  nullptr, nullptr};
  }
};

/// Both directions of every variant refuse what `change` does with the same words.
template <class Change>
void require_both(const std::string& words, Change change) {
  for (const Variant variant : all_variants) {
    Call call(variant);
    change(call);
    CHECK(call.forward() == call.name() + "_forward: " + words);
    CHECK(call.backward() == call.name() + "_backward: " + words);
  }
}

template <class Change>
void require_of(Variant variant, const std::string& forward, const std::string& backward,
                Change change) {
  Call call(variant);
  change(call);
  CHECK(call.forward() == forward);
  CHECK(call.backward() == backward);
}

}  // namespace

TEST_CASE("calls that fit are refused by none") {
  for (const Variant variant : all_variants) {
    Call call(variant);
    CHECK(call.forward().empty());
    CHECK(call.backward().empty());
  }
}

TEST_CASE("keys of another batch, heads or head size are refused") {
  // Of the memory of transformer_xl, the attention is the one that tells; 8 rows keep it out of the way.
  require_both("k is [2,3,9,8], expected [B,H,N,D] = [2,3,9,4]", [](Call& c) {
    c.k = c.v = {2, 3, 9, 8}, c.memory[2] = 8;
  });
  require_both("k is [1,3,9,4], expected [B,H,N,D] = [2,3,9,4]", [](Call& c) {
    c.k = c.v = {1, 3, 9, 4}, c.memory[2] = 8;
  });
  require_both("k is [2,1,9,4], expected [B,H,N,D] = [2,3,9,4]", [](Call& c) {
    c.k = c.v = {2, 1, 9, 4}, c.memory[2] = 8;
  });
}

TEST_CASE("values and outputs of another shape are refused") {
  require_both("v is [2,3,8,4], expected [B,H,N,D] = [2,3,9,4]",
               [](Call& c) { c.v[2] = 8, c.memory[2] = 8; });
  for (const Variant variant : all_variants) {
    Call call(variant);
    call.out = {2, 3, 4, 4};
    const std::string rest = "out is [2,3,4,4], expected [B,H,M,D] = [2,3,5,4]";
    CHECK(call.forward() == call.name() + "_forward: " + rest);
    CHECK(call.backward() == call.name() + "_backward: d_" + rest);
  }
}

TEST_CASE("gradients of another shape are refused") {
  for (const Variant variant : all_variants) {
    Call call(variant);
    const std::string begin = call.name() + "_backward: ";
    call.d_q[2] = 6;
    CHECK(call.backward() == begin + "d_q is [2,3,6,4], expected [B,H,M,D] = [2,3,5,4]");
    call.d_q[2] = 5, call.d_k[2] = call.d_v[2] = 8;
    CHECK(call.backward() == begin + "d_k is [2,3,8,4], expected [B,H,N,D] = [2,3,9,4]");
    call.d_k[2] = 9;
    CHECK(call.backward() == begin + "d_v is [2,3,8,4], expected [B,H,N,D] = [2,3,9,4]");
  }
}

TEST_CASE("empty queries and keys are refused") {
  require_both("q is [2,3,0,4] and k is [2,3,9,4], none may be empty",
               [](Call& c) { c.q[2] = c.out[2] = c.d_q[2] = 0; });
  require_both("q is [2,3,5,4] and k is [2,3,0,4], none may be empty",
               [](Call& c) { c.k[2] = c.v[2] = c.d_k[2] = c.d_v[2] = 0, c.memory[2] = 8; });
}

TEST_CASE("a last axis with gaps is refused") {
  for (const Variant variant : all_variants) {
    Call call(variant);
    call.step_of_q = true;
    CHECK(call.forward() ==
          call.name() + "_forward: the last axis of q, k, v and out must be contiguous");
  }
}

TEST_CASE("segment sizes and horizons out of range are refused by what has segments") {
  for (const Variant variant : all_variants) {
    Call call(variant);
    const bool segments = variant != Variant::full && variant != Variant::linear;
    const std::string forward =
        variant == Variant::transformer_xl ? "transformer_xl_memory: " : call.name() + "_forward: ";
    const std::string backward = call.name() + "_backward: ";
    const auto check = [&](const std::string& words) {
      CHECK(call.forward() == (segments ? forward + words : ""));
      CHECK(call.backward() == (segments ? backward + words : ""));
    };
    call.options.segment_size = 0;
    check("segment size must be at least 1");
    call.options.segment_size = 4, call.options.horizon = -1;
    check("horizon must be at least 1, or 0 for the number of queries");
  }
}

TEST_CASE("parameters that are missing or out of range are refused") {
  const auto recurrent = [](const std::string& words, auto change) {
    require_of(Variant::segmented_recurrent, "segmented_recurrent_forward: " + words,
               "segmented_recurrent_backward: " + words, change);
  };
  recurrent("the recurrence needs weight, leak and threshold", [](Call& c) { c.weight = false; });
  recurrent("the threshold is exactly zero", [](Call& c) { c.threshold = 0; });
  recurrent("clamp must be positive, or 0 for none", [](Call& c) { c.options.clamp = -1; });
  recurrent("the recurrence starts at the first query; decode with SegmentedRecurrent::step",
            [](Call& c) { c.context.mask.query_offset = 2; });
  const std::string words = ": the RNN needs weight_ih, weight_hh, bias_ih and bias_hh";
  require_of(Variant::transformer_xl, "transformer_xl_memory" + words,
             "transformer_xl_backward" + words, [](Call& c) { c.rnn = false; });
}

TEST_CASE(
    "a cross-attention refuses before it makes a memory, and options without their parameter") {
  EigenBackend be(1);
  std::vector<double> numbers(4096, 0.25);
  const double* p = numbers.data();
  const auto sentence = [&](const CrossAttentionOptions& options, Extents key,
                            const CrossAttentionParameters<const double>& parameters) {
    const View<const double, 4> q(p, {2, 3, 5, 4}), k(p, key);
    const View<double, 4> out(numbers.data() + 2048, {2, 3, 5, 4}), d_k(numbers.data(), key);
    const auto of = [&](const std::string& direction, auto call) {
      const std::string words = Call::sentence(call), start = direction + ": ";
      CHECK(words.substr(0, start.size()) == start);
      return words.substr(std::min(words.size(), start.size()));
    };
    const std::string name = variant_name(options.variant);
    PaperSaved<EigenBackend, double> saved;
    const std::string forward = of(name + "_forward", [&] {
      cross_attention_forward(be, q, k, k, parameters, {}, options, out, &saved);
    });
    CHECK(forward == of(name + "_backward", [&] {
            cross_attention_backward(be, q, k, k, parameters, {}, options, q, out, d_k, d_k, {},
                                     &saved);
          }));
    return forward;
  };
  const RnnParameters<const double> rnn{p, p, p, p};
  const RecurrentParameters<const double> recurrent{p, p, p};
  const CrossAttentionParameters<const double> all(recurrent, rnn, rnn);
  CHECK(sentence({.variant = Variant::transformer_xl}, {2, 3, 9, 8}, all) ==
        "k is [2,3,9,8], expected [B,H,N,D] = [2,3,9,4]");
  CHECK(sentence({.variant = Variant::transformer_xl, .segment_size = 0}, {2, 3, 9, 4}, all) ==
        "segment size must be at least 1");
  CHECK(sentence({.variant = Variant::segmented_recurrent, .sigma = true}, {2, 3, 9, 4}, all) ==
        "the options have sigma, the parameters have none");
  CHECK(sentence({.variant = Variant::segmented_recurrent, .gate = true}, {2, 3, 9, 4}, all) ==
        "the options have gate, the parameters have none");
}

TEST_CASE("the memory of other keys is refused") {
  require_of(Variant::transformer_xl,
             "transformer_xl_forward: memory is [2,2,8,12], expected [2,B,R,H*D] = [2,2,9,12]",
             "transformer_xl_backward: memory is [2,2,8,12], expected [2,B,R,H*D] = [2,2,9,12]",
             [](Call& c) { c.memory[2] = 8; });
}

TEST_CASE("dropout out of range is refused") {
  for (const Variant variant : all_variants) {
    if (variant == Variant::linear) continue;  // has no dropout
    Call call(variant);
    call.context.dropout.rate = 1;
    CHECK(call.forward() == call.name() + "_forward: dropout rate must be in [0,1)");
    CHECK(call.backward() == call.name() + "_backward: dropout rate must be in [0,1)");
  }
}

TEST_CASE("the name of no variant is refused with those that are") {
  CHECK(Call::sentence([] { PaperVariants::Options::named("fulll"); }) ==
        "cross attention: \"fulll\" is not one of full, segmented, segmented_recurrent, "
        "transformer_xl, global_tokens, linear");
}
