# SPDX-License-Identifier: Apache-2.0
"""Runs a program and writes what it took as JSON: time, peak memory and, where the counters can be read, energy and cache
misses.

    usage.py FILE.json PROGRAM [ARGUMENT...]

The exit status is the program's. A process of its own, as a program's peak memory begins with that of the process that
starts it: here about 10 MB.
"""
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

# In user space, since that is what may be counted without privileges.
EVENT = "cache-misses:u"


def energy(root="/sys/class/powercap"):
    """Counters of the processor packages, {zone: (joules, joules at which it begins again)}; None where there are none or
    they cannot be read."""
    found = {}
    try:
        for zone in sorted(pathlib.Path(root).glob("*:*")):
            if (zone / "name").read_text().startswith("package"):
                found[zone.name] = tuple(int((zone / name).read_text()) / 1e6
                                         for name in ("energy_uj", "max_energy_range_uj"))
    except OSError:
        return None
    return found or None


def joules(before, after):
    """The energy between two readings of energy()."""
    if not before or not after or before.keys() != after.keys():
        return None
    used = 0.0
    for zone, (end, wraps_at) in after.items():
        used += end - before[zone][0] + (wraps_at if end < before[zone][0] else 0)
    return used


def misses(output):
    """The count in what `perf stat -x ,` wrote; None where it could not count."""
    for line in output.splitlines():
        fields = line.split(",")
        if len(fields) > 2 and fields[2].startswith(EVENT.split(":")[0]):
            return int(fields[0]) if fields[0].isdigit() else None
    return None


def line_bytes():
    """Bytes that a cache miss fetches."""
    try:
        return int(pathlib.Path("/sys/devices/system/cpu/cpu0/cache/index0/coherency_line_size").read_text())
    except (OSError, ValueError):
        return 64


def perf(counts):
    """The words before a command whose cache misses perf writes to the file `counts`; none where it cannot."""
    if not shutil.which("perf"):
        return []
    prefix = ["perf", "stat", "-x", ",", "-e", EVENT, "-o", counts, "--"]
    done = subprocess.run([*prefix, "true"], capture_output=True)
    with_count = done.returncode == 0 and misses(pathlib.Path(counts).read_text()) is not None
    return prefix if with_count else []


def measured(command):
    """Runs the command; its exit status and what it took."""
    with tempfile.TemporaryDirectory() as folder:
        counts = str(pathlib.Path(folder) / "perf.csv")
        prefix = perf(counts)
        before, start = energy(), time.monotonic()
        child = subprocess.Popen([*prefix, *command])
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        seconds, after = time.monotonic() - start, energy()
        missed = misses(pathlib.Path(counts).read_text()) if prefix else None
    return child.returncode, {"seconds": seconds, "processor_seconds": used.ru_utime + used.ru_stime,
                              "peak_bytes": 1024 * used.ru_maxrss, "joules": joules(before, after),
                              "missed_bytes": None if missed is None else missed * line_bytes()}


def main(arguments):
    code, used = measured(arguments[1:])
    pathlib.Path(arguments[0]).write_text(json.dumps(used) + "\n", encoding="utf-8")
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
