#!/usr/bin/env bash
# Runs finetune and plot as a user does: what is logged of the recurrence, the report of a run, presets, and pictures of several
# runs.
#
#   check_reports.sh FOLDER_OF_PROGRAMS SOURCES
set -u
programs=$1 sources=$2
models=$sources/tests/reference/values/models
model=$models/t5_full
. "$(dirname "${BASH_SOURCE[0]}")/../support/checks.sh"

check() {  # check WHAT COMMAND...
  local what=$1
  shift
  checks=$((checks + 1))
  "$@" >checked.txt 2>&1 || { cat checked.txt >&2; fail "$what"; }
}
run() {  # run CODE PROGRAM ARGUMENT...
  local code=$1 program=$2
  shift 2
  checks=$((checks + 1))
  "$programs/$program" "$@" >out.txt 2>err.txt
  local got=$?
  [ $got -eq "$code" ] || fail "exit code $got, expected $code: $program $*"
}
page() { python3 "$sources/tests/examples/check_report.py" "$@"; }
pictures() { if command -v gnuplot >where.txt; then echo "$1"; else echo 0; fi; }
# In the last line of a log, of a number for each decoder layer.
last_list() { grep "\"$2\"" "$1/metrics.jsonl" | tail -n 1 | sed -E "s/.*\"$2\":\[([^]]*)\].*/\1/"; }

# ---- data: some of it such as nobody writes ------------------------------------------------------
example_pairs 40 >train.jsonl
head -n 6 train.jsonl >validation.jsonl
long=$(printf 'word %.0s' {1..3000})
cat >test.jsonl <<END
{"text": "<script>alert('x')</script> & \"quotes\" <b>bold</b> model", "summary": "<i>leak</i> & reset."}
{"text": "😀 emoji 👩‍👩‍👧 memory", "summary": "memory 😀"}
{"text": "مرحبا بالعالم \u202e memory", "summary": "שלום עולם"}
{"text": "$long", "summary": "]]> long"}
{"text": "bell \u0007 \u0001 \ufffe", "summary": "control"}
{"text": "of query", "summary": "query\nlines"}
END
common=(--model_name_or_path "$model" --train_file train.jsonl --max_target_length 12 --seed 3 --threads 1 --source_prefix "summarize: ")
base=("${common[@]}" --learning_rate 0.01)
recurrent=(--cross_attention segmented_recurrent --segment_size 4)

# ---- a run with everything, and its page ---------------------------------------------------------
run 0 finetune "${base[@]}" "${recurrent[@]}" --output_dir all --validation_file validation.jsonl --test_file test.jsonl \
  --num_train_epochs 3 --logging_steps 3 --eval_strategy epoch --predict_with_generate --max_source_length 100 \
  --report_to tensorboard --save_strategy epoch --load_best_model_at_end --max_train_samples 38
check "the page holds what the run's files hold" page all --pictures "$(pictures 7)" --text "<script>alert('x')</script>" \
  --text "<i>leak</i> & reset." --text "😀 emoji 👩‍👩‍👧" --text "שלום עולם" --text "]]> long" --text "14000 more characters" \
  --text="--train_file: the first 38 of 40 pairs are used" --text "cut are 1 of 6 sources to 100 tokens" \
  --text "Best evaluation: " --text "segmented_recurrent (segments of 4, horizon 12)"
cp all/report.html before.html
rm all/report.html
run 0 plot --report all
check "plot makes the same page again" cmp before.html all/report.html
check "and leaves nothing aside" test -z "$(find all -name '*tmp-*' -o -name '*.gnuplot')"

# ---- what is logged of the recurrence ------------------------------------------------------------
check "the share of states that fire, of both layers" grep -Eq '^0?\.?[0-9.e-]+,[0-9.e-]+$' <(last_list all firing)
check "is a share" awk -F, '{ for (i = 1; i <= NF; ++i) if ($i < 0 || $i > 1) exit 1; exit NF != 2 }' <(last_list all firing)
check "is with every log, and with no evaluation" test "$(grep -c '"loss"' all/metrics.jsonl)" -eq "$(grep -c '"firing"' all/metrics.jsonl)"
check "is in the history of the run" python3 -c '
import json
log = [json.loads(line) for line in open("all/metrics.jsonl")]
history = json.load(open("all/trainer_state.json"))["log_history"]
lists = [e for e in log if "firing" in e]
assert len(lists) >= 5 and len(history) == len(log)
for e, h in zip(log, history):
    for name in ("leak", "threshold", "firing"):
        assert e.get(name) == h.get(name), name'
check "is in TensorBoard's events" grep -qa 'train/firing/1' all/runs/events.out.tfevents.*
run 0 finetune "${base[@]}" "${recurrent[@]}" --output_dir without --max_steps 2 --logging_steps 1 --recurrence false
check "what has no recurrence has no share" eval '! grep -q firing without/metrics.jsonl'
run 0 finetune "${base[@]}" --output_dir full --max_steps 2 --logging_steps 1
check "nor has full attention" eval '! grep -q "firing\|leak" full/metrics.jsonl'
check "nor a picture of it" page full --pictures "$(pictures 3)" --text "Nothing was evaluated at the end"
run 0 finetune "${common[@]}" "${recurrent[@]}" --output_dir fired --max_steps 1 --learning_rate 0
run 0 finetune "${common[@]}" "${recurrent[@]}" --output_dir fired_again --max_steps 1 --learning_rate 0 \
  --gradient_accumulation_steps 2 --per_device_train_batch_size 4
check "the share is of the last micro-batch" test "$(last_list fired firing)" != "$(last_list fired_again firing)"

# ---- a run that is resumed -----------------------------------------------------------------------
run 0 finetune "${base[@]}" "${recurrent[@]}" --output_dir halves --max_steps 6 --logging_steps 2 --save_strategy steps --save_steps 3
rm -r halves/checkpoint-6
run 0 finetune "${base[@]}" "${recurrent[@]}" --output_dir halves --max_steps 6 --logging_steps 2 --save_strategy steps --save_steps 3 \
  --resume_from_checkpoint auto
check "its page says which steps it made" page halves --pictures "$(pictures 6)" --text "of which this start made those after step 3"
run 0 finetune "${base[@]}" "${recurrent[@]}" --output_dir whole --max_steps 6 --logging_steps 2
check "it logs the same shares" test "$(last_list halves firing)" = "$(last_list whole firing)"

# ---- pictures of several runs --------------------------------------------------------------------
run 0 finetune "${common[@]}" --output_dir hot --learning_rate 1e30 --max_grad_norm 0 --max_steps 4 --logging_steps 1 --skip_nonfinite
check "a step without a number is logged as none" grep -q '"grad_norm":null' hot/metrics.jsonl
check "and its page is whole" page hot
mkdir empty
: >empty/metrics.jsonl
{ cat whole/metrics.jsonl; printf '{"step":8,"lo'; } >torn.jsonl
if command -v gnuplot >where.txt; then
  run 0 plot all halves hot full torn.jsonl empty --output runs.svg
  check "a run that logged nothing is told" grep -qx 'notice: empty has logged nothing of what is to be drawn' err.txt
  check "the others are drawn" grep -q 'halves, training' runs.svg
  check "all panels" test "$(grep -c 'share of the states that fire' runs.svg)" -eq 1
  run 0 plot all --panels firing gradient rate rouge --output some.png
  refused 1 "has logged nothing of what is to be drawn" plot full --panels firing
  refused 1 "has logged nothing of what is to be drawn" plot empty
fi
refused 1 "cannot open" plot all nowhere --output runs.svg
mkdir nothing
refused 1 "nothing: holds no run" plot --report nothing
refused 2 "give the folders of runs, or --report" plot
refused 2 "excludes" plot all --report all

printf '{"step":1,"loss":NaN}\n' >nan.jsonl
refused 1 "nan.jsonl:1" plot nan.jsonl

# ---- presets -------------------------------------------------------------------------------------
of_preset=(--model_name_or_path "$model" --train_file train.jsonl --threads 1 --preset paper-t5-small)
small=(--max_source_length 60 --max_target_length 12 --per_device_train_batch_size 4 --max_steps 4)
run 0 finetune "${of_preset[@]}" "${small[@]}" --output_dir paper --dump_config
check "--dump_config has the flags of the preset" python3 -c '
import json
flags = json.load(open("out.txt"))
assert flags["segment_size"] == 64 and flags["max_steps"] == 4 and flags["optim"] == "adamw_torch"
assert flags["learning_rate"] in (5e-5, "5e-5") and flags["max_target_length"] == 12
assert "num_train_epochs" not in flags and "preset" not in flags'
cp out.txt flags.json
run 0 finetune "${of_preset[@]}" "${small[@]}" --output_dir paper --save_steps 2
for field in '"segment_size": 64' '"variant": "segmented_recurrent"'; do
  check "$field in config.json" grep -qF "$field" paper/config.json
done
check "the page names it" page paper --text "With --preset paper-t5-small" --text="--recurrence_init_scale"
run 0 finetune --config flags.json --output_dir dumped
check "what was dumped trains the same model" cmp paper/model.safetensors dumped/model.safetensors
rm -r paper/checkpoint-4
run 0 finetune "${of_preset[@]}" "${small[@]}" --output_dir paper --save_steps 2 --resume_from_checkpoint auto
check "so does a run that is resumed" cmp paper/model.safetensors dumped/model.safetensors
run 0 finetune --model_name_or_path paper --preset paper-t5-small --max_target_length 12 --do_predict --test_file validation.jsonl \
  --output_dir scores --threads 1
run 0 finetune --model_name_or_path all --train_file train.jsonl --threads 1 --preset paper-t5-small "${small[@]}" --output_dir other
check "what it changes of a checkpoint is said" grep -qx \
  "notice: --preset paper-t5-small goes over the checkpoint's config.json: segment_size 64 in place of 4, gate false in place of true, \
soft_keys none in place of 4.0" out.txt
run 0 finetune "${of_preset[@]}" "${small[@]}" --output_dir full2 --cross_attention full
check "flags go before it" eval '! grep -q segment_size full2/config.json'
refused 2 "is for a t5" finetune --model_name_or_path "$models/bart_full" --train_file train.jsonl --preset paper-t5-small --output_dir x
refused 2 "--preset" finetune "${base[@]}" --output_dir x --preset paper
run 0 finetune --model_name_or_path "$models/bart_full" --train_file train.jsonl --threads 1 --preset paper-bart-base "${small[@]}" \
  --output_dir bart
check "BART's beams" grep -qF '"num_beams": 4' bart/generation_config.json
check "BART's clamp" grep -qF '"clamp": 2' bart/config.json
run 0 finetune --model_name_or_path "$model" --train_file train.jsonl --threads 1 --preset t5-adafactor "${small[@]}" --output_dir ada \
  --logging_steps 1
check "Adafactor's rate is the same in every step" test "$(grep -o '"lr":[^,]*' ada/metrics.jsonl | sort -u)" = '"lr":0.001'
run 0 finetune --model_name_or_path "$model" --train_file train.jsonl --threads 1 "${small[@]}" --output_dir ada_flags --logging_steps 1 \
  --optim adafactor --learning_rate 1e-3 --lr_scheduler_type constant --max_grad_norm 0
check "and its model that of the flags" cmp ada/model.safetensors ada_flags/model.safetensors

echo "all $checks checks passed"
