#!/usr/bin/env bash
# Runs the program finetune on several ranks: the numbers of one process, errors, lost ranks, interruptions.
#
#   check_finetune.sh FINETUNE MODEL MPIEXEC...     MODEL is the folder of a small T5 with full attention; MPIEXEC... is
#                                                   what starts as many processes as the number that follows
set -u
finetune=$1 model=$2
shift 2
launch=("$@")
export OMP_NUM_THREADS=1
. "$(dirname "${BASH_SOURCE[0]}")/../support/checks.sh"

# run CODE RANKS ARGUMENT...: that many ranks end with that code.
run() {
  local code=$1 ranks=$2
  shift 2
  checks=$((checks + 1))
  "${launch[@]}" "$ranks" "$finetune" "$@" >out.txt 2>err.txt
  local got=$?
  [ $got -eq "$code" ] || fail "exit code $got, expected $code, of $ranks ranks: $*"
}
# one_error TEXT: of all ranks one has said what is wrong, in a line with TEXT.
one_error() {
  checks=$((checks + 1))
  without_zeros
  [ "$(grep -c '^error: ' err.txt)" -eq 1 ] || fail "not one error, of \"$1\""
  grep '^error: ' err.txt | grep -qF -- "$1" || fail "no error \"$1\""
}
# near FOLDER FOLDER: the same metrics, within 1e-9 of each number, and not those of time.
numbers() {
  grep -ohE '"[A-Za-z_0-9]+": ?[-0-9.e]+' "$1"/metrics.jsonl "$1"/all_results.json | grep -vE 'second|runtime|train_loss' | sed 's/[":]\+/ /g'
}
near() {
  checks=$((checks + 1))
  paste <(numbers "$1") <(numbers "$2") | awk '
    { d = $2 - $4; if (d < 0) d = -d; if ($1 != $3 || d > 1e-9 * (1 + ($2 < 0 ? -$2 : $2))) { print; bad = 1 } }
    END { if (NR < 12) { print NR " numbers alone"; bad = 1 }; exit bad }' >err.txt || fail "$1 and $2 differ"
}
# wait_for TEXT: until a run in the background has printed it.
wait_for() {
  for ((i = 0; i < 300; ++i)); do
    grep -q -- "$1" out.txt 2>/dev/null && return
    sleep 0.1
  done
  fail "it never said $1"
}
# rank_process RANK: its process, of the run in the background.
rank_process() {
  local process
  for process in $(pgrep -f "^$finetune .*--output_dir $folder/"); do
    if tr '\0' '\n' <"/proc/$process/environ" 2>/dev/null | grep -qE "^(OMPI_COMM_WORLD_RANK|PMI_RANK)=$1\$"; then
      echo "$process"
      return
    fi
  done
}

example_pairs 57 >train.jsonl
head -n 11 train.jsonl >validation.jsonl
tail -n 9 train.jsonl >test.jsonl
base=(--model_name_or_path "$model" --train_file train.jsonl --max_target_length 8 --cross_attention segmented_recurrent
  --segment_size 8 --learning_rate 0.01 --logging_steps 1 --seed 3 --dtype float64 --group_by_length)
sets=(--validation_file validation.jsonl --test_file test.jsonl --per_device_eval_batch_size 2)
whole=("${base[@]}" "${sets[@]}" --num_train_epochs 2 --eval_strategy steps --eval_steps 2 --save_steps 2 --dropout_rate 0.1
  --label_smoothing_factor 0.1 --weight_decay 0.01 --warmup_steps 2 --predict_with_generate --load_best_model_at_end)

# ---- the numbers of one process -------------------------------------------------------------------------------------
# Steps of 24 examples, in 1, 2 and 4 parts; the last of an epoch has 9.
micro=(--per_device_train_batch_size 3)
"$finetune" "${whole[@]}" "${micro[@]}" --gradient_accumulation_steps 8 --output_dir one >out.txt 2>err.txt || fail "one process"
for ranks in 1 2 4; do
  run 0 $ranks "${whole[@]}" "${micro[@]}" --gradient_accumulation_steps $((8 / ranks)) --output_dir "of_$ranks"
  near one "of_$ranks"
  check "$ranks ranks write the same predictions" cmp one/generated_predictions.txt "of_$ranks/generated_predictions.txt"
  check "$ranks ranks write the same files" cmp <(cd one && find . -type f | grep -v srformer.lock | sort) \
    <(cd "of_$ranks" && find . -type f | sort)
done
check "one rank is one process" cmp one/model.safetensors of_1/model.safetensors
check "ranks and threads are told" grep -q '^4 ranks on 1 machine, 1 thread each$' out.txt
check "so is the step of all of them" grep -q 'steps of up to 24$' out.txt
check "one rank prints" test "$(grep -c 'the model is in' out.txt)" -eq 1
run 0 2 "${whole[@]}" "${micro[@]}" --gradient_accumulation_steps 4 --output_dir again
check "two ranks give the same bits twice" cmp of_2/model.safetensors again/model.safetensors
run 0 4 "${whole[@]}" --per_device_train_batch_size 6 --output_dir divided
check "ranks divide a step of fewer parts" grep -q 'steps of up to 24$' out.txt

# ---- ZeRO -----------------------------------------------------------------------------------------------------------
for optimizer in adamw_torch sgd adafactor; do
  flags=("${base[@]}" "${micro[@]}" --gradient_accumulation_steps 2 --max_steps 3 --save_steps 2 --optim $optimizer)
  run 0 2 "${flags[@]}" --output_dir "zero0_$optimizer"
  run 0 2 "${flags[@]}" --zero 1 --output_dir "zero1_$optimizer"
  for file in model.safetensors checkpoint-2/optimizer.safetensors; do
    check "$optimizer has the same $file with ZeRO" cmp "zero0_$optimizer/$file" "zero1_$optimizer/$file"
  done
done

# ---- another number of ranks ----------------------------------------------------------------------------------------
for ranks in 4 1; do
  cp -r zero1_adamw_torch "resumed_$ranks"
  run 0 $ranks "${base[@]}" "${micro[@]}" --gradient_accumulation_steps $((4 / ranks)) --max_steps 3 --save_steps 2 \
    --resume_from_checkpoint auto --output_dir "resumed_$ranks" --zero $((ranks > 1))
  check "a checkpoint of 2 ranks is read by $ranks" grep -q "resumed from resumed_$ranks/checkpoint-2 after step 2" out.txt
  check "which is told" grep -q "^notice: ranks was 2 in the run so far, now it is $ranks$" out.txt
  near zero1_adamw_torch "resumed_$ranks"
done
run 1 4 "${base[@]}" --per_device_train_batch_size 2 --max_steps 3 --resume_from_checkpoint auto --output_dir zero1_sgd --optim sgd
one_error "resume"

# ---- evaluation alone -----------------------------------------------------------------------------------------------
scored=(--model_name_or_path one --max_target_length 8 "${sets[@]}" --do_eval --do_predict --dtype float64 --num_beams 2)
for ranks in 1 2 3 4; do
  run 0 $ranks "${scored[@]}" --output_dir "scored_$ranks"
  check "$ranks ranks score the same" cmp <(grep -vE 'second|runtime' scored_1/all_results.json) \
    <(grep -vE 'second|runtime' "scored_$ranks/all_results.json")
  check "and predict the same" cmp scored_1/generated_predictions.txt "scored_$ranks/generated_predictions.txt"
done

# ---- a cache of ids -------------------------------------------------------------------------------------------------
run 0 2 "${base[@]}" "${micro[@]}" --gradient_accumulation_steps 2 --max_steps 3 --save_strategy no --data_cache cache \
  --output_dir cached
check "one rank makes the cache" test "$(ls cache | wc -l)" -eq 1
check "two ranks train alike with it" cmp zero0_adamw_torch/model.safetensors cached/model.safetensors

# ---- errors ---------------------------------------------------------------------------------------------------------
run 2 2 "${base[@]}" --output_dir x --per_device_train_batch_size 0
one_error "per_device_train_batch_size"
run 1 2 "${base[@]}" --train_file absent.jsonl --output_dir x
one_error "absent.jsonl"
run 2 2 "${base[@]}" --train_file - --output_dir x </dev/null
one_error "standard input (-) is that of one rank"
run 1 2 "${base[@]}" --output_dir one
one_error "is not empty"
check "what cannot begin makes no folder" test ! -e x
run 0 2 --help
check "help is given once" test "$(grep -c -- '--output_dir' out.txt)" -eq 1

# two_commands: rank0.sh on rank 0 beside rank1.sh on rank 1. (mpirun takes two commands with a colon between, of which that
# of Open MPI 5.0.7 dies.)
two_commands() {
  # shellcheck disable=SC2016
  "${launch[@]}" 2 bash -c '. ./rank${OMPI_COMM_WORLD_RANK:-${PMIX_RANK:-$PMI_RANK}}.sh' >out.txt 2>err.txt
}
# Two ranks of other flags.
apart() {  # apart CODE (flags of rank 0) -- (flags of rank 1)
  local code=$1 first=()
  shift
  while [ "$1" != -- ]; do first+=("$1"); shift; done
  shift
  echo "exec $(printf '%q ' "$finetune" "${first[@]}")" >rank0.sh
  echo "exec $(printf '%q ' "$finetune" "$@")" >rank1.sh
  two_commands
  local got=$?
  checks=$((checks + 1))
  [ $got -eq "$code" ] || fail "exit code $got, expected $code"
}
short=("${base[@]}" --max_steps 2 --output_dir x)
apart 1 "${short[@]}" -- "${short[@]/0.01/0.02}"
one_error 'rank 1: --learning_rate is "0.02", and on rank 0 it is "0.01"'
apart 1 "${short[@]}" -- "${short[@]}" --zero 1
one_error 'rank 1: --zero is "1", and on rank 0 it is "0"'
apart 2 "${short[@]}" -- "${short[@]}" --max_train_samples
one_error 'error: rank 1: --max_train_samples'
mkdir here there && cp train.jsonl here/data.jsonl && head -n 50 train.jsonl >there/data.jsonl
short=("${short[@]/train.jsonl/data.jsonl}")
for rank in 0:here 1:there; do
  echo "cd ${rank#*:} && exec $finetune $(printf '%q ' "${short[@]/#x/$folder/x}")" >"rank${rank%:*}.sh"
done
two_commands && fail "other data are accepted"
one_error 'rank 1: --train_file is "50 examples ('

# ---- interruptions --------------------------------------------------------------------------------------------------
long=("${base[@]}" "${micro[@]}" --dropout_rate 0.1 --save_strategy no --output_dir "$folder/long")
run 0 2 "${long[@]}" --max_steps 60
mv long undisturbed
begin() {  # begin FLAG...: in the background, after its first step
  : >out.txt
  "${launch[@]}" 2 "$finetune" "${long[@]}" "$@" >out.txt 2>err.txt &
  job=$!
  wait_for '^step 2/'
}
for signalled in job one; do
  begin --max_steps 60 --overwrite_output_dir
  if [ $signalled = job ]; then kill -USR1 $job; else kill -TERM "$(rank_process 1)"; fi
  wait $job
  code=$?
  check "an interruption of $signalled is told by its exit code, here $code" test $code -eq 138 -o $code -eq 143
  check "it is saved once" test "$(ls -d long/checkpoint-* | wc -l)" -eq 1
  without_zeros
  check "and told once" test "$(grep -c '^interrupted after step' err.txt)" -eq 1
  check "nothing is locked" test ! -e long/srformer.lock
  run 0 2 "${long[@]}" --max_steps 60 --resume_from_checkpoint auto
  check "it goes on as if never stopped" cmp undisturbed/model.safetensors long/model.safetensors
done

# ---- lost ranks -----------------------------------------------------------------------------------------------------
# first_error TEXT: the first error has TEXT. While mpirun ends the ranks, one that was stopped may find the others gone.
first_error() {
  checks=$((checks + 1))
  without_zeros
  grep -m 1 '^error: ' err.txt | grep -qF -- "$1" || fail "the first error is not \"$1\""
}
ends_soon() {  # ends_soon WHAT: the run in the background ends by itself within 30 seconds, and not well
  local start=$SECONDS
  for ((i = 0; i < 300; ++i)); do
    kill -0 $job 2>/dev/null || break
    sleep 0.1
  done
  kill -0 $job 2>/dev/null && { kill -KILL $job; fail "$1: it goes on"; }
  wait $job && fail "$1: it ends well"
  checks=$((checks + 1))
  echo "$1: ended after $((SECONDS - start)) s"
}
forever=(--max_steps 100000 --overwrite_output_dir)
begin "${forever[@]}"
kill -KILL "$(rank_process 1)"
ends_soon "a killed rank"
check "mpirun names it" grep -qE 'process rank 1 |RANK 1 ' err.txt
begin "${forever[@]}" --ddp_timeout 3
kill -STOP "$(rank_process 1)"
ends_soon "a stopped rank"
first_error "rank 1 (process "
first_error "has given no sign of life for 3 s"
begin "${forever[@]}" --ddp_timeout 3
kill -STOP "$(rank_process 0)"
ends_soon "a stopped first rank"
first_error "rank 1: rank 0 (process "

echo "all $checks checks passed"
