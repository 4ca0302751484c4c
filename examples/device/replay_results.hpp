// SPDX-License-Identifier: Apache-2.0
// What replay writes: results by name, as float64 or float32, and token ids.
#pragma once

#include <filesystem>
#include <map>
#include <srformer/io/safetensors.hpp>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace srformer {

namespace detail {

/// What results are written in: float64 from double, else float32.
template <class T>
using replayed_t = std::conditional_t<std::is_same_v<T, double>, double, float>;

template <class T>
std::vector<replayed_t<T>> replayed(const std::vector<T>& values) {
  std::vector<replayed_t<T>> wide;
  for (const T& value : values) wide.push_back(static_cast<replayed_t<T>>(value));
  return wide;
}

/// Results by name, in memory until they are written.
template <class T>
class ReplayResults {
 public:
  void add(const std::string& name, std::vector<index_t> shape, const std::vector<T>& values) {
    values_[name] = {std::move(shape), replayed(values)};
  }
  void add_ids(const std::string& name, const std::vector<std::vector<std::int32_t>>& rows,
               std::int32_t pad) {
    std::size_t width = 0;
    for (const auto& row : rows) width = std::max(width, row.size());
    std::vector<std::int64_t> ids;
    for (const auto& row : rows) {
      ids.insert(ids.end(), row.begin(), row.end());
      ids.insert(ids.end(), width - row.size(), pad);
    }
    ids_[name] = {{static_cast<index_t>(rows.size()), static_cast<index_t>(width)}, std::move(ids)};
  }
  void write(const std::filesystem::path& path) const {
    SafetensorsWriter writer;
    for (const auto& [name, v] : values_)
      writer.add(name, *dtype_of<replayed_t<T>>, v.first, std::span<const replayed_t<T>>(v.second));
    for (const auto& [name, v] : ids_)
      writer.add_ids(name, v.first, std::span<const std::int64_t>(v.second));
    writer.write(path);
  }

 private:
  std::map<std::string, std::pair<std::vector<index_t>, std::vector<replayed_t<T>>>> values_;
  std::map<std::string, std::pair<std::vector<index_t>, std::vector<std::int64_t>>> ids_;
};

}  // namespace detail

}  // namespace srformer
