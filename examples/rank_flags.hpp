// SPDX-License-Identifier: Apache-2.0
// The flags of a run on several ranks, and what each of them gets of its machine.
#pragma once

#include <algorithm>
#include <cstdio>
#include <initializer_list>
#include <srformer/backend/eigen.hpp>
#include <srformer/train/same_settings.hpp>
#include <string>
#include <vector>

#include "device/device.hpp"
#include "device/rank_communicator.hpp"
#include "ranks.hpp"

namespace srformer::program {

struct RankFlags {
  int zero = 0;
  double timeout = 1800;

  void add_to(CLI::App& app) {
    app.add_option("--zero", zero,
                   "1: each rank keeps the optimizer's state of its share of the parameters alone")
        ->capture_default_str()
        ->check(CLI::IsMember({0, 1}));
    app.add_option("--ddp_timeout", timeout,
                   "Seconds after which a rank that keeps the others waiting ends the run")
        ->capture_default_str()
        ->check(CLI::Range(1.0, 1e9));
  }

  /// Gives this rank its threads or its device, and watches it from now on. All ranks call it.
  void share(Ranks& ranks, DeviceFlags& device) const {
    if (!ranks.several()) return;
    if (device.device == "cuda") {
      device.number = ranks.local_rank();
    } else if (device.device != "thrust-cpp") {
      std::string notice;
      device.threads = threads_of_rank(ranks, device.threads, process_environment, notice);
      if (!notice.empty()) print_notice(notice);
    }
    ranks.use_threads(std::max(device.threads, 1));
    ranks.watch(timeout);
  }
};

/// All flags of a program with what they come to, or nothing where they were left out.
inline Settings flags_of(const CLI::App& app) {
  Settings flags;
  for (const CLI::Option* option : app.get_options()) {
    std::string value;
    for (const std::string& word :
         option->count() > 0 ? option->reduced_results() : std::vector<std::string>())
      value += (value.empty() ? "" : " ") + word;
    if (option->count() == 0) value = option->get_default_str();
    flags.emplace_back(option->get_name(), value);
  }
  return flags;
}

/// What one set of examples is told from another by.
inline std::string examples_text(const Examples& examples) {
  char text[64];
  std::snprintf(text, sizeof text, "%td examples (%016llx)", examples.size(),
                static_cast<unsigned long long>(examples.fingerprint()));
  return text;
}

/// Throws shape_error, which names the setting and the ranks, where they differ. All ranks call it.
inline void require_alike(Ranks& ranks, const Settings& settings) {
  if (!ranks.several()) return;
  RankCommunicator communicator(ranks);
  EigenBackend host(1);
  require_same_settings(communicator, host, settings);
}

/// Throws usage_error for standard input, which mpirun hands to rank 0 alone.
inline void refuse_standard_input(const Ranks& ranks,
                                  std::initializer_list<const std::vector<std::string>*> files) {
  if (!ranks.several()) return;
  for (const auto* names : files)
    if (std::ranges::find(*names, "-") != names->end())
      throw usage_error(
          "standard input (-) is that of one rank; give a file that all ranks can read");
}

}  // namespace srformer::program
