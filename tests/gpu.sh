#!/usr/bin/env bash
# Runs what needs a CUDA device - tests, reference values with their gradients, the programs, timings - and writes one
# report. Builds for the devices that are there.
#
#   tests/gpu.sh [REPORT]      default gpu-report.txt
#
# Environment: JOBS (as many as processors), BUILD_DIR (build/gpu). Ends with 0 when everything passed, 1 when something
# failed, and 77 where there is no device or no nvcc.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
case ${1:-} in
  -h | --help) sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 0 ;;
  -*) echo "tests/gpu.sh: unknown option $1 (try --help)" >&2; exit 2 ;;
esac
report=$(realpath -m "${1:-gpu-report.txt}")
build=${BUILD_DIR:-build/gpu}
jobs=${JOBS:-$(nproc)}
export PATH="$PATH:/usr/local/cuda/bin"

if ! command -v nvcc >/dev/null; then
  echo "tests/gpu.sh: skipped, nvcc was not found"
  exit 77
fi
if ! command -v nvidia-smi >/dev/null || ! devices=$(nvidia-smi --query-gpu=name,compute_cap,driver_version,memory.total \
  --format=csv,noheader 2>/dev/null) || [ -z "$devices" ]; then
  echo "tests/gpu.sh: skipped, there is no CUDA device or no driver"
  exit 77
fi
architectures=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | tr -d . | sort -u | paste -sd ';')

failed=0
say() { printf '%s\n' "$*" | tee -a "$report"; }
# part NAME COMMAND...: runs it, with its output in the report.
part() {
  local name=$1 start=$SECONDS
  shift
  say "" "== $name" "$*"
  if "$@" >>"$report" 2>&1; then
    say "passed in $((SECONDS - start)) s"
  else
    say "FAILED with $? after $((SECONDS - start)) s"
    failed=1
  fi
}

: >"$report" || exit 1
say "srformer $(git describe --always --dirty 2>/dev/null), $(date -u +%Y-%m-%dT%H:%MZ)"
say "$devices" "$(nvcc --version | tail -n 2 | head -n 1)"
part configure cmake -S . -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release "-DCMAKE_CUDA_ARCHITECTURES=$architectures" \
  -DSRFORMER_SIDE_CHECKS=OFF "-DSRFORMER_TEST_FOLDERS=cuda;reference" "-DSRFORMER_DEVICES=cpu;cuda"
part build cmake --build "$build" -j "$jobs" --target test_cuda check_values example_replay example_finetune \
  example_summarize example_init_model example_make_bulletins bench_attention bench_attention_cuda \
  bench_training_step_cuda bench_generate
[ $failed = 0 ] || { say "" "Nothing was run: the build failed"; exit 1; }

part "every row functor and variant beside the CPU" "$build/tests/test_cuda" -w NoAssertions
for dtype in float64 float32 bfloat16 float16; do
  for kind in attention models; do
    part "reference values, $kind, $dtype" "$build/tests/reference/check_values" tests/reference/values \
      "$build/examples/replay" $kind $dtype cuda
  done
done

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
part "data" "$build/examples/make_bulletins" --output "$work/data" --train 256 --validation 32 --test 32
part "model" "$build/examples/init_model" --output_dir "$work/model" --preset t5-tiny --extra_ids 0 --train_tokenizer "$work/data/train.jsonl" \
  --tokenizer_vocab_size 384
part "twenty steps and an evaluation" "$build/examples/finetune" --device cuda --model_name_or_path "$work/model" \
  --train_file "$work/data/train.jsonl" --validation_file "$work/data/validation.jsonl" --max_steps 20 \
  --cross_attention segmented_recurrent --output_dir "$work/out"
part "the same steps on the CPU" "$build/examples/finetune" --device cpu --model_name_or_path "$work/model" \
  --train_file "$work/data/train.jsonl" --validation_file "$work/data/validation.jsonl" --max_steps 20 \
  --cross_attention segmented_recurrent --output_dir "$work/out_cpu"

for variant in full segmented segmented_recurrent transformer_xl global_tokens linear; do
  for keys in 1024 16384; do
    for steps in 0 32; do
      repetitions=20
      # the memory of Transformer-XL goes through the keys one after another
      [ $variant = transformer_xl ] && repetitions=2
      sizes=($variant --batch 4 --keys $keys --steps $steps --repetitions $repetitions)
      what="$variant, N $keys, $([ $steps = 0 ] && echo "forward and backward" || echo "$steps steps of decoding")"
      part "$what, device" "$build/bench/bench_attention_cuda" "${sizes[@]}"
      if [ $variant != segmented_recurrent ] && [ $variant-$keys != transformer_xl-16384 ]; then
        part "$what, device, one team a head" "$build/bench/bench_attention_cuda" "${sizes[@]}" --team_a_head
      fi
      part "$what, CPU" "$build/bench/bench_attention" "${sizes[@]}"
    done
  done
done
part "T5-small" "$build/examples/init_model" --output_dir "$work/t5-small" --preset t5-small --seed 1
for batch in 1 8; do
  part "T5-small, training steps of $batch" "$build/bench/bench_training_step_cuda" "$work/t5-small" --batch $batch --steps 5
done
printf '[[%s1]]' "$(seq -s, 5 1027)," >"$work/source.json"
for dtype in float32 bfloat16; do
  part "T5-small, generation, $dtype" "$build/bench/bench_generate" "$work/t5-small" "$work/source.json" --device cuda \
    --dtype $dtype
done
say "" "bench/compare.py --device cuda has the same beside torch and transformers" \
  "$([ $failed = 0 ] && echo "Everything passed" || echo "Something failed"); the report is $report"
exit $failed
