// SPDX-License-Identifier: Apache-2.0
// A list of cross-attentions behind one call, of which options choose one at run time.
//
//   using Mine = Variants<Full, SegmentedRecurrent, SlidingWindow>;
//   const auto options = Mine::Options::of<SlidingWindow>({.window = 64});
//   Mine::forward(be, {q, k, v, context}, learned, options, saved, out);
//
// attention/variant.hpp says what a variant is. PaperVariants are the six of the paper:
//
//   full                 attention/full.hpp
//   segmented            attention/segmented.hpp
//   segmented_recurrent  attention/segmented_recurrent.hpp, with the ablations
//   transformer_xl       attention/transformer_xl.hpp
//   global_tokens        attention/global_tokens.hpp
//   linear               attention/linear.hpp
#pragma once

#include <variant>

#include <srformer/attention/global_tokens.hpp>
#include <srformer/attention/linear.hpp>
#include <srformer/attention/segmented_recurrent.hpp>
#include <srformer/attention/transformer_xl.hpp>

namespace srformer {

namespace detail {

// What the compiler says of a struct that is no variant: one sentence for each thing that is missing.

struct VisitNothing {
  constexpr void operator()(const auto&, auto&) const {}
};

template <class V>
concept HasName = requires {
  { V::name } -> std::convertible_to<std::string_view>;
};
template <class V>
concept HasOptions = requires(typename V::Options& options) {
  V::Options::visit(options, VisitNothing{});
};
template <class V>
concept HasParameters = requires(typename V::template Parameters<double>& p,
                                 const typename V::Options& o) {
  V::template Parameters<double>::visit(p, o, HeadSizes{}, VisitNothing{});
};

template <class V>
struct IsVariant {
  static_assert(HasName<V>, "a variant has a static constexpr std::string_view name");
  static_assert(
      HasOptions<V>,
      "a variant has Options, an aggregate with a static constexpr visit(options, f); NoOptions "
      "where it has none");
  static_assert(HasParameters<V>,
                "a variant has Parameters<T> with a static visit(parameters, options, sizes, f); "
                "NothingLearned<T> where it learns nothing");
  static constexpr bool value = true;
};

// The same of what it computes, for one backend and scalar.

template <class V, class B, class T>
concept HasForward = requires(B& be, const AttentionInputs<B, T>& in,
                              const typename V::template Parameters<const T>& p,
                              const typename V::Options& o, typename V::template Saved<B, T>& saved,
                              Out<B, T, 4> out) {
  V::template forward<B, T>(be, in, p, o, saved, out);
};
template <class V, class B, class T>
concept HasBackward = requires(B& be, const AttentionInputs<B, T>& in,
                               const typename V::template Parameters<const T>& p,
                               const typename V::Options& o,
                               const typename V::template Saved<B, T>& saved,
                               const AttentionGradients<B, T>& d,
                               const typename V::template Parameters<T>& d_p) {
  V::template backward<B, T>(be, in, p, o, saved, d, d_p);
};
template <class V, class B, class T>
concept HasSteps = requires(B& be, const AttentionInputs<B, T>& in,
                            const AttentionStep<T, typename B::space>& step,
                            const typename V::template Parameters<const T>& p,
                            const typename V::Options& o,
                            const typename V::template Prepared<B, T>& prepared) {
  { V::template prepare<B, T>(be, in, p, o) } -> std::same_as<typename V::template Prepared<B, T>>;
  V::template step<B, T>(be, step, p, o, prepared);
};

/// Whether V says how many states of its recurrence fired, which it may leave out.
template <class V, class B, class T>
concept CountsFiring = requires(B& be, const AttentionInputs<B, T>& in,
                                const typename V::template Parameters<const T>& p,
                                const typename V::Options& o) {
  { V::fires(o) } -> std::same_as<bool>;
  { V::template count_firing<B, T>(be, in, p, o) } -> std::same_as<FiringCount>;
};

constexpr bool same_names(std::span<const std::string_view> a,
                          std::span<const std::string_view> b) {
  if (a.size() != b.size()) return false;
  for (std::size_t i = 0; i < a.size(); ++i)
    if (a[i] != b[i]) return false;
  return true;
}

/// Whether options of the same name are the same option.
template <class V, class W>
constexpr bool options_agree() {
  for (const OptionEntry& a : option_entries<V>)
    for (const OptionEntry& b : option_entries<W>)
      if (a.info.name == b.info.name &&
          (a.kind != b.kind || a.info.range != b.info.range || a.info.help != b.info.help ||
           !same_names(a.choices, b.choices)))
        return false;
  return true;
}

template <class V, class... Vs>
constexpr bool agrees_with = (options_agree<V, Vs>() && ...);

template <class V, class... Vs>
constexpr bool named_once = ((V::name == Vs::name ? 1 : 0) + ...) == 1;

template <class K>
void check_step(const char* function, const K& q, const K& k, const K& v,
                const std::int32_t* sources, const auto& out) {
  require(q.size() > 0 && k.size() > 0, function, "q and k may not be empty");
  check_shape(function, "k", "[B,H,N,D]", k.extents,
              std::array{k.extent(0), q.extent(1), k.extent(2), q.extent(3)});
  check_shape(function, "v", "[B,H,N,D]", v.extents, k.extents);
  check_shape(function, "out", "[G,H,K,D]", out.extents, q.extents);
  require(sources != nullptr || q.extent(0) == k.extent(0), function,
          std::to_string(q.extent(0)) + " groups for " + std::to_string(k.extent(0)) +
              " sources, and nothing says which belongs to which");
  require(q.stride(3) == 1 && k.stride(3) == 1 && v.stride(3) == 1 && out.stride(3) == 1, function,
          "the last axis of q, k, v and out must be contiguous");
}

template <class M>
using option_value = std::conditional_t<std::is_integral_v<M> && !std::is_same_v<M, bool>, index_t,
                                        std::conditional_t<std::is_floating_point_v<M>, double, M>>;

/// What belongs to a variant, as a type of its own for each variant.
template <class V, class Of>
struct Belonging {
  using variant = V;
  Of of{};
};

}  // namespace detail

/// A variant as run-time code sees it: for flags, configurations and documents.
struct VariantDescription {
  std::string_view name;
  std::span<const OptionEntry> options;
  std::vector<std::string> learned;  ///< names of the parameters that some options have

  bool has_option(std::string_view option) const {
    for (const OptionEntry& o : options)
      if (o.info.name == option) return true;
    return false;
  }
};

template <class... Vs>
struct Variants {
  static_assert(sizeof...(Vs) > 0, "a list of variants has one at least");
  static_assert((detail::IsVariant<Vs>::value && ...));
  static_assert((detail::named_once<Vs, Vs...> && ...),
                "every variant of a list has a name of its own");
  static_assert(
      (detail::agrees_with<Vs, Vs...> && ...),
      "options of the same name in several variants of a list must have the same type, range, "
      "choices and help");

  template <class V>
  static constexpr bool has = (std::is_same_v<V, Vs> || ...);

  /// One variant and its options; by default the first of the list.
  class Options {
   public:
    using variants = Variants;

    Options() = default;

    /// The variant V with these options.
    template <class V>
    requires has<V>
    static Options of(const typename V::Options& options = {}) {
      Options chosen;
      chosen.chosen_ = detail::Belonging<V, typename V::Options>{options};
      return chosen;
    }

    /// The variant of this name with its own defaults; shape_error for one that is not in the list.
    static Options named(std::string_view name) {
      Options chosen;
      if (!((name == Vs::name && (chosen = of<Vs>(), true)) || ...))
        throw shape_error("cross attention: \"" + std::string(name) + "\" is not one of " +
                          names());
      return chosen;
    }

    std::string_view name() const {
      return visit([](auto variant, const auto&) { return decltype(variant)::name; });
    }
    template <class V>
    bool is() const {
      return get_if<V>() != nullptr;
    }
    /// The options of V, or null where another variant is chosen.
    template <class V>
    const typename V::Options* get_if() const {
      const auto* found = std::get_if<detail::Belonging<V, typename V::Options>>(&chosen_);
      return found == nullptr ? nullptr : &found->of;
    }

    /// f(V{}, options) of the chosen variant.
    template <class F>
    decltype(auto) visit(F&& f) const {
      return std::visit(
          [&]<class V, class O>(const detail::Belonging<V, O>& c) -> decltype(auto) {
            return f(V{}, c.of);
          },
          chosen_);
    }

    /// f(OptionInfo, member) of every option of the chosen variant.
    template <class F>
    void visit_options(F&& f) {
      std::visit([&](auto& c) { decltype(c.of)::visit(c.of, f); }, chosen_);
    }
    template <class F>
    void visit_options(F&& f) const {
      std::visit([&](const auto& c) { std::remove_cvref_t<decltype(c.of)>::visit(c.of, f); },
                 chosen_);
    }

    /// The option of this name, or `otherwise` where the chosen variant has none of that name and type. Integers
    /// of any width are index_t.
    template <class M>
    detail::option_value<M> value_or(std::string_view option, M otherwise) const {
      detail::option_value<M> value = otherwise;
      visit_options([&]<class N>(const OptionInfo& info, const N& member) {
        if constexpr (std::is_same_v<detail::option_value<M>, N>)
          if (info.name == option) value = member;
      });
      return value;
    }
    /// Sets the option of this name and type where the chosen variant has it; whether it has.
    template <class M>
    bool set(std::string_view option, M value) {
      bool found = false;
      visit_options([&]<class N>(const OptionInfo& info, N& member) {
        if constexpr (std::is_same_v<detail::option_value<M>, N>)
          if (info.name == option) member = value, found = true;
      });
      return found;
    }

    /// The same with the horizon of decoding: `horizon`, or where that is 0 the option generation_horizon.
    Options for_generation(index_t horizon) const {
      Options o = *this;
      if (horizon <= 0) horizon = value_or<index_t>("generation_horizon", 0);
      o.set("horizon", horizon);
      return o;
    }

   private:
    std::variant<detail::Belonging<Vs, typename Vs::Options>...> chosen_;
  };

  /// What forward keeps for backward.
  template <class B, class T>
  using Saved = std::variant<detail::Belonging<Vs, typename Vs::template Saved<B, T>>...>;

  /// What decoding needs of a batch of sources: keys and values, the options with the horizon of decoding,
  /// and what the variant computed from them.
  template <class B, class T>
  struct Prepared {
    Tensor<B, T, 4> keys, values;  ///< [B,H,N,D]
    Options options;
    std::variant<detail::Belonging<Vs, typename Vs::template Prepared<B, T>>...> of;
  };

  /// "full, segmented, ..."
  static std::string names() {
    std::string all;
    ((all += (all.empty() ? "" : ", ") + std::string(Vs::name)), ...);
    return all;
  }

  static std::vector<VariantDescription> describe() { return {description<Vs>()...}; }

  /// f(LearnedInfo) for every parameter that a layer of these options learns.
  template <class F>
  static void visit_learned(const Options& options, const HeadSizes& sizes, F&& f) {
    options.visit([&]<class V>(V, const typename V::Options& o) {
      typename V::template Parameters<double> none{};
      V::template Parameters<double>::visit(none, o, sizes, [&](const LearnedInfo& info, auto&) {
        if (info.present) f(info);
      });
    });
  }

  /// out = the cross-attention that `options` choose, and what its backward needs. Errors and cost are those
  /// of the variant.
  ///   learned  the parameters in the order of visit_learned
  template <class B, class T>
  static void forward(B& be, const AttentionInputs<B, T>& in,
                      const std::type_identity_t<LearnedPointers<const T>>& learned,
                      const Options& options, Saved<B, T>& saved, Out<B, T, 4> out) {
    options.visit([&]<class V>(V, const typename V::Options& o) {
      static_assert(
          detail::HasForward<V, B, T>,
          "a variant has a static forward<B, T>(be, in, parameters, options, saved, out)");
      using S = detail::Belonging<V, typename V::template Saved<B, T>>;
      if constexpr (detail::HasForward<V, B, T>)
        V::template forward<B, T>(be, in, parameters<V>(o, learned), o,
                                  saved.template emplace<S>().of, out);
    });
  }

  /// Adds to the gradients of q, k, v and of the learned parameters, of which those that are null, or all
  /// where d_learned is empty, are left out.
  template <class B, class T>
  static void backward(B& be, const AttentionInputs<B, T>& in,
                       const std::type_identity_t<LearnedPointers<const T>>& learned,
                       const Options& options, const Saved<B, T>& saved,
                       const AttentionGradients<B, T>& d,
                       const std::type_identity_t<LearnedPointers<T>>& d_learned) {
    options.visit([&]<class V>(V, const typename V::Options& o) {
      static_assert(detail::HasBackward<V, B, T>,
                    "a variant has a static backward<B, T>(be, in, parameters, options, saved, d, "
                    "d_parameters)");
      using S = detail::Belonging<V, typename V::template Saved<B, T>>;
      require(std::holds_alternative<S>(saved), "Variants::backward",
              "what was saved is of another variant than the options choose");
      if constexpr (detail::HasBackward<V, B, T>)
        V::template backward<B, T>(be, in, parameters<V>(o, learned), o, std::get<S>(saved).of, d,
                                   parameters<V>(o, d_learned));
    });
  }

  /// Prepares decoder steps over sources.
  ///   keys, values  [B,H,N,D], which the result keeps
  /// Cost that of the source's part of the forward.
  template <class B, class T>
  static Prepared<B, T> prepare(B& be, Tensor<B, T, 4> keys, Tensor<B, T, 4> values,
                                const AttendContext<compute_t<T>, typename B::space>& context,
                                const std::type_identity_t<LearnedPointers<const T>>& learned,
                                const Options& options, const DecodePlan& plan) {
    Prepared<B, T> prepared{
        std::move(keys), std::move(values), options.for_generation(plan.horizon), {}};
    const View<const T, 4, typename B::space> k = prepared.keys, v = prepared.values;
    const AttentionInputs<B, T> in{
        {nullptr, {k.extent(0), k.extent(1), plan.steps, k.extent(3)}}, k, v, context};
    prepared.options.visit([&]<class V>(V, const typename V::Options& o) {
      static_assert(
          detail::HasSteps<V, B, T>,
          "a variant has a static prepare<B, T>(be, in, parameters, options) that returns "
          "Prepared<B, T>, and a static step<B, T>(be, step, parameters, options, prepared)");
      using P = detail::Belonging<V, typename V::template Prepared<B, T>>;
      if constexpr (detail::HasSteps<V, B, T>)
        prepared.of.template emplace<P>(
            P{V::template prepare<B, T>(be, in, parameters<V>(o, learned), o)});
    });
    return prepared;
  }

  /// Whether the variant has a recurrence whose states count_firing counts, with these options.
  template <class B, class T>
  static bool fires(const Options& options) {
    return options.visit([]<class V>(V, const typename V::Options& o) {
      if constexpr (detail::CountsFiring<V, B, T>) return V::fires(o);
      return false;
    });
  }

  /// How many states of the variant's recurrence are above their threshold; none where `fires` says that it has none.
  /// Arguments, errors and cost as those of SegmentedRecurrent::count_firing.
  template <class B, class T>
  static FiringCount count_firing(B& be, const AttentionInputs<B, T>& in,
                                  const std::type_identity_t<LearnedPointers<const T>>& learned,
                                  const Options& options) {
    return options.visit([&]<class V>(V, const typename V::Options& o) -> FiringCount {
      if constexpr (detail::CountsFiring<V, B, T>)
        if (V::fires(o))
          return V::template count_firing<B, T>(be, in, parameters<V>(o, learned), o);
      return {};
    });
  }

  /// out = the cross-attention of a decoder step: K rows of each of G groups.
  ///   q, out   [G,H,K,D], last axes contiguous
  template <class B, class T>
  static void step(B& be, In<B, T, 4> q,
                   const AttendContext<compute_t<T>, typename B::space>& context,
                   const std::type_identity_t<LearnedPointers<const T>>& learned,
                   const Prepared<B, T>& prepared, const DecodeAt& at, Out<B, T, 4> out) {
    const View<const T, 4, typename B::space> k = prepared.keys, v = prepared.values;
    detail::check_step("Variants::step", q, k, v, at.sources, out);
    AttentionStep<T, typename B::space> in{q, k, v, out, context, at.sources, at.step};
    in.context.mask.query_offset = at.step;
    in.context.mask.dense.strides[2] = 0;  // all queries are at the row of the first
    prepared.options.visit([&]<class V>(V, const typename V::Options& o) {
      using P = detail::Belonging<V, typename V::template Prepared<B, T>>;
      if constexpr (detail::HasSteps<V, B, T>)
        V::template step<B, T>(be, in, parameters<V>(o, learned), o, std::get<P>(prepared.of).of);
    });
  }

 private:
  template <class V>
  static VariantDescription description() {
    VariantDescription d{V::name, option_entries<V>, {}};
    typename V::template Parameters<double> none{};
    V::template Parameters<double>::visit(
        none, typename V::Options{}, HeadSizes{},
        [&](const LearnedInfo& info, auto&) { d.learned.emplace_back(info.name); });
    return d;
  }

  /// The pointers as the variant has them.
  template <class V, class T>
  static typename V::template Parameters<T> parameters(const typename V::Options& options,
                                                       const LearnedPointers<T>& learned) {
    typename V::template Parameters<T> p{};
    std::size_t present = 0;
    V::template Parameters<T>::visit(p, options, HeadSizes{},
                                     [&](const LearnedInfo& info, T*& member) {
                                       if (!info.present) return;
                                       if (present < learned.count) member = learned.at[present];
                                       ++present;
                                     });
    // gradients may be left out
    require(learned.count == present || (learned.count == 0 && !std::is_const_v<T>), V::name,
            std::to_string(learned.count) + " learned parameters were given, the options have " +
                std::to_string(present));
    return p;
  }
};

/// The variants of the paper, of which config.json names one.
using PaperVariants =
    Variants<Full, Segmented, SegmentedRecurrent, TransformerXl, GlobalTokens, Linear>;

}  // namespace srformer
