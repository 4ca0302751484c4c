#!/usr/bin/env bash
# Builds and tests everything: installs what is missing, configures, builds, and ends with the summary of ctest.
#
#   tests/run.sh               g++ Release with every test, the programs on the CPU in every scalar (at -O1, as the tests),
#                              clang over headers and tests, and nvcc where it is installed (the programs in float32);
#                              before it the readers of files under libFuzzer, 5 seconds each
#   tests/run.sh --label X     as above, but runs only the tests with label X
#   tests/run.sh --fuzz N      looks for faults in the readers of files for N minutes each (clang, tests/fuzz), and nothing else
#   tests/run.sh --all         first also Debug, address and undefined sanitizers, clang, and each Thrust at hand; then the
#                              programs as users build them, on every device in every scalar, and other seeds
#   tests/run.sh --all --stage NAME   one stage of that: debug, asan, clang, plain, x86-64-v3, thrust-include, thrust-cccl,
#                              fuzz, release or other_seeds (which needs what release has built)
#
# Without options the first run takes about 15 minutes on 2 processors that do nothing else; what is built is not built
# again.
#
# Environment: JOBS (as many as processors), BUILD_DIR (build/), SRFORMER_NO_INSTALL=1 to install nothing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

all=
only=
labels=()
fuzz_seconds=5
stages="debug asan clang plain x86-64-v3 thrust-include thrust-cccl fuzz release other_seeds"
value() { [ $# -ge 2 ] || { echo "tests/run.sh: $1 needs a name" >&2; exit 2; }; }
while [ $# -gt 0 ]; do
  case $1 in
    --all) all=1 ;;
    --fuzz)
      value "$@"
      case $2 in "" | *[!0-9]*) echo "tests/run.sh: --fuzz needs a number of minutes" >&2; exit 2 ;; esac
      only=fuzz
      fuzz_seconds=$((60 * $2))
      shift
      ;;
    --label)
      value "$@"
      labels=(-L "^$2\$")
      [ "$2" != fuzz ] || only=fuzz
      shift
      ;;
    --stage)
      value "$@"
      only=$2
      shift
      ;;
    -h | --help) sed -n '2,/^set /s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "tests/run.sh: unknown option $1 (try --help)" >&2; exit 2 ;;
  esac
  shift
done
if [ -n "$only" ]; then
  case " $stages " in
    *" $only "*) ;;
    *) echo "tests/run.sh: --stage $only is not one of: $stages" >&2; exit 2 ;;
  esac
  [ -n "$all" ] || [ "$only" = fuzz ] || { echo "tests/run.sh: --stage is one of --all" >&2; exit 2; }
fi

if [ -z "$all" ]; then
  echo "tests/run.sh: the first run takes about 15 minutes on 2 processors, more on busy ones, and 440 MB in ${BUILD_DIR:-build}"
else
  echo "tests/run.sh: the first run of every stage takes hours, and about 440 MB for each in ${BUILD_DIR:-build}"
fi

# Tests run side by side, so threads that wait must not spin on the processors of others.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}
jobs=${JOBS:-$(nproc)}
build=${BUILD_DIR:-build}
[ -n "${SRFORMER_NO_INSTALL:-}" ] || cmake/install_deps.sh ${all:+--all}
if [ -z "${CUDACXX:-}" ] && ! command -v nvcc >/dev/null && [ -x /usr/local/cuda/bin/nvcc ]; then
  export CUDACXX=/usr/local/cuda/bin/nvcc
fi

# Where memory is plenty g++ need not collect its garbage, which takes a quarter of its time.
keep=
memory=$(awk '/^MemAvailable:/ { print int($2 / 1048576) }' /proc/meminfo 2>/dev/null || echo 0)
if c++ --version 2>/dev/null | grep -q 'Free Software Foundation' && [ "$memory" -ge $((3 * jobs)) ]; then
  keep=--param=ggc-min-heapsize=1048576
fi

# wanted NAME: whether this stage runs.
wanted() { [ -z "$only" ] || [ "$only" = "$1" ]; }

# check DIR CTEST_OPTION...: tests what DIR has built.
check() {
  local dir=$1
  shift
  ctest --test-dir "$dir" -j "$jobs" --output-on-failure --no-tests=error "$@" 2>&1
}

# stage NAME CMAKE_OPTION...: configures, builds and tests in $build/NAME, first what is built within seconds. What did
# not build fails its tests; the rest is tested all the same.
failed=
stage() {
  local name=$1 dir=$build/$1
  wanted "$name" || return 0
  shift
  echo "== $name"
  local keep_here=$keep
  case "$*" in *clang++*) keep_here= ;; esac
  CXXFLAGS="${CXXFLAGS:-} $keep_here" CUDAFLAGS="${CUDAFLAGS:-} ${keep_here:+-Xcompiler=$keep_here}" \
    cmake -S . -B "$dir" -G Ninja "$@"
  if [ ${#labels[@]} -eq 0 ] && cmake --build "$dir" -j "$jobs" --target cheap_tests 2>/dev/null; then
    check "$dir" -L '^(core|layers|structure|docs|format)$' || echo "== some cheap tests failed; going on"
  fi
  if ! cmake --build "$dir" -j "$jobs" -- -k 0 2>&1 | tee "$dir/build.log"; then
    failed+=" $name"
    echo "== $name did not build: the first failure of $dir/build.log is below; to repeat it: cmake --build $dir"
    grep -m 1 -A 12 '^FAILED: ' "$dir/build.log" | cut -c 1-300 | sed 's/^/    /' || tail -n 12 "$dir/build.log"
  fi
  check "$dir" ${labels[@]+"${labels[@]}"} || {
    failed+=" $name"
    echo "== to repeat the tests that failed: ctest --test-dir $dir --rerun-failed --output-on-failure"
  }
  [ "$name" = release ] || [ -z "$failed" ] || echo "== failed so far:$failed"
}

side=(-DSRFORMER_CUDA=OFF -DSRFORMER_SIDE_CHECKS=OFF "-DSRFORMER_DEVICES=cpu;thrust-cpp")
programs=("-DSRFORMER_DEVICES=cpu;cuda" -DSRFORMER_CUDA_DTYPES=float32)
if [ -n "$all" ]; then
  export SRFORMER_GENERATIONS=10000  # tests/decode/many_generations_test.cpp
  programs=("-DSRFORMER_DEVICES=cpu;thrust-cpp;thrust-omp;thrust-tbb;cuda"
    "-DSRFORMER_CUDA_DTYPES=float32;float64;bfloat16;float16")
  stage debug "${side[@]}" -DCMAKE_BUILD_TYPE=Debug
  stage asan "${side[@]}" -DCMAKE_BUILD_TYPE=Debug -DSRFORMER_SANITIZE=address,undefined
  if command -v clang++ >/dev/null; then
    stage clang "${side[@]}" -DCMAKE_CXX_COMPILER=clang++
  fi
  stage plain "${side[@]}" -DSRFORMER_TEST_OPTIMIZATION=-O3 -DSRFORMER_ONEDNN=OFF -DSRFORMER_OPENMP=OFF -DSRFORMER_NATIVE=OFF
  if grep -qw avx2 /proc/cpuinfo; then
    stage x86-64-v3 "${side[@]}" -DSRFORMER_NATIVE=OFF -DCMAKE_CXX_FLAGS=-march=x86-64-v3 -DSRFORMER_EXAMPLES=OFF
  fi
  for thrust in /usr/include /usr/local/cuda/include/cccl; do
    if [ -e "$thrust/thrust/version.h" ]; then
      stage "thrust-$(basename "$thrust")" "${side[@]}" -DSRFORMER_THRUST_DIR="$thrust" \
        -DSRFORMER_EXAMPLES=OFF -DSRFORMER_TEST_FOLDERS=backend
    fi
  done
fi

# Readers of files under libFuzzer, which not every clang brings; those who ask for another label do not wait for them.
has_libfuzzer() {
  echo 'extern "C" int LLVMFuzzerTestOneInput(const unsigned char*, unsigned long) { return 0; }' |
    clang++ -fsanitize=fuzzer,address,undefined -x c++ - -o /dev/null 2>/dev/null
}
[ -z "$all" ] || [ "$fuzz_seconds" -gt 60 ] || fuzz_seconds=60
if wanted fuzz && { [ ${#labels[@]} -eq 0 ] || [ "$only" = fuzz ]; }; then
  if has_libfuzzer; then
    stage fuzz "${side[@]}" -DCMAKE_BUILD_TYPE=Release -DCMAKE_CXX_COMPILER=clang++ -DSRFORMER_FUZZ=ON \
      -DSRFORMER_FUZZ_SECONDS="$fuzz_seconds" -DSRFORMER_TEST_FOLDERS=fuzz -DSRFORMER_EXAMPLES=OFF -DSRFORMER_BENCH=OFF
  else
    echo "== fuzz is left out: there is no clang++ with libFuzzer (clang, libclang-rt-dev)"
    [ "$only" != fuzz ] || failed+=" fuzz"
  fi
fi

# Without --all the programs are built for tests alone.
quick=(-DSRFORMER_QUICK=ON)
[ -z "$all" ] || quick=(-DSRFORMER_QUICK=OFF)

# Last, so that the summary of ctest is the last thing printed.
stage release -DCMAKE_BUILD_TYPE=Release "${programs[@]}" "${quick[@]}"
if [ -n "$all" ] && wanted other_seeds; then
  tests/reference/other_seeds.sh "$build/release" || failed+=" other_seeds"
fi
[ -z "$failed" ]
