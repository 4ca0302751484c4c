#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Reads the report.html of a run as a browser does, and holds it to the run's own files.

    check_report.py FOLDER [--pictures N] [--text TEXT]...

The page must be well-formed, load nothing, run nothing, have N pictures, and show every TEXT as text.
"""
import argparse
import json
import os
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

LOADING = {"script", "link", "img", "iframe", "object", "embed", "base", "form", "image", "foreignobject", "audio", "video"}


class Page(HTMLParser):
    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.open, self.ids, self.text, self.rows, self.faults, self.pictures = [], [], "", [], [], 0

    def handle_starttag(self, tag, attributes):
        if tag in LOADING:
            self.faults.append(f"<{tag}>")
        for name, value in attributes:
            value = value or ""
            if name.startswith("on"):
                self.faults.append(f"{tag} {name}")
            if name in ("src", "href", "xlink:href", "action", "data", "srcset") and not value.startswith("#"):
                self.faults.append(f"{tag} {name}={value}")
            if not name.startswith("xmlns") and "//" in value:
                self.faults.append(f"{tag} {name}={value}")
            if name == "id":
                self.ids.append(value)
        self.pictures += tag == "svg"
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        self.open.pop()

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}>")

    def handle_data(self, data):
        if "style" in self.open:
            if re.search(r"url\(|@import|//", data):
                self.faults.append("a style that loads")
            return
        self.text += data
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("folder")
    arguments.add_argument("--pictures", type=int)
    arguments.add_argument("--text", action="append", default=[])
    given = arguments.parse_args()

    def read(name):
        path = os.path.join(given.folder, name)
        return open(path, encoding="utf-8").read() if os.path.exists(path) else ""

    source = read("report.html")
    assert source.startswith("<!DOCTYPE html>\n"), "no doctype"
    ElementTree.fromstring(source.split("\n", 1)[1])  # well-formed
    page = Page()
    page.feed(source)
    page.close()
    assert not page.faults, page.faults
    assert not page.open, page.open
    twice = {i for i in page.ids if page.ids.count(i) > 1}
    assert not twice, twice
    if given.pictures is not None:
        assert page.pictures == given.pictures, f"{page.pictures} pictures"
    for text in given.text:
        assert text in page.text, f"no {text!r}"

    cells = {(row[0], i): cell for row in page.rows if row for i, cell in enumerate(row)}
    results = json.loads(read("all_results.json") or "{}")
    for name, value in results.items():
        shown = cells.get((name, 1))
        assert shown is not None and abs(float(shown) - value) <= 1e-5 * abs(value), (name, shown, value)
    record = json.loads(read("report.json") or "{}")
    for name, value in record.get("time", {}).items():
        assert abs(float(cells[(name, 1)]) - value) <= 0.00501, (name, value)
    for name, value in record.get("settings", {}).get("given", {}).items():
        assert cells.get((f"--{name}", 1)) is not None, name
    for data in record.get("data", []):
        assert cells[(f"--{data['flag']}", 2)] == str(data["pairs"]), data["flag"]
    predictions = read("generated_predictions.txt").splitlines()
    for example in record.get("examples", {}).get("rows", []):
        shown = example["prediction"]["text"]
        assert shown.replace("\n", " ") == predictions[example["row"] - 1][:len(shown)], example["row"]
        assert f"Row {example['row']}" in page.text
    log = [json.loads(line) for line in read("metrics.jsonl").splitlines()]
    for last in [entry for entry in log if "firing" in entry][-1:]:
        for layer, values in enumerate(zip(last["leak"], last["threshold"], last["firing"])):
            for i, value in enumerate(values):
                assert abs(float(cells[(str(layer), i + 1)]) - value) <= 1e-5 * abs(value) + 1e-12, (layer, i)


if __name__ == "__main__":
    main()
