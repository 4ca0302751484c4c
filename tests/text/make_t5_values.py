#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Write data/t5/*: tokenizers and what transformers' T5Tokenizer makes of texts with them.

    pip install transformers sentencepiece protobuf      # 5.23, 0.2.3 were used
    make_t5_values.py FOLDER TEXT

FOLDER holds spiece.model and tokenizer_config.json, tests/reference/values/models/t5_full for the files here; TEXT is what
it was trained on. Folders: `plain` as given; `added` with a token of its own and clean_up_tokenization_spaces, as
transformers 4 wrote it; `json` a small vocabulary as transformers 5 saves it, without spiece.model
and without normalisation.
A line of ids.jsonl is {"k": folder, "t": text, "i": input_ids, "d": decoded, "f": decoded with special tokens}.
"""
import json
import os
import random
import shutil
import sys

from transformers import T5Tokenizer

DATA = os.path.join(os.path.dirname(os.path.abspath(__file__)), "data", "t5")
# No mark that combines with a character before it: docs/text.md says what differs there.
BITS = """<extra_id_0> <extra_id_1> <extra_id_9> <extra_id_10> <extra_id_99> <pad> </s> <unk> <extra_id_100> <extra_id_ <sep>
< </s << \u00e9 e\u0301 \ufb01 \u2460 \uff21 \u00bd \u2026 \u201cq\u201d \u2014 \U0001f600 \u2764\ufe0f \u6f22\u5b57
\ud55c\uad6d \u0639\u0631\u0628 \u2581 a\u2581b ... -- don't U.S. 3.14 % \u00c5 \u017f \u2122 \u00b2 \u338f \u1e9e x , . !
\U0001f1e9\U0001f1ea \U0001f468\u200d\U0001f469\u200d\U0001f467""".split()
BITS += ["\t", "\n", "  ", "\r\n", "\u00a0", "\u3000", "\u2028", "\x0b", "\x0c", "\x85", "\u200b", "\ufeff", "\x00", "\x1b"]


def fuzz(rng, lines, count):
    yield from ["", " ", "\n\t", "\u2581", "</s>", " </s> ", "<extra_id_0>", "<extra_id_0><extra_id_0>", "a" * 300]
    for _ in range(count):
        words = rng.choice(lines).split()[:6]
        for _ in range(rng.randrange(1, 6)):
            words.insert(rng.randrange(len(words) + 1), rng.choice(BITS))
        yield "".join(w + rng.choice([" ", "", "  ", " "]) for w in words)


def folders(source):
    plain, added, saved = (os.path.join(DATA, k) for k in ("plain", "added", "json"))
    for folder in (plain, added, saved):
        os.makedirs(folder, exist_ok=True)
    for name in ("spiece.model", "tokenizer_config.json"):
        shutil.copyfile(os.path.join(source, name), os.path.join(plain, name))

    size = T5Tokenizer.from_pretrained(plain).vocab_size - 100

    def entry(content, special, strip=False):
        return dict(content=content, lstrip=strip, normalized=not special, rstrip=strip, single_word=False, special=special)
    decoder = {str(i): entry(c, True) for i, c in enumerate(["<pad>", "</s>", "<unk>"])}
    decoder.update({str(size + 99 - i): entry(f"<extra_id_{i}>", True, True) for i in range(100)})
    decoder[str(size + 100)] = entry("<sep>", False)
    with open(os.path.join(added, "tokenizer_config.json"), "w") as f:
        json.dump(dict(added_tokens_decoder=decoder, clean_up_tokenization_spaces=True, extra_ids=100,
                       eos_token="</s>", pad_token="<pad>", unk_token="<unk>", model_max_length=512,
                       tokenizer_class="T5Tokenizer"), f, indent=0)

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -2.0), ("\u2581the", -2.5), ("e", -3.0), ("a", -3.1)]
    pieces += [(c, -4.0 - i / 16) for i, c in enumerate("stinrohldcum.,")] + [("in", -4.5), ("tion", -5.25)]
    pieces += [("<extra_id_2>", 0.0), ("<extra_id_1>", 0.0), ("<extra_id_0>", 0.0)]
    T5Tokenizer(vocab=pieces, extra_ids=3).save_pretrained(saved)


def main():
    rng = random.Random(2)
    with open(sys.argv[2], encoding="utf-8") as f:
        lines = f.read().split("\n")
    folders(sys.argv[1])
    texts = dict(plain=lines + list(fuzz(rng, lines, 500)), added=list(fuzz(rng, lines, 120)),
                 json=[t for t in fuzz(rng, lines, 160) if not set(t) & {"\u2581", "\x0b"}])
    with open(os.path.join(DATA, "ids.jsonl"), "w", encoding="utf-8") as out:
        for kind in texts:
            folder = os.path.join(DATA, kind)
            if kind == "added":
                shutil.copyfile(os.path.join(DATA, "plain", "spiece.model"), os.path.join(folder, "spiece.model"))
            tokenizer = T5Tokenizer.from_pretrained(folder)
            if kind == "added":
                os.remove(os.path.join(folder, "spiece.model"))  # the test copies it, too
            for text in texts[kind]:
                ids = tokenizer(text).input_ids
                line = dict(k=kind, t=text, i=ids, d=tokenizer.decode(ids, skip_special_tokens=True),
                            f=tokenizer.decode(ids))
                out.write(json.dumps(line, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
