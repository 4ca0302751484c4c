"""Makes a T5 of T5-small's size and a BART of BART-base's with random weights, and compares what summarize and transformers generate.

    python tests/decode/compare_with_transformers.py build/examples/summarize [--model t5 bart] [--dtype float32] [--sources 50]

Sources of 5 to 300 tokens, greedy and with four beams, with the options that each model is used with, which stand in the folder's
generation_config.json as transformers wrote it. The ids must be the same, or else the scores of both equal to 1e-5: then they are shown.
Needs torch and transformers (2.15 and 5.23 were used), and for 50 sources of both models some ten minutes on two cores.
"""
import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time

import torch
from transformers import BartConfig, BartForConditionalGeneration, GenerationConfig, T5Config, T5ForConditionalGeneration

p = argparse.ArgumentParser()
p.add_argument("summarize")
p.add_argument("--model", nargs="+", default=["t5", "bart"], choices=["t5", "bart"])
p.add_argument("--dtype", default="float32")
p.add_argument("--sources", type=int, default=50)
p.add_argument("--max_new_tokens", type=int, default=40)
args = p.parse_args()

beam = dict(num_beams=4, no_repeat_ngram_size=3, early_stopping=True, max_length=args.max_new_tokens + 1)


def small_t5():
    config = T5Config(vocab_size=32128, d_model=512, d_kv=64, d_ff=2048, num_layers=6, num_heads=8, decoder_start_token_id=0)
    options = dict(length_penalty=2.0, min_length=10, decoder_start_token_id=0, eos_token_id=1, pad_token_id=0, **beam)
    return T5ForConditionalGeneration(config), GenerationConfig(**options), []


def base_bart():
    config = BartConfig(vocab_size=50265, d_model=768, encoder_layers=6, decoder_layers=6, encoder_attention_heads=12,
                        decoder_attention_heads=12, encoder_ffn_dim=3072, decoder_ffn_dim=3072, max_position_embeddings=1024,
                        init_std=0.04)
    options = dict(length_penalty=1.0, min_length=12, decoder_start_token_id=2, bos_token_id=0, eos_token_id=2, pad_token_id=1,
                   forced_bos_token_id=0, forced_eos_token_id=2, **beam)
    model = BartForConditionalGeneration(config)
    with torch.no_grad():  # else a token hardly depends on its place, and outputs of the same tokens in another order are as good
        model.model.decoder.embed_positions.weight *= 4
    return model, GenerationConfig(**options), [0]


def generated(model, rows, num_beams):
    """Ids and score of each row; of greedy search the mean log-probability of the tokens."""
    pad, eos, found = model.generation_config.pad_token_id, model.generation_config.eos_token_id, []
    for i in range(0, len(rows), 10):
        part = rows[i : i + 10]
        width = max(map(len, part))
        ids = torch.tensor([r + [pad] * (width - len(r)) for r in part])
        mask = torch.tensor([[1] * len(r) + [0] * (width - len(r)) for r in part])
        with torch.no_grad():
            out = model.generate(ids, attention_mask=mask, num_beams=num_beams, return_dict_in_generate=True, output_scores=True)
        for row, sequence in enumerate(out.sequences.tolist()):
            end = sequence.index(eos, 1) + 1 if eos in sequence[1:] else len(sequence)
            if num_beams > 1:
                score = out.sequences_scores[row].item()
            else:
                score = sum(step[row].double().log_softmax(-1)[t].item() for step, t in zip(out.scores, sequence[1:end])) / (end - 1)
            found.append((sequence[:end], score))
    return found


failed = 0
for name in args.model:
    torch.manual_seed(3)
    rng = random.Random(1)
    model, model.generation_config, first = small_t5() if name == "t5" else base_bart()
    eos = model.generation_config.eos_token_id
    lengths = [5 + i * 295 // max(1, args.sources - 1) for i in range(args.sources)]
    rng.shuffle(lengths)
    rows = [first + [rng.randrange(5, 32000) for _ in range(n - 1 - len(first))] + [eos] for n in lengths]
    with tempfile.TemporaryDirectory() as folder:
        model.eval().save_pretrained(folder)
        with open(f"{folder}/input.jsonl", "w") as f:
            f.writelines(json.dumps(dict(input_ids=r)) + "\n" for r in rows)
        if args.dtype == "float64":
            model = model.double()
        for num_beams in 1, 4:
            start = time.time()
            expected = generated(model, rows, num_beams)
            middle = time.time()
            subprocess.run([args.summarize, "--model_name_or_path", folder, "--input_file", f"{folder}/input.jsonl", "--input_format",
                            "ids", "--output_format", "jsonl", "--output_file", f"{folder}/out.jsonl", "--num_beams", str(num_beams),
                            "--dtype", args.dtype], check=True)
            got = [json.loads(line) for line in open(f"{folder}/out.jsonl")]
            assert len(got) == len(expected) == args.sources
            same, worst = 0, 0.0
            for row, ((ids, score), line) in enumerate(zip(expected, got)):
                difference = abs(score - line["score"]) / abs(score)
                worst = max(worst, difference)
                same += line["output_ids"] == ids
                if line["output_ids"] != ids or difference > 1e-5:
                    failed += difference > 1e-5
                    equal = len(os.path.commonprefix([ids, line["output_ids"]]))
                    print(f"{name}, source {row} of {lengths[row]} tokens: {equal} of {len(ids)} ids are the same, "
                          f"scores {score} and {line['score']}")
            print(f"{name}, {num_beams} beams: {same} of {len(rows)} the same, scores differ by {worst:.1e} at most, "
                  f"{len(set(tuple(e[0]) for e in expected))} different outputs of {min(len(e[0]) for e in expected)} to "
                  f"{max(len(e[0]) for e in expected)} tokens; transformers {middle - start:.0f} s, summarize {time.time() - middle:.0f} s",
                  flush=True)
sys.exit(failed > 0)
