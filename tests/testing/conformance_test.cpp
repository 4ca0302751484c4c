// SPDX-License-Identifier: Apache-2.0
// Our backends and scalars conform; each broken one is refused, by the name of what is broken.
#include <Eigen/Core>
#include <srformer/core/dual.hpp>
#include <srformer/testing/conformance.hpp>
#include <thread>

#include "support/backends.hpp"
#include "support/catch.hpp"

using namespace srformer;

namespace {

void require_conforms(const ConformanceReport& report, std::size_t checks) {
  INFO(report.text());
  REQUIRE(report.ok());
  REQUIRE(report.checks.size() == checks);
}

/// What is wrong with a broken backend: one name and a part of its fault.
template <class T = double, class B>
void require_refused(B& be, const std::string& check, const std::string& fault) {
  const ConformanceReport report = check_backend<T>(be);
  INFO(report.text());
  REQUIRE_FALSE(report.ok());
  REQUIRE(report.failures.size() == 1);
  CHECK(report.failures[0].check == check);
  CHECK_THAT(report.failures[0].fault, Catch::Matchers::ContainsSubstring(fault));
}

struct NullWhenEmpty : EigenBackend {
  template <class T>
  T* allocate(index_t n) {
    return n == 0 ? nullptr : EigenBackend::allocate<T>(n);
  }
  template <class T>
  void deallocate(T* p, index_t n) {
    if (p != nullptr) EigenBackend::deallocate(p, n);
  }
};

struct SameBlock : EigenBackend {
  std::vector<std::byte> block = std::vector<std::byte>(1 << 22);
  template <class T>
  T* allocate(index_t) {
    return reinterpret_cast<T*>(block.data());
  }
  void deallocate(auto*, index_t) {}
};

struct NotConstructed : EigenBackend {
  template <class T>
  T* allocate(index_t n) {
    void* p = EigenBackend::allocate<std::byte>(n * index_t{sizeof(T)});
    std::fill_n(static_cast<char*>(p), static_cast<std::size_t>(n) * sizeof(T), 0);
    return static_cast<T*>(p);
  }
  template <class T>
  void deallocate(T* p, index_t n) {
    EigenBackend::deallocate(reinterpret_cast<std::byte*>(p), n * index_t{sizeof(T)});
  }
};

struct ShortTransfer : EigenBackend {
  template <class T>
  void from_host(T* p, const T* host, index_t n) {
    EigenBackend::from_host(p, host, n > 4096 ? 4096 : n);
  }
};

struct LongFill : EigenBackend {
  template <class T>
  void fill(T* p, index_t n, const T& value) {
    EigenBackend::fill(p, n + (n > 1), value);
  }
};

struct CopyOfBits : EigenBackend {
  template <class To, class From>
  void copy(To* to, const From* from, index_t n) {
    const auto size = static_cast<std::size_t>(n) * std::min(sizeof(To), sizeof(From));
    std::memcpy(static_cast<void*>(to), static_cast<const void*>(from), size);
  }
};

struct LoopLeavesTail : EigenBackend {
  void for_each(index_t n, auto f) { EigenBackend::for_each(n > 64 ? n / 64 * 64 : n, f); }
};

struct LoopVisitsTwice : EigenBackend {
  void for_each(index_t n, auto f) {
    EigenBackend::for_each(n, f);
    if (n > 2) f(2);
  }
};

struct LosesLastRow : EigenBackend {
  void for_each_row(index_t rows, index_t scratch, auto f) {
    EigenBackend::for_each_row(rows > 1 ? rows - 1 : rows, scratch, f);
  }
};

struct MisalignedScratch : EigenBackend {
  void for_each_row(index_t rows, index_t scratch, auto f) {
    std::byte* p = allocate<std::byte>(scratch + 32);
    for (index_t row = 0; row < rows; ++row) f(SerialTeam{}, row, static_cast<void*>(p + 32));
    deallocate(p, scratch + 32);
  }
};

/// Rows on three threads; each has its own scratch, but rounded down to what 64 divides.
struct SharedScratch : EigenBackend {
  void for_each_row(index_t rows, index_t scratch, auto f) {
    const index_t each = scratch / 64 * 64;
    std::byte* p = allocate<std::byte>(3 * each + scratch);
    std::vector<std::jthread> threads;
    for (index_t t = 0; t < 3; ++t) {
      threads.emplace_back([=] {
        for (index_t row = t; row < rows; row += 3)
          f(SerialTeam{}, row, static_cast<void*>(p + t * each));
      });
    }
    threads.clear();
    deallocate(p, 3 * each + scratch);
  }
};

/// A team whose sum forgets what comes after the whole lanes.
struct TeamOfLanes : SerialTeam {
  template <class A>
  A sum(index_t n, auto f) const {
    return SerialTeam::sum<A>(n > 16 ? n / 16 * 16 : n, f);
  }
};

template <class Team>
struct RowsOf : EigenBackend {
  void for_each_row(index_t rows, index_t scratch, auto f) {
    EigenBackend::for_each_row(
        rows, scratch, [&f](const SerialTeam&, index_t row, void* p) { f(Team{}, row, p); });
  }
};

/// A maximum that starts at zero instead of where it was told.
struct TeamFromZero : SerialTeam {
  template <class A>
  A max(index_t n, A, auto f) const {
    return SerialTeam::max(n, A(0), f);
  }
};

struct ReduceForgetsStart : EigenBackend {
  template <class A>
  void reduce(index_t n, auto f, A* out) {
    *out = A(0);
    EigenBackend::reduce(n, f, out);
  }
};

/// Adds from either end in turn, as threads that finish in any order would.
struct ReduceInAnyOrder : EigenBackend {
  int calls = 0;
  template <class A>
  void reduce(index_t n, auto f, A* out) {
    const bool down = ++calls % 2 == 0;
    A sum(0);
    for (index_t i = 0; i < n; ++i) sum = sum + f(down ? n - 1 - i : i);
    *out = *out + sum;
  }
};

/// A product with one fault, written out.
enum class Fault { beta_times_nan, ignores_alpha, ignores_ldc, swaps, drops_beta };
template <Fault fault>
struct BrokenGemm : EigenBackend {
  template <class T>
  void gemm(Op ta, Op tb, index_t m, index_t n, index_t k, compute_t<T> alpha, const T* a,
            index_t lda, const T* b, index_t ldb, compute_t<T> beta, T* c, index_t ldc) {
    if (fault == Fault::beta_times_nan && beta == 0) {
      for (index_t i = 0; i < m; ++i) {
        for (index_t j = 0; j < n; ++j) c[i * ldc + j] *= beta;
      }
      beta = 1;
    }
    if (fault == Fault::ignores_alpha) alpha = 1;
    if (fault == Fault::drops_beta && beta != 1) beta = 0;
    if (fault == Fault::ignores_ldc) ldc = n;
    if (fault == Fault::swaps && m == n && ta == Op::transpose) ta = Op::none;
    if (fault == Fault::swaps && tb == Op::transpose && k == ldb && k == 3) tb = Op::none, ldb = n;
    EigenBackend::gemm(ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
  }
};

struct ThrowsInReduce : EigenBackend {
  void reduce(index_t, auto, auto*) { throw backend_error("no device"); }
};

/// A scalar with one fault.
enum class Wrong { none, division, sign, range, exponential, precision };
template <Wrong wrong>
struct Own {
  double x = 0;
  Own() = default;
  explicit Own(double value) : x(value) {
    if (wrong == Wrong::precision) x = std::trunc(x);
    if (wrong == Wrong::range && std::abs(x) > 1e6) x = 0;
  }
  friend Own operator+(Own a, Own b) { return Own(a.x + b.x); }
  friend Own operator-(Own a, Own b) { return Own(a.x - b.x); }
  friend Own operator*(Own a, Own b) { return Own(a.x * b.x); }
  friend Own operator/(Own a, Own b) {
    return Own(wrong == Wrong::division ? b.x / a.x : a.x / b.x);
  }
  friend Own operator-(Own a) { return Own(-a.x); }
  friend double primal(Own a) { return wrong == Wrong::sign ? -a.x : a.x; }
  friend Own exp(Own a) { return Own(wrong == Wrong::exponential ? 1 + a.x : std::exp(a.x)); }
  friend Own log(Own a) { return Own(std::log(a.x)); }
  friend Own sqrt(Own a) { return Own(std::sqrt(a.x)); }
  friend Own tanh(Own a) { return Own(std::tanh(a.x)); }
  friend Own erf(Own a) { return Own(std::erf(a.x)); }
};

template <Wrong wrong>
void require_scalar_refused(const std::string& check) {
  const ConformanceReport report = check_scalar<Own<wrong>>();
  INFO(report.text());
  REQUIRE_FALSE(report.ok());
  CHECK(report.failures[0].check == check);
}

}  // namespace

TEMPLATE_LIST_TEST_CASE("our backends conform", "", tests::HostBackends) {
  for (const int threads : {1, 2, 5}) {
    TestType be = tests::make_backend<TestType>(threads);
    require_conforms(check_backend<double>(be), 10);
  }
}

TEMPLATE_TEST_CASE("other scalars conform on the Eigen backend", "", float, Eigen::half,
                   Eigen::bfloat16, Dual<double>, Own<Wrong::none>) {
  EigenBackend be(2);
  require_conforms(check_backend<TestType>(be), 10);
  require_conforms(check_scalar<TestType>(), 4);
}

TEST_CASE("double and dual numbers of dual numbers conform") {
  require_conforms(check_scalar<double>(), 4);
  require_conforms(check_scalar<Dual<Dual<double>>>(), 4);
}

TEST_CASE("a broken backend is refused by the name of what is broken") {
  const auto refused = []<class B>(B&& be, const char* check, const char* fault) {
    require_refused(be, check, fault);
  };
  refused(NullWhenEmpty(), "allocate", "returns null");
  refused(NotConstructed(), "allocate", "does not construct");
  refused(ShortTransfer(), "to_host, from_host", "");
  refused(LongFill(), "fill", "fill of 2, element 3 is 2.5, expected -1");
  refused(LoopLeavesTail(), "for_each", "is 0, expected 1");
  refused(LoopVisitsTwice(), "for_each", "element 2 is 2, expected 1");
  refused(MisalignedScratch(), "scratch", "is 32, expected 0");
  {
    SharedScratch be;  // what else comes to harm depends on when its threads meet
    const ConformanceReport report = check_backend<double>(be);
    INFO(report.text());
    CHECK(report.failed("scratch"));
  }
  refused(RowsOf<TeamOfLanes>(), "team", "team.sum of 37 columns");
  refused(RowsOf<TeamFromZero>(), "team", "team.max of 1 columns");
  refused(ReduceForgetsStart(), "reduce", "onto 0.5 is 0, expected 0.5");
  refused(ReduceInAnyOrder(), "reduce", "once more");
  refused(ThrowsInReduce(), "reduce", "it throws: no device");
  refused(BrokenGemm<Fault::beta_times_nan>(), "gemm", "C of NaN before: C[0,0] is nan");
  refused(BrokenGemm<Fault::ignores_alpha>(), "gemm", "alpha 0.75");
  refused(BrokenGemm<Fault::drops_beta>(), "gemm", "beta -0.5");
  refused(BrokenGemm<Fault::ignores_ldc>(), "gemm", "which is not of C, is");
  refused(BrokenGemm<Fault::swaps>(), "gemm", "A B^T with m, n, k = 7, 5, 3");
  CopyOfBits bits;
  require_refused<float>(bits, "copy", "a copy from double");
}

TEST_CASE("memory that is handed out twice is refused") {
  SameBlock be;
  const ConformanceReport report = check_backend<double>(be);
  CHECK(report.failed("allocate"));
  CHECK(report.failures[0].fault.find("beside others") != std::string::npos);
}

TEST_CASE("a row that is left out is refused, in whatever works on rows") {
  LosesLastRow be;
  const ConformanceReport report = check_backend<double>(be);
  CHECK(report.failed("for_each_row"));
  CHECK(report.failures[0].fault == "leaders of 61 rows, element 60 is 0, expected 1");
}

TEST_CASE("a broken scalar is refused by the name of what is broken") {
  require_scalar_refused<Wrong::division>("arithmetic");
  require_scalar_refused<Wrong::range>("order");
  require_scalar_refused<Wrong::exponential>("functions");
  require_scalar_refused<Wrong::sign>("storage");
  require_scalar_refused<Wrong::precision>("storage");
}

TEST_CASE("a check of nothing is refused") {
  EigenBackend be(1);
  for (const ConformanceOptions& options : {ConformanceOptions{0, 61}, ConformanceOptions{9, 0}}) {
    const ConformanceReport report = check_backend<float>(be, options);
    CHECK_FALSE(report.ok());
    CHECK(report.checks.empty());
    CHECK(report.text() == "options: elements and rows must be at least 1\n");
  }
  CHECK_FALSE(ConformanceReport{}.ok());
  CHECK(ConformanceReport{}.text() == "nothing was checked\n");
}

TEST_CASE("the report names what was checked") {
  EigenBackend be(1);
  const ConformanceReport report = check_backend<float>(be, {.elements = 1, .rows = 1});
  CHECK(report.ok());
  CHECK(report.text() ==
        "to_host, from_host, allocate, fill, copy, for_each, for_each_row, scratch, team, reduce, "
        "gemm conform\n");
}
