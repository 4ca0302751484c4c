#!/usr/bin/env bash
# Runs finetune on texts alone, T5 and BART, with each objective: batches, resumption, caches, evaluations, refusals; and the
# start of the recurrence that is measured.
#
#   check_objectives.sh PROGRAMS     PROGRAMS is the folder of finetune and init_model
set -u
programs=$1
. "$(dirname "${BASH_SOURCE[0]}")/../support/checks.sh"

# program CODE NAME ARGUMENT...: the program ends with that code.
program() {
  local code=$1 name=$2
  shift 2
  checks=$((checks + 1))
  "$programs/$name" "$@" >out.txt 2>err.txt
  local got=$?
  [ $got -eq "$code" ] || fail "$name: exit code $got, expected $code: $*"
}
run() { program "$1" finetune --threads 1 "${@:2}"; }
said() { check "said: $1" grep -qF -- "$1" out.txt; }
losses() { grep -oE '"(eval_)?loss":[^,}]*' "$1"/metrics.jsonl; }

# ---- texts in every form ------------------------------------------------------------------------
words=(segment recurrence attention query key value memory leak reset model source target)
for ((i = 0; i < 150; ++i)); do
  text=
  for ((w = 0; w <= 5 + i % 23; ++w)); do text+="${words[(i * 7 + w * w) % 12]} "; done
  echo "$text."
done >corpus.txt
head -n 12 corpus.txt >held_out.txt
while read -r text; do echo "{\"text\": \"$text\", \"summary\": \"x\"}"; done <corpus.txt >corpus.jsonl
gzip -c corpus.txt >corpus.txt.gz
mkdir documents
split -l 30 --additional-suffix=.txt corpus.txt documents/part-
awk '{ print } NR % 5 == 0 { print "" }' corpus.txt >paragraphs.txt

program 0 init_model --output_dir t5 --preset t5-tiny --train_tokenizer corpus.txt --tokenizer_vocab_size 90 --seed 1
program 0 init_model --output_dir bart --preset bart-tiny --train_tokenizer corpus.txt --tokenizer_vocab_size 290 --seed 1
lengths=(--max_source_length 40 --max_target_length 40)
steps=(--per_device_train_batch_size 8 --logging_steps 1 --learning_rate 0.003)
t5=(--model_name_or_path t5 "${lengths[@]}" "${steps[@]}")
bart=(--model_name_or_path bart "${lengths[@]}" "${steps[@]}")
spans=(--objective span_corruption)
infilling=(--objective text_infilling)

run 0 "${t5[@]}" "${spans[@]}" --train_file corpus.txt --validation_file held_out.txt --max_steps 8 --output_dir lines \
  --eval_strategy steps --eval_steps 4 --save_steps 4
said "--objective span_corruption: texts of up to 44 tokens, sources of up to 40 and targets of up to 10"
check "no summaries" test ! -e lines/generated_predictions.txt
check "a loss of the held-out texts" grep -q '"eval_loss"' lines/all_results.json
check "no ROUGE" test -z "$(grep rouge lines/all_results.json)"
for form in corpus.txt.gz corpus.jsonl; do
  run 0 "${t5[@]}" "${spans[@]}" --train_file $form --validation_file held_out.txt --max_steps 8 --output_dir "form-$form" \
    --eval_strategy steps --eval_steps 4 --save_steps 0
  check "$form gives the same losses" cmp <(losses lines) <(losses "form-$form")
done
run 0 "${t5[@]}" "${spans[@]}" --train_file documents --sample_by document --max_steps 1 --output_dir documents-out
said "5 text files, 5 texts"
run 0 "${t5[@]}" "${spans[@]}" --train_file paragraphs.txt --sample_by paragraph --max_steps 1 --output_dir paragraphs-out
said "1 text file, 30 paragraphs"

# ---- the same run in other ways -------------------------------------------------------------------
run 0 "${t5[@]}" "${spans[@]}" --train_file corpus.txt --validation_file held_out.txt --max_steps 8 --output_dir cached \
  --eval_strategy steps --eval_steps 4 --save_steps 0 --data_cache cache
check "a cache gives the same losses" cmp <(losses lines) <(losses cached)
run 0 "${t5[@]}" "${spans[@]}" --noise_density 0.15 --train_file corpus.txt --max_steps 1 --output_dir cached-again \
  --data_cache cache
said ".safetensors: read"
cp -r lines resumed && rm -r resumed/checkpoint-8
run 0 "${t5[@]}" "${spans[@]}" --train_file corpus.txt --validation_file held_out.txt --max_steps 8 --output_dir resumed \
  --eval_strategy steps --eval_steps 4 --save_steps 4 --resume_from_checkpoint auto
check "a resumed run has the same losses" cmp <(losses lines) <(losses resumed)
check "and the same parameters" cmp lines/model.safetensors resumed/model.safetensors
again=("${t5[@]}" --max_steps 9 --output_dir resumed --resume_from_checkpoint auto)
refused 1 'another objective (objective "span_corruption", now "text_infilling")' "${again[@]}" "${infilling[@]}" --train_file corpus.txt
refused 1 'another objective (objective "span_corruption", now "pairs")' "${again[@]}" --train_file corpus.jsonl
refused 1 "another objective_mean_span_length" "${again[@]}" "${spans[@]}" --mean_span_length 2.9 --train_file corpus.txt
run 0 "${t5[@]}" "${spans[@]}" --train_file corpus.txt --validation_file held_out.txt --max_steps 4 --seed 4 --output_dir seed
check "another seed is another run" test "$(losses seed | head -n 1)" != "$(losses lines | head -n 1)"
run 0 --model_name_or_path lines "${lengths[@]}" "${spans[@]}" --do_eval --validation_file held_out.txt --seed 9 --output_dir scored
check "the last evaluation is repeated without training, whatever the seed" \
  test "$(grep -o '"eval_loss": [0-9.]*' lines/all_results.json)" = "$(grep -o '"eval_loss": [0-9.]*' scored/all_results.json)"

# ---- text infilling, both architectures ------------------------------------------------------------
run 0 "${bart[@]}" "${infilling[@]}" --train_file corpus.txt --validation_file held_out.txt --max_steps 12 --output_dir bart-out \
  --permute_sentences --max_tokens_per_batch 400
said "--objective text_infilling: texts of up to 37 tokens, sources of up to 40 and targets of up to 39"
program 0 init_model --output_dir sentinels --preset bart-tiny --train_tokenizer corpus.txt --tokenizer_vocab_size 290 \
  --extra_ids 20 --seed 1
run 0 --model_name_or_path sentinels "${lengths[@]}" "${steps[@]}" "${spans[@]}" --train_file corpus.txt --max_steps 1 \
  --output_dir bart-spans
run 0 "${t5[@]}" "${infilling[@]}" --train_file corpus.txt --max_steps 40 --output_dir words --whole_words --text_length 20 \
  --noise_density 0.08 --span_length uniform --mean_span_length 2 --denoised_length 12 --group_by_length \
  --cross_attention segmented_recurrent --segment_size 8
said "and 20 words"
run 0 "${t5[@]}" --preset denoise-pilot --train_file corpus.txt --max_steps 2 --output_dir pilot
run 0 "${t5[@]}" "${infilling[@]}" --whole_words --text_length 60 --noise_density 0.08 --span_length uniform \
  --mean_span_length 2 --denoised_length 40 --train_file corpus.txt --max_steps 2 --output_dir pilot-flags
check "a preset is its flags" cmp pilot/model.safetensors pilot-flags/model.safetensors
first=$(losses words | head -n 1 | cut -d: -f2) last=$(losses words | tail -n 1 | cut -d: -f2)
check "the loss falls" awk "BEGIN { exit !($last < 0.8 * $first) }"
run 0 "${t5[@]}" "${infilling[@]}" --train_file corpus.txt --separate_texts --max_steps 1 --mask_token "<extra_id_7>" \
  --output_dir separate
run 0 "${t5[@]}" "${spans[@]}" --train_file corpus.txt --text_length 10 --max_train_samples 9 --max_steps 1 --output_dir few
said "the first 9 of"

# ---- a start of the recurrence that is measured ---------------------------------------------------------
pairs=(--train_file corpus.jsonl --max_target_length 8 --per_device_train_batch_size 8 --logging_steps 1)
recurrent=(--cross_attention segmented_recurrent --segment_size 8)
start() { grep -oE 'recurrence_init_scale auto: [0-9.e-]+, [0-9.e-]+ in the layers' out.txt; }
run 0 --model_name_or_path t5 "${pairs[@]}" "${recurrent[@]}" --recurrence_init_scale auto --max_steps 4 --save_steps 2 \
  --output_dir measured
check "two layers were measured" test -n "$(start)"
check "config.json does not ask for it again" test -z "$(grep recurrence_init_scale measured/config.json)"
cp -r measured measured-resumed && rm -r measured-resumed/checkpoint-4
run 0 --model_name_or_path t5 "${pairs[@]}" "${recurrent[@]}" --recurrence_init_scale auto --max_steps 4 --save_steps 2 \
  --output_dir measured-resumed --resume_from_checkpoint auto
check "a resumed run is not measured again" test -z "$(start)"
check "and gives the same parameters" cmp measured/model.safetensors measured-resumed/model.safetensors
program 0 init_model --output_dir later --preset t5-tiny --tokenizer t5 --seed 1 "${recurrent[@]}" --recurrence_init_scale auto
check "init_model leaves it to the training" grep -qF '"recurrence_init_scale": "auto"' later/config.json
run 0 --model_name_or_path later "${pairs[@]}" --max_steps 1 --output_dir later-out
check "which measures it" test -n "$(start)"
check "once" test -z "$(grep recurrence_init_scale later-out/config.json)"
sed 's/"recurrence_init_scale": "auto"/"recurrence_init_scale": 0.5/' later/config.json >half.json
program 0 init_model --output_dir half --config half.json --tokenizer t5 --seed 1
program 0 init_model --output_dir half-flag --config later/config.json --tokenizer t5 --seed 1 --recurrence_init_scale 0.5
check "a number in config.json is that of the flag" cmp half/model.safetensors half-flag/model.safetensors
sed 's/"recurrence_init_scale": "auto"/"recurrence_init_scale": [1]/' later/config.json >wrong.json
program 1 init_model --output_dir x --config wrong.json --tokenizer t5
check "what is neither is refused" grep -qF 'is neither a number nor "auto"' err.txt
refused 2 "is neither a number nor auto" --model_name_or_path t5 "${pairs[@]}" "${recurrent[@]}" --recurrence_init_scale some \
  --output_dir x
refused 2 "--recurrence_init_scale does not apply" --model_name_or_path measured "${pairs[@]}" --recurrence_init_scale auto \
  --output_dir x
run 0 --model_name_or_path t5 "${pairs[@]}" --cross_attention segmented_recurrent --segment_size 512 --recurrence_init_scale auto \
  --max_steps 1 --output_dir one-segment
said "none, none in the layers of the decoder"
run 0 --model_name_or_path t5 "${pairs[@]}" "${recurrent[@]}" --recurrence false --recurrence_init_scale auto --max_steps 1 \
  --output_dir no-recurrence
said "has no effect, as the options have no recurrence"
run 0 --model_name_or_path t5 "${pairs[@]}" "${recurrent[@]}" --gate false --max_steps 1 --output_dir by-default
check "a new recurrence is measured where nothing says how it starts" test -n "$(start)"
check "and has no soft keys" test -z "$(grep soft_keys by-default/config.json)"
run 0 --model_name_or_path by-default "${pairs[@]}" --max_steps 1 --output_dir by-default-again
check "one that is there is not" test -z "$(start)"
run 0 --model_name_or_path t5 "${pairs[@]}" "${recurrent[@]}" --recurrence_init_scale 0.2 --max_steps 1 --output_dir factor
check "nor one whose factor is given" test -z "$(start)"
run 0 --model_name_or_path t5 "${pairs[@]}" "${recurrent[@]}" --average_products true --max_steps 1 --output_dir averages
check "averages are measured" test -n "$(start)"
run 0 --model_name_or_path t5 "${pairs[@]}" "${recurrent[@]}" --recurrence false --max_steps 1 --output_dir alone
check "what has no recurrence is not" test -z "$(grep recurrence_init_scale out.txt)"
program 0 init_model --output_dir later-by-default --preset t5-tiny --tokenizer t5 --seed 1 "${recurrent[@]}" --gate false
check "init_model leaves it to the training by default" cmp later/config.json later-by-default/config.json
program 0 init_model --output_dir full-by-default --preset t5-tiny --tokenizer t5 --seed 1
check "of a recurrence alone" test -z "$(grep recurrence_init_scale full-by-default/config.json)"

# ---- a new recurrence of which nothing is said has soft keys and a gate --------------------------------------
soft() { tr -d ' \n' <"$1/config.json" | grep -q '"gate":true.*"soft_keys":4'; }
run 0 --model_name_or_path t5 "${pairs[@]}" "${recurrent[@]}" --max_steps 2 --output_dir soft
said "notice: the new segmented_recurrent has soft_keys 4 and a gate, which the paper's has not; --gate false is the paper's"
check "config.json says so" soft soft
check "and nothing is measured" test -z "$(start)"
run 0 --model_name_or_path soft "${pairs[@]}" --max_steps 1 --output_dir soft-again
check "it stays" soft soft-again
check "without a word" test -z "$(grep soft_keys out.txt)"
run 0 --model_name_or_path by-default "${pairs[@]}" "${recurrent[@]}" --max_steps 1 --output_dir plain-again
check "a recurrence that is there does not get them" test -z "$(grep soft_keys plain-again/config.json)"
program 0 init_model --output_dir soft-new --preset t5-tiny --tokenizer t5 --seed 1 "${recurrent[@]}"
check "init_model gives them as well" soft soft-new
check "and leaves nothing to be measured" test -z "$(grep recurrence_init_scale soft-new/config.json)"
for more in "--soft_keys none" "--normalize false" "--recurrence_init_scale 0.5"; do
  # shellcheck disable=SC2086
  program 0 init_model --output_dir said --overwrite_output_dir --preset t5-tiny --tokenizer t5 "${recurrent[@]}" $more
  check "not with $more" test -z "$(grep -E 'soft_keys|"gate": true' said/config.json)"
done
program 2 init_model --output_dir x --preset t5-tiny --tokenizer t5 "${recurrent[@]}" --soft_keys -1
run 1 --model_name_or_path t5 "${pairs[@]}" "${recurrent[@]}" --soft_keys 2 --average_products true --max_steps 1 --output_dir x
check "averages of averages are refused" grep -qF "the products of soft_keys are averages already" err.txt

# ---- what contradicts itself -------------------------------------------------------------------------
new=("${t5[@]}" --output_dir x)
refused 2 "--noise_density needs --objective" "${new[@]}" --train_file corpus.jsonl --noise_density 0.1
refused 2 "--sample_by needs --objective" "${new[@]}" --train_file corpus.jsonl --sample_by document
refused 2 "--input_format text has no summaries" "${new[@]}" --train_file corpus.txt --input_format text
refused 2 "--whole_words needs --objective text_infilling" "${new[@]}" "${spans[@]}" --train_file corpus.txt --whole_words
for flag in "--source_prefix x" "--summary_column x" "--test_file corpus.txt" "--predict_with_generate"; do
  # shellcheck disable=SC2086
  refused 2 "${flag%% *} does not go with --objective span_corruption" "${new[@]}" "${spans[@]}" --train_file corpus.txt \
    --validation_file held_out.txt $flag
done
refused 2 "--noise_density must be above 0 and below 1" "${new[@]}" "${spans[@]}" --train_file corpus.txt --noise_density 0
refused 2 "--noise_density must be at least 0 and below 1" "${new[@]}" "${infilling[@]}" --train_file corpus.txt --noise_density 1
refused 2 "--mean_span_length must be at least 1" "${new[@]}" "${spans[@]}" --train_file corpus.txt --mean_span_length 0.5
refused 2 "a --mean_span_length that is an integer" "${new[@]}" "${infilling[@]}" --train_file corpus.txt --span_length uniform \
  --mean_span_length 2.5
refused 2 "--text_length 45 is not from 2 to 44" "${new[@]}" "${spans[@]}" --train_file corpus.txt --text_length 45
refused 2 "leave no room for --objective text_infilling" --model_name_or_path bart --max_source_length 3 "${infilling[@]}" \
  --train_file corpus.txt --output_dir x
refused 2 "need as many sentinels, and the tokenizer has 100" --model_name_or_path t5 --max_source_length 1000 \
  --max_target_length 1000 "${spans[@]}" --mean_span_length 1 --train_file corpus.txt --output_dir x
refused 2 "needs sentinels <extra_id_0>" "${bart[@]}" "${spans[@]}" --train_file corpus.txt --output_dir x
cp -r t5 more-sentinels && sed -i 's/"extra_ids": *100/"extra_ids": 300/' more-sentinels/tokenizer_config.json
refused 2 "what stands for a span has the id" --model_name_or_path more-sentinels --output_dir x "${spans[@]}" --train_file corpus.txt
refused 2 "--mask_token <none> is no token" "${new[@]}" "${infilling[@]}" --train_file corpus.txt --mask_token "<none>"
refused 1 "is JSON lines, whose rows are the texts" "${new[@]}" "${spans[@]}" --train_file corpus.jsonl --sample_by document
echo >blank.txt
refused 1 "holds no text;" "${new[@]}" "${spans[@]}" --train_file blank.txt --sample_by paragraph
echo '<extra_id_5>' >one.txt
refused 1 "holds no text of 2 tokens" "${new[@]}" "${spans[@]}" --train_file one.txt
check "a run that cannot begin makes no folder" test ! -e x

echo "$checks checks passed"
