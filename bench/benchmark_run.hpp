// SPDX-License-Identifier: Apache-2.0
// A Google Benchmark program whose rows report FLOP/s, bytes/s and the share of a large product's rate.
#pragma once

#include <benchmark/benchmark.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <functional>
#include <srformer/backend/eigen.hpp>
#include <string>

#include "product_rate.hpp"

namespace srformer::bench {

/// One benchmark while it runs.
struct Timing {
  EigenBackend& be;
  benchmark::State& state;
  double rate;

  /// Float32 numbers between -1 and 1.
  template <std::size_t Rank>
  auto made(const std::array<index_t, Rank>& shape) const {
    index_t count = 1;
    for (const index_t extent : shape) count *= extent;
    std::vector<float> x(static_cast<std::size_t>(count));
    for (index_t i = 0; i < count; ++i) x[i] = static_cast<float>(i * 7919 % 2001 - 1000) / 1000;
    return from_host<float, static_cast<int>(Rank)>(be, shape, x);
  }

  /// Times f.
  ///   flop   of one call; each addition, multiplication, comparison and function counts once
  ///   bytes  that one call reads and writes, were everything touched once
  template <class F>
  void of(double flop, double bytes, F f) const {
    const double start = now();
    for (auto _ : state) f();
    const double calls_a_second = static_cast<double>(state.iterations()) / (now() - start);
    state.counters["FLOP/s"] = flop * calls_a_second;
    state.counters["bytes/s"] = bytes * calls_a_second;
    state.counters["peak"] = flop * calls_a_second / rate;
  }
};

/// The flags of Google Benchmark and --threads; the product is measured once, before all else.
class BenchmarkRun {
 public:
  BenchmarkRun(const char* title, int argc, char** argv) {
    benchmark::Initialize(&argc, argv);
    CLI::App app(title);
    int threads = 0;
    app.add_option("--threads", threads, "Threads; 0: all");
    try {
      app.parse(argc, argv);
    } catch (const CLI::ParseError& error) {
      std::exit(app.exit(error));
    }
    backend_ = std::make_unique<EigenBackend>(threads);
    rate_ = product_rate(*backend_);
    benchmark::AddCustomContext("threads of the backend", std::to_string(backend_->threads()));
    benchmark::AddCustomContext("GFLOP/s of 1024x2048x512", std::to_string(rate_ / 1e9));
  }

  void add(const std::string& name, const std::function<void(const Timing&)>& f) {
    benchmark::RegisterBenchmark(name.c_str(),
                                 [f, this](benchmark::State& state) {
                                   f({*backend_, state, rate_});
                                 })
        ->UseRealTime()
        ->Unit(benchmark::kMillisecond);
  }

  void run() { benchmark::RunSpecifiedBenchmarks(); }

 private:
  std::unique_ptr<EigenBackend> backend_;
  double rate_ = 0;
};

}  // namespace srformer::bench
