#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Write data/bpe/*: what transformers' BartTokenizer makes of texts.

    pip install transformers      # 5.23 with tokenizers 0.23.3 was used
    make_byte_bpe_values.py

Vocabulary and merges are those of tests/reference/values/models/bart_full. Folders: `plain` is that one as it is; `added`
has tokens of every kind in tokenizer_config.json, as transformers 4 wrote them; `json` is `added` as
transformers 5 saves it, with add_prefix_space; `written` is a tokenizer.json of another class, whose own template and
prefix space count. A line of ids.jsonl is {"k": folder, "t": text, "i": input_ids, "d": decoded, "f": decoded with special tokens}.
"""
import json
import os
import random
import shutil
import tempfile

from transformers import AutoTokenizer, BartTokenizer

HERE = os.path.dirname(os.path.abspath(__file__))
DATA = os.path.join(HERE, "data", "bpe")
PLAIN = os.path.join(HERE, "..", "reference", "values", "models", "bart_full")
BITS = """'s 't 're 've 'm 'll 'd 'S ' '' 'l 'x !'s s 've <s> </s> <pad> <unk> <mask> <mask \u00e9 e\u0301 \ufb01 \u2460 \uff21 \u00bd \u2026
\u201cq\u201d \u2014 \U0001f600 \u2764\ufe0f \u6f22\u5b57 \ud55c\uad6d \u0639\u0631\u0628 \u0663\u0664 a\u0300\u0301 \u0301 \u200d \u200c
\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea \u0120 \u010a \U00010330 \U0010ffff \ue000 \u01c5 \u00aa _ \u203f 3.14 12,000 don't
---- $$ the segment attention <sep> word wordy swordy <r> <lr> <lr><r> x z \u0120z \u65e5\u672c \u65e5""".split()
BITS += ["\t", "\n", "  ", "   ", "\r\n", "\u00a0", "\u00a0 ", "\u3000", "\u2028", "\x0b", "\x85", "\u200b", "\ufeff", "\x00",
         "\x1b", "\x7f", "\u1680", "\u180e", " \n", " \t x", "\n\n\n", " x"]


def texts(rng, count):
    yield from ["", " ", "  ", "\n", " \n", "a", "'", "'s", " 's", "s's", "\u3000a", "a \u3000b", "<mask>", "  <mask>  ", "<s><s>",
                "\0", "Hello world", "a" * 300, "ab'" * 100]
    for _ in range(count):
        yield "".join(rng.choice(BITS) + rng.choice(["", " ", " ", "  "]) for _ in range(rng.randrange(1, 9)))


def folders():
    def token(content, **options):
        return dict(dict(content=content, lstrip=False, normalized=False, rstrip=False, single_word=False, special=False), **options)
    tokens = [token(t, special=True) for t in ["<s>", "<pad>", "</s>", "<unk>"]]
    tokens += [token("<mask>", special=True, lstrip=True)]
    tokens += [token("<sep>", normalized=True), token("word", single_word=True),
               token("wordy", single_word=True, normalized=True), token("<r>", special=True, rstrip=True),
               token("<lr>", lstrip=True, rstrip=True, special=True), token(" x"), token("\u0120z"), token("<lr><r>"),
               token("\u65e5\u672c", rstrip=True, single_word=True, special=True)]
    ids = list(range(5)) + list(range(500, 509))
    added, saved, written = (os.path.join(DATA, k) for k in ("added", "json", "written"))
    for folder in (added, saved, written):
        os.makedirs(folder, exist_ok=True)
    config = dict(added_tokens_decoder=dict(zip(map(str, ids), tokens)), clean_up_tokenization_spaces=True,
                  mask_token="<mask>", tokenizer_class="BartTokenizer")
    with open(os.path.join(added, "tokenizer_config.json"), "w") as file:
        json.dump(config, file, indent=0)
    with tempfile.TemporaryDirectory() as folder:
        complete(added, folder)
        BartTokenizer.from_pretrained(folder, add_prefix_space=True).save_pretrained(saved)
    path = os.path.join(saved, "tokenizer.json")
    with open(path) as file:
        whole = json.load(file)
    with open(path, "w") as file:
        json.dump(whole, file, separators=(",", ":"))
    whole["pre_tokenizer"]["add_prefix_space"] = True
    a, b = {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}
    s = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    whole["post_processor"] = dict(type="TemplateProcessing", single=[s, a], pair=[a, b],
                                   special_tokens={"<s>": dict(id="<s>", ids=[0], tokens=["<s>"])})
    with open(os.path.join(written, "tokenizer.json"), "w") as file:
        json.dump(whole, file, separators=(",", ":"))
    with open(os.path.join(written, "tokenizer_config.json"), "w") as file:
        json.dump(dict(tokenizer_class="PreTrainedTokenizerFast", eos_token="</s>"), file)


def complete(source, target):
    """Puts `source` and the vocabulary together, as the test does."""
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(os.path.join(PLAIN, name), target)
    shutil.copy(os.path.join(source, "tokenizer_config.json"), target)


def main():
    rng = random.Random(3)
    folders()
    with tempfile.TemporaryDirectory() as added, open(os.path.join(DATA, "ids.jsonl"), "w") as out:
        complete(os.path.join(DATA, "added"), added)
        for kind, folder, count in (("plain", PLAIN, 200), ("added", added, 200), ("json", os.path.join(DATA, "json"), 100),
                                    ("written", os.path.join(DATA, "written"), 40)):
            tokenizer = (AutoTokenizer if kind == "written" else BartTokenizer).from_pretrained(folder)
            for text in texts(rng, count):
                ids = tokenizer(text).input_ids
                line = dict(k=kind, t=text, i=ids, d=tokenizer.decode(ids, skip_special_tokens=True), f=tokenizer.decode(ids))
                out.write(json.dumps(line, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
