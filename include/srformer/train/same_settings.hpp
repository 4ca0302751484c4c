// SPDX-License-Identifier: Apache-2.0
// Whether all ranks were started alike, before they wait for each other: one that has another batch size or other data would
// end in sums of what does not belong together, or never.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <srformer/backend/tensor.hpp>
#include <srformer/core/hash.hpp>
#include <srformer/core/utf8.hpp>
#include <srformer/train/communicator.hpp>

namespace srformer {

/// Names and values, in the order that every rank lists them in.
using Settings = std::vector<std::pair<std::string, std::string>>;

namespace detail {

/// Adds the hash of a text as two numbers of 32 bits, which doubles hold exactly.
inline void add_text_hash(std::string_view text, std::vector<double>& numbers) {
  const std::uint64_t hash = text_hash(text);
  numbers.push_back(static_cast<double>(hash >> 32));
  numbers.push_back(static_cast<double>(hash & 0xFFFFFFFFu));
}

/// numbers [n] of every rank: [ranks, n] on the host of each.
template <class C, class B>
std::vector<double> numbers_of_all(C& comm, B& be, const std::vector<double>& numbers) {
  const index_t n = std::ssize(numbers);
  auto all = zeros<double, 1>(be, {n * comm.size()});
  be.from_host(all.data() + n * comm.rank(), numbers.data(), n);
  std::vector<ArrayRange> shares;
  for (int r = 0; r < comm.size(); ++r) shares.push_back({n * r, n});
  all_gather(comm, be, all.data(), shares);
  return to_host(be, all);
}

/// The text of rank `root` on every rank, of which up to `most` bytes are sent.
template <class C, class B>
std::string text_of_rank(C& comm, B& be, std::string text, int root, std::size_t most) {
  text.resize(std::min(text.size(), most));
  std::vector<double> bytes(most, 0.0);
  for (std::size_t i = 0; i < text.size(); ++i) bytes[i] = static_cast<unsigned char>(text[i]) + 1;
  auto sent = from_host<double, 1>(be, {std::ssize(bytes)}, bytes);
  comm.broadcast(be, sent.data(), std::ssize(bytes), root);
  std::string received;
  for (const double byte : to_host(be, sent))
    if (byte > 0) received += static_cast<char>(static_cast<unsigned char>(byte - 1));
  return received;
}

/// "rank 3", or "ranks 1, 3 and 12 more".
inline std::string ranks_text(const std::vector<int>& ranks) {
  constexpr std::size_t shown = 6;
  std::string text = ranks.size() == 1 ? "rank " : "ranks ";
  for (std::size_t i = 0; i < std::min(shown, ranks.size()); ++i)
    text += (i > 0 ? ", " : "") + std::to_string(ranks[i]);
  if (ranks.size() > shown) text += " and " + std::to_string(ranks.size() - shown) + " more";
  return text;
}

/// Those of `ranks` ranks whose numbers [first, first + count) of `each` are not those of rank 0.
inline std::vector<int> differing_ranks(const std::vector<double>& all, std::size_t each,
                                        std::size_t first, std::size_t count) {
  std::vector<int> differing;
  const auto same = [](double a, double b) { return a == b || (std::isnan(a) && std::isnan(b)); };
  for (std::size_t r = 0; r * each < all.size(); ++r)
    for (std::size_t i = first; i < first + count; ++i)
      if (!same(all[r * each + i], all[i])) {
        differing.push_back(static_cast<int>(r));
        break;
      }
  return differing;
}

}  // namespace detail

/// Throws shape_error on every rank, with the same message, where ranks differ in a setting: its name, the ranks that have
/// another value than rank 0, and two of the values. All ranks call it at the same time. Cost: two numbers for each setting
/// are gathered.
template <class C, class B>
requires Communicator<C, B, double>
void require_same_settings(C& comm, B& be, const Settings& settings) {
  if (comm.size() == 1) return;
  std::string names;
  std::vector<double> hashes, hash_of_names;
  for (const auto& [name, value] : settings) {
    names += name + '\n';
    detail::add_text_hash(value, hashes);
  }
  detail::add_text_hash(names, hash_of_names);
  const std::vector<double> lists = detail::numbers_of_all(comm, be, hash_of_names);
  if (const auto ranks = detail::differing_ranks(lists, 2, 0, 2); !ranks.empty())
    throw shape_error(
        detail::ranks_text(ranks) +
        ": the settings have other names than those of rank 0; start the same program "
        "with the same flags on all ranks");
  const std::vector<double> values = detail::numbers_of_all(comm, be, hashes);
  for (std::size_t i = 0; i < settings.size(); ++i) {
    const auto ranks = detail::differing_ranks(values, hashes.size(), 2 * i, 2);
    if (ranks.empty()) continue;
    constexpr std::size_t most = 200;
    const auto value = [&](int rank) {
      return one_line(detail::text_of_rank(comm, be, settings[i].second, rank, most));
    };
    const std::string theirs = value(ranks.front()), first = value(0);
    throw shape_error(detail::ranks_text(ranks) + ": " + settings[i].first + " is \"" + theirs +
                      "\", and on rank 0 it is \"" + first +
                      "\"; start all ranks with the same settings");
  }
}

}  // namespace srformer
