#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Tests check_structure.py: each tree written here has one fault, which it must name; a sound tree must pass.

    python3 tests/structure/check_rule.py check_structure.py WORK
"""
import os
import re
import shutil
import subprocess
import sys

sys.dont_write_bytecode = True
from check_structure import check  # noqa: E402
from cxx_functions import Unreadable, functions_of  # noqa: E402

# A folder of its own in WORK, since what is there is removed.
SCRIPT, WORK = sys.argv[1], os.path.join(sys.argv[2], "check_rule_tree")
HEADER = "include/srformer/ops/norm.hpp"
ATTENTION = "include/srformer/attention/full.hpp"
PINNED = "include/srformer/attention | - | files 2 | pinned"


def long_function(name, lines):
    return f"inline void {name}() {{\n" + "  step();\n" * (lines - 2) + "}\n"


def wide_function(name, count, end=";"):
    return f"void {name}(" + ", ".join(f"int p{i}" for i in range(count)) + f"){end}\n"


def run(files, exceptions):
    """Writes a sound tree with `files` over it; its faults and notes."""
    shutil.rmtree(WORK, ignore_errors=True)
    tree = {HEADER: "inline int norm(int x) { return x; }\n", ATTENTION: "inline void full() {}\n",
            "include/srformer/attention/detail/lanes.hpp": "#if defined(__CUDACC__)\nvoid cuda_lane();\n#endif\n",
            "examples/program.cpp": "int main() {}\n", **files,
            "tests/structure/exceptions.txt": "# file | function | rule number | reason\n\n" + "\n".join(exceptions)}
    for name, text in tree.items():
        if text is not None:
            os.makedirs(os.path.dirname(os.path.join(WORK, name)), exist_ok=True)
            with open(os.path.join(WORK, name), "w", encoding="utf-8") as out:
                out.write(text)
    return check(WORK)[:2]


def passes(files, *exceptions, says=None):
    faults, notes = run(files, [PINNED, *exceptions])
    if faults or notes != ([says] if says else []):
        sys.exit(f"refuses a sound tree, or passes it without \"{says}\": {files} {exceptions}\n{faults} {notes}")


def refuses(sentence, files, *exceptions, pinned=PINNED):
    faults, _ = run(files, [pinned, *exceptions])
    if faults != [sentence]:
        sys.exit(f"does not refuse with \"{sentence}\" alone: {files} {exceptions}\n{faults}")


def script(status, message, files):
    """What ctest sees of the script."""
    run(files, [PINNED])
    done = subprocess.run([sys.executable, SCRIPT, WORK], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          check=False)
    if done.returncode != status or done.stdout != message:
        sys.exit(f"ends with {done.returncode} and \"{done.stdout}\", not {status} and \"{message}\"")


def rules():
    passes({})
    # Length.
    passes({HEADER: long_function("norm", 60)})
    refuses(f"{HEADER}:1: norm is 61 lines long, at most 60", {HEADER: long_function("norm", 61)})
    refuses(f"{HEADER}:3: Norm::run is 61 lines long, at most 60",
            {HEADER: "// Of rows.\nstruct Norm {\n" + long_function("run", 61) + "};\n"})
    refuses("examples/program.cpp:1: main is 61 lines long, at most 60",
            {"examples/program.cpp": long_function("main", 61)})
    refuses("examples/loop.cu:1: loop is 61 lines long, at most 60", {"examples/loop.cu": long_function("loop", 61)})
    lambda_ = "void f() {\n  auto g = [](int a) {\n" + "    step();\n" * 57 + "  };\n}\n"
    refuses(f"{HEADER}:1: f is 61 lines long, at most 60", {HEADER: lambda_})
    refuses(f"{HEADER}:1: f is 61 lines long, at most 60",
            {HEADER: "void f() {\n  struct L {\n" + long_function("g", 57) + "  };\n}\n"})
    refuses(f"{HEADER}:1: f is 65 lines long, at most 60",
            {HEADER: "void f() {\n  struct L {\n" + long_function("g", 61) + "  };\n}\n"})
    passes({HEADER: "void f() {\n  struct L {\n  " + wide_function("g", 7) + "  };\n}\n"})
    refuses(f"{HEADER}:3: f::L::g has 8 parameters, at most 7",
            {HEADER: "void f() {\n  struct L {\n  " + wide_function("g", 8) + "  };\n}\n"})
    # Parameters.
    passes({HEADER: wide_function("norm", 7)})
    passes({"examples/program.cpp": wide_function("norm", 8, " {}")})
    passes({HEADER: wide_function("norm", 8, " = delete;")}, f"{HEADER} | norm | parameters 8 | named")
    passes({HEADER: wide_function("small_gemm", 13)})
    passes({HEADER: "void dots(int m, int n, int k, float* a, int lda, float* b, int ldb, float* c, int ldc);\n"})
    refuses(f"{HEADER}:1: norm has 8 parameters, at most 7", {HEADER: wide_function("norm", 8)})
    refuses(f"{HEADER}:1: norm has 8 parameters, at most 7", {HEADER: wide_function("norm", 8, " {}")})
    refuses(f"{HEADER}:2: norm has 8 parameters, at most 7",
            {HEADER: wide_function("norm", 8) + wide_function("norm", 8, " {}")})
    # Attention.
    for condition in ("#if A", "#ifdef A", " #  ifndef A", "#if 0"):
        refuses(f"{ATTENTION}:2: conditionals of the preprocessor: 1, attention/ has none",
                {ATTENTION: f"void f() {{}}\n{condition}\nvoid g();\n#endif\n"})
    for backend in ("EigenBackend", "ThrustBackend", "BatchedBackend", "cuda", "cuda_stream", "cudaMalloc"):
        refuses(f"{ATTENTION}:3: names backends 1 times ({backend}), attention/ names none",
                {ATTENTION: f"void f() {{\n  // {backend}\n  {backend} be;\n}}\n"})
    refuses(f"{ATTENTION}:2: names backends 1 times (cuda), attention/ names none",
            {ATTENTION: "void f();\n#define SRF_SPACE cuda\n"})
    passes({ATTENTION: "// No #if for cuda.\n/*\n#if A\n*/\nvoid f(const char* = \"cuda\");\n#define SRF_X 1\n"})
    passes({HEADER: "#if defined(__CUDACC__)\nvoid f(cuda_stream s);\n#endif\n"})
    # The number of files.
    refuses("include/srformer/attention: holds 3 files, its exception allows 2",
            {"include/srformer/attention/detail/more.hpp": "void f();\n"})
    refuses("include/srformer/attention: holds 2 files, tests/structure/exceptions.txt does not say how many it may",
            {}, pinned="")
    passes({"include/srformer/attention/detail/lanes.hpp": None}, says="tests/structure/exceptions.txt:3: 1 would do for 2")
    # Exceptions.
    one = f"{HEADER} | norm | lines 70 | long"
    passes({HEADER: long_function("norm", 70)}, one)
    passes({HEADER: long_function("norm", 69)}, one, says="tests/structure/exceptions.txt:4: 69 would do for 70")
    refuses(f"{HEADER}:1: norm is 71 lines long, its exception allows 70", {HEADER: long_function("norm", 71)}, one)
    stale = f"tests/structure/exceptions.txt:4: norm of {HEADER} needs no exception of lines any more; remove the line"
    refuses(stale, {HEADER: long_function("norm", 60)}, one)
    refuses(stale, {HEADER: long_function("other", 20)}, one)
    refuses(stale, {HEADER: None, "include/srformer/ops/other.hpp": "void f();\n"}, one)
    refuses(f"tests/structure/exceptions.txt:4: {ATTENTION} needs no exception of conditionals any more; remove the line",
            {}, f"{ATTENTION} | - | conditionals 1 | old")
    refuses(f"{ATTENTION}:1: conditionals of the preprocessor: 2, its exception allows 1",
            {ATTENTION: "#if A\n#elif B\nvoid f();\n#endif\n"}, f"{ATTENTION} | - | conditionals 1 | old")
    overloads = {HEADER: long_function("norm", 65) + long_function("norm", 70)}
    passes(overloads, one, f"{HEADER} | norm | lines 65 | long")
    refuses(f"{HEADER}:1: norm is 65 lines long, at most 60", overloads, one)
    refuses(f"{HEADER}:66: norm is 70 lines long, its exception allows 69", overloads,
            f"{HEADER} | norm | lines 69 | long", f"{HEADER} | norm | lines 65 | long")
    for line in ("norm | lines 70 | long", f"{HEADER} | norm | lines | long", f"{HEADER} | norm | width 70 | long",
                 f"{HEADER} | norm | lines 70 | "):
        refuses("tests/structure/exceptions.txt:4: a line is: file | function | rule number | reason; rules are lines,"
                " parameters, conditionals, backends, files", {}, line)
    # What cannot be read is not passed over.
    refuses(f"{HEADER}:2: {{ is never closed", {HEADER: "void f();\nvoid g() {\n"})
    refuses("no function was found in examples/", {"examples/program.cpp": "// nothing\n"})


# Functions that are hard to read. Before each, `//: lines parameters name`, in order of their ends.
ODD = r"""
namespace a::b {
inline namespace c { namespace {
//: 3 2 plain
int plain(int x, int y) {
  return x < y ? x : y;
}
//: 1 0 none
int none(void);
} }  // namespace c
extern "C" {
//: 1 1 of_c
void of_c(int x) {}
}
//: 1 1 alone_of_c
extern "C" void alone_of_c(int x);
//: 4 3 commas
template <class T, class U = std::map<int, T>,
          int N = (1 < 2)>
std::map<T, std::vector<U>> commas(std::map<T, U> a, std::function<void(int, int)> b,
                                   std::array<int, (N > 1 ? 2 : 3)> c = {1, 2}) { return {}; }
//: 2 3 defaults
void defaults(const Options& options = {}, std::pair<int, int> p = std::pair<int, int>{1, 2},
              std::string_view s = "a, (b {");
//: 5 2 constrained
template <class T>
requires(sizeof(T) > 1) && requires(T t) { t.f(); } && (!Odd<T, int>)
T constrained(T a, T b) requires Even<T> || (N < 3) {
  return a;
}
//: 3 1 constrained_behind
auto constrained_behind(auto x) requires Even<decltype(x)> && requires(int y) { x.f(y); } {
  return x;
}
//: 3 1 named_constraint
template <Real T>
requires std::is_same_v<T, float> || detail::Ok<T>::value SRF_HD std::vector<T> named_constraint(
    T a) { return {a}; }
template <class T>
concept Thing = requires(T t, int a, int b) {
  { t.f(a, b) } -> std::same_as<int>;
};
//: 4 1 attributes
[[nodiscard, gnu::always_inline]] SRF_IN_LOOP __attribute__((noinline, cold))
constexpr auto attributes([[maybe_unused]] int a) noexcept(noexcept(f(1, 2))) -> std::pair<int, int> {
  return {a, a};
}
//: 2 1 kernel
__global__ void __launch_bounds__(256, 2)
    kernel(int n) { for (int i = 0; i < n; ++i) { f(i); } }
SRF_MACRO_CALL(one, two)
//: 1 1 after_macro
void after_macro(int a) {}
struct Base;
enum class Kind : int { one = f(1, 2), two };
struct alignas(64) Odd final : Base<int, decltype(f(1))>, Other {
  //: 3 2 Odd::Odd
  explicit(sizeof(int) > 2) Odd(int a, int b) noexcept
      : Base<int, decltype(f(1))>{a, b}, member_(b), table_{{1, 2}, {3}}, f_([](int x) { return x; }) {
  }
  //: 4 1 Odd::Odd
  template <class... A>
  Odd(A&&... a) : Other{std::forward<A>(a)...} {
    run();
  }
  //: 2 0 Odd::Odd
  Odd()
      : member_{} {}
  //: 1 1 Odd::Odd
  Odd(const Odd&) = default;
  //: 1 1 Odd::operator=
  Odd& operator=(Odd&&) noexcept = delete;
  //: 2 0 Odd::~Odd
  virtual ~Odd() override {
  }
  //: 3 2 Odd::operator()
  SRF_HD auto operator()(int a, int b) const& noexcept -> int {
    return a << b >> 1;
  }
  //: 1 1 Odd::operator[]
  int operator[](int i) const { return i; }
  //: 1 1 Odd::operator<
  bool operator<(const Odd& o) const { return member_ < o.member_; }
  //: 1 2 Odd::operator<<
  friend std::ostream& operator<<(std::ostream& to, const Odd&) { return to; }
  //: 1 1 Odd::operator<=>
  auto operator<=>(const Odd&) const = default;
  //: 1 1 Odd::operator,
  void operator,(int) const {}
  //: 2 0 Odd::operator View<const T,2>
  operator View<const T, 2>() const {
    return {}; }
  //: 1 0 Odd::operator bool
  explicit operator bool() const { return true; }
  //: 1 1 Odd::get
  template <std::size_t I, class = void> int get(int) const = delete;
  struct Inner {
    //: 1 0 Odd::Inner::size
    int size() const { return n; }
    int n{f(1, 2)};
  };
  //: 2 1 Odd::pure
  virtual void pure(
      void (*callback)(int, int)) = 0;
 private:
  int member_{0}, other_ = {}, bits_ : 3;
  std::vector<std::vector<int>> table_{{1}, {2}};
  std::function<int(int, int)> f_;
  void (*pointer_)(int, int, int) = nullptr;
  std::unique_ptr<Odd> (*open_)(int, int);
  static constexpr bool small = sizeof(int) < 4, large = 3 > 2;
};
template <>
struct Odd<int> {
  //: 1 0 Odd::value
  static int value() { return 1; }
};
//: 2 1 Odd::Inner::defined
template <class T>
void Odd<T>::Inner::defined(T t) { return; }
//: 1 1 special
template <> void special<int, (1 > 0)>(int) {}
//: 3 1 tried
void tried(int a) try {
} catch (const std::exception& e) {
}
//: 5 0 texts
void texts() {
  const char* s = "} // \" {"; char c = '{', d = '\'', e = '"';  // }
  auto r = R"x( } )" { )x"; int big = 1'000'000; /* } */ const auto t = u8"}";
  auto u = L'}';
}
//: 8 0 branches
void branches() {
#if A
  if (x) {
#else
  if (y) {
#endif
  }
}
//: 7 1 left_out
void left_out(int a) {
#if 0
  } } f(
#else
  return;
#endif
}
//: 5 1 continued
void continued(int a) {
#define SRF_LOCAL(x) \
  {                  \
    x
}
//: 1 1 named
inline constexpr auto named = [](int a) { return a; };
int value(3);
auto table = std::array{1, 2};
using Function = void(int, int, int, int, int, int, int, int);
typedef struct { int x; } Old;
struct Of of;
//: 1 1 elaborated
struct Of elaborated(struct Of x) { return x; }
//: 1 2 Guide
template <class A, class B> Guide(A, B) -> Guide<A>;
static_assert(f(1, 2, 3, 4, 5, 6, 7, 8) < 3, "no");
//: 1 1 outer::Local::inner
//: 5 0 outer
void outer() {
  struct Local : Base<int> {
    void inner(int a) {}
  };
}
//: 2 1 last
auto last(auto&&... x)
    -> decltype(f(x...)) { return f(x...); }
}  // namespace a::b
"""


def odd_functions():
    wanted = [(int(a), int(b), c) for a, b, c in re.findall(r"^ *//: (\d+) (\d+) (.*)$", ODD, re.M)]
    got = [(f.last - f.first + 1, f.parameters, f.name) for f in functions_of(ODD)]
    got = [f for f in got if f[2] != "value"]  # of int value(3), which could be a function to anyone
    for expected, measured in zip(wanted, got):
        if expected != measured:
            sys.exit(f"measures lines, parameters, name {measured} where they are {expected}")
    if len(wanted) != len(got):
        sys.exit(f"finds {len(got)} functions of {len(wanted)}")
    for text in ("void f() { ( }\n", "}\n", "template <class T void f();\n"):
        try:
            functions_of(text)
        except Unreadable:
            continue
        sys.exit(f"reads {text!r}")


odd_functions()
rules()
script(0, "4 functions, 1 exceptions\n", {})
script(1, f"Structure:\n  {HEADER}:1: norm is 61 lines long, at most 60\n", {HEADER: long_function("norm", 61)})
shutil.rmtree(WORK, ignore_errors=True)
