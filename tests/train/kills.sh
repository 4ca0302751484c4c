#!/usr/bin/env bash
# Kills a run of finetune at random moments, with SIGKILL and SIGTERM, half of them while a checkpoint is written, and
# resumes it; what comes out at the end is what a run gives that was left alone, bit for bit.
#
#   kills.sh FINETUNE MODEL COUNT [SEED]     MODEL is the folder of a small T5 with full attention
set -u
finetune=$1 model=$2 count=$3
RANDOM=${4:-1}
. "$(dirname "${BASH_SOURCE[0]}")/../support/checks.sh"
. "$support/kills.sh"

example_pairs 40 >train.jsonl
head -n 5 train.jsonl >validation.jsonl
flags=(--model_name_or_path "$model" --train_file train.jsonl --validation_file validation.jsonl --max_target_length 8
  --cross_attention segmented_recurrent --segment_size 8 --dropout_rate 0.1 --learning_rate 0.01 --warmup_steps 3
  --per_device_train_batch_size 4 --gradient_accumulation_steps 2 --group_by_length --max_steps 30 --eval_steps 7
  --logging_steps 3 --save_steps 2 --save_total_limit 3 --predict_with_generate=false --seed 3 --threads 1)

start=$(now)
"$finetune" "${flags[@]}" --output_dir whole >out.txt 2>err.txt || fail "the run that is left alone"
length=$(($(now) - start))

kills=0 saving=0 ends=0
while [ "$kills" -lt "$count" ]; do
  "$finetune" "${flags[@]}" --output_dir killed --resume_from_checkpoint auto >out.txt 2>err.txt &
  process=$!
  signal=KILL
  [ $((RANDOM % 2)) -eq 0 ] || signal=TERM
  pause $((RANDOM % (length * 2 / 3 + 1) % 1000))
  if [ $((RANDOM % 2)) -eq 0 ]; then  # while it saves
    wait_for_saving $process
  fi
  kill -$signal $process 2>/dev/null
  wait $process 2>/dev/null
  code=$?
  case $code in
    0) ends=$((ends + 1)) ;;
    137 | 143) kills=$((kills + 1)) ;;
    *) fail "exit code $code after $kills kills" ;;
  esac
  ! compgen -G 'killed/*.tmp-*' >/dev/null || saving=$((saving + 1))
  check_checkpoints
  [ $code -ne 0 ] || check_end
done
"$finetune" "${flags[@]}" --output_dir killed --resume_from_checkpoint auto >out.txt 2>err.txt || fail "the last resumption"
ends=$((ends + 1))
check_end
echo "$kills kills, $saving of them while something was written; $ends runs came to their end with the bits of one left alone"
