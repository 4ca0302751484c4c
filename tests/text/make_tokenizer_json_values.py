#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Write data/tokenizer_json/*: folders of tokenizers and what transformers makes of texts with them.

    pip install transformers tokenizers sentencepiece protobuf      # 5.24, 0.23.3, 0.2.3 were used
    make_tokenizer_json_values.py SPIECE_MODEL BART_FOLDER

SPIECE_MODEL and BART_FOLDER are the vocabularies of the T5 and BART classes: data/t5/plain/spiece.model and
tests/reference/values/models/bart_full for the files here.
unigram.json, bpe.json, suffix.json and bytes.json are small tokenizer.json files. A line of folders.jsonl is a folder: {"base": which of
these, or "t5" or "bart" for those vocabularies, "replace": what is put in place of keys of that tokenizer.json, "model": of its model,
"files": further files, "texts": [[text, input_ids, decoded without special tokens, decoded, input_ids cut to 6], ...]}. Steps,
added tokens and options are drawn at random, as are texts, of what T5s and BARTs have and what is hard about it.
"""
import base64
import json
import os
import random
import shutil
import sys
import tempfile

import sentencepiece
import tokenizers
from sentencepiece import sentencepiece_model_pb2
from transformers import BartTokenizer, T5Tokenizer, TokenizersBackend

DATA = os.path.join(os.path.dirname(os.path.abspath(__file__)), "data", "tokenizer_json")
LINES = ["The harbour opened a bridge on Monday, and nobody complained.", "The ferry lost three boats; its keeper said so.",
         "A museum sold the old clock (1995) to the council.", "caf\u00e9 \u2014 tr\u00e8s bon, 3.14 & more <b>", "\u6e2f\u306e\u6642\u8a08 # ## _x_"]
BITS = """<extra_id_0> <extra_id_99> <pad> </s> <unk> <s> <mask> < </ \u00e9 e\u0301 \ufb01 \ufb01\u0301 \u2460 \uff21 \u00bd \u2026
\u201cq\u201d \U0001f600 \u2764\ufe0f \u6f22\u5b57 \ud55c\uad6d \u1112\u1161\u11ab \u0639 \u2581 a\u2581b \u2581\u2581c 's don't 12 \u0663 x\u00b2 _ __ A.B,
[Q] [DATE] AI RAIN covid COVID \uff43\uff4f\uff56\uff49\uff44 \u0130I \u03a3\u03a3 \u00df \u0915\u094d\u0937\u093f \U0001f468\u200d\U0001f469\u200d\U0001f467
\U0001f1e9\U0001f1ea\U0001f1eb\U0001f1f7 \u27e6 ## #""".split()
BITS += ["\t", "\n", "\r\n", "\u00a0", "\u3000", "\u2028", "\x0b", "\x85", "\u200b", "\u200d", "\ufeff", "\x00", "\x1b", "\x7f", "\u202b",
         " ", "  ", "    ", "\u0301", "\u0308"]
TOKENS = ["[DATE]", "[Q]", "AI", "covid", "\uff23\uff2f\uff36", "harbour", "\n", "  ", "\u27e6", "<sep>", "ferry", "\u00e9", "x",
          "bridge on", "\u2581the", "#", "##", "\ufb01", " q", "<|x|>", "12", "[MASK] "]
BEHAVIORS = ["Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"]
SPECIAL = ["<pad>", "</s>", "<unk>", "<s>", "<mask>"]


def write(path, value):
    with open(path, "w", encoding="utf-8") as file:
        json.dump(value, file, ensure_ascii=False, separators=(",", ":"))


def small_charsmap(folder):
    """A precompiled_charsmap of a few entries."""
    rules = {"\ufb01": "fi", "\t": " ", "\n": " ", "\r": " ", "\u3000": " ", "\u200b": "", "\u00bd": "1/2", "\u0301": "", "A\u030a": "\u00c5",
             "\uff21": "A", "\x1b": ""}
    with open(os.path.join(folder, "rules.tsv"), "w", encoding="utf-8") as file:
        for source, target in rules.items():
            file.write(" ".join(f"{ord(c):X}" for c in source) + "\t" + " ".join(f"{ord(c):X}" for c in target) + "\n")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES * 9), model_prefix=os.path.join(folder, "sp"), vocab_size=60, hard_vocab_limit=False,
        normalization_rule_tsv=os.path.join(folder, "rules.tsv"), minloglevel=2)
    model = sentencepiece_model_pb2.ModelProto()
    with open(os.path.join(folder, "sp.model"), "rb") as file:
        model.ParseFromString(file.read())
    return base64.b64encode(model.normalizer_spec.precompiled_charsmap).decode()


def bases():
    unigram = tokenizers.SentencePieceUnigramTokenizer()
    unigram.train_from_iterator(LINES * 9, vocab_size=80, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False)
    bpe = tokenizers.SentencePieceBPETokenizer()
    bpe.train_from_iterator(LINES, vocab_size=110, special_tokens=SPECIAL, show_progress=False)
    suffix = tokenizers.CharBPETokenizer()
    suffix.train_from_iterator(LINES, vocab_size=130, special_tokens=SPECIAL, show_progress=False)
    level = tokenizers.ByteLevelBPETokenizer()
    level.train_from_iterator(LINES, vocab_size=300, special_tokens=SPECIAL, show_progress=False)
    return {name: json.loads(t.to_str()) for name, t in dict(unigram=unigram, bpe=bpe, suffix=suffix, bytes=level).items()}


class Folders:
    def __init__(self, seed, charsmap):
        self.rng = random.Random(seed)
        self.precompiled = {"type": "Precompiled", "precompiled_charsmap": charsmap}  # only its name in folders.jsonl

    def maybe(self, probability):
        return self.rng.random() < probability

    def text(self):
        rng = self.rng
        if self.maybe(0.2):
            return "".join(rng.choice(BITS) for _ in range(rng.randrange(8)))
        words = rng.choice(LINES).split(" ")[:rng.randrange(1, 6)]
        for _ in range(rng.randrange(6)):
            words.insert(rng.randrange(len(words) + 1), rng.choice(BITS if self.maybe(0.6) else TOKENS))
        return "".join(word + rng.choice([" ", " ", "", "  ", "\t"]) for word in words)

    def token(self, content):
        special = self.maybe(0.3)
        return dict(content=content, single_word=self.maybe(0.25), lstrip=self.maybe(0.25), rstrip=self.maybe(0.25),
                    normalized=self.maybe(0.5), special=special)

    def normalizer(self):
        steps = [{"type": "NFC"}, {"type": "NFD"}, {"type": "NFKC"}, {"type": "NFKD"}, {"type": "Nmt"}, {"type": "Lowercase"},
                 {"type": "Strip", "strip_left": self.maybe(0.5), "strip_right": self.maybe(0.5)}, {"type": "StripAccents"},
                 {"type": "Replace", "pattern": {"Regex": self.rng.choice([" {2,}", "\\s+", "\\s{2,}|[\\n\\r\\t]", "[^\\S ]"])},
                  "content": self.rng.choice([" ", "\u2581", ""])},
                 {"type": "Replace", "pattern": {"String": self.rng.choice([" ", "``", "a"])}, "content": self.rng.choice(["\u2581", ""])},
                 {"type": "Prepend", "prepend": "\u2581"}, self.precompiled,
                 {"type": "BertNormalizer", "clean_text": self.maybe(0.7), "handle_chinese_chars": self.maybe(0.7),
                  "strip_accents": self.rng.choice([None, True, False]), "lowercase": self.maybe(0.5)}]
        chosen = self.rng.sample(steps, self.rng.randrange(4))
        return None if not chosen else chosen[0] if len(chosen) == 1 else {"type": "Sequence", "normalizers": chosen}

    def pre_tokenizer(self, first, last):
        schemes = ["always", "first", "never"] if first else ["always", "never"]
        steps = [{"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": self.rng.choice(schemes), "split": self.maybe(0.7)},
                 {"type": "Metaspace", "replacement": "\u2581", "str_rep": "\u2581", "add_prefix_space": True},
                 {"type": "WhitespaceSplit"}, {"type": "Whitespace"}, {"type": "Punctuation", "behavior": self.rng.choice(BEHAVIORS)},
                 {"type": "Digits", "individual_digits": self.maybe(0.5)}, {"type": "BertPreTokenizer"},
                 {"type": "Split", "pattern": self.rng.choice([{"String": " "}, {"Regex": "\\s+"}, {"Regex": "\\w+|[^\\w\\s]+"},
                                                               {"Regex": "\\d{1,3}"}, {"String": "\u2581"}]),
                  "behavior": self.rng.choice(BEHAVIORS), "invert": self.maybe(0.3)}]
        chosen = self.rng.sample(steps, self.rng.randrange(3)) + last
        return None if not chosen else chosen[0] if len(chosen) == 1 else {"type": "Sequence", "pretokenizers": chosen}

    def decoder(self):
        return self.rng.choice([
            None, {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": self.rng.choice(["always", "never"]), "split": True},
            {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
            {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}, {"type": "ByteFallback"},
                                              {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
            {"type": "BPEDecoder", "suffix": "</w>"}, {"type": "Fuse"}, {"type": "ByteFallback"}])

    def post_processor(self, ids):
        part = {"Sequence": {"id": "A", "type_id": 0}}
        end, begin = ({"SpecialToken": {"id": t, "type_id": 0}} for t in ("</s>", "<s>"))
        tokens = {t: {"id": t, "ids": [ids[t]], "tokens": [t]} for t in ("</s>", "<s>")}
        pair = [part, {"Sequence": {"id": "B", "type_id": 1}}]
        around = dict(sep=["</s>", ids["</s>"]], cls=["<s>", ids["<s>"]])
        return self.rng.choice([
            None, {"type": "TemplateProcessing", "single": [part, end], "pair": pair, "special_tokens": tokens},
            {"type": "BertProcessing", **around}, {"type": "RobertaProcessing", **around, "trim_offsets": True, "add_prefix_space": True},
            {"type": "Sequence", "processors": [
                {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True},
                {"type": "TemplateProcessing", "single": [begin, part], "pair": pair, "special_tokens": tokens}]}])

    def options(self, config):
        if self.maybe(0.2):
            config["additional_special_tokens"] = self.rng.choice([None, [], ["<sep>"], ["AI", "[Q]"]])
        if self.maybe(0.2):
            config["clean_up_tokenization_spaces"] = self.rng.choice([True, None, False])
        if self.maybe(0.15):
            config["split_special_tokens"] = True
        if self.maybe(0.2):
            config["truncation_side"] = self.rng.choice(["left", "right"])
        return config

    def as_written(self, base, given):
        """tokenizer.json is taken as it is."""
        model, replace = {}, {}
        vocabulary = given["model"]["vocab"]
        ids = vocabulary if isinstance(vocabulary, dict) else {entry[0]: i for i, entry in enumerate(vocabulary)}
        size = len(vocabulary)
        if self.maybe(0.6):
            replace["normalizer"] = self.normalizer()
        plain = replace.get("normalizer", given["normalizer"]) is None
        if base == "bytes":
            replace["pre_tokenizer"] = self.pre_tokenizer(plain, [
                {"type": "ByteLevel", "add_prefix_space": self.maybe(0.5), "trim_offsets": True, "use_regex": self.maybe(0.5)}])
        elif self.maybe(0.6):
            replace["pre_tokenizer"] = self.pre_tokenizer(plain, [])
        if self.maybe(0.4):
            replace["decoder"] = self.decoder()
        if self.maybe(0.7):
            replace["post_processor"] = self.post_processor(ids)
        if base != "unigram":
            for key in ("fuse_unk", "ignore_merges"):
                if self.maybe(0.2):
                    model[key] = True
        if base in ("unigram", "bpe") and self.maybe(0.3):
            model["byte_fallback"] = True  # the test adds the pieces of bytes
            size += 256
        added = [dict(t) for t in given["added_tokens"]]
        for content in self.rng.sample(TOKENS, self.rng.randrange(5)):
            known = ids.get(content)
            added.append(dict(id=size if known is None else known, **self.token(content)))
            size += known is None
        replace["added_tokens"] = sorted(added, key=lambda t: t["id"])
        if self.maybe(0.2):
            replace["truncation"] = {"direction": self.rng.choice(["Left", "Right"]), "max_length": 4, "strategy": "LongestFirst", "stride": 0}
        if self.maybe(0.2):
            replace["padding"] = {"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
                                  "pad_type_id": 0, "pad_token": "<pad>"}
        config = self.options({"tokenizer_class": self.rng.choice(["PreTrainedTokenizerFast", "TokenizersBackend", "KoBARTTokenizer"]),
                               "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"})
        if self.maybe(0.2):
            config["added_tokens_decoder"] = {str(t["id"]): self.token(t["content"]) for t in added if self.maybe(0.5)}
        return dict(base=base, replace=replace, model=model, files={"tokenizer_config.json": config})

    def of_class(self, base, pieces):
        """The class makes all but the vocabulary."""
        names = dict(t5=["T5Tokenizer", "T5TokenizerFast"], bart=["BartTokenizer", "BartTokenizerFast", "RobertaTokenizer"])[base]
        config, files = {"tokenizer_class": self.rng.choice(names)}, {}
        chosen = self.rng.sample(TOKENS, self.rng.randrange(5))
        size = max(pieces.values()) + 1
        ids = {}
        for content in chosen:
            ids[content] = pieces.get(content, size)
            size += content not in pieces
        if self.maybe(0.6):
            declared = {str(i): self.token(c) for c, i in ids.items()}
            if base == "t5":
                for i, content in enumerate(["<pad>", "</s>", "<unk>"]):
                    declared[str(i)] = dict(content=content, single_word=False, lstrip=False, rstrip=False, normalized=False, special=True)
            config["added_tokens_decoder"] = declared
        else:
            new = {c: i for c, i in ids.items() if c not in pieces and c.strip()}
            files["added_tokens.json"] = dict(zip(new, range(max(pieces.values()) + 1, size)))
            mask = dict(content="<mask>", single_word=False, lstrip=True, rstrip=False, normalized=self.maybe(0.5))
            if self.maybe(0.5):
                files["special_tokens_map.json"] = {"mask_token": mask, "additional_special_tokens": ["<sep>"]} if base == "bart" else {
                    "eos_token": "</s>", "additional_special_tokens": ["<extra_id_0>", "<extra_id_99>"]}
        if base == "bart" and self.maybe(0.4):
            config["add_prefix_space"] = self.maybe(0.6)
        if base == "t5" and self.maybe(0.3):
            config["extra_ids"] = 100
        files["tokenizer_config.json"] = self.options(config)
        return dict(base=base, files=files)


def load(folder, base_files, drawn, spiece, bart):
    """The tokenizer of a folder, or None where transformers fails."""
    for name, content in drawn["files"].items():
        write(os.path.join(folder, name), content)
    if drawn["base"] == "t5":
        shutil.copyfile(spiece, os.path.join(folder, "spiece.model"))
    elif drawn["base"] == "bart":
        for name in ("vocab.json", "merges.txt"):
            shutil.copyfile(os.path.join(bart, name), os.path.join(folder, name))
    else:
        whole = json.loads(json.dumps(base_files[drawn["base"]]))
        whole.update(drawn["replace"])
        whole["model"].update(drawn["model"])
        if drawn["model"].get("byte_fallback"):
            pieces = [f"<0x{b:02X}>" for b in range(256)]
            vocabulary = whole["model"]["vocab"]
            if isinstance(vocabulary, list):
                vocabulary += [[piece, -12.0] for piece in pieces]
            else:
                vocabulary.update({piece: len(vocabulary) + b for b, piece in enumerate(pieces)})
        write(os.path.join(folder, "tokenizer.json"), whole)
    kind = dict(t5=T5Tokenizer, bart=BartTokenizer).get(drawn["base"], TokenizersBackend)
    try:
        return kind.from_pretrained(folder)
    except Exception:  # pylint: disable=broad-except
        return None


def main():
    spiece, bart = sys.argv[1:3]
    os.makedirs(DATA, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        charsmap = small_charsmap(folder)
    with open(os.path.join(DATA, "charsmap.txt"), "w", encoding="utf-8") as file:
        file.write(charsmap)
    base_files = bases()
    for name, content in base_files.items():
        write(os.path.join(DATA, name + ".json"), content)
    model = sentencepiece.SentencePieceProcessor(model_file=spiece)
    pieces = {model.id_to_piece(i): i for i in range(model.get_piece_size())}
    pieces.update({f"<extra_id_{i}>": len(pieces) + 99 - i for i in range(100)})
    with open(os.path.join(bart, "vocab.json"), encoding="utf-8") as file:
        vocabulary = json.load(file)
    with open(os.path.join(DATA, "folders.jsonl"), "w", encoding="utf-8") as out:
        for seed in range(80):
            folders = Folders(seed, charsmap)
            base = (["unigram", "unigram", "bpe", "suffix", "bytes", "bpe", "t5", "bart"])[seed % 8]
            drawn = (folders.of_class(base, pieces if base == "t5" else vocabulary) if base in ("t5", "bart")
                     else folders.as_written(base, base_files[base]))
            with tempfile.TemporaryDirectory() as folder:
                tokenizer = load(folder, base_files, drawn, spiece, bart)
            if tokenizer is None:
                continue
            drawn["size"], drawn["texts"] = len(tokenizer), []
            for text in [folders.text() for _ in range(9)]:
                try:
                    ids = tokenizer(text).input_ids
                except BaseException:  # pylint: disable=broad-except  # a panic of tokenizers
                    continue
                drawn["texts"].append([text, ids, tokenizer.decode(ids, skip_special_tokens=True), tokenizer.decode(ids),
                                       tokenizer(text, truncation=True, max_length=6).input_ids])
            out.write(json.dumps(drawn, separators=(",", ":")).replace(charsmap, "charsmap.txt") + "\n")


if __name__ == "__main__":
    main()
