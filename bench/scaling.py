#!/usr/bin/env python3
"""scaling.py [--build build/release] [--rounds 3]: cross-attention against N, against the batch and against threads.

    cmake --preset release && cmake --build build/release --target bench_attention
    python3 bench/scaling.py

Forward and backward, float32, H 8, D 64, M 128, L 64. Rounds take the sizes in turn, and the least time of each
counts. The last table says what more threads would give. Its model is that of Amdahl: instructions outside of
parallel regions stay, those inside are shared by the threads, a source and head at a time. They are counted by
valgrind --tool=callgrind, which knows no AVX-512, on a build for AVX2 that the script makes with g++.
"""
import argparse
import json
import math
import os
import re
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
HEADS = 8


def attention(program, variant, keys, batch, threads, repetitions):
    sizes = ["--keys", keys, "--batch", batch, "--heads", HEADS, "--threads", threads, "--repetitions", repetitions]
    done = subprocess.run([program, variant, *map(str, sizes)], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{program} failed: {done.stderr.strip()[-500:]}")
    return min(json.loads(done.stdout)["seconds"])


def least(rounds, cells, measure):
    """The least time of every cell, the cells taken in turn."""
    times = {cell: [] for cell in cells}
    for _ in range(rounds):
        for cell in cells:
            times[cell].append(measure(*cell))
    return {cell: min(t) for cell, t in times.items()}


def exponent(sizes, times):
    """The slope of a line through the logarithms."""
    x, y = [math.log(s) for s in sizes], [math.log(t) for t in times]
    mx, my = sum(x) / len(x), sum(y) / len(y)
    return sum((a - mx) * (b - my) for a, b in zip(x, y)) / sum((a - mx) ** 2 for a in x)


def instructions(variant):
    """Of one forward and backward of one source: all, and those inside of parallel regions."""
    with tempfile.TemporaryDirectory() as folder:
        program = os.path.join(folder, "attention")
        subprocess.run(["g++", "-std=c++20", "-O3", "-DNDEBUG", "-mavx2", "-mfma", "-fopenmp", f"-I{ROOT}/include",
                        "-isystem", "/usr/include/eigen3", f"{ROOT}/bench/attention.cpp", "-o", program], check=True)
        counts = []
        for repetitions in ("0", "1"):
            out = os.path.join(folder, repetitions)
            subprocess.run(["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}", program, variant, "--batch",
                            "1", "--heads", str(HEADS), "--threads", "1", "--repetitions", repetitions],
                           check=True, capture_output=True)
            text = subprocess.run(["callgrind_annotate", "--inclusive=yes", "--threshold=100", "--auto=no", out],
                                  check=True, capture_output=True, text=True).stdout
            found = [re.search(rf"^ *([\d,]+) .*{what}", text, re.M) for what in ("PROGRAM TOTALS", "GOMP_parallel ")]
            if None in found:
                sys.exit("callgrind counted no parallel region")
            counts.append([int(f.group(1).replace(",", "")) for f in found])
        return counts[1][0] - counts[0][0], counts[1][1] - counts[0][1]


def speedup(counts, batch, threads):
    total, parallel = counts
    lanes = batch * HEADS
    serial, lane = total - parallel, parallel / HEADS
    return (serial + lane * lanes) / (serial + lane * math.ceil(lanes / threads))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--build", default=os.path.join(ROOT, "build", "release"), help="where bench_attention is")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--longest", type=int, default=65536, help="the last N, from 512 in powers of two")
    args = p.parse_args()
    program, threads = os.path.join(args.build, "bench", "bench_attention"), os.cpu_count()
    variants = ["full", "segmented_recurrent"]

    lengths = [512 << i for i in range((args.longest // 512).bit_length())]
    times = least(args.rounds, [(v, n) for n in lengths for v in variants],
                  lambda v, n: attention(program, v, n, 1, threads, max(1, min(5, 16384 // n))))
    print(f"B 1, {threads} threads\n\n| N | full ms | segmented recurrent ms | full over recurrent |\n|---|---|---|---|")
    for n in lengths:
        full, recurrent = (times[v, n] for v in variants)
        print(f"| {n} | {1e3 * full:.2f} | {1e3 * recurrent:.2f} | {full / recurrent:.2f} |", flush=True)
    slopes = [exponent(lengths, [times[v, n] for n in lengths]) for v in variants]
    print(f"| exponent of N | {slopes[0]:.2f} | {slopes[1]:.2f} | |\n")

    batches = [1, 2, 4, 8, 16, 32]
    times = least(args.rounds, [(v, b) for b in batches for v in variants],
                  lambda v, b: attention(program, v, 1024, b, threads, 3))
    print(f"N 1024, {threads} threads\n\n| B | full ms a source | segmented recurrent ms a source | full over recurrent |"
          "\n|---|---|---|---|")
    for b in batches:
        full, recurrent = (times[v, b] for v in variants)
        print(f"| {b} | {1e3 * full / b:.2f} | {1e3 * recurrent / b:.2f} | {full / recurrent:.2f} |", flush=True)

    few, many = 4, 16
    times = least(args.rounds, [(v, t) for t in (1, threads) for v in variants],
                  lambda v, t: attention(program, v, 1024, few, t, 5))
    print(f"\nN 1024, B {few}\n\n| variant | {threads} threads, measured | the model | {many} threads, the model "
          "| outside of parallel regions |\n|---|---|---|---|---|")
    for v in variants:
        counts = instructions(v)
        print(f"| {v} | {times[v, 1] / times[v, threads]:.2f} | {speedup(counts, few, threads):.2f} | "
              f"{speedup(counts, few, many):.2f} | {100 * (1 - counts[1] / counts[0]):.3f} % |", flush=True)


if __name__ == "__main__":
    main()
