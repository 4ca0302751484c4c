#!/usr/bin/env bash
# Builds and tests everything: installs what is missing, configures, builds, and ends with the summary of ctest.
#
#   tests/run.sh               g++ Release with every test, the programs on the CPU in every scalar, clang over headers and
#                              tests, and nvcc where it is installed (the programs in float32)
#   tests/run.sh --label X     as above, but runs only the tests with label X
#   tests/run.sh --all         first also Debug, address and undefined sanitizers, clang, and each Thrust at hand; then the
#                              programs on every device in every scalar, and other seeds
#
# Environment: JOBS (as many as processors), BUILD_DIR (build/), SRFORMER_NO_INSTALL=1 to install nothing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

all=
labels=()
while [ $# -gt 0 ]; do
  case $1 in
    --all) all=1 ;;
    --label)
      [ $# -ge 2 ] || { echo "tests/run.sh: --label needs a name" >&2; exit 2; }
      labels=(-L "^$2\$")
      shift
      ;;
    -h | --help) sed -n '2,10s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "tests/run.sh: unknown option $1 (try --help)" >&2; exit 2 ;;
  esac
  shift
done

# Tests run side by side, so threads that wait must not spin on the processors of others.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}
jobs=${JOBS:-$(nproc)}
build=${BUILD_DIR:-build}
[ -n "${SRFORMER_NO_INSTALL:-}" ] || cmake/install_deps.sh ${all:+--all}
if [ -z "${CUDACXX:-}" ] && ! command -v nvcc >/dev/null && [ -x /usr/local/cuda/bin/nvcc ]; then
  export CUDACXX=/usr/local/cuda/bin/nvcc
fi

# stage NAME CMAKE_OPTION...: configures, builds and tests in $build/NAME. What did not build fails its tests; the rest
# is tested all the same.
failed=
stage() {
  local name=$1 dir=$build/$1
  shift
  echo "== $name"
  cmake -S . -B "$dir" -G Ninja "$@"
  cmake --build "$dir" -j "$jobs" -- -k 0 || failed+=" $name"
  ctest --test-dir "$dir" -j "$jobs" --output-on-failure --no-tests=error ${labels[@]+"${labels[@]}"} 2>&1 ||
    failed+=" $name"
  [ "$name" = release ] || [ -z "$failed" ] || echo "== failed so far:$failed"
}

programs=("-DSRFORMER_DEVICES=cpu;cuda" -DSRFORMER_CUDA_DTYPES=float32)
if [ -n "$all" ]; then
  export SRFORMER_GENERATIONS=10000  # tests/decode/many_generations_test.cpp
  programs=("-DSRFORMER_DEVICES=cpu;thrust-cpp;thrust-omp;thrust-tbb;cuda"
    "-DSRFORMER_CUDA_DTYPES=float32;float64;bfloat16;float16")
  side=(-DSRFORMER_CUDA=OFF -DSRFORMER_SIDE_CHECKS=OFF "-DSRFORMER_DEVICES=cpu;thrust-cpp")
  stage debug "${side[@]}" -DCMAKE_BUILD_TYPE=Debug
  stage asan "${side[@]}" -DCMAKE_BUILD_TYPE=Debug -DSRFORMER_SANITIZE=address,undefined
  if command -v clang++ >/dev/null; then
    stage clang "${side[@]}" -DCMAKE_CXX_COMPILER=clang++
  fi
  stage plain "${side[@]}" -DSRFORMER_TEST_OPTIMIZATION=-O3 -DSRFORMER_ONEDNN=OFF -DSRFORMER_OPENMP=OFF -DSRFORMER_NATIVE=OFF
  for thrust in /usr/include /usr/local/cuda/include/cccl; do
    if [ -e "$thrust/thrust/version.h" ]; then
      stage "thrust-$(basename "$thrust")" "${side[@]}" -DSRFORMER_THRUST_DIR="$thrust" \
        -DSRFORMER_EXAMPLES=OFF -DSRFORMER_TEST_FOLDERS=backend
    fi
  done
fi

# Last, so that the summary of ctest is the last thing printed.
stage release -DCMAKE_BUILD_TYPE=Release "${programs[@]}"
[ -z "$all" ] || tests/reference/other_seeds.sh "$build/release" || failed+=" other_seeds"
[ -z "$failed" ]
