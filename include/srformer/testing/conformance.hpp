// SPDX-License-Identifier: Apache-2.0
// Checks a backend or a scalar of one's own against what backend/concept.hpp and core/scalar.hpp promise.
//
//   MyBackend be;
//   const ConformanceReport report = check_backend<float>(be);
//   if (!report.ok()) std::cerr << report.text();
//
//   const ConformanceReport report = check_scalar<MyScalar>();
//
// An op of one's own is checked by testing/grad_check.hpp.
//
// Everything is moved by allocate, from_host and to_host alone, so that one broken primitive does not
// show as another; where those fail, nothing else is checked. Memory of a device is never read directly.
#pragma once

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <limits>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include <srformer/backend/tensor.hpp>
#include <srformer/core/random.hpp>

namespace srformer {

/// A check that failed, by the name of the primitive, and its first fault.
struct ConformanceFailure {
  std::string check, fault;
};

struct ConformanceReport {
  std::vector<std::string> checks;           ///< the names of what was checked, in order
  std::vector<ConformanceFailure> failures;  ///< at most one for each
  std::vector<std::string>
      absent;  ///< functions that the scalar does not have, which only some ops call

  bool ok() const { return !checks.empty() && failures.empty(); }
  bool failed(std::string_view check) const {
    return std::any_of(failures.begin(), failures.end(),
                       [=](const auto& failure) { return failure.check == check; });
  }
  /// One line per failure, or one that says what conforms.
  std::string text() const {
    if (checks.empty() && failures.empty()) return "nothing was checked\n";
    std::string lines;
    for (const auto& [check, fault] : failures) lines += check + ": " + fault + "\n";
    if (!failures.empty()) return lines;
    for (const std::string& check : checks) lines += (lines.empty() ? "" : ", ") + check;
    lines += " conform";
    for (std::size_t i = 0; i < absent.size(); ++i)
      lines += (i == 0 ? "; there is no " : ", ") + absent[i];
    return lines + "\n";
  }
};

struct ConformanceOptions {
  index_t elements = 2 * 4096 + 37;  ///< how long loops, copies and sums are
  index_t rows = 61;                 ///< how many rows teams work on
};

namespace detail {

/// x >= 0 as a double, where x can only be compared with numbers made from doubles: its bits, the highest first. What comes
/// out is made into x again. NaN for NaN, infinity from 2^1000 on.
template <class X>
double magnitude_by_bits(const X& x) {
  double bit = 1, sum = 0;
  if (!(X(0) < x) && !(x < X(1))) return std::nan("");
  while (bit < 0x1p1000 && X(bit) < x) bit *= 2;
  if (X(bit) < x) return HUGE_VAL;
  for (int i = 0; i < 2100 && X(sum) < x; ++i, bit /= 2)
    if (!(x < X(sum + bit))) sum += bit;
  return sum;
}

/// The ordered value as a double: of itself, of its primal, or, where there is neither, by comparisons.
template <class X>
double plain_value(const X& x) {
  if constexpr (has_double<X>()) {
    return math::to_double(x);
  } else if constexpr (!std::is_same_v<std::remove_cvref_t<decltype(primal(x))>, X>) {
    return plain_value(primal(x));
  } else {
    return x < X(0) ? -magnitude_by_bits(X(-x)) : magnitude_by_bits(x);
  }
}

/// The distance from 1 to the next number that T can store.
template <class T>
double measured_epsilon() {
  using C = compute_t<T>;
  double epsilon = 1;
  while (epsilon > 0x1p-52 && plain_value(C(T(C(1) + C(epsilon / 2)))) > 1) epsilon /= 2;
  return epsilon;
}

inline std::string number_text(double x) {
  char text[32];
  std::snprintf(text, sizeof text, "%.9g", x);
  return text;
}

/// Collects the faults of one check after another.
class ConformanceChecks {
 public:
  explicit ConformanceChecks(const ConformanceOptions& options) : options_(options) {
    if (options.elements < 1 || options.rows < 1)
      report_.failures.push_back({"options", "elements and rows must be at least 1"});
  }

  ConformanceReport report() const { return report_; }

 protected:
  bool failing() const { return !report_.failures.empty(); }

  /// Runs f, which calls equal() and close() for what it finds.
  template <class F>
  void check(const char* name, F f) {
    fault_.clear(), compared_ = 0;
    try {
      f();
      if (compared_ == 0) fault_ = "nothing was compared";
    } catch (const std::exception& error) {
      if (fault_.empty()) fault_ = std::string("it throws: ") + error.what();
    }
    report_.checks.emplace_back(name);
    if (!fault_.empty()) report_.failures.push_back({name, fault_});
  }

  void close(const std::string& what, double got, double expected, double tolerance) {
    ++compared_;
    const bool right =
        std::isnan(expected) ? std::isnan(got) : std::abs(got - expected) <= tolerance;
    if (!right && got != expected && fault_.empty())
      fault_ = what + " is " + number_text(got) + ", expected " + number_text(expected);
  }
  void equal(const std::string& what, double got, double expected) {
    close(what, got, expected, 0);
  }

  /// Every element against `expected(i)`.
  template <class X, class F>
  void all_equal(const std::string& what, const std::vector<X>& got, F expected) {
    ++compared_;
    for (std::size_t i = 0; i < got.size(); ++i) {
      const double x = plain_value(compute_t<X>(got[i])), right = expected(static_cast<index_t>(i));
      if (!(x == right)) return equal(what + ", element " + std::to_string(i), x, right);
    }
  }

  void absent_from_scalar(const char* function) { report_.absent.emplace_back(function); }

  void require_that(bool holds, const char* fault) {
    ++compared_;
    if (!holds && fault_.empty()) fault_ = fault;
  }

  ConformanceOptions options_;

 private:
  ConformanceReport report_;
  std::string fault_;
  index_t compared_ = 0;
};

/// The number at i of inputs, in (-1, 1).
SRF_HD inline double conformance_value(std::uint64_t stream, index_t i) {
  return 2 * uniform(RandomStream{stream, 0}, static_cast<std::uint64_t>(i)) - 1;
}

struct CountVisit {
  double* visits;
  SRF_HD void operator()(index_t i) const { visits[i] += 1; }
};

template <class A>
struct OneTerm {
  SRF_HD A operator()(index_t) const { return A(1); }
};

/// Terms of very different size, so that the order of a sum shows in its last digits.
template <class A>
struct UnevenTerm {
  SRF_HD A operator()(index_t i) const {
    return A(conformance_value(5, i) * static_cast<double>(std::int64_t{1} << i % 40));
  }
};

struct CountRow {
  double* leaders;
  template <class Team>
  SRF_HD void operator()(const Team& team, index_t row, void*) const {
    if (team.leader()) leaders[row] += 1;
  }
};

/// Writes the number of the row all over its scratch, lets others run, and counts what is still there.
struct ClaimScratch {
  double *kept, *misaligned;
  index_t cells;
  template <class Team>
  SRF_HD void operator()(const Team& team, index_t row, void* scratch) const {
    auto* mine = static_cast<std::int32_t*>(scratch);
    const auto name = static_cast<std::int32_t>(row);
    team.for_each(cells, [=](index_t i) { mine[i] = name; });
#if !defined(__CUDA_ARCH__)
    std::this_thread::sleep_for(std::chrono::microseconds(50));
#endif
    if (team.leader()) {
      for (index_t i = 0; i < cells; ++i) kept[row] += mine[i] == name ? 1 : 0;
      misaligned[row] = static_cast<double>(reinterpret_cast<std::uintptr_t>(scratch) % 64);
    }
    team.sync();
  }
};

/// What a team offers, for a row of `columns` values and a matrix of three such rows.
template <class T>
struct UseTeam {
  using C = compute_t<T>;
  const T *x, *matrix;
  T *sums, *tops, *products;  // [rows, columns], [rows, columns], [rows, 3]
  index_t columns;
  template <class Team>
  SRF_HD void operator()(const Team& team, index_t row, void* scratch) const {
    C *square = static_cast<C*>(scratch), *top = square + columns;
    const T* in = x + row * columns;
    T *to_sum = sums + row * columns, *to_top = tops + row * columns, *product = products + row * 3;
    team.for_each(columns, [=](index_t c) { square[c] = C(in[c]) * C(in[c]); });
    const C total = team.template sum<C>(columns, [=](index_t c) { return square[c]; });
    const C largest = team.max(columns, C(-2), [=](index_t c) { return C(in[c]); });
    if (team.leader()) *top = largest;
    team.sync();
    team.for_each(columns, [=](index_t c) { to_sum[c] = T(total), to_top[c] = T(*top); });
    // product = 2 square matrix^T + its own beginning of 1
    team.for_each(3, [=](index_t c) { product[c] = T(C(1)); });
    team.gemm(Op::none, Op::transpose, 1, 3, columns, C(2), square, columns, matrix, columns, C(1),
              product, 3);
  }
};

/// An element that is not built-in; `made` tells whether it was constructed.
struct Constructed {
  static constexpr std::int64_t mark = 0x5eed5eed;
  std::int64_t made = mark;
  Constructed() = default;
  Constructed(const Constructed& other) : made(other.made) {}
  Constructed& operator=(const Constructed&) = default;
  ~Constructed() { made = 0; }
};

template <class T, class B>
class BackendChecks : public ConformanceChecks {
  using C = compute_t<T>;
  using A = accumulate_t<T>;

 public:
  BackendChecks(B& backend, const ConformanceOptions& options)
      : ConformanceChecks(options),
        be_(backend),
        tolerance_(8 * std::max(measured_epsilon<T>(), measured_epsilon<C>())) {
    if (failing()) return;
    check("to_host, from_host", [this] { check_transfers(); });
    if (failing()) return;
    check("allocate", [this] { check_allocate(); });
    check("fill", [this] { check_fill(); });
    check("copy", [this] { check_copy(); });
    check("for_each", [this] { check_for_each(); });
    check("for_each_row", [this] { check_rows(); });
    check("scratch", [this] { check_scratch(); });
    check("team", [this] { check_team(); });
    check("reduce", [this] { check_reduce(); });
    check("gemm", [this] { check_gemm(); });
  }

 private:
  template <class U>
  Tensor<B, U, 1> given(const std::vector<U>& values) {
    return from_host<U, 1>(be_, {static_cast<index_t>(values.size())}, values);
  }
  Tensor<B, double, 1> zeros_of(index_t n) {
    return given(std::vector<double>(static_cast<std::size_t>(n), 0.0));
  }
  /// n values, with the same number before and after them.
  std::vector<T> guarded(index_t n, double guard, std::uint64_t stream) const {
    std::vector<T> values(static_cast<std::size_t>(n + 2), T(C(guard)));
    for (index_t i = 0; i < n; ++i) values[i + 1] = T(C(conformance_value(stream, i)));
    return values;
  }
  static double stored(double x) { return plain_value(C(T(C(x)))); }
  std::vector<index_t> lengths() const { return {0, 1, 2, options_.elements}; }

  void check_allocate() {
    std::vector<T*> blocks;
    std::vector<index_t> sizes{0, 1, 63, options_.elements};
    for (int again = 0; again < 2; ++again) {  // the second time from what was given back
      blocks.clear();
      for (const index_t n : sizes) {
        T* p = be_.template allocate<T>(n);
        require_that(p != nullptr, "allocate returns null");
        require_that(reinterpret_cast<std::uintptr_t>(p) % alignof(T) == 0,
                     "allocate returns memory that is not aligned for its elements");
        if (p == nullptr) return;
        const std::vector<T> values(static_cast<std::size_t>(n), T(C(double(blocks.size()))));
        be_.from_host(p, values.data(), n);
        blocks.push_back(p);
      }
      for (std::size_t i = 0; i < blocks.size(); ++i) {
        std::vector<T> back(static_cast<std::size_t>(sizes[i]), T(C(-1)));
        be_.to_host(back.data(), blocks[i], sizes[i]);
        be_.synchronize();
        all_equal("a block of " + std::to_string(sizes[i]) + " beside others", back,
                  [=](index_t) { return double(i); });
      }
      for (std::size_t i = 0; i < blocks.size(); ++i) be_.deallocate(blocks[i], sizes[i]);
    }
    if constexpr (std::is_same_v<typename B::space, host_space>) {
      Constructed* p = be_.template allocate<Constructed>(5);
      const bool made =
          std::all_of(p, p + 5, [](const Constructed& x) { return x.made == Constructed::mark; });
      require_that(made, "allocate does not construct elements that are not built-in");
      be_.deallocate(p, 5);
    }
  }

  void check_transfers() {
    for (const index_t n : lengths()) {
      const std::vector<T> values = guarded(n, 3, 1), outside = guarded(n, -1, 2);
      Tensor<B, T, 1> x(be_, {n + 2});
      be_.from_host(x.data(), outside.data(), n + 2);
      be_.from_host(x.data() + 1, values.data() + 1, n);
      std::vector<T> back(values.size(), T(C(-2)));
      be_.to_host(back.data() + 1, x.data() + 1, n);
      be_.synchronize();
      all_equal("from_host and to_host of " + std::to_string(n), back, [&](index_t i) {
        return i == 0 || i == n + 1 ? stored(-2) : plain_value(C(values[i]));
      });
      back = to_host(be_, x);
      all_equal("from_host of " + std::to_string(n), back, [&](index_t i) {
        return i == 0 || i == n + 1 ? stored(-1) : plain_value(C(values[i]));
      });
    }
  }

  void check_fill() {
    for (const index_t n : lengths()) {
      Tensor<B, T, 1> x = given(guarded(n, -1, 1));
      be_.fill(x.data() + 1, n, T(C(2.5)));
      all_equal("fill of " + std::to_string(n), to_host(be_, x),
                [=](index_t i) { return i == 0 || i == n + 1 ? stored(-1) : stored(2.5); });
    }
  }

  void check_copy() {
    for (const index_t n : lengths()) {
      const std::vector<T> values = guarded(n, 3, 1);
      const Tensor<B, T, 1> from = given(values);
      Tensor<B, T, 1> to = given(guarded(n, -1, 2));
      be_.copy(to.data() + 1, from.data() + 1, n);
      all_equal("copy of " + std::to_string(n), to_host(be_, to), [&](index_t i) {
        return i == 0 || i == n + 1 ? stored(-1) : plain_value(C(values[i]));
      });
    }
    const index_t n = options_.elements;
    std::vector<double> wide(static_cast<std::size_t>(n));
    for (index_t i = 0; i < n; ++i) wide[i] = conformance_value(3, i);
    if constexpr (std::constructible_from<T, double>) {
      const Tensor<B, double, 1> from = given(wide);
      Tensor<B, T, 1> to = given(std::vector<T>(wide.size(), T(C(-1))));
      be_.copy(to.data(), from.data(), n);
      all_equal("a copy from double", to_host(be_, to),
                [&](index_t i) { return plain_value(C(T(wide[i]))); });
    }
    if constexpr (std::constructible_from<double, C>) {
      const std::vector<T> values = guarded(n - 1, 3, 4);
      const Tensor<B, T, 1> from = given(values);
      Tensor<B, double, 1> to = given(std::vector<double>(values.size(), -1));
      be_.copy(to.data(), from.data(), n + 1);
      all_equal("a copy to double", to_host(be_, to),
                [&](index_t i) { return plain_value(C(values[i])); });
    }
  }

  void check_for_each() {
    for (const index_t n : lengths()) {
      Tensor<B, double, 1> visits = zeros_of(n + 1);
      be_.for_each(n, CountVisit{visits.data()});
      all_equal("visits of for_each over " + std::to_string(n), to_host(be_, visits),
                [=](index_t i) { return i < n ? 1.0 : 0.0; });
    }
  }

  void check_rows() {
    for (const index_t rows : {index_t{0}, index_t{1}, options_.rows}) {
      Tensor<B, double, 1> leaders = zeros_of(rows + 1);
      be_.for_each_row(rows, 0, CountRow{leaders.data()});
      all_equal("leaders of " + std::to_string(rows) + " rows", to_host(be_, leaders),
                [=](index_t row) { return row < rows ? 1.0 : 0.0; });
    }
  }

  void check_scratch() {
    const index_t rows = options_.rows;
    for (const index_t cells : {index_t{1}, index_t{301}}) {
      Tensor<B, double, 1> kept = zeros_of(rows), misaligned = zeros_of(rows);
      be_.for_each_row(rows, cells * static_cast<index_t>(sizeof(std::int32_t)),
                       ClaimScratch{kept.data(), misaligned.data(), cells});
      all_equal("bytes past a multiple of 64 at which scratch begins", to_host(be_, misaligned),
                [](index_t) { return 0.0; });
      all_equal("values that stay in the scratch of " + std::to_string(cells), to_host(be_, kept),
                [=](index_t) { return double(cells); });
    }
  }

  void check_team() {
    const index_t rows = options_.rows;
    for (const index_t columns : {index_t{1}, index_t{16}, index_t{37}}) {
      const auto random = [&](index_t n, std::uint64_t stream) {
        std::vector<T> values(static_cast<std::size_t>(n));
        for (index_t i = 0; i < n; ++i) values[i] = T(C(conformance_value(stream, i)));
        return values;
      };
      const std::vector<T> x = random(rows * columns, 6), matrix = random(3 * columns, 7);
      const std::vector<T> nothing(x.size(), T(C(-3)));
      const Tensor<B, T, 1> on_x = given(x), on_matrix = given(matrix);
      Tensor<B, T, 1> sums = given(nothing), tops = given(nothing);
      Tensor<B, T, 1> products = given(std::vector<T>(static_cast<std::size_t>(3 * rows)));
      be_.for_each_row(rows, (columns + 1) * static_cast<index_t>(sizeof(C)),
                       UseTeam<T>{on_x.data(), on_matrix.data(), sums.data(), tops.data(),
                                  products.data(), columns});
      const std::vector<T> sum = to_host(be_, sums), top = to_host(be_, tops);
      const std::vector<T> product = to_host(be_, products);
      const std::string of = " of " + std::to_string(columns) + " columns";
      for (index_t row = 0; row < rows; ++row) {
        double square_sum = 0, largest = -2, expected[3] = {1, 1, 1};
        for (index_t c = 0; c < columns; ++c) {
          const double in = plain_value(C(x[row * columns + c]));
          square_sum += in * in, largest = std::max(largest, in);
          for (index_t j = 0; j < 3; ++j)
            expected[j] += 2 * in * in * plain_value(C(matrix[j * columns + c]));
        }
        const double bound = tolerance_ * static_cast<double>(columns + 1);
        for (index_t c = 0; c < columns; ++c) {
          close("team.sum" + of, plain_value(C(sum[row * columns + c])), square_sum, bound);
          equal("team.max" + of, plain_value(C(top[row * columns + c])), largest);
        }
        for (index_t j = 0; j < 3; ++j)
          close("team.gemm" + of, plain_value(C(product[row * 3 + j])), expected[j], bound);
      }
    }
  }

  template <class Term>
  double reduced(index_t n, Term term, double start) {
    Tensor<B, A, 1> sum = given(std::vector<A>{A(start)});
    be_.reduce(n, term, sum.data());
    return plain_value(to_host(be_, sum)[0]);
  }

  void check_reduce() {
    const double epsilon = measured_epsilon<A>();
    for (const index_t n : {index_t{0}, index_t{1}, options_.elements, 5 * options_.elements}) {
      const std::string of = "reduce of " + std::to_string(n);
      close(of + " ones onto 0.5", reduced(n, OneTerm<A>{}, 0.5), double(n) + 0.5,
            epsilon * double(n));
      long double expected = 0, size = 0;
      for (index_t i = 0; i < n; ++i) {
        const double term = plain_value(UnevenTerm<A>{}(i));
        expected += term, size += std::abs(term);
      }
      const double first = reduced(n, UnevenTerm<A>{}, 0);
      close(of, first, double(expected), 8 * epsilon * std::sqrt(double(n + 1)) * double(size));
      for (int again = 0; again < 4; ++again)
        equal(of + " once more", reduced(n, UnevenTerm<A>{}, 0), first);
    }
  }

  struct Product {
    index_t m, n, k;
  };

  void check_gemm() {
    for (const Product p :
         {Product{1, 1, 1}, Product{7, 5, 3}, Product{6, 16, 64}, Product{13, 37, 129},
          Product{1, 67, 300}, Product{70, 1, 9}, Product{131, 3, 70}, Product{5, 150, 17},
          Product{4, 6, 0}, Product{0, 5, 4}, Product{5, 0, 4}}) {
      for (const Op a : {Op::none, Op::transpose}) {
        for (const Op b : {Op::none, Op::transpose}) {
          check_product(p, a, b, 1, 0, 0);
          check_product(p, a, b, 0.75, 0, 3);
          check_product(p, a, b, 1, 1, 2);
          check_product(p, a, b, 0.75, -0.5, 5);
        }
      }
    }
  }

  /// A matrix whose rows are `stride` apart, with `between` in the gaps.
  static std::vector<T> matrix(std::uint64_t stream, index_t rows, index_t columns, index_t stride,
                               double between) {
    std::vector<T> x(static_cast<std::size_t>(rows * stride), T(C(between)));
    for (index_t i = 0; i < rows; ++i) {
      for (index_t j = 0; j < columns; ++j)
        x[i * stride + j] = T(C(conformance_value(stream, i * columns + j)));
    }
    return x;
  }

  /// One product; A and B hold NaN between their rows, and C NaN in its elements where beta is 0.
  void check_product(Product p, Op transpose_a, Op transpose_b, double alpha, double beta,
                     index_t gap) {
    constexpr double nan = std::numeric_limits<double>::quiet_NaN(), between = 7;
    const bool ta = transpose_a == Op::transpose, tb = transpose_b == Op::transpose;
    const index_t lda = (ta ? p.m : p.k) + gap, ldb = (tb ? p.k : p.n) + gap, ldc = p.n + gap;
    const std::vector<T> a = matrix(8, ta ? p.k : p.m, ta ? p.m : p.k, lda, nan);
    const std::vector<T> b = matrix(9, tb ? p.n : p.k, tb ? p.k : p.n, ldb, nan);
    std::vector<T> before = matrix(10, p.m, p.n, ldc, between);
    for (index_t i = 0; beta == 0 && i < p.m * ldc; ++i) {
      if (i % ldc < p.n) before[i] = T(C(nan));
    }
    const Tensor<B, T, 1> on_a = given(a), on_b = given(b);
    Tensor<B, T, 1> on_c = given(before);
    be_.gemm(transpose_a, transpose_b, p.m, p.n, p.k, C(alpha), on_a.data(), lda, on_b.data(), ldb,
             C(beta), on_c.data(), ldc);
    const std::vector<T> c = to_host(be_, on_c);
    require_that(c.size() == before.size(), "gemm changes the size of C");
    const double bound = tolerance_ * static_cast<double>(p.k + 2);
    for (index_t i = 0; i < p.m; ++i) {
      for (index_t j = 0; j < ldc; ++j) {
        double expected = between, sum = 0;
        for (index_t s = 0; j < p.n && s < p.k; ++s) {
          sum += plain_value(C(a[ta ? s * lda + i : i * lda + s])) *
                 plain_value(C(b[tb ? j * ldb + s : s * ldb + j]));
        }
        if (j < p.n) {
          expected = alpha * sum;
          if (beta != 0) expected += beta * plain_value(C(before[i * ldc + j]));
        }
        const double got = plain_value(C(c[i * ldc + j]));
        if (std::abs(got - expected) <= bound) continue;
        close(std::string(ta ? "A^T" : "A") + (tb ? " B^T" : " B") +
                  " with m, n, k = " + std::to_string(p.m) + ", " + std::to_string(p.n) + ", " +
                  std::to_string(p.k) + ", alpha " + number_text(alpha) + ", beta " +
                  number_text(beta) + ", ldc " + std::to_string(ldc) +
                  (beta == 0 ? ", C of NaN before" : "") + ": C[" + std::to_string(i) + "," +
                  std::to_string(j) + "]" + (j < p.n ? "" : ", which is not of C,"),
              got, expected, bound);
      }
    }
  }

  B& be_;
  double tolerance_;
};

template <class T>
class ScalarChecks : public ConformanceChecks {
  using C = compute_t<T>;

 public:
  explicit ScalarChecks(const ConformanceOptions& options) : ConformanceChecks(options) {
    if (failing()) return;
    check("storage", [this] {
      require_that(measured_epsilon<C>() < 0.01, "the type of sums has fewer than seven bits");
      each([this](double a, double) {
        close("a stored " + number_text(a), plain_value(C(T(C(a)))), a,
              measured_epsilon<T>() * std::abs(a));
        const T x{C(a)};
        T copy = x;
        equal("a copy", plain_value(C(copy)), plain_value(C(x)));
        copy = T(C(0));
        equal("the original of a copy that is zero now", plain_value(C(x)),
              plain_value(C(T(C(a)))));
      });
    });
    check("arithmetic", [this] {
      each([this](double a, double b) {
        const C x = C(a), y = C(b);
        near("a + b", x + y, a + b, a, b);
        near("a - b", x - y, a - b, a, b);
        near("a * b", x * y, a * b, a, b);
        near("a / b", x / y, a / b, a, b);
        near("-a", -x, -a, a, b);
      });
    });
    check("order", [this] {
      each([this](double a, double b) {
        const C x = C(a), y = C(b);
        equal("primal(a) < primal(b)", primal(x) < primal(y), a < b);
        near("max(a, b)", math::max(x, y), std::max(a, b), a, b);
        near("max(lowest_score, b)", math::max(lowest_score<C>(), y), b, a, b);
      });
    });
    check("functions", [this] {
      each([this](double a, double b) {
        const C x = C(a);
        if constexpr (math::has_exp<C>()) near("exp(a)", math::exp(x), std::exp(a), a, b);
        if constexpr (math::has_tanh<C>()) near("tanh(a)", math::tanh(x), std::tanh(a), a, b);
        if constexpr (math::has_erf<C>()) near("erf(a)", math::erf(x), std::erf(a), a, b);
        [[maybe_unused]] const double size = std::abs(a);
        if constexpr (math::has_sqrt<C>())
          near("sqrt(|a|)", math::sqrt(C(size)), std::sqrt(size), a, b);
        if constexpr (math::has_log<C>())
          near("log(|a|)", math::log(C(size)), std::log(size), a, b);
        equal("finite(a)", math::finite(x), 1);
      });
    });
    const std::pair<const char*, bool> functions[] = {{"exp", math::has_exp<C>()},
                                                      {"log", math::has_log<C>()},
                                                      {"sqrt", math::has_sqrt<C>()},
                                                      {"tanh", math::has_tanh<C>()},
                                                      {"erf", math::has_erf<C>()}};
    for (const auto& [name, there] : functions)
      if (!there) absent_from_scalar(name);
  }

 private:
  /// Pairs of numbers between -8 and 8 that C holds exactly, none of them 0, and equal ones.
  template <class F>
  void each(F f) {
    for (index_t i = 0; i < 50; ++i) {
      const double a = std::ldexp(std::round(128 * conformance_value(11, i)) + 0.5, -4);
      const double b = std::ldexp(std::round(128 * conformance_value(12, i)) + 0.5, -4);
      f(a, i % 10 == 0 ? a : b);
    }
  }
  void near(const char* what, const C& got, double expected, double a, double b) {
    close(std::string(what) + " at a = " + number_text(a) + ", b = " + number_text(b),
          plain_value(got), expected, 16 * measured_epsilon<C>() * (1 + std::abs(expected)));
  }
};

}  // namespace detail

/// Checks every primitive of a backend on elements of T: results, odd and empty sizes, what lies beside,
/// conversions, scratch, teams, the order of sums, and all products with gaps, scales and NaN.
/// Names: to_host, from_host; allocate; fill; copy; for_each; for_each_row; scratch; team; reduce; gemm.
/// A check that throws has failed. Cost: well under a second on a CPU.
template <class T, class B>
requires BackendFor<B, T> ConformanceReport check_backend(B& be,
                                                          const ConformanceOptions& options = {}) {
  return detail::BackendChecks<T, B>(be, options).report();
}

/// Checks a scalar against double, to the precision that it is found to have. Of exp, log, sqrt, tanh and erf those are
/// checked that there are. Numbers lie between -8 and 8, their exponentials below 3000; -1e30 must be made into a number
/// below all of them.
/// Names: storage, arithmetic, order, functions.
template <Scalar T>
ConformanceReport check_scalar(const ConformanceOptions& options = {}) {
  return detail::ScalarChecks<T>(options).report();
}

}  // namespace srformer
