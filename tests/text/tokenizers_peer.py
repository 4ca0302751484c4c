#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The other side of tokenizer_test.cpp: texts, vocabularies and what transformers makes of them.

    tokenizers_peer.py texts FOLDER [TEXTS]   # writes lines.json, to train on, and texts.json, to compare
    tokenizers_peer.py ids FOLDER             # trains vocabularies; writes expected.json beside every one

TEXTS is a JSON list of lines; without it a few hundred are generated. The test runs both with SRFORMER_PYTHON, and on TEXTS when
SRFORMER_TOKENIZER_TEXTS names it.
"""
import json
import os
import random
import sys

BITS = """'s 't 're 've 'm 'll 'd 'S ' '' 'l 'x !'s s 've <s> </s> <pad> <unk> <mask> <mask < </s> <extra_id_0> <extra_id_99>
\u00e9 \u2460 \uff21 \u00bd \u2026 \u201cq\u201d \u2014 \U0001f600 \u2764\ufe0f \u6f22\u5b57 \ud55c\uad6d \u0639\u0631\u0628
\u0663\u0664 a\u0300\u0301 \u200d \u200c \U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea \u0120 \u010a
\U00010330 \ue000 \u01c5 \u00aa _ \u203f 3.14 12,000 don't ---- $$ xxx PPP III""".split()
BITS += ["\t", "\n", "  ", "   ", "      ", "\r\n", "\r", "\u00a0", "\u3000", "\u2028", "\x0b", "\x0c", "\x85", "\u200b", "\ufeff",
         "\x00", "\x1b", "\x7f", "\u1680", "\u180e", " \n", " \t x", "\n\n\n"]
WORDS = """the of a segment encoder decoder reads passes keys values Segment ENCODER don't it's we'll 12 1995 3.14 (see
der Bericht \u00fcber Gr\u00f6\u00dfe la biblioth\u00e8que fran\u00e7aise \u043f\u0430\u043a\u0435\u0442 \u0434\u043b\u044f
\u0434\u043e\u043a\u0443\u043c\u0435\u043d\u0442\u043e\u0432 \u65e5\u672c\u8a9e \u6587\u66f8 \u3092 \u51e6\u7406 \u4e2d\u6587
\u30b2\u30fc\u30e0 \ud55c\uad6d\uc5b4 \ubb38\uc11c xxx xx PPP libfoo-dev C++ file.txt, end. query? yes!""".split()
LONG = 1_000_000


def generated(rng):
    return [" ".join(rng.choice(WORDS) for _ in range(rng.randrange(3, 25))) + rng.choice(["", ".", "\n"]) for _ in range(400)]


def fuzzed(rng, lines, count):
    yield from ["", " ", "  ", "\n", "\n ", " \n", "a", "'", "'s", " 's", "s's", "\u3000a", "a \u3000b", "  <mask>  ", "<s><s>", "\0"]
    squeezed = "".join("".join(line.split()) for line in lines)
    yield (squeezed * (LONG // max(len(squeezed), 1) + 1))[:LONG]
    yield from ["a" * LONG, " " * 100_000 + "x", "\n" * 100_001 + "x", "ab'" * 50_000]
    for _ in range(count):
        kind = rng.random()
        if kind < 0.6:
            words = rng.choice(lines).split(" ")[:8]
            for _ in range(rng.randrange(1, 8)):
                words.insert(rng.randrange(len(words) + 1), rng.choice(BITS))
            yield "".join(w + rng.choice([" ", "", " ", "  "]) for w in words)
        elif kind < 0.85:
            yield "".join(rng.choice(BITS) + rng.choice(["", "", "", " "]) for _ in range(rng.randrange(1, 30)))
        else:  # no marks, which T5's normalisers treat differently (docs/text.md)
            yield "".join(chr(rng.choice([rng.randrange(0x20, 0x7f), rng.randrange(0x250), rng.randrange(0x370, 0x480),
                                          rng.randrange(0x4e00, 0x9000), rng.randrange(0x1f300, 0x1f600)]))
                          for _ in range(rng.randrange(1, 60)))


def write(path, value):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as file:
        json.dump(value, file)


def texts(folder, source):
    rng = random.Random(5)
    if source:
        with open(source, encoding="utf-8") as file:
            lines = json.load(file)
    else:
        lines = generated(rng)
    write(os.path.join(folder, "lines.json"), lines)
    write(os.path.join(folder, "texts.json"), lines + list(fuzzed(rng, lines, 2000 if source else 300)))


def ids(folder):
    import tokenizers
    from transformers import BartTokenizer, T5Tokenizer

    with open(os.path.join(folder, "lines.json")) as file:
        lines = json.load(file)
    with open(os.path.join(folder, "texts.json")) as file:
        everything = json.load(file)
    path = {k: os.path.join(folder, k) for k in ("bart-here", "bart-there", "bart-saved", "t5-here", "t5-there", "t5-saved")}
    size = len(BartTokenizer.from_pretrained(path["bart-here"]))

    there = tokenizers.ByteLevelBPETokenizer()
    there.train_from_iterator(lines, vocab_size=size, show_progress=False,
                              special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    os.makedirs(path["bart-there"])
    there.save_model(path["bart-there"])
    BartTokenizer.from_pretrained(path["bart-there"]).save_pretrained(path["bart-saved"])
    t5 = T5Tokenizer.from_pretrained(path["t5-here"])
    t5.save_pretrained(path["t5-saved"])
    t5.train_new_from_iterator(lines, len(t5) - 100, show_progress=False).save_pretrained(path["t5-there"])

    for name in path:
        tokenizer = (BartTokenizer if name.startswith("bart") else T5Tokenizer).from_pretrained(path[name])
        expected = tokenizer(everything, return_attention_mask=False).input_ids
        write(os.path.join(path[name], "expected.json"),
              dict(size=len(tokenizer), ids=expected,
                   decoded=tokenizer.batch_decode(expected, skip_special_tokens=True),
                   with_special=tokenizer.batch_decode(expected)))


if __name__ == "__main__":
    if sys.argv[1] == "texts":
        texts(sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else None)
    else:
        ids(sys.argv[2])
