#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Fails when a function is too long or takes too many parameters, or when attention depends on what runs it.

    python3 tests/structure/check_structure.py ROOT

Reads ROOT/include and ROOT/examples, and ROOT/tests/structure/exceptions.txt for what may break a rule.
"""
import os
import re
import sys
from collections import namedtuple

sys.dont_write_bytecode = True
from cxx_functions import Unreadable, code_of, directive_name, functions_of, tokens_of  # noqa: E402

MOST_LINES, MOST_PARAMETERS = 60, 7
# Products take what BLAS takes: they are known by their names, or by two strides among their parameters.
BLAS_NAMES = re.compile(r"gemm|matmul", re.I)
BLAS_STRIDES = {"lda", "ldb", "ldc"}
ATTENTION = "include/srformer/attention"
CONDITIONALS = ("if", "ifdef", "ifndef", "elif", "elifdef", "elifndef")
BACKENDS = re.compile(r"EigenBackend$|ThrustBackend$|BatchedBackend$|.*cuda", re.I)
EXCEPTIONS = "tests/structure/exceptions.txt"
RULES = ("lines", "parameters", "conditionals", "backends", "files")

# What breaks a rule: `number` of what, told by `sentence`, which ends in the rule's own limit `at_most`.
Finding = namedtuple("Finding", "file line name rule number sentence at_most")
Allowed = namedtuple("Allowed", "line file name rule number")


def sources(root, folder):
    for at, folders, files in sorted(os.walk(os.path.join(root, folder))):
        for name in sorted(files):
            if name.endswith((".hpp", ".cpp", ".cu")):
                yield os.path.relpath(os.path.join(at, name), root).replace(os.sep, "/")


def of_functions(file, functions):
    """Functions that are too long; in include/ also those with too many parameters, each once."""
    for f in functions:
        lines = f.last - f.first + 1
        if lines > MOST_LINES and not f.local:
            yield Finding(file, f.first, f.name, "lines", lines, f"is {lines} lines long", f"at most {MOST_LINES}")
    if not file.startswith("include/"):
        return
    defined = {(f.name, f.parameters) for f in functions if f.body}
    for f in functions:
        blas = BLAS_NAMES.search(f.name) or len(BLAS_STRIDES.intersection(f.words)) > 1
        if f.parameters > MOST_PARAMETERS and not blas and (f.body or (f.name, f.parameters) not in defined):
            yield Finding(file, f.first, f.name, "parameters", f.parameters, f"has {f.parameters} parameters",
                          f"at most {MOST_PARAMETERS}")


def of_attention(file, tokens):
    """Conditionals and names of backends in a header of attention/ itself."""
    conditionals = [t.line for t in tokens if t.kind == "directive" and directive_name(t) in CONDITIONALS]
    if conditionals:
        yield Finding(file, conditionals[0], "-", "conditionals", len(conditionals),
                      f"conditionals of the preprocessor: {len(conditionals)}", "attention/ has none")
    named = []
    for t in tokens:
        if t.kind == "word":
            words = [t.text]
        else:
            words = re.findall(r"\w+", t.text) if t.kind == "directive" and directive_name(t) == "define" else []
        named += [(t.line, word) for word in words if BACKENDS.match(word)]
    if named:
        words = ", ".join(sorted({word for _, word in named}))
        yield Finding(file, named[0][0], "-", "backends", len(named), f"names backends {len(named)} times ({words})",
                      "attention/ names none")


def read_exceptions(root, faults):
    out = []
    with open(os.path.join(root, EXCEPTIONS), encoding="utf-8") as lines:
        for line, text in enumerate(lines, 1):
            if not text.strip() or text.startswith("#"):
                continue
            columns = [c.strip() for c in text.split(" | ")]
            words = columns[2].split() if len(columns) == 4 else []
            if len(words) != 2 or words[0] not in RULES or not words[1].isdigit() or not columns[3]:
                faults.append(f"{EXCEPTIONS}:{line}: a line is: file | function | rule number | reason;"
                              f" rules are {', '.join(RULES)}")
                continue
            out.append(Allowed(line, columns[0], columns[1], words[0], int(words[1])))
    return out


def judge(findings, exceptions, faults, notes):
    """Pairs findings with exceptions, the largest first where overloads share a name."""
    left = {}
    for e in sorted(exceptions, key=lambda e: -e.number):
        left.setdefault(e[1:4], []).append(e)
    for f in sorted(findings, key=lambda f: (f.file, f.line)):
        same = [g for g in findings if (g.file, g.name, g.rule) == (f.file, f.name, f.rule)]
        rank = sum(g.number > f.number or (g.number == f.number and g.line < f.line) for g in same)
        listed = left.get((f.file, f.name, f.rule), [])
        where = f"{f.file}:{f.line}: " if f.line else f"{f.file}: "
        what = f"{where}{'' if f.name == '-' else f.name + ' '}{f.sentence}"
        if rank >= len(listed):
            faults.append(f"{what}, {f.at_most}")
        elif f.number > listed[rank].number:
            faults.append(f"{what}, its exception allows {listed[rank].number}")
        elif f.number < listed[rank].number:
            notes.append(f"{EXCEPTIONS}:{listed[rank].line}: {f.number} would do for {listed[rank].number}")
    stale = []
    for key, listed in left.items():
        stale += listed[sum((f.file, f.name, f.rule) == key for f in findings):]
    for e in sorted(stale):
        what = e.file if e.name == "-" else f"{e.name} of {e.file}"
        faults.append(f"{EXCEPTIONS}:{e.line}: {what} needs no exception of {e.rule} any more; remove the line")


def check(root):
    faults, notes, findings, functions = [], [], [], 0
    for folder in ("include", "examples"):
        count = 0
        for file in sources(root, folder):
            with open(os.path.join(root, file), encoding="utf-8") as source:
                text = source.read()
            try:
                found = functions_of(text)
            except Unreadable as error:
                faults.append(f"{file}:{error.line}: {error.what}")
                continue
            count += len(found)
            findings += of_functions(file, found)
            if os.path.dirname(file) == ATTENTION:
                findings += of_attention(file, tokens_of(text))
        if count == 0:
            faults.append(f"no function was found in {folder}/")
        functions += count
    number = sum(len(files) for _, _, files in os.walk(os.path.join(root, ATTENTION)))
    findings.append(Finding(ATTENTION, 0, "-", "files", number, f"holds {number} files",
                            f"{EXCEPTIONS} does not say how many it may"))
    exceptions = read_exceptions(root, faults)
    judge(findings, exceptions, faults, notes)
    return faults, notes, f"{functions} functions, {len(exceptions)} exceptions"


def main():
    faults, notes, summary = check(sys.argv[1])
    for note in notes:
        print(note)
    if faults:
        sys.exit("Structure:\n  " + "\n  ".join(faults))
    print(summary)


if __name__ == "__main__":
    main()
