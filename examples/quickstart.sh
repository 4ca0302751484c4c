#!/usr/bin/env bash
# From a fresh Debian or Ubuntu to a table of ROUGE, in the steps of the paper: pretrains a small T5 with full
# attention, then fine-tunes it for the same number of steps with full, segmented and segmented recurrent
# cross-attention, and scores all of them on the same test set.
#
#   examples/quickstart.sh                    made-up bulletins, minutes
#   examples/quickstart.sh --data debian      descriptions of Debian packages and their synopses
#
#   --output DIR    everything is made there (build/quickstart, or build/quickstart-debian)
#   --minutes M     time to train with --data debian, in all (20): three fifths of it to pretrain
#   --threads N     threads (as many as processors)
#
# Started again, it goes on where it stopped. SRFORMER_NO_INSTALL=1 installs nothing.
set -euo pipefail

fail() { echo "quickstart.sh: $*" >&2; exit "${code:-1}"; }
usage() { code=2 fail "$* (try --help)"; }
number() { [[ $2 =~ ^[1-9][0-9]*$ ]] || usage "$1 needs a whole number above 0, got '$2'"; }

data=bulletins minutes=20 output='' threads=$(nproc)
while [ $# -gt 0 ]; do
  case $1 in
    -h | --help) sed -n '2,13s/^# \{0,1\}//p' "$0"; exit 0 ;;
    --data | --output | --minutes | --threads) [ $# -ge 2 ] || usage "$1 needs a value" ;;&
    --data) data=$2 ;;
    --output) output=$2 ;;
    --minutes) number "$1" "$2"; minutes=$2 ;;
    --threads) number "$1" "$2"; threads=$2 ;;
    *) usage "unknown option $1" ;;
  esac
  shift 2
done
case $output in '' | /*) ;; *) output=$PWD/$output ;; esac
cd "$(dirname "${BASH_SOURCE[0]}")/.."
case $data in
  bulletins) output=${output:-build/quickstart} ;;
  debian) output=${output:-build/quickstart-debian} ;;
  *) usage "--data is bulletins or debian, not $data" ;;
esac
mkdir -p "$output/log" "$output/times" 2>/dev/null || fail "cannot make $output; choose another --output"

# OpenMP's threads wait for each other by spinning: much of it takes the processors away from other programs.
export GOMP_SPINCOUNT=${GOMP_SPINCOUNT:-1000}

# The recipe.
common=(--max_grad_norm 1 --per_device_train_batch_size 32 --threads "$threads")
if [ "$data" = bulletins ]; then
  vocabulary=384 sizes=(--dropout_rate 0)
  lengths=(--max_source_length 256 --max_target_length 36)
  segments=(--segment_size 16 --horizon 36 --generation_horizon 36)
  steps=500 more_steps=300 rate=3e-3 more_rate=1e-3 warmup=100 more_warmup=50
  settings=$data
else
  vocabulary=4000 sizes=(--dropout_rate 0 --d_model 128 --d_kv 32 --d_ff 512)
  lengths=(--max_source_length 128 --max_target_length 24)
  segments=(--segment_size 16 --horizon 12 --generation_horizon 12)
  common+=(--group_by_length)
  # Sentences with words taken out are put together again: by that a model learns to copy.
  pretraining=(--preset denoise-pilot --separate_texts --max_source_length 160 --max_target_length 128)
  rate=2e-3 more_rate=2e-3
  settings="$data, $minutes minutes"
fi
[ ! -e "$output/settings" ] || [ "$(cat "$output/settings")" = "$settings" ] ||
  fail "$output was begun with other settings ($(cat "$output/settings")); give another --output or remove it"
echo "$settings" >"$output/settings"

# part NAME FUNCTION: runs the function unless it has ended well before, and notes the time of all attempts.
part() {
  local time=$output/times/$1 before=0
  [ ! -e "$time" ] || return 0
  [ ! -e "$time.part" ] || before=$(cat "$time.part")
  begin=$((SECONDS - before))
  echo "== $1"
  # shellcheck disable=SC2064
  trap "echo \$((SECONDS - begin)) >'$time.part'" EXIT
  "$2"
  trap - EXIT
  echo $((SECONDS - begin)) >"$time"
  rm -f "$time.part"
}

# broken LOG COMMAND...: ends with where the reason is and how to repeat the command.
broken() {
  local log=$1
  shift
  fail "this failed; what it said is in $log; to repeat it: $*"
}

# quietly NAME COMMAND...: its output goes to a log, the end of which is shown when it fails.
quietly() {
  local log=$output/log/$1
  shift
  "$@" >"$log" 2>&1 || {
    tail -n 15 "$log" | sed 's/^/    /' >&2
    broken "$log" "$@"
  }
}

# visibly NAME COMMAND...: the same, and its output is seen as well.
visibly() {
  local log=$output/log/$1
  shift
  "$@" 2>&1 | tee "$log" || broken "$log" "$@"
}

programs=$output/programs
program() {
  local name=$1
  shift
  "$programs/examples/$name" "$@"
}

install_packages() {
  [ -n "${SRFORMER_NO_INSTALL:-}" ] || quietly install.txt cmake/install_deps.sh --quickstart
}

build_programs() {
  local names=(make_bulletins init_model finetune summarize evaluate first_words)
  [ "$data" = bulletins ] || names[0]=debian_descriptions
  quietly configure.txt cmake -S . -B "$programs" -G Ninja -DCMAKE_BUILD_TYPE=Release -DSRFORMER_TESTS=OFF \
    -DSRFORMER_BENCH=OFF -DSRFORMER_INSTALL=OFF -DSRFORMER_CUDA=OFF -DSRFORMER_DEVICES=cpu -DSRFORMER_DTYPES=float32
  visibly build.txt cmake --build "$programs" -j "$(nproc)" --target "${names[@]/#/example_}"
}

make_data() {
  if [ "$data" = bulletins ]; then
    program make_bulletins --output "$output/data" --seed 1
  else
    # 200 characters are about 50 tokens, so three segments and more.
    examples/data/debian.sh "$output/data" "$programs/examples/debian_descriptions" --min_characters 200
  fi
}

make_model() {
  local text=("$output/data/pretraining.txt") marks=1
  [ "$data" = debian ] || text=("$output/data/text.txt") marks=0
  program init_model --output_dir "$output/start" --overwrite_output_dir --preset t5-tiny "${sizes[@]}" \
    --train_tokenizer "${text[@]}" --tokenizer_vocab_size "$vocabulary" --extra_ids "$marks" --seed 1
}

# train FROM TO OPTION...: trains, or goes on with training.
train() {
  local from=$output/$1 to=$output/$2 go_on=(--overwrite_output_dir)
  shift 2
  ! compgen -G "$to/checkpoint-*/trainer_state.json" >/dev/null || go_on=(--resume_from_checkpoint auto)
  program finetune --model_name_or_path "$from" --output_dir "$to" "${go_on[@]}" "${common[@]}" "$@"
}

# On the pairs, or on the texts of the training split alone.
tune() {
  train "$@" --train_file "$output/data/train.jsonl" --validation_file "$output/data/validation.jsonl" \
    --per_device_eval_batch_size 32 --predict_with_generate=false --source_prefix '' "${lengths[@]}"
}
denoise() { train "$@" --train_file "$output/data/pretraining.txt" "${pretraining[@]}"; }

# pace HOW: milliseconds that a step of HOW (tune, denoise) takes. 50 batches are what --group_by_length sorts at a time, so
# they are as long as all are on average.
pace() {
  rm -rf "$output/pace"
  quietly "pace_$1.txt" "$1" start pace --max_steps 50 --logging_steps 50 --save_steps 0 --learning_rate 0
  sed -n 's/.*"seconds":\([0-9.]*\).*/\1/p' "$output/pace/metrics.jsonl" | awk '{ print int(20 * $1) + 1 }'
  rm -rf "$output/pace"
}

# Debian: as many steps as fit into the time, three fifths of which is for pretraining, the rest for the three variants.
choose_steps() {
  local a_step a_step_more
  a_step=$(pace denoise)
  a_step_more=$(pace tune)
  local first=$((minutes * 36000 / a_step))
  echo "$first $((minutes * 8000 / a_step_more))" >"$output/steps"
  echo "$a_step ms a step, $a_step_more ms a step of fine-tuning"
  [ "$first" -ge 2000 ] || echo "$first steps of pretraining are few: below about 2,000 a model does not learn to copy; give more --minutes" >&2
}

stopped() { fail "training stopped; the same command goes on with it"; }

# How the model is trained first: on the bulletins themselves, or on texts without summaries.
train_first() {
  local how=tune
  [ "$data" = bulletins ] || how=denoise
  "$how" start full --max_steps "$steps" --learning_rate "$rate" --warmup_steps "$warmup" \
    --logging_steps $(((steps + 19) / 20)) --save_steps $(((steps + 3) / 4)) --save_total_limit 1 || stopped
}

fine_tune() {
  tune full "$@" --max_steps "$more_steps" --learning_rate "$more_rate" --warmup_steps "$more_warmup" \
    --logging_steps $(((more_steps + 11) / 12)) --save_steps $(((more_steps + 3) / 4)) --save_total_limit 1 || stopped
}
tune_full() { fine_tune full_more; }
tune_segmented() { fine_tune segmented --cross_attention segmented "${segments[@]}"; }
tune_recurrent() {
  fine_tune segmented_recurrent --cross_attention segmented_recurrent "${segments[@]}"
}

variants=(full_more segmented segmented_recurrent)
[ "$data" != bulletins ] || variants=(full "${variants[@]}")
title() {
  case $1 in
    full) echo "full, as trained first" ;;
    full_more) echo "full" ;;
    segmented) echo "segmented" ;;
    segmented_recurrent) echo "segmented recurrent" ;;
    first_words) echo "first words of the text" ;;
  esac
}
steps_of() {
  case $1 in
    full) echo "$steps" ;;
    first_words) echo "-" ;;
    *) echo "$steps + $more_steps" ;;
  esac
}
validation_loss() {
  if [ "$1" = first_words ]; then echo "-"; return; fi
  sed -n 's/.*"eval_loss": *\([0-9.e-]*\).*/\1/p' "$output/$1/all_results.json" | xargs printf '%.3f'
}
rouge() { awk -v row="$2" '$1 == row { printf "%.1f", $4 }' "$output/$1.rouge"; }

summarize_and_score() {
  local variant
  for variant in "${variants[@]}"; do
    program summarize --model_name_or_path "$output/$variant" --input_file "$output/data/test.jsonl" \
      --output_file "$output/$variant.txt" --max_source_length "${lengths[1]}" --truncation --batch_size 32 \
      --source_prefix '' --threads "$threads"
  done
  program first_words --train_file "$output/data/train.jsonl" --test_file "$output/data/test.jsonl" \
    --output_file "$output/first_words.txt"
  for variant in "${variants[@]}" first_words; do
    program evaluate --predictions "$output/$variant.txt" --references "$output/data/test.jsonl" \
      --reference_column summary >"$output/$variant.rouge"
  done
}

write_table() {
  local variant
  echo "| cross-attention | steps | validation loss | ROUGE-1 | ROUGE-2 | ROUGE-L |"
  echo "|---|---|---|---|---|---|"
  for variant in "${variants[@]}" first_words; do
    echo "| $(title "$variant") | $(steps_of "$variant") | $(validation_loss "$variant") |" \
      "$(rouge "$variant" rouge1) | $(rouge "$variant" rouge2) | $(rouge "$variant" rougeL) |"
  done
}

# The first ten texts of the test set with their summaries.
write_summaries() {
  local number variant
  # A field of a JSON line, as text.
  field() { sed -n "${number}p" "$output/data/test.jsonl" | sed "$1" | sed 's/\\n/ \/ /g; s/\\"/"/g; s/\\\\/\\/g'; }
  for number in 1 2 3 4 5 6 7 8 9 10; do
    echo "**$number. Text** $(field 's/^{"text":"\(.*\)","summary":".*$/\1/')"
    echo
    echo "- reference: $(field 's/.*","summary":"\(.*\)"}$/\1/')"
    for variant in full_more segmented_recurrent segmented; do
      echo "- $(title "$variant"): $(sed -n "${number}p" "$output/$variant.txt")"
    done
    echo
  done
}

draw_losses() {
  command -v gnuplot >/dev/null || return 0
  local variant first="full attention" curves=(full full_more segmented segmented_recurrent)
  [ "$data" = bulletins ] || first="pretraining, full attention"
  for variant in "${curves[@]}"; do
    sed -n 's/.*"step":\([0-9]*\),.*"loss":\([0-9.e-]*\),.*/\1 \2/p' "$output/$variant/metrics.jsonl" |
      awk -v after="$([ "$variant" = full ] && echo 0 || echo "$steps")" '{ print $1 + after, $2 }' \
        >"$output/log/$variant.losses"
  done
  gnuplot <<END || echo "gnuplot drew no picture" >&2
set terminal svg size 800,450 font "sans-serif,14" background rgb "white"
set output "$output/loss.svg"
set xlabel "step"
set ylabel "training loss per token"
set logscale y
set grid
set key bottom left
cd "$output/log"
plot "full.losses" with lines lw 2 lc rgb "#333333" title "$first", \
     "segmented.losses" with lines lw 2 lc rgb "#d55e00" title "then segmented", \
     "segmented_recurrent.losses" with lines lw 2 lc rgb "#0072b2" title "then segmented recurrent", \
     "full_more.losses" with lines lw 2 lc rgb "#999999" title "then full"
END
}

write_times() {
  local name seconds total=0
  for name in "install packages" "build programs" "make data" "make model" "measure pace" "train first" "fine-tune full" \
    "fine-tune segmented" "fine-tune segmented recurrent" "summarize and score"; do
    [ -e "$output/times/$name" ] || continue
    seconds=$(cat "$output/times/$name")
    total=$((total + seconds))
    printf '%6d s  %s\n' "$seconds" "$name"
  done
  printf '%6d s  in all\n' "$total"
}

# How long it takes and how much it writes, from runs on 2 cores: idle ones, and ones that others kept busy.
announce() {
  local training="1 minute of training, 5 on busy processors"
  [ "$data" = bulletins ] || training="$minutes minutes of training"
  [ -e "$output/times/summarize and score" ] ||
    echo "On 2 cores about 2 minutes to build, 11 where they are busy, and $training; less than 200 MB in $output"
}

run() {
  announce
  part "install packages" install_packages
  part "build programs" build_programs
  part "make data" make_data
  part "make model" make_model
  if [ "$data" = debian ]; then
    part "measure pace" choose_steps
    read -r steps more_steps <"$output/steps"
    warmup=$((steps / 25)) more_warmup=$((more_steps / 20))
  fi
  part "train first" train_first
  part "fine-tune full" tune_full
  part "fine-tune segmented" tune_segmented
  part "fine-tune segmented recurrent" tune_recurrent
  part "summarize and score" summarize_and_score
  write_table >"$output/table.md"
  write_summaries >"$output/summaries.md"
  draw_losses

  echo
  cat "$output/table.md"
  echo
  awk '/^\*\*4\./ { exit } { print }' "$output/summaries.md"
  if [ -e "$output/loss.svg" ]; then echo "Loss curves: $output/loss.svg"; else echo "Loss curves: none, for want of gnuplot"; fi
  echo "More summaries: $output/summaries.md"
  echo
  write_times | tee "$output/times.txt"
  echo
  if [ "$data" = bulletins ]; then
    echo "Next: real text, $minutes minutes of training: examples/quickstart.sh --data debian"
  else
    echo "Next: summarize a text of your own: echo 'A text.' | $programs/examples/summarize --model_name_or_path $output/segmented_recurrent"
  fi
  exit  # here, as the file may change while it runs, and bash reads on where it was
}

run
