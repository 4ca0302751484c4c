"""Makes a T5 of T5-small's size with random weights, and compares what summarize and transformers generate from it.

    python tests/decode/compare_with_transformers.py build/examples/summarize [--dtype float32] [--sources 50]

50 sources of mixed lengths, greedy and with four beams: the ids must be the same, or else the scores of both equal to 1e-5.
Needs torch and transformers (2.15 and 5.23 were used) and some minutes.
"""
import argparse
import json
import random
import subprocess
import sys
import tempfile

import torch
from transformers import T5Config, T5ForConditionalGeneration

p = argparse.ArgumentParser()
p.add_argument("summarize")
p.add_argument("--dtype", default="float32")
p.add_argument("--sources", type=int, default=50)
args = p.parse_args()
torch.manual_seed(3)
rng = random.Random(1)
model = T5ForConditionalGeneration(
    T5Config(vocab_size=32128, d_model=512, d_kv=64, d_ff=2048, num_layers=6, num_heads=8, decoder_start_token_id=0)).eval()
calls = dict(greedy=dict(no_repeat_ngram_size=1),
             beam=dict(num_beams=4, length_penalty=2.0, no_repeat_ngram_size=3, early_stopping=True))
rows = [[rng.randrange(5, 32000) for _ in range(rng.choice([1, 7, 30, 64, 100, 200]) - 1)] + [1]
        for _ in range(args.sources)]
failed = 0
with tempfile.TemporaryDirectory() as folder:
    model.save_pretrained(folder)
    with open(f"{folder}/input.jsonl", "w") as f:
        f.writelines(json.dumps(dict(input_ids=r)) + "\n" for r in rows)
    if args.dtype == "float64":
        model = model.double()
    for name, options in calls.items():
        expected = []
        for i in range(0, len(rows), 10):
            part = rows[i : i + 10]
            width = max(map(len, part))
            ids = torch.tensor([r + [0] * (width - len(r)) for r in part])
            mask = torch.tensor([[1] * len(r) + [0] * (width - len(r)) for r in part])
            with torch.no_grad():
                out = model.generate(ids, attention_mask=mask, max_length=24, min_length=10, return_dict_in_generate=True,
                                     output_scores=True, **options)
            scores = out.sequences_scores.tolist() if name == "beam" else [None] * len(part)
            expected += zip(out.sequences.tolist(), scores)
        flags = [x for k, v in options.items() for x in (f"--{k}", str(v).lower())]
        subprocess.run([args.summarize, "--model_name_or_path", folder, "--input_file", f"{folder}/input.jsonl",
                        "--input_format", "ids", "--output_format", "jsonl", "--output_file", f"{folder}/out.jsonl",
                        "--max_length", "24", "--min_length", "10", "--dtype", args.dtype, *flags], check=True)
        same = 0
        for row, ((ids, score), line) in enumerate(zip(expected, open(f"{folder}/out.jsonl"))):
            got = json.loads(line)
            n = len(got["output_ids"])
            if got["output_ids"] == ids[:n] and all(t <= 1 for t in ids[n:]):
                same += 1
            elif score is None or abs(score - got["score"]) > 1e-5 * abs(score):
                failed += 1
                print(f"{name}, source {row}: other ids, scores {score} and {got['score']}")
        print(f"{name}: {same} of {len(rows)} the same, {len(set(tuple(e[0]) for e in expected))} different ones")
sys.exit(failed > 0)
