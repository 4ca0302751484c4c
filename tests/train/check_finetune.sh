#!/usr/bin/env bash
# Runs the program finetune as a user does: a short training, an interruption, resumption, bad input.
#
#   check_finetune.sh FINETUNE MODEL [LIBRARY]   MODEL is the folder of a small T5 with full attention; LIBRARY takes SIGHUP for
#                                                itself when it is loaded
set -u
finetune=$1 model=$2 takes_hangups=${3:-}
. "$(dirname "${BASH_SOURCE[0]}")/../support/checks.sh"

# run CODE ARGUMENT...: the program ends with that code.
run() {
  local code=$1
  shift
  checks=$((checks + 1))
  last_of_each "$@"
  "$finetune" --threads 1 "${arguments[@]}" >out.txt 2>err.txt
  local got=$?
  [ $got -eq "$code" ] || fail "exit code $got, expected $code: $*"
}
# Every flag is given once: a later value takes the place of an earlier one.
last_of_each() {
  local -A value
  local order=() name=
  for word in "$@"; do
    if [[ $word == --* ]]; then
      name=$word
      [[ -v value[$name] ]] || order+=("$name")
      value[$name]=
    else
      value[$name]=$word
    fi
  done
  arguments=()
  for name in "${order[@]}"; do
    arguments+=("$name")
    [ -z "${value[$name]}" ] || arguments+=("${value[$name]}")
  done
}
metrics_without_times() {
  sed -E 's/"tokens_per_second":[^,]*,"seconds":[^,}]*//' "$1"/metrics.jsonl
}

# ---- data --------------------------------------------------------------------------------------
words=(segment recurrence attention query key value memory leak reset model)
line() {
  local i=$1 text=
  for ((w = 0; w <= i % 23; ++w)); do text+="${words[(i * 7 + w * w) % 10]} "; done
  echo "{\"text\": \"$text.\", \"summary\": \"${words[i % 10]} ${words[i * 7 % 10]}.\"}"
}
for ((i = 0; i < 60; ++i)); do line $i; done >train.jsonl
head -n 7 train.jsonl >validation.jsonl
tail -n 5 train.jsonl >test.jsonl

base=(--model_name_or_path "$model" --train_file train.jsonl --max_target_length 12
  --learning_rate 0.01 --logging_steps 1 --seed 3)
recurrent=(--cross_attention segmented_recurrent --segment_size 8)
steps=(--per_device_train_batch_size 4 --gradient_accumulation_steps 2 --warmup_steps 2
  --label_smoothing_factor 0.1 --group_by_length)

# ---- a run with everything ---------------------------------------------------------------------
run 0 "${base[@]}" "${recurrent[@]}" "${steps[@]}" --output_dir all --max_steps 9 \
  --validation_file validation.jsonl --test_file test.jsonl --eval_steps 4 \
  --predict_with_generate --save_steps 2 --save_total_limit 2 --max_eval_samples 6 \
  --gate true --dropout_rate 0.2 --source_prefix "summarize: " --weight_decay 0.01
for file in config.json generation_config.json model.safetensors spiece.model \
  tokenizer_config.json metrics.jsonl all_results.json checkpoint-6/optimizer.safetensors \
  checkpoint-8/trainer_state.json checkpoint-8/config.json checkpoint-8/spiece.model; do
  check "$file is there" test -s all/$file
done
check "two checkpoints are kept" test "$(ls -d all/checkpoint-* | wc -l)" -eq 2
check "nothing is left aside" test -z "$(find all -name '*tmp-*' -o -name '*.gnuplot')"
check "nine losses" test "$(grep -c '"loss"' all/metrics.jsonl)" -eq 9
check "two evaluations between and one at the end" \
  test "$(grep -c '"eval_rougeLsum".*"eval_gen_len"' all/metrics.jsonl)" -eq 3
check "a leak for each layer" grep -Eq '"leak":\[[^],]*,[^],]*\]' all/metrics.jsonl
check "a threshold for each layer" grep -Eq '"threshold":\[[^],]*,[^],]*\]' all/metrics.jsonl
check "predictions of the test set" test "$(wc -l <all/generated_predictions.txt)" -eq 5
for key in eval_loss eval_rouge1 eval_rouge2 eval_rougeL eval_gen_len predict_loss train_loss; do
  check "$key in all_results.json" grep -q "\"$key\"" all/all_results.json
done
check "six validation samples" grep -q '"eval_samples": 6' all/all_results.json
for field in '"horizon": 12' '"generation_horizon": 12' '"segment_size": 8' '"gate": true' \
  '"variant": "segmented_recurrent"' '"dropout_rate": 0.2'; do
  check "$field in config.json" grep -qF "$field" all/config.json
done
if command -v gnuplot >/dev/null; then
  check "a loss curve" grep -q '<svg' all/loss.svg
fi
check "training lowers the loss" awk -F'"loss":' '
  /"loss":/ { split($2, a, ","); if (!n++) first = a[1]; last = a[1] }
  END { exit !(last < 0.8 * first) }' all/metrics.jsonl

# ---- summaries are generated at the end unless it is told not to --------------------------------
for flag in "" --predict_with_generate=false; do
  run 0 "${base[@]}" ${flag:+"$flag"} --output_dir last${flag:+_not} --max_steps 2 --eval_steps 1 \
    --validation_file validation.jsonl --overwrite_output_dir
done
check "one evaluation with ROUGE, the last" test "$(grep -c '"eval_rouge1"' last/metrics.jsonl)" -eq 1
check "ROUGE of the last in all_results.json" grep -q '"eval_rouge1"' last/all_results.json
check "no ROUGE where none was wanted" test -z "$(grep -l rouge last_not/*.json*)"

# ---- summaries of an evaluation are those that summarize gives from the folder, whatever the flags --------
generation=(--num_beams 3 --length_penalty 2 --no_repeat_ngram_size 2 --early_stopping true --min_length 4)
run 0 "${base[@]}" --output_dir beams --max_steps 6 --test_file test.jsonl "${generation[@]}"
for field in '"num_beams": 3' '"length_penalty": 2' '"no_repeat_ngram_size": 2' '"early_stopping": true' \
  '"min_length": 4' '"max_length": 13'; do
  check "$field in generation_config.json" grep -qF "$field" beams/generation_config.json
done
summarize=$(dirname "$finetune")/summarize
check "summarize has the same summaries" eval '"$summarize" --model_name_or_path beams --input_file test.jsonl |
  cmp - beams/generated_predictions.txt'
run 0 "${base[@]}" --output_dir one --model_name_or_path beams --learning_rate 0 --max_steps 1 --test_file test.jsonl
check "the options of a checkpoint stay" cmp beams/generated_predictions.txt one/generated_predictions.txt
run 0 "${base[@]}" --output_dir one --model_name_or_path beams --learning_rate 0 --max_steps 1 --test_file test.jsonl \
  --num_beams 1 --min_length 0 --overwrite_output_dir --max_new_tokens 1
check "flags go over them" grep -qF '"num_beams": 1' one/generation_config.json
check "one token is a word at most" eval '! grep -q " .* " one/generated_predictions.txt'
run 0 "${base[@]}" --output_dir drawn --max_steps 2 --test_file test.jsonl --do_sample --temperature 3
cp drawn/generated_predictions.txt drawn.txt
run 0 "${base[@]}" --output_dir drawn --max_steps 2 --test_file test.jsonl --do_sample --temperature 3 --overwrite_output_dir
check "what is drawn comes of the seed" cmp drawn.txt drawn/generated_predictions.txt
refused 2 "give --num_beams above 1" "${base[@]}" --output_dir x --length_penalty 2
refused 2 "give --do_sample" "${base[@]}" --output_dir x --top_k 5
refused 2 "say the same" "${base[@]}" --output_dir x --max_length 5 --max_new_tokens 4
refused 1 "outside the vocabulary" "${base[@]}" --output_dir x --forced_bos_token_id 100000

# ---- a BART ---------------------------------------------------------------------------------------
bart=$(dirname "$model")/bart_full
run 0 "${base[@]}" --model_name_or_path "$bart" --output_dir bart --max_source_length 100 --max_steps 2 --num_beams 2 \
  --test_file test.jsonl "${recurrent[@]}"
check "a BART's clamp is 2" grep -q '"clamp": 2' bart/config.json
check "a BART's summaries" eval '"$summarize" --model_name_or_path bart --max_source_length 100 --truncation \
  --input_file test.jsonl | cmp - bart/generated_predictions.txt'
refused 2 "summaries of 129 tokens are more than the model's 128 positions" "${base[@]}" --model_name_or_path "$bart" \
  --output_dir x --max_new_tokens 129

# ---- without gnuplot: a line, and no failure ---------------------------------------------------
checks=$((checks + 1))
PATH=/nowhere "$finetune" "${base[@]}" --output_dir plain --max_steps 1 --save_steps 0 \
  --threads 1 >out.txt 2>err.txt || fail "no gnuplot, no run"
check "the line says so" grep -q 'loss.svg is not drawn: gnuplot was not found' out.txt

# ---- interrupted and resumed: as one run --------------------------------------------------------
long=("${base[@]}" "${recurrent[@]}" "${steps[@]}" --max_steps 120 --save_steps 50)
run 0 "${long[@]}" --output_dir whole
check "no lock is left" test ! -e whole/srformer.lock
# start FOLDER: the long run in the background, until it has logged three steps.
start() {
  "$finetune" --threads 1 "${long[@]}" --output_dir "$1" >out.txt 2>err.txt &
  process=$!
  for ((i = 0; i < 3000; ++i)); do
    [ "$(wc -l 2>/dev/null <"$1"/metrics.jsonl)" -ge 3 ] 2>/dev/null && break
    sleep 0.01
  done
}
# ended CODE: the program of start has ended, with that code.
ended() {
  wait $process 2>/dev/null
  local code=$?
  check "exit code $1, not $code" test $code -eq "$1"
}
for signal in INT:130 TERM:143 HUP:129; do
  parts=parts_${signal%:*}
  start $parts
  kill -${signal%:*} $process
  ended ${signal#*:}
  check "a line says how to resume" \
    grep -Eq "^interrupted after step [0-9]+; .*--resume_from_checkpoint $parts/checkpoint-[0-9]+$" err.txt
  check "no lock is left after $signal" test ! -e $parts/srformer.lock
  # Lines of steps after the checkpoint are made again, and one cut off is dropped.
  printf '{"step":99999,"loss":1}\n{"step":2,"lo' >>$parts/metrics.jsonl
  run 0 "${long[@]}" --output_dir $parts --resume_from_checkpoint auto
  check "it was resumed" grep -q "^resumed from $parts/checkpoint-" out.txt
  check "the same parameters" cmp whole/model.safetensors $parts/model.safetensors
  check "the same metrics" cmp <(metrics_without_times whole) <(metrics_without_times $parts)
done
for library in "" ${takes_hangups:+"$takes_hangups"}; do
  rm -rf unheard
  trap '' HUP
  LD_PRELOAD=$library start unheard
  trap - HUP
  kill -HUP $process
  ended 0
  check "a SIGHUP that is ignored stays so" cmp whole/model.safetensors unheard/model.safetensors
done

# ---- whoever reads the output may go -------------------------------------------------------------
checks=$((checks + 1))
"$finetune" --threads 1 "${long[@]}" --output_dir unread 2>err.txt | head -n 1 >out.txt
[ "${PIPESTATUS[0]}" -eq 0 ] || fail "a pipe that is closed ends the run"
check "the run goes on" cmp whole/model.safetensors unread/model.safetensors

# ---- a folder is one process's ------------------------------------------------------------------
start held
kill -STOP $process
for how in "" "--resume_from_checkpoint auto" --overwrite_output_dir; do
  # shellcheck disable=SC2086
  refused 1 "held: is in use by process $process on $(uname -n), which started at 2" "${long[@]}" --output_dir held $how
done
check "it still names its process" grep -q "\"process\":$process" held/srformer.lock
kill -KILL $process
ended 137
run 0 "${long[@]}" --output_dir held --resume_from_checkpoint auto
check "the lock of a process that was killed is taken over" \
  grep -q "^notice: held was locked by process $process on .*; the lock is taken over$" out.txt
check "and the run is that of one process" cmp whole/model.safetensors held/model.safetensors
mkdir away
echo '{"process": 1, "host": "another.example", "started": "2026-01-31T12:00:00Z"}' >away/srformer.lock
refused 1 "away: is in use by process 1 on another.example" "${base[@]}" --output_dir away
check "the lock of another host stays" test -e away/srformer.lock
# Of two that start at once, one trains.
for i in 1 2; do
  "$finetune" --threads 1 "${base[@]}" --max_steps 30 --output_dir raced >out.$i 2>err.$i &
done
wait
check "one of two has trained" test "$(cat out.1 out.2 | grep -c '^the model is in raced')" -eq 1
check "the other was refused" test "$(cat err.1 err.2 | grep -c 'raced: is \(in use by\|not empty\)')" -eq 1

run 0 "${long[@]}" --output_dir named --resume_from_checkpoint whole/checkpoint-50
check "the same parameters from a named checkpoint" \
  cmp whole/model.safetensors named/model.safetensors
run 0 "${base[@]}" --output_dir none --max_steps 1 --resume_from_checkpoint auto
check "auto without a checkpoint starts afresh" grep -q 'training starts afresh' out.txt
check "nothing differs, nothing is told" eval '! grep -q "in the run so far" out.txt'
# What differs from the run so far is told, a line each, and the run goes on.
other=(--learning_rate 0.02 --weight_decay 0.5 --label_smoothing_factor 0.2 --lr_scheduler_type cosine
  --warmup_steps 3 --max_grad_norm 2 --max_steps 52
  --dropout 0.3)
run 0 "${long[@]}" "${other[@]}" --output_dir differs --resume_from_checkpoint whole/checkpoint-50
for line in 'learning_rate was 0.01 in the run so far, now it is 0.02' 'weight_decay was 0.0 .* 0.5' \
  'label_smoothing was 0.1 .* 0.2' 'schedule was "linear" .* "cosine"' 'warmup_steps was 2 .* 3' \
  'max_grad_norm was 1.0 .* 2.0' 'total_steps was 120 .* 52' \
  'dropout was 0.1 .* 0.3'; do
  check "told: $line" grep -q "^notice: $line\$" out.txt
done
check "no more than those, and two rates of dropout" test "$(grep -c 'in the run so far' out.txt)" -eq 10
check "and what comes of it" grep -q '^notice: so the run will not give the numbers of one that was never stopped$' out.txt
refused 1 "the run had another batch_size (batch_size 4, now 5)" "${long[@]}" --output_dir x --per_device_train_batch_size 5 \
  --resume_from_checkpoint whole/checkpoint-50
refused 1 "the run had another seed (seed 3, now 4)" "${long[@]}" --output_dir x --seed 4 --resume_from_checkpoint whole/checkpoint-50
head -n 50 train.jsonl >fewer.jsonl
refused 1 "the run had other data (examples 60, now 50)" "${long[@]}" --output_dir x --train_file fewer.jsonl \
  --resume_from_checkpoint whole/checkpoint-50
refused 1 "the run had other texts or other tokens" "${long[@]}" --output_dir x --source_prefix "segment " \
  --resume_from_checkpoint whole/checkpoint-50
refused 1 "is another model: its \"model_type\" is \"bart\", not the \"t5\"" "${long[@]}" --output_dir x \
  --model_name_or_path "$(dirname "$model")/bart_full" --resume_from_checkpoint whole/checkpoint-50
mkdir wider && cp "$model"/* wider
sed -i 's/"relative_attention_max_distance": [0-9]*/"relative_attention_max_distance": 99/' wider/config.json
refused 1 'is another model: its "relative_attention_max_distance" is 99' "${long[@]}" --output_dir x \
  --model_name_or_path wider --resume_from_checkpoint whole/checkpoint-50
cp "$model"/* wider && echo '{}' >wider/added_tokens.json
refused 1 "has another tokenizer: its added_tokens.json" "${long[@]}" --output_dir x --model_name_or_path wider \
  --resume_from_checkpoint whole/checkpoint-50
refused 2 "leave them out to resume" "${long[@]}" --output_dir parts_INT --sigma true \
  --resume_from_checkpoint auto
refused 1 "holds no optimizer.safetensors" "${long[@]}" --output_dir x --resume_from_checkpoint whole

# ---- other optimizers and schedules ---------------------------------------------------------------
learns() {  # learns FOLDER: its last loss is well below its first
  awk -F'"loss":' '/"loss":/ { split($2, a, ","); if (!n++) first = a[1]; last = a[1] } END { exit !(last < 0.9 * first) }' "$1"/metrics.jsonl
}
factors=(--optim adafactor --optim_args "beta1=0.5, scale_parameter=True" --lr_scheduler_type constant --learning_rate 0.02)
run 0 "${base[@]}" --output_dir factors --max_steps 12 --save_steps 6 "${factors[@]}"
check "Adafactor learns" learns factors
check "it keeps rows and columns" grep -q 'exp_avg_sq_row/shared.weight' factors/checkpoint-6/optimizer.safetensors
run 0 "${base[@]}" --output_dir again_factors --max_steps 12 --resume_from_checkpoint factors/checkpoint-6 "${factors[@]}"
check "Adafactor is resumed as one run" cmp factors/model.safetensors again_factors/model.safetensors
refused 1 'the run had another optimizer (optimizer "adafactor", now "sgd")' "${base[@]}" --output_dir x --max_steps 12 --optim sgd \
  --resume_from_checkpoint factors/checkpoint-6
run 0 --model_name_or_path "$model" --train_file train.jsonl --max_target_length 12 --logging_steps 1 --output_dir relative \
  --max_steps 3 --optim adafactor --optim_args "scale_parameter=True,relative_step=True,warmup_init=True,beta1=None"
check "the rate is Adafactor's own" test "$(grep -oE '"lr":[^,]*' relative/metrics.jsonl | head -1)" = '"lr":1e-06'
run 0 "${base[@]}" --output_dir sgd --max_steps 30 --optim sgd --optim_args momentum=0.9,nesterov=True --learning_rate 0.05 \
  --lr_scheduler_type polynomial --lr_scheduler_kwargs '{"power": 2, "lr_end": 0.01}'
check "SGD learns" learns sgd
check "the schedule has its arguments" test "$(grep -oE '"lr":[^,]*' sgd/metrics.jsonl | sed -n 16p)" = '"lr":0.02'
refused 2 "There is no optimizer lion_32bit here; give adamw_torch, adafactor or sgd" "${base[@]}" --output_dir x --optim lion_32bit
refused 2 "give adamw_torch" "${base[@]}" --output_dir x --optim adamw_8bit
refused 2 "--optim_args has nothing for adamw_torch" "${base[@]}" --output_dir x --optim_args beta1=0.5
refused 2 'sgd has no "beta1"; it has momentum, dampening, nesterov' "${base[@]}" --output_dir x --optim sgd --optim_args beta1=0.5
refused 2 '"fast" is no value of momentum' "${base[@]}" --output_dir x --optim sgd --optim_args momentum=fast
refused 2 '"momentum" is not NAME=VALUE' "${base[@]}" --output_dir x --optim sgd --optim_args momentum
refused 2 "give --learning_rate in place of lr" "${base[@]}" --output_dir x --optim adafactor --optim_args lr=1
refused 2 "--optim_args: Sgd: nesterov needs" "${base[@]}" --output_dir x --optim sgd --optim_args nesterov=True
refused 2 "--adam_beta1 needs --optim adamw_torch" "${base[@]}" --output_dir x --optim sgd --adam_beta1 0.5
refused 2 "--learning_rate does not go with relative_step=True" "${base[@]}" --output_dir x --optim adafactor \
  --optim_args relative_step=True
refused 2 "--lr_scheduler_kwargs is no JSON object" "${base[@]}" --output_dir x --lr_scheduler_kwargs power=2
refused 2 'linear has no "power" nor other arguments' "${base[@]}" --output_dir x --lr_scheduler_kwargs '{"power": 2}'
refused 2 '"two" is no value of num_cycles' "${base[@]}" --output_dir x --lr_scheduler_type cosine \
  --lr_scheduler_kwargs '{"num_cycles": "two"}'
refused 2 "num_decay_steps must be given" "${base[@]}" --output_dir x --lr_scheduler_type warmup_stable_decay
refused 2 "--adafactor: give --optim adafactor" "${base[@]}" --output_dir x --adafactor

# ---- from recurrent to full and back ------------------------------------------------------------
run 0 "${base[@]}" --model_name_or_path all --cross_attention full --output_dir full --max_steps 1
check "what is dropped is said" grep -q 'parameters are dropped' out.txt
check "it is full" grep -q '"variant": "full"' full/config.json
run 0 "${base[@]}" --model_name_or_path full --cross_attention transformer_xl --output_dir xl --max_steps 1
check "new RNNs are said" grep -q 'parameters of transformer_xl are new and initialised: .*RNN' out.txt
run 0 "${base[@]}" --model_name_or_path xl --cross_attention full --output_dir without_rnn --max_steps 1
check "dropped RNNs are said" grep -q 'parameters are dropped, as full has no use .*RNN' out.txt
run 0 "${base[@]}" --model_name_or_path all --output_dir again --max_steps 1
check "the variant of the checkpoint stays" grep -q '"segmented_recurrent"' again/config.json
check "nothing is new" test -z "$(grep notice out.txt | grep parameters)"
refused 2 "--recurrence_init_scale does not apply" "${base[@]}" --model_name_or_path all \
  --output_dir x --recurrence_init_scale 1

# ---- bad input ----------------------------------------------------------------------------------
bad() {  # bad LINE: a training file whose eighth line is LINE
  { head -n 7 train.jsonl; echo "$1"; tail -n 2 train.jsonl; } >bad.jsonl
}
bad '{"text": "a", "summary": '
refused 1 "bad.jsonl:8" "${base[@]}" --train_file bad.jsonl --output_dir x
bad '{"text": "a", "headline": "b"}'
refused 1 'has no column "summary"' "${base[@]}" --train_file bad.jsonl --output_dir x
bad '{"text": " ", "summary": "b"}'
refused 1 'column "text" is empty' "${base[@]}" --train_file bad.jsonl --output_dir x
: >empty.jsonl
refused 1 "holds no examples" "${base[@]}" --train_file empty.jsonl --output_dir x
refused 1 "absent.jsonl: cannot open" "${base[@]}" --train_file absent.jsonl --output_dir x
refused 1 "nowhere: is not a folder" "${base[@]}" --model_name_or_path nowhere --output_dir x
check "a run that cannot begin makes no folder" test ! -e x
mkdir lone && cp "$model"/config.json "$model"/model.safetensors lone
refused 1 "lone: has no tokenizer (tokenizer.json, spiece.model" "${base[@]}" --model_name_or_path lone --output_dir x
refused 1 "is not empty" "${base[@]}" --output_dir whole
check "it is left alone" test -d whole/checkpoint-50
run 0 "${base[@]}" --output_dir whole --overwrite_output_dir --max_steps 2 --save_steps 1
check "an old run is cleared away" test ! -e whole/checkpoint-50 -a -d whole/checkpoint-2
refused 1 "is not a folder" "${base[@]}" --output_dir train.jsonl
refused 2 "cross_attention" "${base[@]}" --output_dir x --cross_attention sparse
refused 2 "lr_scheduler_type" "${base[@]}" --output_dir x --lr_scheduler_type step
refused 2 "--output_dir is required" "${base[@]}"
refused 2 "--segment_size does not apply" "${base[@]}" --output_dir x --segment_size 8
refused 2 "--gate does not apply" "${base[@]}" --output_dir x --cross_attention segmented \
  --gate true
refused 2 "--eval_steps needs --validation_file" "${base[@]}" --output_dir x --eval_steps 2
refused 2 "--warmup_steps needs another" "${base[@]}" --output_dir x --warmup_steps 2 \
  --lr_scheduler_type constant
refused 2 "exclude each other" "${base[@]}" --output_dir x --max_steps 2 --num_train_epochs 1
refused 2 "per_device_train_batch_size" "${base[@]}" --output_dir x \
  --per_device_train_batch_size 0
refused 2 "device" "${base[@]}" --output_dir x --device abacus
run 1 "${base[@]}" --output_dir hot --learning_rate 1e30 --max_grad_norm 0 --max_steps 9
check "what is not finite is named" grep -q 'not finite' err.txt
run 0 "${base[@]}" --output_dir cold --learning_rate 1e30 --max_grad_norm 0 --max_steps 9 \
  --skip_nonfinite
check "and skipped when asked" grep -q 'is skipped: its gradient is not finite' out.txt

# ---- data of other formats, and what is not used ------------------------------------------------
{ echo 'article,highlights'; sed 's/{"text": "\(.*\)", "summary": "\(.*\)"}/"\1",\2/' train.jsonl; } >train.csv
run 0 "${base[@]}" --output_dir lines --max_steps 2
run 0 "${base[@]}" --output_dir csv --max_steps 2 --train_file train.csv
check "columns are found and said" grep -q '^train.csv: CSV, columns "article", "highlights", 60 rows$' out.txt
check "CSV trains the same model as JSON lines" cmp lines/model.safetensors csv/model.safetensors
head -n 31 train.jsonl >part-0.jsonl
tail -n 29 train.jsonl | gzip >part-1.jsonl.gz
run 0 "${base[@]}" --output_dir parts2 --max_steps 2 --train_file "part-*"
check "so do its parts" cmp lines/model.safetensors parts2/model.safetensors
bad '{"text": "a", "summary": null}'
echo '{"text": " ", "summary": "b"}' >>bad.jsonl
refused 1 'bad.jsonl:8 column "summary" is null' "${base[@]}" --train_file bad.jsonl --output_dir x
run 0 "${base[@]}" --train_file bad.jsonl --output_dir dropped --max_steps 1 --drop_empty
check "rows left out are counted" grep -q '2 of 11 rows left out .*: lines 8, 11$' out.txt
run 0 "${base[@]}" --output_dir cut --max_steps 1 --max_source_length 5 --max_target_length 3 --max_train_samples 50
check "what is cut is counted" grep -q '^--train_file: cut are [0-9]* of 50 sources to 5 tokens and [0-9]* of 50 summaries to 3 tokens$' out.txt
check "what is not used is counted" grep -q '^--train_file: the first 50 of 60 pairs are used$' out.txt
{ head -n 2 test.jsonl; echo '{"text": "model leak", "summary": ""}'; tail -n 2 test.jsonl; } >some.jsonl
{ head -n 2 test.jsonl; tail -n 2 test.jsonl; } >all_of_them.jsonl
run 0 "${base[@]}" --output_dir some --max_steps 2 --test_file some.jsonl
check "a text without a summary is told" grep -q '^--test_file: 1 of 5 texts have no summary' out.txt
check "and summarized" test "$(wc -l <some/generated_predictions.txt)" -eq 5
run 0 "${base[@]}" --output_dir others --max_steps 2 --test_file all_of_them.jsonl
check "and not scored" eval 'diff <(grep "predict_[lr]o" some/all_results.json) <(grep "predict_[lr]o" others/all_results.json)'
echo '{"text": "model leak", "summary": ""}' >none.jsonl
run 0 "${base[@]}" --output_dir unscored --max_steps 2 --test_file none.jsonl
check "there is no loss of none" eval '! grep -q "predict_loss\|predict_rouge" unscored/all_results.json'
refused 1 'column "summary" is empty' "${base[@]}" --output_dir x --validation_file none.jsonl
refused 2 "min_length 40 is above max_length 13" "${base[@]}" --output_dir x --min_length 40

# ---- the best evaluation, early ends, TensorBoard ----------------------------------------------
run 0 "${base[@]}" --output_dir best --num_train_epochs 3 --per_device_train_batch_size 16 --validation_file validation.jsonl \
  --eval_strategy epoch --save_strategy epoch --load_best_model_at_end --save_total_limit 1 --report_to tensorboard --learning_rate 0.05
best=$(sed -n 's/.*"best_global_step": \([0-9]*\).*/\1/p' best/trainer_state.json)
check "the best of three evaluations is named" test -n "$best"
check "and its checkpoint is there" test -s "best/checkpoint-$best/model.safetensors"
check "and its parameters are the model" cmp "best/checkpoint-$best/model.safetensors" best/model.safetensors
check "with the last one at most" test "$(ls -d best/checkpoint-* | wc -l)" -le 2
check "an evaluation after each epoch and one at the end" test "$(grep -c '"eval_loss"' best/metrics.jsonl)" -eq 4
check "events for TensorBoard" grep -qa 'eval/loss' best/runs/events.out.tfevents.*
for file in train_results.json eval_results.json; do check "$file" test -s "best/$file"; done
for key in eval_runtime eval_samples_per_second epoch; do check "$key" grep -q "\"$key\"" best/eval_results.json; done
check "the history of the run" grep -q '"learning_rate"' best/trainer_state.json

run 0 "${base[@]}" --output_dir early --max_steps 40 --validation_file validation.jsonl --eval_steps 2 --learning_rate 0 \
  --early_stopping_patience 2 --save_strategy no
check "a run whose evaluations get no better ends" grep -q 'stopped after step 6: no better eval_loss in 2 evaluations' out.txt
run 0 "${base[@]}" --output_dir start --max_steps 2 --validation_file validation.jsonl --eval_on_start --save_strategy no
check "an evaluation before the first step" grep -q '^{"step":0,.*"eval_loss"' start/metrics.jsonl

# ---- the cache of ids, batches by tokens ---------------------------------------------------------
by_tokens=(--max_tokens_per_batch 200 --per_device_train_batch_size 100 --max_steps 4 --save_strategy no)
run 0 "${base[@]}" "${by_tokens[@]}" --output_dir listed
run 0 "${base[@]}" "${by_tokens[@]}" --output_dir cached --data_cache cache
check "the cache is made" grep -q 'tokens-[0-9a-f]*.safetensors: made, 60 examples' out.txt
check "it trains alike" cmp <(metrics_without_times listed) <(metrics_without_times cached)
check "to the same parameters" cmp listed/model.safetensors cached/model.safetensors
run 0 "${base[@]}" "${by_tokens[@]}" --output_dir cached --overwrite_output_dir --data_cache cache
check "and read" grep -q 'tokens-[0-9a-f]*.safetensors: read, 60 examples' out.txt
check "to the same parameters again" cmp listed/model.safetensors cached/model.safetensors
run 0 "${base[@]}" "${by_tokens[@]}" --output_dir cached --overwrite_output_dir --data_cache cache --max_source_length 9
check "other lengths are another cache" test "$(ls cache | wc -l)" -eq 2
check "which says what was cut" grep -q 'cut are [0-9]* of 60 sources to 9 tokens' out.txt
truncate -s -100 cache/*.safetensors
run 0 "${base[@]}" "${by_tokens[@]}" --output_dir cached --overwrite_output_dir --data_cache cache
check "a cache cut short is made again" grep -q 'safetensors: made again, as it was damaged or incomplete' out.txt
refused 1 "more than the 20 of a batch" "${base[@]}" --output_dir x --max_tokens_per_batch 20
refused 2 "--overwrite_cache needs --data_cache" "${base[@]}" --output_dir x --overwrite_cache
refused 2 "groups by length itself" "${base[@]}" --output_dir x --max_tokens_per_batch 200 --group_by_length
refused 2 "not standard input" "${base[@]}" --output_dir x --train_file - --data_cache cache

# ---- flags from a file ----------------------------------------------------------------------------
"$finetune" "${base[@]}" --output_dir from_file --max_steps 2 --save_strategy no --threads 1 --dump_config >flags.json
run 0 --config flags.json
check "a file of flags trains" test -s from_file/model.safetensors

# ---- the command line of run_summarization.py ---------------------------------------------------
run 0 "${base[@]}" --output_dir hf --max_steps 2 --do_train --dataloader_num_workers 4 --optim adamw_torch_fused --fp16 False \
  --group_by_length true --overwrite_output_dir True
check "flags without effect are told" grep -q 'without effect here: --dataloader_num_workers, --fp16$' err.txt
refused 2 "--bf16: training is in float32" "${base[@]}" --output_dir x --do_train --eval_delay 3 --bf16 --push_to_hub
refused 2 "--eval_delay 3: evaluations begin" "${base[@]}" --output_dir x --do_train --eval_delay 3 --bf16 --push_to_hub
run 0 "${base[@]}" --output_dir hf --max_steps 4 --resume_from_checkpoint True

# ---- evaluation and prediction without training -------------------------------------------------
alone=(--model_name_or_path all --max_target_length 12 --source_prefix "summarize: ")
files=(--validation_file validation.jsonl --max_eval_samples 6 --test_file test.jsonl)
run 0 "${alone[@]}" "${files[@]}" --output_dir alone --do_eval --do_predict true
check "the validation set is scored" grep -q '^validation  loss .* rouge1' out.txt
results() { grep -E "$1" "$2"/all_results.json | grep -vE '_runtime|_per_second' | tr -d ' ,' | sort; }
# The same numbers as after training, except the loss, which had the label smoothing in it.
check "ROUGE is that of the run that trained it" cmp <(results '(eval|predict)_(rouge|gen_len|samples")' all) \
  <(results '(eval|predict)_(rouge|gen_len|samples")' alone)
check "so are the predictions" cmp all/generated_predictions.txt alone/generated_predictions.txt
check "no model and no metrics are written" test ! -e alone/config.json -a ! -e alone/metrics.jsonl
run 0 "${alone[@]}" "${files[@]}" --output_dir smoothed --do_eval --do_predict --label_smoothing_factor 0.1
check "with its label smoothing all is" cmp <(results 'eval|predict' all) <(results 'eval|predict' smoothed)
run 0 "${alone[@]}" --test_file test.jsonl --output_dir predicted --do_predict
check "the test set alone" cmp all/generated_predictions.txt predicted/generated_predictions.txt
check "has no validation" eval '! grep -q eval_ predicted/all_results.json'
run 0 "${alone[@]}" --validation_file validation.jsonl --output_dir predicted --do_eval --predict_with_generate=false
check "what is there stays" test "$(grep -c 'eval_loss\|predict_loss' predicted/all_results.json)" -eq 2
cp all/config.json all/model.safetensors .
run 0 "${alone[@]}" --validation_file validation.jsonl --output_dir all --do_eval
check "a model in its own folder stays" eval 'cmp config.json all/config.json && cmp model.safetensors all/model.safetensors'
check "so do the results of its training" grep -q train_loss all/all_results.json
refused 2 "there is nothing to do: give --do_train, --do_eval or --do_predict" "${alone[@]}" --output_dir x --do_train false
refused 2 "--do_eval needs --validation_file" "${alone[@]}" --output_dir x --do_eval
refused 2 "--do_predict needs --test_file" "${alone[@]}" --output_dir x --do_predict
refused 2 "--train_file needs --do_train" "${base[@]}" --output_dir x --do_eval --validation_file validation.jsonl
refused 2 "--test_file needs --do_predict" "${alone[@]}" "${files[@]}" --output_dir x --do_eval
refused 2 "--learning_rate needs --do_train" "${alone[@]}" --validation_file validation.jsonl --output_dir x --do_eval \
  --learning_rate 1
refused 2 "--train_file is required to train" "${alone[@]}" --output_dir x --do_train
refused 2 "leave them out to evaluate" "${alone[@]}" --validation_file validation.jsonl --output_dir x --do_eval --segment_size 4

# ---- a T5 without a prefix -----------------------------------------------------------------------
run 0 "${base[@]}" --output_dir prefix --max_steps 1
check "a T5 without a prefix is told" test "$(grep -c '^notice: T5.s own checkpoints expect a prefix' out.txt)" -eq 1
checks=$((checks + 1))
"$finetune" --threads 1 "${base[@]}" --output_dir prefix --overwrite_output_dir --max_steps 1 --source_prefix "" >out.txt 2>err.txt ||
  fail "an empty prefix"
check "none that is said to be none is not" eval '! grep -q "expect a prefix" out.txt'
run 0 "${base[@]}" --model_name_or_path "$bart" --max_source_length 100 --output_dir prefix --overwrite_output_dir --max_steps 1
check "nor is a BART" eval '! grep -q "expect a prefix" out.txt'

echo "all $checks checks passed"
