#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Fails when a stop of a walk in docs/ does not stand where it says.

    python3 tests/docs/check_walk.py ROOT [--write]

A stop is `file:line` `code`, the file below include/srformer/. The line must be that code, leading blanks aside. --write puts
the numbers right, where the code stands once in its file.
"""
import glob
import os
import re
import sys

STOP = re.compile(r"`([a-z_/]+\.hpp):(\d+)`\s+`([^`]+)`")


def main():
    root, write = sys.argv[1], "--write" in sys.argv[2:]
    stops, faults = 0, []
    for page in sorted(glob.glob(os.path.join(root, "docs", "**", "*.md"), recursive=True)):
        with open(page, encoding="utf-8") as file:
            text = file.read()

        def check(match):
            nonlocal stops
            stops += 1
            name, line, code = match.groups()
            where = os.path.join(root, "include", "srformer", name)
            if not os.path.exists(where):
                faults.append(f"{page}: there is no {name}")
                return match.group(0)
            with open(where, encoding="utf-8") as source:
                lines = [x.strip() for x in source]
            found = [i + 1 for i, x in enumerate(lines) if x == code]
            if int(line) in found:
                return match.group(0)
            if write and len(found) == 1:
                return match.group(0).replace(f":{line}`", f":{found[0]}`", 1)
            faults.append(f"{page}: {name}:{line} is not \"{code}\"" + (f", which is at {found}" if found else ""))
            return match.group(0)

        changed = STOP.sub(check, text)
        if changed != text:
            with open(page, "w", encoding="utf-8") as file:
                file.write(changed)
    if stops == 0:
        faults.append("no page has a stop")
    print("\n".join(faults) if faults else f"{stops} stops stand where they say")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
