// SPDX-License-Identifier: Apache-2.0
// Initial values of parameters. Each has a stream of its own, named by a hash of its name, so that the
// same seed gives the same values whatever else a model has.
#pragma once

#include <cstdint>
#include <vector>

#include <srformer/core/random.hpp>
#include <srformer/models/parameters.hpp>

namespace srformer {

namespace detail {

template <class B, class T, class F>
void fill_with(B& be, Parameter<B, T>& p, const RandomStream& random, F value) {
  std::uint64_t hash = 0xCBF29CE484222325ULL;  // FNV-1a
  for (const char c : p.name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001B3ULL;
  const RandomStream own = random.substream(hash);
  std::vector<T> values(static_cast<std::size_t>(p.count));
  for (std::size_t i = 0; i < values.size(); ++i)
    values[i] = T(static_cast<compute_t<T>>(value(own, i)));
  be.from_host(p.value, values.data(), p.count);
}

}  // namespace detail

/// Values uniform in [-bound, bound).
template <class B, class T>
void fill_uniform(B& be, Parameter<B, T>& p, const RandomStream& random, double bound) {
  detail::fill_with(be, p, random, [=](const RandomStream& r, std::uint64_t i) {
    return bound * (2 * uniform(r, i) - 1);
  });
}

/// `value` on the diagonal of a matrix, and 0 elsewhere.
template <class B, class T>
void fill_diagonal(B& be, Parameter<B, T>& p, double value) {
  const index_t columns = p.shape.back();
  std::vector<T> values(static_cast<std::size_t>(p.count), T(static_cast<compute_t<T>>(0.0)));
  for (index_t i = 0; i < p.count; i += columns + 1)
    values[static_cast<std::size_t>(i)] = T(static_cast<compute_t<T>>(value));
  be.from_host(p.value, values.data(), p.count);
}

/// Normal values of mean 0.
template <class B, class T>
void fill_normal(B& be, Parameter<B, T>& p, const RandomStream& random, double deviation) {
  detail::fill_with(be, p, random, [=](const RandomStream& r, std::uint64_t i) {
    return deviation * normal(r, i);
  });
}

/// The values with which the parameter begins.
template <class B, class T>
void initialize(B& be, Parameter<B, T>& p, const RandomStream& random) {
  if (p.initial.kind == Initial::Kind::normal)
    fill_normal(be, p, random, p.initial.value);
  else
    be.fill(p.value, p.count, T(static_cast<compute_t<T>>(p.initial.value)));
  if (const index_t row = p.initial.zero_row; row >= 0) {
    const index_t columns = p.shape.back();
    be.fill(p.value + row * columns, columns, T(static_cast<compute_t<T>>(0.0)));
  }
}

}  // namespace srformer
