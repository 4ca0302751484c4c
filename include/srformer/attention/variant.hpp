// SPDX-License-Identifier: Apache-2.0
// What makes a cross-attention a variant that models can have: a struct like Segmented or
// SegmentedRecurrent. attention/cross_attention.hpp puts variants into a list, and nothing else knows them.
//
//   name               as config.json and the flags write it
//   Options            a struct; static visit(options, f) calls f(OptionInfo, member) for every option
//   Parameters<T>      pointers T*; static visit(parameters, options, sizes, f) calls f(LearnedInfo, member)
//   Saved<B, T>        what forward keeps for backward beside q, k and v
//   Prepared<B, T>     what decoding computes once per source
//   forward(be, in, parameters, options, saved, out)
//   backward(be, in, parameters, options, saved, d, d_parameters)
//   prepare(be, in, parameters, options)                       returns Prepared<B, T>
//   step(be, step, parameters, options, prepared)              one decoder step
//
// The last four are static templates over <B, T>. docs/custom_variant.md writes one from the start. A variant whose
// cells fire may also have, for what is logged while training:
//
//   fires(options)                                             whether these options have a recurrence
//   count_firing(be, in, parameters, options)                  returns FiringCount
#pragma once

#include <array>
#include <concepts>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include <srformer/attention/attend.hpp>
#include <srformer/backend/tensor.hpp>
#include <srformer/core/role.hpp>

namespace srformer {

// ---- options -------------------------------------------------------------------------------------

/// The values that an option may have beside those of its type. `positive_or_none` is 0 for none, which
/// config.json writes as null.
enum class OptionRange { any, positive, positive_or_none };

/// An option: its name in config.json and, behind two dashes, as a flag. Options of one name in several
/// variants of a list have the same type, range and meaning.
struct OptionInfo {
  std::string_view name, help;
  OptionRange range = OptionRange::any;
  bool saved_where_default =
      true;  ///< false: config.json holds it only where it is not the default
};

enum class OptionKind { flag, integer, number, choice };

/// An option as flags, config.json and documents see it.
struct OptionEntry {
  OptionInfo info;
  OptionKind kind;
  std::span<const std::string_view> choices;  ///< of OptionKind::choice
};

namespace detail {

template <class E>
concept NamedChoice = std::is_enum_v<E> && requires(E e) {
  { option_names(e)[0] } -> std::convertible_to<std::string_view>;
};

template <NamedChoice E>
inline constexpr auto choice_names = option_names(E{});

template <class M>
constexpr OptionEntry option_entry(const OptionInfo& info) {
  static_assert(
      std::is_same_v<M, bool> || std::is_same_v<M, index_t> || std::is_same_v<M, double> ||
          NamedChoice<M>,
      "an option is a bool, an index_t, a double, or an enumeration of 0, 1, ... whose names "
      "a constexpr option_names(E) beside it returns as an array of std::string_view");
  if constexpr (std::is_same_v<M, bool>) return {info, OptionKind::flag, {}};
  if constexpr (std::is_same_v<M, index_t>) return {info, OptionKind::integer, {}};
  if constexpr (std::is_same_v<M, double>) return {info, OptionKind::number, {}};
  if constexpr (NamedChoice<M>) return {info, OptionKind::choice, choice_names<M>};
}

template <class Options>
constexpr std::size_t count_options() {
  std::size_t n = 0;
  const Options options{};
  Options::visit(options, [&](const OptionInfo&, const auto&) { ++n; });
  return n;
}

template <class Options>
constexpr auto make_option_entries() {
  std::array<OptionEntry, count_options<Options>()> entries{};
  std::size_t n = 0;
  const Options options{};
  Options::visit(options, [&](const OptionInfo& info, const auto& member) {
    entries[n++] = option_entry<std::remove_cvref_t<decltype(member)>>(info);
  });
  return entries;
}

}  // namespace detail

/// The options of a variant, in the order in which it visits them.
template <class V>
inline constexpr auto option_entries = detail::make_option_entries<typename V::Options>();

/// Options of a variant that has none.
struct NoOptions {
  static constexpr void visit(auto&, auto&&) {}
};

namespace option {

// Options that several variants have.
inline constexpr OptionInfo segment_size{"segment_size", "Keys in a segment",
                                         OptionRange::positive};
inline constexpr OptionInfo horizon{"horizon", "Decoder steps over the source in training",
                                    OptionRange::positive_or_none};
inline constexpr OptionInfo generation_horizon{"generation_horizon", "The same in decoding",
                                               OptionRange::positive};
inline constexpr OptionInfo padding{"padding", "How padded sources are treated"};

}  // namespace option

// ---- learned parameters --------------------------------------------------------------------------

/// The sizes that a layer's parameters may depend on.
struct HeadSizes {
  index_t heads = 1, head_size = 1;
  index_t inner() const { return heads * head_size; }
};

/// Initial values of a parameter.
struct InitialValues {
  enum class Kind { constant, uniform, identity } kind = Kind::constant;
  double value =
      0;  ///< of a constant; of uniform the factor on +-(last extent)^-1/2; of an identity that on its diagonal

  static constexpr InitialValues constant(double value) { return {Kind::constant, value}; }
  static constexpr InitialValues uniform(double factor = 1) { return {Kind::uniform, factor}; }
  static constexpr InitialValues identity(double factor = 1) { return {Kind::identity, factor}; }
};

/// A learned parameter of a layer: its name in a checkpoint behind that of the attention, what it is for, its
/// shape [rows, columns], or [rows] where columns is 0, and whether the layer's options have it.
struct LearnedInfo {
  std::string_view name;
  Role role;
  index_t rows, columns = 0;
  InitialValues initial{};
  bool present = true;
};

/// Parameters of a variant that learns nothing.
template <class T>
struct NothingLearned {
  static constexpr void visit(auto&, const auto&, const HeadSizes&, auto&&) {}
};

/// The parameters of a layer, or their gradients, in the order in which its variant visits those that are
/// present. What a list of variants takes in place of their Parameters<T>.
template <class T>
struct LearnedPointers {
  static constexpr std::size_t most = 16;
  std::array<T*, most> at{};
  std::size_t count = 0;

  LearnedPointers() = default;
  template <class U>
  requires(!std::is_same_v<U, T> && std::is_convertible_v<U*, T*>)
      LearnedPointers(const LearnedPointers<U>& other)  // NOLINT: as pointers convert
      : count(other.count) {
    for (std::size_t i = 0; i < count; ++i) at[i] = other.at[i];
  }
  void add(T* pointer) {
    require(count < most, "LearnedPointers", "a variant may have 16 learned parameters at most");
    at[count++] = pointer;
  }
};

// ---- what forward, backward and steps are given ---------------------------------------------------

/// What attention reads.
///   q [B,H,M,D], k, v [B,H,N,D], last axes contiguous; scores are not scaled
template <class B, class T>
struct AttentionInputs {
  In<B, T, 4> q, k, v;
  AttendContext<compute_t<T>, typename B::space> context{};
};

/// The gradient of the output [B,H,M,D], and those of the inputs, to which backward adds.
template <class B, class T>
struct AttentionGradients {
  In<B, T, 4> d_out;
  Out<B, T, 4> d_q, d_k, d_v;
};

/// The states of a recurrence, one for each cell at each of its steps: how many there were and how many of them were above
/// the threshold.
struct FiringCount {
  index_t fired = 0, states = 0;

  /// From 0 to 1; 0 of no states.
  double share() const {
    return states > 0 ? static_cast<double>(fired) / static_cast<double>(states) : 0;
  }
};

/// Nothing is saved, or prepared.
template <class B, class T>
struct Nothing {};

/// One decoder step of cross-attention: K queries of each of G groups, the keys and values of the groups'
/// sources, and where the result goes.
template <class T, class Space>
struct AttentionStep {
  using C = compute_t<T>;
  View<const T, 4, Space> q, k, v;  ///< [G,H,K,D], [B,H,N,D]
  View<T, 4, Space> out;            ///< [G,H,K,D]
  AttendContext<C, Space> context;
  const std::int32_t* sources;  ///< [G], or null: group g has source g
  index_t step;

  SRF_HD index_t heads() const { return q.extent(1); }
  SRF_HD index_t queries() const { return q.extent(2); }
  SRF_HD index_t head_size() const { return q.extent(3); }
  SRF_HD index_t keys() const { return k.extent(2); }
  SRF_HD index_t source(index_t group) const {
    return sources == nullptr ? group : static_cast<index_t>(sources[group]);
  }
  /// One query in place of K, all of which are at the same step.
  SRF_HD View<const T, 4, Space> one_query() const { return q.slice(2, 0, 1); }
};

/// The decoder steps to come: `steps` of them at most, over `horizon` of which the source is spread; 0 takes the
/// option generation_horizon.
struct DecodePlan {
  index_t steps, horizon = 0;
};

/// A decoder step, and the source of each of its groups: [G] on the backend; null: group g has source g.
struct DecodeAt {
  index_t step;
  const std::int32_t* sources = nullptr;
};

/// Runs functor(team, lane, scratch) for every group and head of a step.
///   of_c, of_t  elements of compute_t<T> and, after them, of T that a lane's scratch holds
template <class B, class T, class F>
void for_each_lane(B& be, const AttentionStep<T, typename B::space>& step, index_t of_c,
                   index_t of_t, const F& functor) {
  be.for_each_row(
      step.q.extent(0) * step.q.extent(1),
      of_c * static_cast<index_t>(sizeof(compute_t<T>)) + of_t * static_cast<index_t>(sizeof(T)),
      functor);
}

}  // namespace srformer
