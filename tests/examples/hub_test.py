#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Parquet files written here become pairs by examples/data/hub.py; what it cannot read is refused in one line.

    hub_test.py PATH_OF_hub.py

Ends with 77 where pyarrow is not installed.
"""
import json
import pathlib
import subprocess
import sys
import tempfile

try:
    import pyarrow
    import pyarrow.parquet
except ImportError:
    print("pyarrow is not installed")
    sys.exit(77)

HUB = sys.argv[1]
checks = 0


def check(what, holds):
    global checks
    checks += 1
    if not holds:
        sys.exit(f"FAILED: {what}")


def run(*arguments):
    done = subprocess.run([sys.executable, HUB, *map(str, arguments)], capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write(path, columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.table(columns), path)


with tempfile.TemporaryDirectory() as folder:
    at = pathlib.Path(folder)
    # Shards in the order of their names, over several row groups, other columns beside, empty and absent texts.
    texts = [f"Text {i} with \u201cquotes\u201d and\nlines." for i in range(5000)]
    table = pyarrow.table({"id": list(range(5000)), "article": texts, "highlights": [f"Sum {i}" for i in range(5000)]})
    (at / "cnn").mkdir()
    pyarrow.parquet.write_table(table, at / "cnn/train-00000-of-00002.parquet", row_group_size=700)
    write(at / "cnn/train-00001-of-00002.parquet",
          {"article": ["last", "", None, "no summary"], "highlights": ["sum", "x", "y", "  "]})
    write(at / "cnn/validation-00000-of-00001.parquet", {"article": ["v"], "highlights": ["w"]})
    write(at / "cnn/test-00000-of-00001.parquet", {"article": [" t "], "highlights": ["u"]})
    code, out, _ = run("cnn_dailymail", "--parquet", at / "cnn", "--output", at / "out/inner")
    check("it ends well", code == 0)
    train = lines(at / "out/inner/train.jsonl")
    check("all rows in order", [row["text"] for row in train] == texts + ["last"])
    check("summaries beside", train[4999]["summary"] == "Sum 4999" and train[5000]["summary"] == "sum")
    check("empty rows are counted", "5001 pairs, 3 rows without a text or a summary left out" in out)
    check("other splits", lines(at / "out/inner/validation.jsonl") == [{"text": "v", "summary": "w"}] and
          lines(at / "out/inner/test.jsonl") == [{"text": "t", "summary": "u"}])

    # The folder says the split; texts that are lists of lines; one split is missing; columns that are named.
    write(at / "own/train/0000.parquet", {"body": [["one", "two"]], "tldr": ["three"]})
    write(at / "own/dev/0000.parquet", {"body": [["four"]], "tldr": ["five"]})
    own = ("--text_column", "body", "--summary_column", "tldr", "--output", at / "own_out")
    code, out, err = run("other", "--parquet", at / "own/train/0000.parquet", at / "own/dev", *own)
    check("own columns", code == 0 and lines(at / "own_out/train.jsonl") == [{"text": "one\ntwo", "summary": "three"}])
    check("dev is validation", lines(at / "own_out/validation.jsonl") == [{"text": "four", "summary": "five"}])
    check("what is missing is said", "no test split" in err and not (at / "own_out/test.jsonl").exists())

    # Refusals: one line, nothing written.
    (at / "train.parquet").write_text("no parquet")
    (at / "empty").mkdir()
    write(at / "numbers/train.parquet", {"document": [1, 2], "summary": ["a", "b"]})
    write(at / "part1.parquet", {"document": ["a"], "summary": ["b"]})
    for text, arguments in {
            'has no column "document" but article, highlights': ("xsum", "--parquet", at / "cnn/test-00000-of-00001.parquet"),
            "cannot be read as parquet": ("xsum", "--parquet", at / "train.parquet"),
            "nowhere/train.parquet": ("xsum", "--parquet", at / "nowhere/train.parquet"),
            "holds no .parquet files": ("xsum", "--parquet", at / "empty"),
            "says train, validation or test": ("xsum", "--parquet", at / "part1.parquet"),
            "a text is of the type int": ("xsum", "--parquet", at / "numbers"),
    }.items():
        code, out, err = run(*arguments, "--output", at / "refused")
        errors = [line for line in err.splitlines() if not line.startswith("notice: ")]
        check(f"refused: {text}", code == 1 and text in err and len(errors) == 1)
        check(f"nothing is written: {text}", not list((at / "refused").glob("*")))
    for text, arguments in {"needs --text_column": ("other", "--parquet", at / "cnn"),
                            "needs --repository or --parquet":
                                ("other", "--text_column", "a", "--summary_column", "b"),
                            "invalid choice": ("gigaword",)}.items():
        code, out, err = run(*arguments, "--output", at / "refused")
        check(f"wrong usage: {text}", code == 2 and text in err)
print(f"{checks} checks")
