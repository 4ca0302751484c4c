#!/usr/bin/env python3
"""instruction_sets.py [--levels x86-64,x86-64-v3,native] [--compilers g++] [--only WORD] [--json FILE] [--check]
                    [--build_only]

This library built for several instruction sets, side by side on this machine: attention, training steps, generation
and products of matrices. Every row is timed in all builds in turn, for several interleaved rounds. A cell has the time
over that of full attention in the same build (products: over Eigen's of the same size; generation in eight bits: over
float32), and behind it the time itself, the least of the rounds. --check ends with 1 where a ratio is above its limit.
docs/benchmarks.md says what each row does.
"""
import argparse
import json
import os
import platform
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
LIMITS = {"attention, segmented recurrent, L 64": 0.8, "attention, segmented recurrent, L 8": 1.15}
LIMITED = ("x86-64", "x86-64-v3")  # with native's registers full attention gains more than short segments


def run(command, **options):
    done = subprocess.run(command, capture_output=True, text=True, **options)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command[:3])} failed: {(done.stderr or done.stdout).strip()[-500:]}")
    return done.stdout


class Build:
    """The programs of one compiler at one level."""

    def __init__(self, args, compiler, level):
        self.level, self.name = level, f"{compiler} {level}"
        self.folder = os.path.join(args.build, f"{compiler}-{level}")
        self.threads = str(args.threads)
        native = level == "native"
        run(["cmake", "-S", ROOT, "-B", self.folder, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release", "-DSRFORMER_TESTS=OFF",
             "-DSRFORMER_CUDA=OFF", "-DSRFORMER_DEVICES=cpu", "-DSRFORMER_DTYPES=float32",
             f"-DSRFORMER_NATIVE={'ON' if native else 'OFF'}", f"-DCMAKE_CXX_COMPILER={compiler}",
             f"-DCMAKE_CXX_FLAGS={'' if native else '-march=' + level}"])
        print(f"building {self.name}", file=sys.stderr)
        run(["cmake", "--build", self.folder, "--target", "bench_attention", "bench_training_step", "bench_generate",
             "bench_products", "example_init_model"])

    def json(self, program, *arguments):
        command = [os.path.join(self.folder, "bench", "bench_" + program), *map(str, arguments)]
        return json.loads(run(command).strip().splitlines()[-1])

    def seconds(self, program, *arguments):
        return min(self.json(program, *arguments, "--threads", self.threads)["seconds"])


class Row:
    """`time(build)` is in seconds; `over` is the row that the ratio is taken to."""

    def __init__(self, name, time, over=None):
        self.name, self.time, self.over = name, time, over
        self.least = {}

    def measure(self, build):
        self.least[build.name] = min(self.time(build), self.least.get(build.name, float("inf")))

    def ratio(self, build):
        return self.least[build.name] / (self.over or self).least[build.name]

    def cell(self, build):
        seconds = self.least[build.name]
        time = f"{seconds * 1e3:.1f} ms" if seconds < 10 else f"{seconds:.1f} s"
        return f"{self.ratio(build):.2f} ({time})" if self.over else time


def attention_rows():
    def row(name, variant, L=64, B=4, N=1024, over=None):
        return Row(f"attention, {name}", lambda build: build.seconds(
            "attention", variant, "--batch", B, "--keys", N, "--segment_size", L, "--repetitions", 9), over)

    full, long_full = row("full", "full"), row("full, B 1, N 16384", "full", B=1, N=16384)
    return [full, *(row(f"segmented recurrent, L {L}", "segmented_recurrent", L, over=full) for L in (64, 16, 8)),
            row("segmented, L 64", "segmented", over=full), row("mean of each segment, L 64", "global_tokens", over=full),
            row("linear", "linear", over=full), long_full,
            row("segmented recurrent, L 64, B 1, N 16384", "segmented_recurrent", B=1, N=16384, over=long_full)]


def model_rows(args, first):
    """Steps and generation of T5-small; the folders are made with the first build."""
    def folder(name, *flags):
        path = os.path.join(args.build, name)
        if not os.path.exists(os.path.join(path, "config.json")):
            run([os.path.join(first.folder, "examples", "init_model"), "--output_dir", path, "--preset", "t5-small", "--seed",
                 "1", *flags])
        return path

    def sources():
        path = os.path.join(args.build, "source.json")
        with open(path, "w") as f:
            json.dump([[3 + i * 7919 % 32025 for i in range(1023)] + [1]], f)
        return path

    full = folder("t5-small")
    recurrent = folder("t5-small-recurrent", "--cross_attention", "segmented_recurrent", "--segment_size", "64")
    source = sources()

    def step(name, model, over=None):
        return Row(f"T5-small step, {name}", lambda build: build.seconds("training_step", model, "--steps", 3), over)

    def generation(name, model, *flags, over=None):
        return Row(f"T5-small greedy, {name}", lambda build: build.seconds(
            "generate", model, source, "--repetitions", 1, *flags), over)

    step_full, greedy_full = step("full", full), generation("full", full)
    return [step_full, step("segmented recurrent", recurrent, step_full), greedy_full,
            generation("segmented recurrent", recurrent, over=greedy_full),
            generation("full, int8", full, "--dtype", "int8", over=greedy_full)]


def product_rows(builds, rounds):
    """Rows of products, all of a build measured by one run."""
    names, rows = [], {}
    for _ in range(rounds):
        for build in builds:
            for found in build.json("products"):
                name = f"product, {found['product']}"
                if name not in rows:
                    names.append(name)
                    rows[name] = Row(name, None, Row("Eigen", None))
                for row, key in ((rows[name], "seconds"), (rows[name].over, "eigen_seconds")):
                    row.least[build.name] = min(found[key], row.least.get(build.name, float("inf")))
    return [rows[name] for name in names]


def product_cell(row, build):
    return f"{row.ratio(build):.2f} ({row.least[build.name] * 1e6:.2f} us)"


def table(rows, builds, cell):
    print("| work | " + " | ".join(build.name for build in builds) + " |")
    print("|---" * (len(builds) + 1) + "|")
    for row in rows:
        print(f"| {row.name} | " + " | ".join(cell(row, build) for build in builds) + " |")
    print()


def processor():
    with open("/proc/cpuinfo") as f:
        names = [line.split(":", 1)[1].strip() for line in f if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {len(os.sched_getaffinity(0))} cores"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--levels", default="x86-64,x86-64-v3,native", help="what -march names, or native")
    parser.add_argument("--compilers", default="g++")
    parser.add_argument("--only", default="", help="rows whose name contains this")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--build", default=os.path.join(ROOT, "build", "levels"))
    parser.add_argument("--json", metavar="FILE", help="also a list of {work, build, seconds, ratio}")
    parser.add_argument("--build_only", action="store_true", help="build, to measure later on a quiet machine")
    parser.add_argument("--check", action="store_true", help="end with 1 where a ratio is above its limit")
    args = parser.parse_args()
    os.makedirs(args.build, exist_ok=True)
    builds = [Build(args, compiler, level) for compiler in args.compilers.split(",") for level in args.levels.split(",")]

    if args.build_only:
        return 0

    rows = attention_rows() + model_rows(args, builds[0])
    wanted = [row for row in rows if args.only in row.name]
    needed = [row for row in rows if row in wanted or any(w.over is row for w in wanted)]
    for _ in range(args.rounds):
        for row in needed:
            for build in builds:
                row.measure(build)
    products = [row for row in product_rows(builds, args.rounds) if args.only in row.name]

    print(f"{processor()}, {args.threads} threads, {args.rounds} rounds\n")
    if wanted:
        table(wanted, builds, Row.cell)
    if products:
        table(products, builds, product_cell)
    if args.json:
        with open(args.json, "w") as f:
            json.dump([dict(work=row.name, build=build.name, seconds=row.least[build.name],
                            ratio=row.ratio(build) if row.over else None)
                       for row in wanted + products for build in builds], f, indent=1)
    above = [f"{row.name}, {build.name}: {row.ratio(build):.2f} of at most {LIMITS[row.name]}" for row in wanted
             for build in builds if build.level in LIMITED and row.ratio(build) > LIMITS.get(row.name, float("inf"))]
    for line in above:
        print("above its limit: " + line)
    return 1 if args.check and above else 0


if __name__ == "__main__":
    sys.exit(main())
