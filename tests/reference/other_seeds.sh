#!/usr/bin/env bash
# Makes reference values for other seeds and scales with Python and checks replay against them.
#
#   tests/reference/other_seeds.sh BUILD_DIR [SEED:SCALE]...     default 2:1 3:1 1:3
#
# AdamW moves an element whose gradient is rounding error by the learning rate, one way or the other: in float32 the
# parameters after its steps may be off by 4e-2 and the losses on the way by 4e-3 (torch's are by 1.9e-2 and 1.5e-3 for
# seed 3), and at a scale above 1, where more elements have such gradients, they are not compared.
# float16 is left out there, whose range ends at 65504. In 16 bits the comparison is with float64 on the same rounded
# inputs: rounding the weights of a model alone moves its logits by up to 2e-2.
#
# Environment: DEVICES (all of those that run on a processor); SRFORMER_PYTHON (python3), one with torch, transformers,
# sentencepiece, tokenizers, safetensors and protobuf. Without them the script says so and ends well, as nothing was
# compared; SRFORMER_NEED_PYTHON=1 makes it fail.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
[ $# -ge 1 ] || { sed -n '2,14s/^# \{0,1\}//p' "$0" >&2; exit 2; }
build=$1
shift
[ $# -ge 1 ] || set -- 2:1 3:1 1:3

python=${SRFORMER_PYTHON:-python3}
if ! "$python" -c 'import torch, transformers, sentencepiece, tokenizers, safetensors, google.protobuf' 2>/dev/null; then
  echo "Skipped: $python lacks torch, transformers, sentencepiece, tokenizers, safetensors or protobuf" \
    "(set SRFORMER_PYTHON)"
  [ -z "${SRFORMER_NEED_PYTHON:-}" ]
  exit
fi

devices=${DEVICES:-cpu thrust-cpp thrust-omp thrust-tbb}
export OMP_NUM_THREADS=1  # the models are tiny
values=$(mktemp -d)
trap 'rm -rf "$values"' EXIT
failed=0
for case in "$@"; do
  seed=${case%%:*} scale=${case##*:}
  echo "== seed $seed, scale $scale"
  "$python" "$here/make_reference.py" "$values/$case" --seed "$seed" --scale "$scale" >"$values/log" 2>&1 ||
    { tail -n 20 "$values/log" >&2; exit 1; }
  for device in $devices; do
    for kind in attention models; do
      for dtype in float64 float32 bfloat16 float16; do
        [ "$scale" = 1 ] || [ $dtype != float16 ] || continue
        only=--other-seed
        [ "$scale" = 1 ] || [ $dtype != float32 ] || only=--no-steps
        case $dtype in *16) only=--rounded ;; esac
        "$build/tests/reference/check_values" "$values/$case" "$build/examples/replay" $kind $dtype "$device" \
          "$only" >"$values/out" ||
          { failed=1; grep '^X' "$values/out" || true; }
        tail -n 1 "$values/out"
      done
    done
  done
  rm -rf "${values:?}/$case"
done
exit $failed
