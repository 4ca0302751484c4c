#!/usr/bin/env bash
# Runs init_model, summarize, first_words, evaluate, check_gradient, count_operations and the short examples as a user does, with bad input too, and
# holds the example in README.md to the program that the package tests build.
#
#   check_programs.sh FOLDER_OF_PROGRAMS SOURCES
set -u
programs=$1 sources=$2
model=$sources/tests/reference/values/models/t5_srformer
. "$(dirname "${BASH_SOURCE[0]}")/../support/checks.sh"

# run CODE PROGRAM ARGUMENT...: the program ends with that code; its input is input.txt.
run() {
  local code=$1 program=$2
  shift 2
  checks=$((checks + 1))
  "$programs/$program" "$@" <input.txt >out.txt 2>err.txt
  local got=$?
  [ $got -eq "$code" ] || fail "exit code $got, expected $code: $program $*"
}
# refused CODE TEXT PROGRAM ARGUMENT...: the same, with TEXT in the one line on standard error, and no output.
refused() {
  local code=$1 text=$2
  shift 2
  run "$code" "$@"
  [ "$(wc -l <err.txt)" -eq 1 ] || fail "not one line on standard error: $*"
  grep -qF -- "$text" err.txt || fail "no \"$text\" on standard error: $*"
  [ ! -s out.txt ] || fail "output in spite of the error: $*"
}

# ---- the example in README.md ----
sed -n '/from: examples\/consumer\/main.cpp/,/^```$/p' "$sources/README.md" | sed '1,2d;$d' >readme.cpp
sed '/^\/\/ /d' "$sources/examples/consumer/main.cpp" | diff readme.cpp <(cat) >out.txt 2>err.txt || fail "README.md is not examples/consumer/main.cpp"
grep -v '^ *//' readme.cpp >code.txt
check "the example is there" test "$(wc -l <code.txt)" -ge 15

: >input.txt
run 0 hello_attention
check "hello_attention's gradient is that of differences" \
  awk '/by differences/ { gsub(",", ""); found = $7 == $10 } END { exit !found }' out.txt

# ---- custom_backend, check_gradient ----
run 0 custom_backend
check "custom_backend conforms and agrees" test "$(grep -c 'gemm conform$\|by at most [0-9.]*e-\|by at most 0.0e+00' out.txt)" -eq 7
for variant in full segmented segmented_recurrent transformer_xl global_tokens linear; do
  run 0 check_gradient --cross_attention $variant --queries 9 --padding upstream --lengths 23 17 --seed 3
  check "three gradients or more of $variant" test "$(grep -c 'elements, worst relative difference [0-9.]*e-1[2-9]' out.txt)" -ge 3
  run 1 check_gradient --cross_attention $variant --break v
  check "a broken gradient of $variant" test "$(grep -c REFUSED out.txt)" -eq 1
done
for name in q k SNN_kv.weight leak threshold sigma gate; do
  run 1 check_gradient --gate true --sigma true --clamp 0.8 --break $name
  check "a broken gradient of $name" grep -q "^$name .*1.0e-03  REFUSED" out.txt
done
refused 2 'is not one of q, k, v' check_gradient --cross_attention linear --break weight
refused 2 '1 numbers for a batch of 2' check_gradient --lengths 3
refused 2 '--keys' check_gradient --keys 0

# ---- count_operations ----
run 0 count_operations --queries 24 --keys 96 --head_size 8 --heads 2
check "full attention's products, forward and decoding" test "$(grep -c '"multiply_adds": 73728,' out.txt)" -eq 2
run 0 count_operations --cross_attention segmented --segment_size 8 --queries 24 --keys 96 --head_size 8 --heads 2
check "segmented attention's products" test "$(grep -c '"multiply_adds": 6144,\|"multiply_adds": 15360,' out.txt)" -eq 3
refused 2 '--queries' count_operations --queries 0
refused 2 '--segment_size' count_operations --cross_attention segmented --segment_size 0

# ---- init_model ----
cat >lines.txt <<'END'
The clock tower is dark. First prize went to the marrows. The Minerva came into port.
A lost dog was found. The Rovers won at home. By a wide margin Vickers won the vote.
The last night of Electra drew tears. The price of silver fell. Traffic flows along Fernside.
END
printf '{"text": "The choir meets on Friday.", "summary": "Look for heat tonight"}\n' >pairs.jsonl
run 0 init_model --output_dir fresh --preset t5-tiny --train_tokenizer lines.txt pairs.jsonl \
  --tokenizer_vocab_size 40 --extra_ids 3 --seed 5 --cross_attention segmented --segment_size 8
for file in config.json generation_config.json model.safetensors spiece.model tokenizer_config.json; do
  check "init_model writes $file" test -s "fresh/$file"
done
check "the segment size is saved" grep -q '"segment_size": 8' fresh/config.json
check "the vocabulary is a multiple of 16" grep -q '"vocab_size": 48' fresh/config.json
run 0 init_model --output_dir again --preset t5-tiny --tokenizer fresh --vocab_size 48 --seed 5
check "the same seed gives the same weights, with another cross-attention too" cmp fresh/model.safetensors again/model.safetensors
run 0 init_model --output_dir other --preset t5-tiny --tokenizer fresh --vocab_size 48 --seed 6
check "another seed gives others" eval '! cmp -s fresh/model.safetensors other/model.safetensors'
run 0 init_model --output_dir sized --config fresh/config.json --d_model 32 --num_layers 1 --feed_forward_proj gated-gelu
check "flags go over the configuration" grep -q '"d_model": 32' sized/config.json
seq -f 'aaa bbb ccc ddd %.0f eee fff' 1 200 >numbers.txt
drawn() { run 0 init_model --overwrite_output_dir --preset t5-tiny --train_tokenizer numbers.txt --tokenizer_vocab_size 40 "$@"; }
drawn --output_dir drawn --tokenizer_samples 30 --seed 5
drawn --output_dir drawn_again --tokenizer_samples 30 --seed 5
drawn --output_dir drawn_others --tokenizer_samples 30 --seed 6
drawn --output_dir not_drawn --seed 5
drawn --output_dir all_drawn --tokenizer_samples 1000 --seed 5
check "the same texts are drawn for the tokenizer by a seed" cmp drawn/spiece.model drawn_again/spiece.model
check "other texts by another seed" eval '! cmp -s drawn/spiece.model drawn_others/spiece.model'
check "fewer than all" eval '! cmp -s drawn/spiece.model not_drawn/spiece.model'
check "or all" cmp all_drawn/spiece.model not_drawn/spiece.model
refused 2 "--tokenizer_samples does not apply" init_model --output_dir new --preset t5-tiny --tokenizer fresh --tokenizer_samples 3
cp -r fresh kept
refused 1 "is not empty" init_model --output_dir fresh --preset t5-tiny
check "a refused folder stays as it was" diff -r fresh kept
run 0 init_model --output_dir fresh --overwrite_output_dir --preset t5-tiny --tokenizer again --seed 5
run 0 init_model --output_dir bart --preset bart-tiny --max_position_embeddings 40 --train_tokenizer lines.txt \
  --tokenizer_vocab_size 280
for file in config.json generation_config.json model.safetensors vocab.json merges.txt tokenizer.json; do
  check "init_model writes a BART's $file" test -s "bart/$file"
done
run 0 summarize --model_name_or_path bart --input_file lines.txt --max_length 8 --num_beams 2 --truncation
check "a BART summarizes three lines" test "$(wc -l <out.txt)" -eq 3
refused 1 "more than the model's positions, 40" summarize --model_name_or_path bart --input_file lines.txt --max_length 8
refused 2 "--d_kv does not apply to model_type bart" init_model --output_dir new --preset bart-tiny --d_kv 8
refused 2 "--extra_ids does not apply" init_model --output_dir new --preset bart-tiny --extra_ids 8
refused 1 "a divisor of d_model" init_model --output_dir new --preset bart-tiny --encoder_attention_heads 7
refused 2 "give --config FILE or --preset" init_model --output_dir new
refused 2 "excludes" init_model --output_dir new --preset t5-tiny --config fresh/config.json
refused 2 "--clamp abc" init_model --output_dir new --preset t5-tiny --clamp abc
refused 1 '"d_ff" is 0' init_model --output_dir new --preset t5-tiny --d_ff 0
refused 1 "vocab_size is 10" init_model --output_dir new --preset t5-tiny --tokenizer kept --vocab_size 10
refused 1 "does not exist" init_model --output_dir new --preset t5-tiny --tokenizer nowhere
refused 1 "is not UTF-8" init_model --output_dir new --preset t5-tiny --train_tokenizer "$model/model.safetensors"
refused 1 "pairs.jsonl:1" init_model --output_dir new --preset t5-tiny --train_tokenizer pairs.jsonl --text_column body
check "nothing is left of what was refused" eval '! compgen -G "new*"'

# ---- a folder is one process's ----
mkdir away
echo '{"process": 1, "host": "another.example", "started": "2026-01-31T12:00:00Z"}' >away/srformer.lock
cp away/srformer.lock foreign.lock
refused 1 "away: is in use by process 1 on another.example" init_model --output_dir away --preset t5-tiny
refused 1 "away: is in use by process 1 on another.example" make_bulletins --output away --train 3
check "it stays as it was" eval 'cmp foreign.lock away/srformer.lock && test "$(ls -A away)" = srformer.lock'
bash -c 'echo $$' >ended.txt
for how in "init_model --output_dir" "make_bulletins --train 3 --validation 3 --test 3 --output"; do
  echo "{\"process\": $(cat ended.txt), \"host\": \"$(uname -n)\", \"started\": \"2026-01-31T12:00:00Z\"}" >away/srformer.lock
  [[ $how != init* ]] || how="init_model --preset t5-tiny --output_dir"
  # shellcheck disable=SC2086
  run 0 $how away
  check "the lock of a process that has ended is taken over" grep -q "^notice: away was locked by process $(cat ended.txt) on" err.txt
  check "and gone afterwards" test ! -e away/srformer.lock
  rm -rf away/*
done
: >under_a_file
refused 1 "under_a_file/inner: cannot create the folder" make_bulletins --output under_a_file/inner --train 3

# ---- rfc_pairs ----
if [ -x "$programs/rfc_pairs" ]; then
  mkdir -p rfc/standard rfc/informational
  for n in $(seq 1 100); do
    at=rfc/standard/rfc$n
    [ $((n % 2)) -eq 0 ] || at=rfc/informational/rfc$n
    echo "{\"doc_id\": \"RFC$(printf %04d "$n")\", \"abstract\": \" Number $n says\\r\\nthis.  [STANDARDS-TRACK]\", \"obsoletes\": []}" >$at.json
    printf '1. Introduction\n\n   The rule that number %d has is said in so many words.\n\nA. Writer      [Page 1]\n\fRFC %d\n' "$n" "$n" |
      if [ $((n % 3)) -eq 0 ]; then cat >$at.txt; else gzip >$at.txt.gz; fi
  done
  echo '{"doc_id": "STD1"}' >rfc/standard/std1.json
  run 0 rfc_pairs --input rfc --output pairs --min_abstract_words 3 --min_text_words 5
  check "every document is in a split" test "$(cat pairs/train.jsonl pairs/validation.jsonl pairs/test.jsonl | wc -l)" -eq 100
  check "a pair is the prose and the abstract" grep -qx '{"text":"The rule that number 7 has is said in so many words.","summary":"Number 7 says this."}' pairs/train.jsonl
  check "training documents alone are pretrained on" test "$(wc -l <pairs/pretraining.txt)" -eq "$(wc -l <pairs/train.jsonl)"
  refused 1 "rfc: gives no pairs for one of the splits" rfc_pairs --input rfc --output none
  echo '{"title": "no number"}' >rfc/standard/rfc2.json
  refused 1 "rfc/standard/rfc2.json: is no record of an RFC" rfc_pairs --input rfc --output none
  refused 1 "nowhere: cannot read the folder: No such file" rfc_pairs --input nowhere --output none
fi

# ---- summarize ----
cp lines.txt input.txt
run 0 summarize --model_name_or_path "$model" --max_length 12 --dtype float64
cp out.txt expected.txt
check "a line for each line" test "$(wc -l <expected.txt)" -eq 3
run 0 summarize --model_name_or_path "$model" --max_target_length 11 --batch_size 1 --threads 1 --dtype float64
check "one at a time, the summaries are the same" cmp out.txt expected.txt
tac lines.txt >input.txt
run 0 summarize --model_name_or_path "$model" --max_length 12 --dtype float64 --batch_size 2
check "order is kept" cmp out.txt <(tac expected.txt)
awk '{ print "{\"text\": \"" $0 "\"}" }' lines.txt >lines.jsonl
run 0 summarize --model_name_or_path "$model" --input_file lines.jsonl --output_file written.txt --max_length 12 --dtype float64
check "JSON lines and a file give the same" cmp written.txt expected.txt
run 0 summarize --model_name_or_path "$model" --input_file lines.jsonl --output_format jsonl --max_length 12 --dtype float64
check "output_ids begin with the start token" grep -q '^{"output_ids":\[0,' out.txt
sed 's/^{"output_ids":\[0,\([0-9,]*\)\].*/{"input_ids": [\1]}/' out.txt >input.txt
run 0 summarize --model_name_or_path "$model" --input_format ids --max_length 5
check "ids are read" test "$(wc -l <out.txt)" -eq 3
cp lines.txt input.txt
run 0 summarize --model_name_or_path "$model" --max_source_length 10 --truncation --max_length 4
check "sources that are cut are counted" grep -q '^3 of 3 sources were cut to 10 tokens$' err.txt
refused 1 "input:1: has" summarize --model_name_or_path "$model" --max_source_length 10
run 0 summarize --model_name_or_path "$model" --output_format jsonl --max_length 12 --dtype float64 --num_beams 3 --num_return_sequences 2
check "beams have as many outputs as asked for" test "$(wc -l <out.txt)" -eq 6
check "and their scores" test "$(grep -c '"score":-' out.txt)" -eq 6
run 0 summarize --model_name_or_path "$model" --max_length 12 --dtype float64 --do_sample --seed 3 --batch_size 1
cp out.txt drawn.txt
run 0 summarize --model_name_or_path "$model" --max_length 12 --dtype float64 --do_sample --seed 3
check "what is drawn does not depend on the batch" cmp out.txt drawn.txt
run 0 summarize --model_name_or_path "$model" --max_length 12 --dtype int8
cp out.txt narrow.txt
check "weights in eight bits give a line for each line" test "$(wc -l <narrow.txt)" -eq 3
run 0 summarize --model_name_or_path "$model" --max_length 12 --dtype int8 --threads 1 --batch_size 1
check "the same on one thread and one at a time" cmp out.txt narrow.txt
refused 2 "--dtype int8 is for --device cpu" summarize --model_name_or_path "$model" --dtype int8 --device cuda
refused 2 "--num_beams above 1" summarize --model_name_or_path "$model" --length_penalty 2
refused 2 "give --do_sample" summarize --model_name_or_path "$model" --top_p 0.9
refused 2 "greedy search has one output" summarize --model_name_or_path "$model" --num_return_sequences 2
refused 2 "--num_beams" summarize --model_name_or_path "$model" --num_beams 2 --num_return_sequences 3
refused 2 "says the same" summarize --model_name_or_path "$model" --max_length 4 --max_target_length 3
refused 2 "--generation_horizon" summarize --model_name_or_path "$model" --generation_horizon 0
refused 1 "is not a folder" summarize --model_name_or_path nowhere
refused 1 "cannot open" summarize --model_name_or_path "$model" --input_file nowhere
refused 1 'no column "body"' summarize --model_name_or_path "$model" --input_file lines.jsonl --text_column body
printf 'A text.\n\nAnother.\n' >input.txt
refused 1 "input:2: is empty" summarize --model_name_or_path "$model"
printf 'A text.\n\xff\xfe\n' >input.txt
refused 1 "input:2" summarize --model_name_or_path "$model" --output_file untouched.txt
check "no file comes of bad input" test ! -e untouched.txt
echo '{"input_ids": [3, 100000]}' >input.txt
refused 1 "token id 100000" summarize --model_name_or_path "$model" --input_format ids
echo '{"input_ids": []}' >input.txt
refused 1 "no list of token ids" summarize --model_name_or_path "$model" --input_format ids
: >input.txt
refused 1 "holds no text" summarize --model_name_or_path "$model"

# ---- summarize --stream: what it writes without, for one text ----
head -n 1 lines.txt >input.txt
for folder_of_model in "$model" bart; do
  for how in "--num_beams 1" "--do_sample --seed 4 --top_k 0" "--num_beams 1 --repetition_penalty 3"; do
    # shellcheck disable=SC2086
    run 0 summarize --model_name_or_path "$folder_of_model" --min_length 30 --max_length 40 --truncation $how
    cp out.txt expected.txt
    check "there is a text" test "$(wc -c <expected.txt)" -gt 10
    # shellcheck disable=SC2086
    run 0 summarize --model_name_or_path "$folder_of_model" --min_length 30 --max_length 40 --truncation $how --stream
    check "a stream of $folder_of_model is the text ($how)" cmp out.txt expected.txt
  done
done
refused 2 "does not go with beams" summarize --model_name_or_path "$model" --num_beams 2 --stream
refused 2 "--num_return_sequences 1" summarize --model_name_or_path "$model" --do_sample --num_return_sequences 2 --stream
refused 2 "leave out --output_format" summarize --model_name_or_path "$model" --output_format jsonl --stream
refused 2 "leave out --output_format" summarize --model_name_or_path "$model" --output_file untouched.txt --stream
cp lines.txt input.txt
refused 2 "the input holds 3" summarize --model_name_or_path "$model" --stream
check "a stream writes no file" test ! -e untouched.txt
run 0 summarize --model_name_or_path bart --truncation --max_length 4 --num_beams 1
check "sources longer than BART's positions are cut when asked to" grep -q '^3 of 3 sources were cut to 40 tokens$' err.txt

# ---- first_words and evaluate ----
printf '{"text": "one two three", "summary": "one two"}\n' >pairs.jsonl
run 0 first_words --train_file pairs.jsonl --test_file pairs.jsonl --output_file words.txt
check "as many words as summaries have" test "$(cat words.txt)" = "one two"
run 0 evaluate --predictions words.txt --references pairs.jsonl --reference_column summary
check "the same words score 100" grep -q '^rouge1 .* 100.00' out.txt

printf '{"summary": "one two"}\n{"summary": "three four"}\n' >both.jsonl
printf 'one two\nthree five\n' >mixed.txt
run 0 evaluate --predictions mixed.txt --references both.jsonl --scores_file scores.jsonl
check "each pair has its scores" test "$(cat scores.jsonl)" = '{"rouge1":1.0,"rouge2":1.0,"rougeL":1.0,"rougeLsum":1.0}
{"rouge1":0.5,"rouge2":0.0,"rougeL":0.5,"rougeLsum":0.5}'

printf '{"summary": "one two"}\n\n' >blank.jsonl
run 0 evaluate --predictions words.txt --references blank.jsonl
check "a column is found, a blank last line passed over" grep -q '^rouge1 .* 100.00' out.txt
check "and it is said what was read" grep -q '^blank.jsonl: JSON lines, column "summary", 1 row$' err.txt
printf 'one two\n\n\n' >longer.txt
run 0 evaluate --predictions words.txt --references longer.txt
check "blank lines at the end are passed over and counted" grep -q '2 empty texts after this one passed over' err.txt
printf 'one two\n' >short.txt
printf 'a\nb\n' >two.txt
refused 1 "give one prediction for each reference" evaluate --predictions short.txt --references two.txt
printf '{"summary": "one two"}\n{"summary": null}\n{"summary": ""}\n' >some.jsonl
printf 'one two\nthree\nfour\n' >three.txt
run 0 evaluate --predictions three.txt --references some.jsonl
check "pairs without a reference are not scored" grep -q '^1 pair,' out.txt
check "and counted" grep -q '2 of 3 pairs not scored for want of a reference, the first at some.jsonl:2' err.txt
printf '\n\n' >nothing.txt
refused 1 "empty references alone" evaluate --predictions two.txt --references nothing.txt
refused 1 "name the one to read" evaluate --predictions pairs.jsonl --references pairs.jsonl
refused 1 'no column "summary"' evaluate --predictions words.txt --references words.txt --reference_column summary
printf 'जापान स्तब्ध छ\none two\n' >nepali.txt
run 0 evaluate --predictions nepali.txt --references nepali.txt
check "texts that ROUGE sees no word in are told" grep -q '^notice: 1 of 2 references hold no word of Latin letters' err.txt

# ---- one rule of what a file is, in every program ----
head -n 1 lines.txt | sed 's/^\(.*\)$/"\1"/' >row.txt
{ echo 'id,article,highlights'; sed 's/^/1,/; s/$/,heat/' row.txt; } >rows.csv
sed 's/^"\(.*\)"$/\1/' row.txt >input.txt
run 0 summarize --model_name_or_path "$model" --max_length 12 --dtype float64
cp out.txt expected.txt
check "text is said to be text" grep -q '^standard input: text, 1 line$' err.txt
json="{\"summary\": \"heat\", \"document\": $(cat row.txt), \"score\": NaN, \"size\": 1e999}"
echo "$json" >rows.json
printf '[\n%s\n]\n' "$json" >array.json
printf '{"data": [%s]}' "$json" >data.json
printf '\xef\xbb\xbfarticle\thighlights\r\n%s\theat\r\n' "$(cat row.txt)" >rows.tsv
iconv -f UTF-8 -t UTF-16 rows.csv >rows16.csv
gzip -c array.json >array.json.gz
for file in rows.csv rows.json array.json data.json rows.tsv rows16.csv array.json.gz; do
  cp "$file" input.txt
  for how in "--input_file $file" ""; do
    # shellcheck disable=SC2086
    run 0 summarize --model_name_or_path "$model" --max_length 12 --dtype float64 $how
    check "$file gives the same summary ($how)" cmp out.txt expected.txt
  done
  run 0 first_words --train_file "$file" --test_file "$file" --output_file words.txt
  check "$file has first words" test "$(cat words.txt)" = The
  run 0 evaluate --predictions words.txt --references "$file"
  run 0 init_model --output_dir tokens --overwrite_output_dir --preset t5-tiny --train_tokenizer "$file" lines.txt \
    --tokenizer_vocab_size 40 --extra_ids 3
  check "init_model says what it read" grep -q "^$file: .*\"heat\|^$file: .*columns" err.txt
done
run 0 summarize --model_name_or_path "$model" --max_length 6 --input_file rows.csv array.json "data.*"
check "several files and a pattern" test "$(wc -l <out.txt)" -eq 3
printf 'A text.\n\nAnother.\n' >input.txt
run 0 summarize --model_name_or_path "$model" --max_length 6 --drop_empty
check "a line is left out and counted" grep -q '1 of 3 rows left out for want of a text: line 2' err.txt
check "two summaries" test "$(wc -l <out.txt)" -eq 2
refused 2 "do not go with --input_format ids" summarize --model_name_or_path "$model" --input_format ids --drop_empty
cp rows.csv named.jsonl
refused 1 "not valid JSON" summarize --model_name_or_path "$model" --input_file named.jsonl
run 0 summarize --model_name_or_path "$model" --input_file named.jsonl --input_format csv --max_length 12 --dtype float64
check "a format that is said counts" cmp out.txt expected.txt

# ---- flags of transformers, and options that contradict ----
cp lines.txt input.txt
run 0 summarize --model_name_or_path "$model" --max_length 6 --do_predict --report_to none wandb --fp16 False --no_cuda
check "flags without effect are told in one line" \
  grep -q '^notice: without effect here: --do_predict, --report_to, --fp16, --no_cuda$' err.txt
refused 2 "--optim_target_modules all: every parameter is trained" summarize --model_name_or_path "$model" --do_eval \
  --optim_target_modules all
refused 2 "--wrong, --flags: no such flag" summarize --model_name_or_path "$model" --wrong 1 --flags --max_length 6
run 0 summarize --model_name_or_path "$model" --max_length 6 --do_sample True --truncation false --seed 3
cp out.txt drawn.txt
run 0 summarize --model_name_or_path "$model" --max_length 6 --do_sample --seed 3
check "--flag true is --flag" cmp out.txt drawn.txt
run 0 summarize --model-name-or-path "$model" --max-length=6 --do-sample yes --seed 3 --report-to none
check "names with - are those with _" cmp out.txt drawn.txt
run 0 summarize --model_name_or_path nowhere --max_length 5 --do_sample --seed 4 --max-length 6 --model_name_or_path "$model" --seed 3
check "of what is given twice the last counts" cmp out.txt drawn.txt
check "and a line says so" grep -q '^notice: --max_length is given 2 times; the last, 6, counts$' err.txt
run 0 summarize --model_name_or_path "$model" --max_length 6 --max_length 6 --do_sample --do_sample --seed 3
check "none is needed where the values are the same" eval '! grep -q "is given 2 times" err.txt'
refused 2 "min_length 9 is above max_length 6" summarize --model_name_or_path "$model" --min_length 9 --max_length 6
cp -r "$model" prefixed
sed -i 's/^{/{"task_specific_params": {"summarization": {"prefix": "summarize: "}},/' prefixed/config.json
run 0 summarize --model_name_or_path prefixed --max_length 6
check "a prefix that is missing is told" grep -q 'notice: this checkpoint expects --source_prefix "summarize: "' err.txt
run 0 summarize --model_name_or_path prefixed --max_length 6 --source_prefix "summarize: "
check "one that is given is not" eval '! grep -q notice err.txt'
run 0 summarize --model_name_or_path "$model" --max_length 6
check "a T5 that names none is told of once" test "$(grep -c "^notice: T5's own checkpoints expect a prefix" err.txt)" -eq 1
run 0 summarize --model_name_or_path "$model" --max_length 6 --source_prefix ""
check "unless none is what is given" eval '! grep -q notice err.txt'
sed 's/^/summarize: /' lines.txt >input.txt
run 0 summarize --model_name_or_path "$model" --max_length 6
check "or the texts have one" eval '! grep -q notice err.txt'

echo "$checks checks"
