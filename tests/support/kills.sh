# SPDX-License-Identifier: Apache-2.0
# What both tests share that kill finetune at random moments: "whole" is the run that is left alone, "killed" the other one,
# and $kills says how many kills there were. Sourced after checks.sh.
# shellcheck shell=bash

# The metrics of a run without those of time.
metrics() { sed -E 's/"tokens_per_second":[^,]*,"seconds":[^,}]*(,"exchange_seconds":[^,}]*)?//' "$1"/metrics.jsonl; }
# pause MILLISECONDS without a process of its own.
exec {never}<> <(:)
pause() { read -rt "$(printf '%d.%03d' $(($1 / 1000)) $(($1 % 1000)))" -u "$never"; }
now() { echo $((${EPOCHREALTIME/[^0-9]/} / 1000)); }

# wait_for_saving PROCESS: until it writes a checkpoint, has ended, or two seconds are over.
wait_for_saving() {
  local i
  for ((i = 0; i < 2000; ++i)); do
    compgen -G 'killed/*.tmp-*' >/dev/null && break
    kill -0 "$1" 2>/dev/null || break
    pause 1
  done
}
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

