#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes a known summarization data set as train.jsonl, validation.jsonl and test.jsonl, for finetune.

    hub.py cnn_dailymail --output FOLDER            fetched by the package datasets (pip install datasets)
    hub.py xsum --parquet FILE... --output FOLDER   parquet files that are there; their names say the split
    hub.py other --repository OWNER/NAME --text_column article --summary_column abstract --output FOLDER

Parquet files are read by pyarrow (pip install pyarrow). Rows with an empty text or summary are left out and counted.
"""
import argparse
import json
import os
import pathlib
import re
import sys

# name: repository, configuration, column of texts, column of summaries
KNOWN = {
    "cnn_dailymail": ("abisee/cnn_dailymail", "3.0.0", "article", "highlights"),
    "xsum": ("EdinburghNLP/xsum", None, "document", "summary"),
    "arxiv": ("ccdv/arxiv-summarization", "document", "article", "abstract"),
    "mediasum": ("ccdv/mediasum", None, "document", "summary"),
    "samsum": ("knkarthick/samsum", None, "dialogue", "summary"),
}
SPLITS = ("train", "validation", "test")
NAMES_OF_SPLITS = {"train": "train", "validation": "validation", "valid": "validation", "val": "validation",
                   "dev": "validation", "test": "test"}


def stop(message):
    sys.exit(f"error: {message}")


def split_of(path):
    """The split that a file's name begins with or that its folder has for a name: train-00000-of-00003.parquet."""
    for name in (path.name, path.parent.name):
        word = re.match(r"[a-z]+", name.lower())
        if word and word.group() in NAMES_OF_SPLITS:
            return NAMES_OF_SPLITS[word.group()]
    stop(f"{path}: neither the file's name nor its folder's says train, validation or test; rename it")


def rows_of_parquet(path, text_column, summary_column):
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        stop("parquet files need pyarrow: pip install pyarrow")
    try:
        file = pyarrow.parquet.ParquetFile(path)
    except (OSError, pyarrow.ArrowException) as reason:
        stop(f"{path}: cannot be read as parquet: {str(reason).splitlines()[0]}")
    columns = file.schema_arrow.names
    for column in (text_column, summary_column):
        if column not in columns:
            stop(f'{path}: has no column "{column}" but {", ".join(columns)}; '
                 "give --text_column and --summary_column")
    for batch in file.iter_batches(columns=[text_column, summary_column]):
        yield from zip(batch.column(text_column).to_pylist(), batch.column(summary_column).to_pylist())


def parts_of_parquet(paths, text_column, summary_column):
    parts = {}
    for path in map(pathlib.Path, paths):
        if path.is_dir():
            found = sorted(path.rglob("*.parquet"))
            if not found:
                stop(f"{path}: holds no .parquet files")
        else:
            found = [path]
        for file in found:
            parts.setdefault(split_of(file), []).append(file)
    return {split: (row for file in files for row in rows_of_parquet(file, text_column, summary_column))
            for split, files in parts.items()}


def parts_of_hub(repository, configuration, text_column, summary_column):
    try:
        import datasets
    except ImportError:
        stop("fetching needs the package datasets: pip install datasets; or give --parquet FILES")
    try:
        loaded = datasets.load_dataset(repository, configuration)
    except Exception as reason:  # whatever the package throws, without its traceback
        stop(f"{repository}: cannot be fetched: {(str(reason).splitlines() or [type(reason).__name__])[0][:300]}; "
             "fetch its parquet files and give --parquet FILES")
    for name, part in loaded.items():
        for column in (text_column, summary_column):
            if column not in part.column_names:
                stop(f'{repository}: {name} has no column "{column}" but {", ".join(part.column_names)}; '
                     "give --text_column and --summary_column")
    return {NAMES_OF_SPLITS[name]: ((row[text_column], row[summary_column]) for row in part)
            for name, part in loaded.items() if name in NAMES_OF_SPLITS}


def as_text(value, path):
    """Texts are strings, or lists of strings that are their lines, as some data sets have them."""
    if value is None:
        return ""
    if isinstance(value, list) and all(isinstance(line, str) for line in value):
        return "\n".join(value).strip()
    if not isinstance(value, str):
        stop(f"{path}: a text is of the type {type(value).__name__}; choose another column")
    return value.strip()


def write(path, rows):
    """Writes the rows, whole or not at all. Returns how many are written and left out."""
    aside = path.with_name(path.name + f".tmp-{os.getpid()}")
    written = left_out = 0
    try:
        with open(aside, "w", encoding="utf-8", errors="replace") as file:
            for text, summary in rows:
                text, summary = as_text(text, path), as_text(summary, path)
                if not text or not summary:
                    left_out += 1
                    continue
                file.write(json.dumps({"text": text, "summary": summary}, ensure_ascii=False) + "\n")
                written += 1
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    return written, left_out


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", choices=[*KNOWN, "other"])
    parser.add_argument("--output", required=True, help="folder for the files, made if it is not there")
    parser.add_argument("--parquet", nargs="+", metavar="FILE", help="files or folders, in place of fetching")
    parser.add_argument("--repository", help="on the hub, in place of the known one")
    parser.add_argument("--configuration", help="of the repository")
    parser.add_argument("--text_column")
    parser.add_argument("--summary_column")
    flags = parser.parse_args()

    repository, configuration, text, summary = KNOWN.get(flags.dataset, (None, None, None, None))
    if flags.repository:
        repository, configuration = flags.repository, None
    configuration = flags.configuration or configuration
    text, summary = flags.text_column or text, flags.summary_column or summary
    if not text or not summary:
        parser.error("other needs --text_column and --summary_column")
    if flags.parquet:
        parts = parts_of_parquet(flags.parquet, text, summary)
    elif repository:
        parts = parts_of_hub(repository, configuration, text, summary)
    else:
        parser.error("other needs --repository or --parquet")

    output = pathlib.Path(flags.output)
    try:
        output.mkdir(parents=True, exist_ok=True)
        for split in SPLITS:
            if split not in parts:
                print(f"notice: there is no {split} split", file=sys.stderr)
                continue
            written, left_out = write(output / f"{split}.jsonl", parts[split])
            print(f"{output / f'{split}.jsonl'}: {written} pairs" +
                  (f", {left_out} rows without a text or a summary left out" if left_out else ""))
    except OSError as reason:
        stop(f"{reason.filename or output}: {reason.strerror}; choose another folder or free space")


if __name__ == "__main__":
    main()
