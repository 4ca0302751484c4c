#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""tokenizing.py PROGRAM TEXTS MODEL... [--rounds 5]

The tokenizer of each folder beside that of transformers (the fast one) over the lines of TEXTS, one thread each, in
turn: texts a second, the best of the rounds, and the ratio. PROGRAM is bench_tokenize. transformers is timed text by text
and with all texts in one call. Ends with 1 where the ids differ.
"""
import argparse
import json
import os
import subprocess
import sys
import time

os.environ.update(RAYON_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1")
from transformers import AutoTokenizer  # noqa: E402


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("texts")
    parser.add_argument("models", nargs="+")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    with open(args.texts, encoding="utf-8", newline="\n") as file:
        texts = file.read().split("\n")[:-1]
    print("| tokenizer | texts | ours, texts/s | transformers, one by one | in one call | ratio to the better |\n|---|---|---|---|---|---|")
    for model in args.models:
        peer = AutoTokenizer.from_pretrained(model)
        best = {"ours": 0, "one": 0, "all": 0}
        for _ in range(args.rounds):
            done = subprocess.run([args.program, model, args.texts, "2"], capture_output=True, text=True, check=True)
            ours = json.loads(done.stdout)
            best["ours"] = max(best["ours"], len(texts) / min(ours["seconds"]))
            start = time.perf_counter()
            for text in texts:
                peer(text)
            best["one"] = max(best["one"], len(texts) / (time.perf_counter() - start))
            start = time.perf_counter()
            ids = peer(texts)["input_ids"]
            best["all"] = max(best["all"], len(texts) / (time.perf_counter() - start))
        flat = [id for of_text in ids for id in of_text]
        if ours["ids"] != len(flat) or ours["sum"] != sum((i + 1) % 1000003 * (id + 1) for i, id in enumerate(flat)) % 2**64:
            sys.exit(f"{model}: the ids differ from those of transformers")
        print(f"| {os.path.basename(os.path.normpath(model))} | {len(texts)} | {best['ours']:.0f} | {best['one']:.0f} | {best['all']:.0f} | "
              f"{best['ours'] / max(best['one'], best['all']):.2f} |")


if __name__ == "__main__":
    main()
