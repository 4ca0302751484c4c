#!/usr/bin/env bash
# Kills one rank, all ranks or mpirun of a run of finetune at random moments, with SIGKILL, SIGTERM and SIGUSR1, half of them
# while a checkpoint is written, and resumes it, with ZeRO and without in turn; what comes out at the end is what a run gives
# that was left alone, bit for bit.
#
#   kills.sh FINETUNE MODEL COUNT SEED MPIEXEC...     MODEL is the folder of a small T5 with full attention; MPIEXEC... is
#                                                     what starts as many processes as the number that follows
set -u
finetune=$1 model=$2 count=$3
RANDOM=$4
shift 4
launch=("$@")
export OMP_NUM_THREADS=1
. "$(dirname "${BASH_SOURCE[0]}")/../support/checks.sh"
. "$support/kills.sh"

example_pairs 40 >train.jsonl
head -n 5 train.jsonl >validation.jsonl
flags=(--model_name_or_path "$model" --train_file train.jsonl --validation_file validation.jsonl --max_target_length 8
  --cross_attention segmented_recurrent --segment_size 8 --dropout_rate 0.1 --learning_rate 0.01 --warmup_steps 3
  --per_device_train_batch_size 4 --group_by_length --max_steps 40 --eval_steps 7 --logging_steps 3 --save_steps 2
  --save_total_limit 3 --predict_with_generate=false --seed 3 --ddp_timeout 20)

start=$(now)
"${launch[@]}" 2 "$finetune" "${flags[@]}" --output_dir whole >out.txt 2>err.txt || fail "the run that is left alone"
length=$(($(now) - start))

# The processes of the run, all of them or those of one rank.
processes() {
  local process
  for process in $(pgrep -f "^$finetune .*--output_dir killed"); do
    [ "$(readlink "/proc/$process/cwd" 2>/dev/null)" = "$folder" ] || continue
    if [ "$1" = all ] || tr '\0' '\n' <"/proc/$process/environ" 2>/dev/null |
      grep -qE "^(OMPI_COMM_WORLD_RANK|PMI_RANK)=$1\$"; then
      echo "$process"
    fi
  done
}

kills=0 saving=0 ends=0 zero=0
while [ "$kills" -lt "$count" ]; do
  zero=$((1 - zero))
  "${launch[@]}" 2 "$finetune" "${flags[@]}" --zero $zero --output_dir killed --resume_from_checkpoint auto >out.txt 2>err.txt &
  job=$!
  signals=(KILL TERM USR1)
  signal=${signals[RANDOM % 3]}
  whom=(0 1 all job)
  whom=${whom[RANDOM % 4]}
  pause $((length / 4 + RANDOM % length))
  if [ $((RANDOM % 2)) -eq 0 ]; then  # while it saves
    wait_for_saving $job
  fi
  if [ "$whom" = job ]; then victims=$job; else victims=$(processes "$whom"); fi
  # shellcheck disable=SC2086
  [ -z "$victims" ] || kill -$signal $victims 2>/dev/null
  before=$(now)
  wait $job 2>/dev/null
  code=$?
  [ $(($(now) - before)) -lt 30000 ] || fail "SIG$signal at $whom: the run went on for 30 s"
  # mpirun that is killed itself leaves its processes to see that it is gone.
  for ((i = 0; i < 300; ++i)); do
    [ -n "$(processes all)" ] || break
    pause 100
  done
  [ -z "$(processes all)" ] || fail "SIG$signal at $whom: processes are left"
  if [ $code -eq 0 ]; then ends=$((ends + 1)); else kills=$((kills + 1)); fi
  ! grep -q 'internal error\|terminate called' err.txt || fail "SIG$signal at $whom: another error"
  ! compgen -G 'killed/*.tmp-*' >/dev/null || saving=$((saving + 1))
  check_checkpoints
  [ $code -ne 0 ] || check_end
done
"${launch[@]}" 2 "$finetune" "${flags[@]}" --output_dir killed --resume_from_checkpoint auto >out.txt 2>err.txt ||
  fail "the last resumption"
ends=$((ends + 1))
check_end
echo "$kills kills, $saving of them while something was written; $ends runs came to their end with the bits of one left alone"
