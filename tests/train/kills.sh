#!/usr/bin/env bash
# Kills a run of finetune at random moments, with SIGKILL and SIGTERM, half of them while a checkpoint is written, and
# resumes it; what comes out at the end is what a run gives that was left alone, bit for bit.
#
#   kills.sh FINETUNE MODEL COUNT [SEED]     MODEL is the folder of a small T5 with full attention
set -u
finetune=$1 model=$2 count=$3
RANDOM=${4:-1}
. "$(dirname "${BASH_SOURCE[0]}")/../support/checks.sh"

words=(segment recurrence attention query key value memory leak reset model)
for ((i = 0; i < 40; ++i)); do
  text=
  for ((w = 0; w <= i % 13; ++w)); do text+="${words[(i * 7 + w * w) % 10]} "; done
  echo "{\"text\": \"$text.\", \"summary\": \"${words[i % 10]} ${words[i * 7 % 10]}.\"}"
done >train.jsonl
head -n 5 train.jsonl >validation.jsonl
flags=(--model_name_or_path "$model" --train_file train.jsonl --validation_file validation.jsonl --max_target_length 8
  --cross_attention segmented_recurrent --segment_size 8 --dropout_rate 0.1 --learning_rate 0.01 --warmup_steps 3
  --per_device_train_batch_size 4 --gradient_accumulation_steps 2 --group_by_length --max_steps 30 --eval_steps 7
  --logging_steps 3 --save_steps 2 --save_total_limit 3 --predict_with_generate=false --seed 3 --threads 1)

metrics() { sed -E 's/"tokens_per_second":[^,]*,"seconds":[^,}]*//' "$1"/metrics.jsonl; }
# pause MILLISECONDS without a process of its own.
exec {never}<> <(:)
pause() { read -rt "$(printf '0.%03d' "$1")" -u "$never"; }
now() { echo $((${EPOCHREALTIME/[^0-9]/} / 1000)); }

start=$(now)
"$finetune" "${flags[@]}" --output_dir whole >out.txt 2>err.txt || fail "the run that is left alone"
length=$(($(now) - start))

# What is named checkpoint-STEP is complete.
check_checkpoints() {
  local checkpoint file
  for checkpoint in killed/checkpoint-*; do
    [[ -d $checkpoint && $checkpoint != *.tmp-* ]] || continue
    for file in config.json model.safetensors optimizer.safetensors trainer_state.json spiece.model; do
      [ -s "$checkpoint/$file" ] || fail "$checkpoint lacks $file after kill $kills"
    done
  done
}
check_end() {
  cmp -s whole/model.safetensors killed/model.safetensors || fail "other parameters after kill $kills"
  diff <(metrics whole) <(metrics killed) >>err.txt || fail "other metrics after kill $kills"
  [ ! -e killed/srformer.lock ] || fail "a lock is left after kill $kills"
  rm -rf killed
}

kills=0 saving=0 ends=0
while [ "$kills" -lt "$count" ]; do
  "$finetune" "${flags[@]}" --output_dir killed --resume_from_checkpoint auto >out.txt 2>err.txt &
  process=$!
  signal=KILL
  [ $((RANDOM % 2)) -eq 0 ] || signal=TERM
  pause $((RANDOM % (length * 2 / 3 + 1) % 1000))
  if [ $((RANDOM % 2)) -eq 0 ]; then  # while it saves
    for ((i = 0; i < 2000; ++i)); do
      compgen -G 'killed/*.tmp-*' >/dev/null && break
      kill -0 $process 2>/dev/null || break
      pause 1
    done
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
