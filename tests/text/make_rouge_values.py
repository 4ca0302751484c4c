#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Write data/rouge_pairs.jsonl and data/porter_stems.txt: what rouge_score and NLTK say.

    pip install rouge-score          # rouge_score 0.1.2 and nltk 3.10.4 were used
    make_rouge_values.py TEXT [WORDS]

TEXT is any English text of a few thousand words, tests/reference/text.txt for the files here; WORDS a longer text that
gives the stemmer more real words, the descriptions of Debian's packages (apt-cache dumpavail) for the files here.
A pair is {"r": reference, "p": prediction, "s": stemmer, "v": [precision, recall, fmeasure of rouge1, 2, L, Lsum]}.
"""
import json
import os
import random
import re
import sys

from nltk.stem.porter import PorterStemmer
from rouge_score.rouge_scorer import RougeScorer

DATA = os.path.join(os.path.dirname(os.path.abspath(__file__)), "data")
TYPES = ["rouge1", "rouge2", "rougeL", "rougeLsum"]
SUFFIXES = """s es ies sses ss ed eed ied ing at bl iz ated bling izing y ational tional enci anci izer bli abli alli
entli eli ousli ization ation ator alism iveness fulness ousness aliti iviti biliti fulli logi icate ative alize iciti
ical ful ness al ance ence er ic able ible ant ement ment ent ion sion tion ou ism ate iti ous ive ize e ll lle l
ally ously ability ivity ality ingly edly nessed fully ology ologies ationally yed ying yy""".split()
IRREGULAR = """sky skies dying lying tying news innings inning outings outing cannings canning howe proceed exceed
succeed proceeds exceeding skying dies died ties tied flies spied""".split()
ODD = ["\u0130stanbul", "D\u0130YARBAKIR", "\u212aelvin", "300\u212a", "\u212a", "\u0130", "caf\u00e9", "na\u00efve",
       "stra\u00dfe", "\u00c5ngstr\u00f6m", "\u4f60\u597d", "\U0001f600", "don't", "O'Neill's", "U.S.A.", "3.14", "1,000",
       "2024-05-17", "x\u00b2", "\ufb01nal", "\uff21\uff22", "e\u0301clair", "--", "...", "\u2014", "\u201cquoted\u201d",
       "a_b", "C++", "\t", "  ", "\u00a0", "\u2028", "\r", "$9.99", "foo@bar.com", "x" * 40, "yyyyyy", "1234567", "a1b2",
       "\u0131", "\u017f", "\u1e9e", "\u2160"]


def sentences(text):
    flat = re.sub(r"\s+", " ", re.sub(r"[`*#|]", "", text))
    return [s for s in re.split(r"(?<=[.;:]) ", flat) if 2 <= len(s.split()) <= 30]


def mutate(rng, words, vocabulary):
    words = list(words)
    for _ in range(rng.randrange(1, 2 + len(words) // 2)):
        i = rng.randrange(len(words) + 1)
        what = rng.randrange(8)
        if what == 0:
            words.insert(i, rng.choice(vocabulary))
        elif what == 1:
            words.insert(i, rng.choice(ODD))
        elif not words:
            continue
        elif what == 2:
            del words[min(i, len(words) - 1)]
        elif what == 3:
            j = rng.randrange(len(words))
            words[j] = words[j] + rng.choice(["s", "ing", "ed", "ly", "ness", "ational", ".", ",", "\n"])
        elif what == 4:
            j, k = rng.randrange(len(words)), rng.randrange(len(words))
            words[j], words[k] = words[k], words[j]
        elif what == 5:
            j = rng.randrange(len(words))
            words[j] = rng.choice([str.upper, str.title, str.lower])(words[j])
        elif what == 6:
            j = rng.randrange(len(words))
            words[j:j + 4] = reversed(words[j:j + 4])
        else:
            words.insert(i, words[min(i, len(words) - 1)])
    return words


def join(rng, words):
    return "".join(w + rng.choice([" "] * 8 + ["\n", "  ", "-", "\n\n"]) for w in words).rstrip(" -")


def pairs(rng, text):
    lines = sentences(text)
    vocabulary = text.split()
    for r, p in [("", ""), ("", "a"), ("a", ""), ("\n", "\n\n"), ("!!", "??"), ("the", "the"), ("the the", "the"),
                 ("a b", "b a"), ("a\nb", "a b"), ("a b\nc d", "c d\na b"), ("The cat.\n\nA dog", "the cat a\ndog")]:
        yield r, p
    for odd in ODD:
        yield odd + " " + rng.choice(vocabulary), odd.lower() + rng.choice(["", " "]) + rng.choice(vocabulary)
    for _ in range(560):  # a sentence and a mutation of it
        words = rng.choice(lines).split()[:14]
        yield join(rng, words), join(rng, mutate(rng, words, vocabulary))
    for _ in range(300):  # few letters, many ties between common subsequences
        letters = [rng.choice("abcdAB\n ") + rng.choice(["", " ", " "]) for _ in range(rng.randrange(1, 60))]
        yield "".join(letters), "".join(rng.choice("abcd\n ") + " " for _ in range(rng.randrange(1, 50)))
    for _ in range(90):  # two unrelated sentences, shuffled words
        a, b = rng.choice(lines).split()[:12], rng.choice(lines).split()[:12]
        yield join(rng, a), join(rng, b + rng.sample(a, len(a) // 2))
    for n in [31, 32, 33, 63, 64, 65, 66, 127, 128, 129, 130, 191, 192, 193]:  # the edges of machine words
        a = [rng.choice("abcdefgh") for _ in range(n)]
        b = [rng.choice("abcdefgh") for _ in range(rng.choice([n - 1, n, n + 1, 64, 128]))]
        yield " ".join(a), " ".join(b)
        yield " ".join(a[:n // 2]) + "\n" + " ".join(a[n // 2:]), " ".join(mutate(rng, a, b))
    for n in [150, 280, 420]:  # long texts, in one line and in many
        start = rng.randrange(len(vocabulary) - n)
        a = vocabulary[start:start + n]
        yield " ".join(a), " ".join(mutate(rng, a, vocabulary))
        yield join(rng, a), join(rng, mutate(rng, a, vocabulary))


def short(x):
    return float(f"{x:.11f}") if x % 1 else int(x)


def words(rng, text, more):
    real = sorted(set(re.findall(r"[a-z]{3,16}", (text + " " + more).lower())))
    chosen = set(rng.sample(real, min(2500, len(real)))) | set(IRREGULAR)
    for suffix in SUFFIXES:  # stems of measure 0, 1, 2 and more under each suffix, and two suffixes in a row
        for stem in ["", "b", "tr", "a", "y", "ay", "hop", "tax", "oat", "syzyg", "fil", "fizz", "controll", "geo"]:
            chosen.add(stem + suffix)
        for _ in range(14):
            stem = "".join(rng.choice(["b", "t", "st", "ll", "x", "y", "n", "7"]) + rng.choice(["a", "e", "i", "ou", "y"])
                           for _ in range(rng.randrange(3))) + rng.choice(["", "l", "s", "t", "z", "w", "nn", "r", "c"])
            chosen.add(stem + suffix)
            chosen.add(stem + rng.choice(SUFFIXES) + suffix)
    return sorted(w for w in chosen if w)


def main():
    rng = random.Random(1)
    text = open(sys.argv[1], encoding="utf-8").read()
    more = ""
    if len(sys.argv) > 2:
        more = "\n".join(line for line in open(sys.argv[2], encoding="utf-8") if line.startswith("Description:"))
    scorers = [RougeScorer(TYPES, use_stemmer=s) for s in (False, True)]
    with open(os.path.join(DATA, "rouge_pairs.jsonl"), "w", encoding="utf-8") as out:
        for i, (r, p) in enumerate(pairs(rng, text)):
            s = (i + i // 7) % 2
            scores = scorers[s].score(r, p)
            values = [short(x) for t in TYPES for x in scores[t]]
            out.write(json.dumps(dict(r=r, p=p, s=s, v=values), ensure_ascii=False, separators=(",", ":")) + "\n")
    stemmer = PorterStemmer()
    with open(os.path.join(DATA, "porter_stems.txt"), "w", encoding="utf-8") as out:
        for w in words(rng, text, more):
            out.write(f"{w} {stemmer.stem(w)}\n")


if __name__ == "__main__":
    main()
