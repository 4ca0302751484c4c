#!/usr/bin/env bash
# Measures how long three files take to compile, in seconds of processor time (the median of three runs), and the size
# of their code: Eigen alone with one matrix product; one attention in float, forward and backward; everything that
# srformer.hpp has, with every variant in float.
#
#   bench/compile_time.sh [COMPILER] [FLAG...]        g++ -O2 unless given
set -eu
sources=$(cd "$(dirname "$0")/.." && pwd)
compiler=${1:-g++}
[ $# -gt 0 ] && shift
[ $# -gt 0 ] || set -- -O2
eigen=${EIGEN_INCLUDE_DIR:-/usr/include/eigen3}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"

cat >eigen.cpp <<'END'
#include <Eigen/Core>
void multiply(const Eigen::MatrixXf& a, const Eigen::MatrixXf& b, Eigen::MatrixXf& c) { c.noalias() = a * b; }
END

cat >attention.cpp <<'END'
#include <srformer/attention/segmented_recurrent.hpp>
#include <srformer/backend/eigen.hpp>
using namespace srformer;
using Inputs = AttentionInputs<EigenBackend, float>;
using Gradients = AttentionGradients<EigenBackend, float>;
void forward(EigenBackend& be, const Inputs& in, const RecurrentParameters<const float>& p, View<float, 4> out) {
  segmented_recurrent_forward(be, in, p, {}, out);
}
void backward(EigenBackend& be, const Inputs& in, const RecurrentParameters<const float>& p, const Gradients& d,
              const RecurrentParameters<float>& d_p) {
  segmented_recurrent_backward(be, in, p, {}, d, d_p);
}
END

cat >everything.cpp <<'END'
#include <srformer/srformer.hpp>
using namespace srformer;
using In4 = View<const float, 4>;
using Out4 = View<float, 4>;
using Inputs = AttentionInputs<EigenBackend, float>;
using Gradients = AttentionGradients<EigenBackend, float>;
using Saved = PaperVariants::Saved<EigenBackend, float>;
void forward(EigenBackend& be, const Inputs& in, const LearnedPointers<const float>& p,
             const PaperVariants::Options& options, Saved& saved, Out4 out) {
  PaperVariants::forward(be, in, p, options, saved, out);
}
void backward(EigenBackend& be, const Inputs& in, const LearnedPointers<const float>& p,
              const PaperVariants::Options& options, const Saved& saved, const Gradients& d,
              const LearnedPointers<float>& d_p) {
  PaperVariants::backward(be, in, p, options, saved, d, d_p);
}
END

TIMEFORMAT='%U %S'
# seconds FILE: processor time of one compilation
seconds() {
  if ! { time "$compiler" -std=c++20 "${flags[@]}" -I"$sources/include" -isystem "$eigen" -c "$1.cpp" -o "$1.o" \
    2>errors.txt; } 2>time.txt; then
    cat errors.txt >&2
    return 1
  fi
  awk '{ print $1 + $2 }' time.txt
}

flags=("$@")
names=(eigen attention everything)
: >times.txt
for run in 1 2 3; do # in turn, so that a busy minute slows all of them
  for name in "${names[@]}"; do
    took=$(seconds "$name")
    echo "$name $took" >>times.txt
  done
done
echo "$("$compiler" --version | head -n 1), ${flags[*]}"
printf '%-12s %9s %6s %10s %6s\n' file seconds ratio 'code bytes' ratio
for name in "${names[@]}"; do
  time=$(awk -v name="$name" '$1 == name { print $2 }' times.txt | sort -n | sed -n 2p)
  bytes=$(size "$name.o" | awk 'NR == 2 { print $1 }')
  if [ "$name" = eigen ]; then
    first_time=$time first_bytes=$bytes
  fi
  awk -v n="$name" -v t="$time" -v t0="$first_time" -v b="$bytes" -v b0="$first_bytes" \
    'BEGIN { printf "%-12s %9.2f %6.2f %10d %6.2f\n", n, t, t / t0, b, b / b0 }'
done
