// SPDX-License-Identifier: Apache-2.0
// Bulletins: made-up local news in which every headline needs facts from the whole text.
//
// A bulletin holds eight facts, one of each kind below and each in a sentence of its own, among
// sentences without facts, all in random order. Its headline states the eight facts in the order
// of the kinds. So a decoder that reads the text segment by segment, front to back, seldom stands
// at the fact it is about to state, and has to have it from elsewhere.
//
// Everything follows from a seed by integer arithmetic alone: the same bytes on every platform.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <srformer/core/error.hpp>

#include "pairs.hpp"

namespace srformer::examples {

namespace bulletins {

/// What can be said of a name: in the headline, and in one of three sentences of the text. `*` stands
/// for the name.
struct Statement {
  std::string_view headline;
  std::array<std::string_view, 3> sentences;
};

/// A kind of fact: one of two statements about one of 16 names, which no other kind shares.
struct Kind {
  std::array<Statement, 2> statements;
  std::array<std::string_view, 16> names;
};

// clang-format off
inline constexpr std::array<Kind, 8> kinds{{
  {{{{"* ahead",   {"Forecasters expect * by night.", "Look for * tonight.", "The outlook is for *."}},
     {"* over",    {"The morning ended the *.", "At last the * has gone.", "Forecasters say the * is past."}}}},
   {"fog", "hail", "sleet", "drizzle", "thunder", "frost", "haze", "snow",
    "mist", "sunshine", "rain", "heat", "smog", "lightning", "slush", "dew"}},
  {{{{"* docks",   {"The freighter * docked at dawn.", "The * came into port.", "At the quay lies the *."}},
     {"* sails",   {"The freighter * sailed at noon.", "The * left port.", "Tugs took the * to sea."}}}},
   {"Aurora", "Minerva", "Halcyon", "Calypso", "Nereid", "Triton", "Meridian", "Pelican",
    "Galatea", "Orion", "Kestrel", "Valiant", "Corsair", "Mistral", "Polaris", "Sirocco"}},
  {{{{"* win",     {"The * won at home.", "Late goals gave the * the match.", "Fans cheered the *."}},
     {"* lose",    {"The * lost at home.", "Late goals cost the * the match.", "Fans mourned with the *."}}}},
   {"Harriers", "Falcons", "Rovers", "Tigers", "Hornets", "Saints", "Pilgrims", "Badgers",
    "Dragons", "Giants", "Knights", "Lions", "Otters", "Panthers", "Titans", "Eagles"}},
  {{{{"* up",      {"The price of * rose.", "Traders paid more for *.", "On the exchange * gained."}},
     {"* down",    {"The price of * fell.", "Traders paid less for *.", "On the exchange * slipped."}}}},
   {"copper", "wheat", "barley", "cotton", "coffee", "sugar", "zinc", "timber",
    "wool", "rubber", "cocoa", "rice", "silver", "maize", "coal", "steel"}},
  {{{{"* elected", {"Voters chose * as mayor.", "The council will be led by *.", "By a wide margin * won the vote."}},
     {"* resigns", {"Mayor * stepped down.", "The council must do without *.", "After a quarrel * gave up the office."}}}},
   {"Alder", "Brandt", "Castell", "Dunmore", "Fairfax", "Garland", "Hollis", "Jessop",
    "Keating", "Marlow", "Norwood", "Prescott", "Padgett", "Redfern", "Thorne", "Vickers"}},
  {{{{"* shut",    {"Road works have closed *.", "Drivers should avoid *.", "A burst main flooded *."}},
     {"* clear",   {"Road works have ended on *.", "Drivers can use * again.", "Traffic flows along *."}}}},
   {"Elmgate", "Foxhill", "Ashdown", "Birchway", "Cowley", "Fernside", "Goodwood", "Hillcrest",
    "Oakbridge", "Kingsway", "Larkfield", "Millbank", "Newbridge", "Overton", "Seabank", "Tollgate"}},
  {{{{"* opens",   {"The theatre opens with *.", "Tickets for * are on sale.", "A new staging of * begins."}},
     {"* closes",  {"The theatre cancelled *.", "Tickets for * will be refunded.", "The last night of * drew tears."}}}},
   {"Macbeth", "Hamlet", "Othello", "Faust", "Medea", "Electra", "Antigone", "Tartuffe",
    "Carmen", "Tosca", "Fidelio", "Parsifal", "Rigoletto", "Falstaff", "Turandot", "Nabucco"}},
  {{{{"* best",    {"Judges praised the *.", "First prize went to the *.", "Growers are proud of their *."}},
     {"* spoilt",  {"Blight ruined the *.", "Farmers fear for the *.", "Slugs have eaten the *."}}}},
   {"pumpkins", "marrows", "plums", "pears", "apples", "leeks", "cherries", "turnips",
    "peas", "beans", "onions", "carrots", "grapes", "melons", "figs", "walnuts"}},
}};

/// Sentences without a fact.
inline constexpr std::array<std::string_view, 16> fillers{
  "The library is open late.",    "Buses run as usual.",      "A lost dog was found.",      "The choir meets on Friday.",
  "The clock tower is dark.",     "A baker gave away bread.", "The museum has a new roof.", "Nobody was hurt.",
  "The pool is closed.",          "The band played outside.", "The post was late again.",   "Swans nested near the bridge.",
  "The bells rang for an hour.",  "More on this tomorrow.",   "The market hall was full.",  "A street lamp was mended."};

/// Sentences that name something without stating the fact its kind is about; of the kind given.
inline constexpr std::array<std::pair<std::size_t, std::string_view>, 4> distractors{{
  {1, "A model of the * is on show."},  {2, "A book about the * came out."},
  {4, "A street was named after *."},   {6, "A film of * is shown on Friday."}}};
// clang-format on

/// What a bulletin states: per kind a name and one of the two statements.
struct Fact {
  std::size_t name, statement;
};
using Facts = std::array<Fact, kinds.size()>;

/// The SplitMix64 finaliser (Steele, Lea and Flood, 2014).
constexpr std::uint64_t mix(std::uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

/// Random numbers that depend on (seed, stream) and their own ordinal alone.
class Draws {
 public:
  constexpr Draws(std::uint64_t seed, std::uint64_t stream) : key_(mix(mix(seed) ^ stream)) {}

  /// The next number of 0 .. n - 1.
  constexpr std::size_t below(std::size_t n) {
    return static_cast<std::size_t>(((mix(key_ + counter_++) >> 32) * n) >> 32);
  }

 private:
  std::uint64_t key_, counter_ = 0;
};

/// The split a combination of facts belongs to, in every data set of every seed: of sixteen, one to
/// validation and one to test.
constexpr Split split_of(const Facts& facts) {
  std::uint64_t hash = 0;
  for (const Fact& fact : facts) hash = mix(hash ^ (2 * fact.name + fact.statement));
  const std::uint64_t part = hash % 16;
  return part == 0 ? Split::validation : part == 1 ? Split::test : Split::train;
}

inline std::string fill_in(std::string_view pattern, std::string_view name) {
  std::string text(pattern);
  const std::size_t star = text.find('*');
  if (star != std::string::npos) text.replace(star, 1, name);
  return text;
}

inline Facts draw_facts(Split split, Draws& draws) {
  for (;;) {
    Facts facts;
    for (Fact& fact : facts) {
      fact = {draws.below(kinds[0].names.size()), draws.below(kinds[0].statements.size())};
    }
    if (split_of(facts) == split) return facts;
  }
}

/// "fog ahead; Aurora docks; Harriers win; ...".
inline std::string headline(const Facts& facts) {
  std::string text;
  for (std::size_t k = 0; k < kinds.size(); ++k) {
    if (k > 0) text += "; ";
    text +=
        fill_in(kinds[k].statements[facts[k].statement].headline, kinds[k].names[facts[k].name]);
  }
  return text;
}

}  // namespace bulletins

/// Bulletin `index` of a split: `sentences` short sentences in random order and their headline.
///
/// `sentences` is at least 8, the number of facts; the others state none, and one in sixteen of those
/// names something all the same. No combination of facts is in two splits.
inline Pair make_bulletin(std::uint64_t seed, Split split, std::uint64_t index,
                          std::size_t sentences) {
  using namespace bulletins;
  require(sentences >= kinds.size(), "make_bulletin",
          "sentences is " + std::to_string(sentences) + ", expected at least one per fact, " +
              std::to_string(kinds.size()));
  Draws draws(seed, 4 * index + static_cast<std::uint64_t>(split));
  const Facts facts = draw_facts(split, draws);

  std::vector<std::string> parts;
  for (std::size_t k = 0; k < kinds.size(); ++k) {
    const auto& patterns = kinds[k].statements[facts[k].statement].sentences;
    parts.push_back(fill_in(patterns[draws.below(patterns.size())], kinds[k].names[facts[k].name]));
  }
  std::size_t filler = draws.below(fillers.size());
  while (parts.size() < sentences) {
    if (draws.below(16) == 0) {
      const auto& [kind, pattern] = distractors[draws.below(distractors.size())];
      parts.push_back(fill_in(pattern, kinds[kind].names[draws.below(kinds[kind].names.size())]));
    } else {
      parts.emplace_back(fillers[filler]);
      filler = (filler + 1) % fillers.size();
    }
  }
  for (std::size_t i = parts.size(); i > 1; --i) std::swap(parts[i - 1], parts[draws.below(i)]);

  std::string text;
  for (const std::string& part : parts) text += (text.empty() ? "" : " ") + part;
  return {std::move(text), headline(facts)};
}

/// The first `count` bulletins of a split.
inline std::vector<Pair> make_bulletins(std::uint64_t seed, Split split, std::size_t count,
                                        std::size_t sentences) {
  std::vector<Pair> pairs;
  pairs.reserve(count);
  for (std::size_t i = 0; i < count; ++i) {
    pairs.push_back(make_bulletin(seed, split, i, sentences));
  }
  return pairs;
}

}  // namespace srformer::examples
