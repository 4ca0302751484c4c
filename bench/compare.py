#!/usr/bin/env python3
"""compare.py [--device cuda] [--only WORD] [--rounds 5] [--json FILE]: this library beside its peers, in one run.

    cmake --preset release && cmake --build build/release --target bench example_init_model
    python3 bench/compare.py --build build/release

Each row runs this library and a peer in turn, in processes of their own, on the same inputs, threads and
precision, for several interleaved rounds, and fails when they did not do the same work. Ratios are the peer's
time over ours, the median of the rounds', with the lowest and highest. The peers (bench/peers: torch,
transformers, CTranslate2) are installed by pip into a virtual environment of its own, unless --python names an
interpreter that has them. docs/benchmarks.md says what each row does.
"""
import argparse
import dataclasses
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import venv

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
PACKAGES = ["torch", "transformers", "ctranslate2", "sentencepiece", "safetensors", "numpy"]


class Failure(Exception):
    """A program ended with an error, or the work was not the same."""


def need(holds, what):
    if not holds:
        raise Failure(what)


def environment(folder):
    """The interpreter of a virtual environment that has the peers."""
    python = os.path.join(folder, "bin", "python")
    if not os.path.exists(python):
        print(f"making {folder} with {', '.join(PACKAGES)}", file=sys.stderr)
        venv.create(folder, with_pip=True)
    if subprocess.run([python, "-c", "import torch, transformers, ctranslate2"], capture_output=True).returncode != 0:
        subprocess.run([python, "-m", "pip", "install", "-q", *PACKAGES], check=True)
    return python


def last_words(text):
    return " ".join(text.strip().splitlines()[-3:])[-500:] or "nothing was said"


class Peer:
    """A process of bench/peers: started once, asked for each round."""

    def __init__(self, python, script, env, **job):
        self.name, self.errors = script, tempfile.TemporaryFile("w+")
        command = [python, os.path.join(HERE, "peers", script), json.dumps(job)]
        self.process = subprocess.Popen(command, text=True, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=self.errors)

    def round(self):
        try:
            self.process.stdin.write("\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass
        line = self.process.stdout.readline()
        if not line:
            self.errors.seek(0)
            raise Failure(f"{self.name} failed: {last_words(self.errors.read())}")
        return json.loads(line)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.errors.close()


@dataclasses.dataclass
class Row:
    """One line of the table; a measurement fills in what both took, a number for each round."""
    work: str
    peer: str
    goal: float = None
    unit: str = "s"
    ours: list = dataclasses.field(default_factory=list)
    peers: list = dataclasses.field(default_factory=list)

    def add(self, ours, peers):
        self.ours.append(ours)
        self.peers.append(peers)

    def result(self):
        ratios = [p / o for o, p in zip(self.ours, self.peers)]
        return dict(work=self.work, peer=self.peer, ours_s=statistics.median(self.ours),
                    peer_s=statistics.median(self.peers), ratio=statistics.median(ratios), low=min(ratios),
                    high=max(ratios), goal=self.goal, unit=self.unit)


class Comparison:
    def __init__(self, args):
        self.args = args
        self.python = args.python or environment(args.venv)
        self.env = {k: v for k, v in os.environ.items() if k not in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")}
        self.env.setdefault("TORCHINDUCTOR_CACHE_DIR", os.path.abspath(os.path.join(args.work, "inductor")))
        self.cuda = args.device == "cuda"
        os.makedirs(args.work, exist_ok=True)
        programs = ["bench/" + self.program(name) for name in ("attention", "training_step", "generate")]
        for program in [*programs, "examples/init_model"]:
            if not os.path.exists(os.path.join(args.build, program)):
                sys.exit(f"{args.build} has no {program}; build the targets bench and example_init_model")

    def program(self, name):
        return f"bench_{name}_cuda" if self.cuda and name != "generate" else f"bench_{name}"

    def ours(self, name, *arguments):
        where = [] if self.cuda else ["--threads", self.args.threads]
        if name == "generate":
            where += ["--device", self.args.device]
        command = [os.path.join(self.args.build, "bench", self.program(name)), *map(str, [*arguments, *where])]
        done = subprocess.run(command, capture_output=True, text=True, env=self.env)
        need(done.returncode == 0, f"{os.path.basename(command[0])} failed: {last_words(done.stderr)}")
        return json.loads(done.stdout.strip().splitlines()[-1])

    def peer(self, script, **job):
        return Peer(self.python, script, self.env, threads=self.args.threads, device=self.args.device, **job)

    def model(self, name):
        """A checkpoint folder, made once."""
        recurrent = ["--cross_attention", "segmented_recurrent", "--segment_size"]
        flags = {"t5-small": [], "t5-small-recurrent": [*recurrent, "64"],
                 "bart-base": [], "bart-base-recurrent": [*recurrent, "16", "--clamp", "2"]}
        folder = os.path.join(self.args.work, name)
        if not os.path.exists(os.path.join(folder, "config.json")):
            program = os.path.join(self.args.build, "examples", "init_model")
            subprocess.run([program, "--output_dir", folder, "--preset", name.removesuffix("-recurrent"), "--seed", "1",
                            *flags[name]], check=True, stdout=subprocess.DEVNULL)
        return folder

    def sources(self, name, count, width):
        """A file of token ids, the last of each source the end token."""
        with open(os.path.join(self.model(name), "config.json")) as f:
            config = json.load(f)
        V, eos = config["vocab_size"], config["eos_token_id"]
        path = os.path.join(self.args.work, f"{name}-{count}x{width}.json")
        with open(path, "w") as f:
            json.dump([[3 + i * 7919 % (V - 103) for i in range(s * width, (s + 1) * width - 1)] + [eos]
                       for s in range(count)], f)
        return path, eos

    def attention(self, rows, variant, B, N, L, kind):
        """Output and gradients are compared where both have the same algebra."""
        repetitions = self.args.steps or (1 if kind == "loop" else 3)
        same = (variant, kind) not in {("segmented_recurrent", "sdpa")}
        written = os.path.join(self.args.work, "attention.bin") if same else ""
        with self.peer("attention.py", kind=kind, B=B, H=8, D=64, M=128, N=N, L=L, repetitions=repetitions,
                       ours=written) as peer:
            for _ in range(self.args.rounds):
                a = self.ours("attention", variant, "--batch", B, "--keys", N, "--segment_size", L, "--repetitions", 9,
                              *(["--write", written] if same else []))
                b = peer.round()
                if same:
                    difference = b["difference"]
                    need(difference <= 1e-4, f"outputs or gradients differ by {difference:.1e} of the largest")
                rows[0].add(statistics.median(a["seconds"]), statistics.median(b["seconds"]))

    def steps(self, model, source, target, batch, steps):
        return self.ours("training_step", self.model(model), "--source", source, "--target", target, "--batch", batch,
                         "--steps", steps)

    def training(self, rows, model, source, target, batch, steps, compiled=False):
        """The rows of a step: time, and where there are more, memory, optimiser, share of the product's rate."""
        steps = self.args.steps or steps
        with self.peer("training.py", model=self.model(model), source=source, target=target, batch=batch, steps=steps,
                       compile=compiled) as peer:
            for _ in range(self.args.rounds):
                a, b = self.steps(model, source, target, batch, steps), peer.round()
                limit = 1e-3 if self.cuda else 1e-4  # transformers' own vary from run to run on a device
                need(len(a["losses"]) == len(b["losses"]) and
                     all(abs(x - y) <= limit for x, y in zip(a["losses"], b["losses"])),
                     f"the losses differ: {a['losses']} and {b['losses']}")
                median = statistics.median
                measured = [(median(a["seconds"]), median(b["seconds"])),
                            (median(a["optimizer_seconds"]), median(b["optimizer_seconds"])),
                            (median(a["gradient_seconds"]), a["gradient_seconds_at_product_rate"]),
                            (a["peak_bytes"] / 2**30, b["peak_bytes"] / 2**30)]
                for row, (ours, peers) in zip(rows, measured):
                    row.add(ours, peers)

    def own_training(self, rows, model, source, target, batch, steps):
        steps = self.args.steps or steps
        for _ in range(self.args.rounds):
            recurrent, full = (self.steps(name, source, target, batch, steps) for name in (model + "-recurrent", model))
            rows[0].add(statistics.median(recurrent["seconds"]), statistics.median(full["seconds"]))
            rows[1].add(statistics.median(recurrent["gradient_seconds"]), recurrent["gradient_seconds_at_product_rate"])

    def generated(self, result, count, eos):
        need(len(result["ids"]) == count and all(len(ids) == 128 and eos not in ids for ids in result["ids"]),
             "not every output has 128 tokens without an end token")
        return statistics.median(result["seconds"])

    def generation(self, rows, peer_name, model, recurrent, count, width, beams, dtype="float32"):
        """Ids are compared where both run one model in float32; a peer "ours" is this library with full attention."""
        repetitions = self.args.steps or 1
        folder = self.model(model)
        path, eos = self.sources(model, count, width)

        def ours(name):
            return self.ours("generate", self.model(name), path, "--num_beams", beams, "--repetitions", repetitions,
                             "--dtype", dtype)

        def one(other):
            a, b = ours(model + "-recurrent" if recurrent else model), other()
            rows[0].add(self.generated(a, count, eos), self.generated(b, count, eos))
            if not recurrent and dtype == "float32":
                same_outputs(a, b)

        if peer_name == "ours":
            for _ in range(self.args.rounds):
                one(lambda: ours(model))
            return
        with self.peer("generation.py", peer=peer_name, model=folder, sources=path, dtype=dtype, beams=beams,
                       new_tokens=128, repetitions=repetitions) as peer:
            for _ in range(self.args.rounds):
                one(peer.round)

    def loading(self, rows, model, limit):
        path, _ = self.sources(model, 1, 2)
        for _ in range(self.args.rounds + 1):  # the first reads the file from the disk
            a = self.ours("generate", self.model(model), path, "--repetitions", 0)
            rows[0].add(a["load_seconds"], limit)
        rows[0].ours.pop(0), rows[0].peers.pop(0)


def same_outputs(a, b):
    """Of one model in float32: the same ids, or where they differ scores equal to 1e-5, and printed."""
    for s, (x, y, p, q) in enumerate(zip(a["ids"], b["ids"], a["scores"], b["scores"])):
        if x != y:
            at = next(i for i, (left, right) in enumerate(zip(x, y)) if left != right)
            print(f"source {s}: ids differ from token {at} on, scores {p:.7f} and {q:.7f}", file=sys.stderr)
        need(abs(p - q) <= (1e-4 if x == y else 1e-5), f"source {s}: the scores are {p:.7f} and {q:.7f}")


class Measurements(list):
    """Rows, and what fills them in."""

    def add(self, rows, name, *arguments, **options):
        """`name` is the method of Comparison that measures them."""
        self.append((rows, lambda c: getattr(c, name)(rows, *arguments, **options)))


SR, SDPA, PRODUCT = "segmented_recurrent", "torch SDPA, full", "its products at the rate of 1024x2048x512"


def device_measurements():
    """Those of a CUDA device. They have no bars."""
    found = Measurements()
    add = found.add
    for B, N in ((4, 1024), (1, 16384), (4, 16384)):
        where = f"B {B}, N {N}, M 128"
        add([Row(f"attention, full, {where}", SDPA)], "attention", "full", B, N, 64, "sdpa")
        add([Row(f"attention, segmented recurrent, {where}, L 64", SDPA)], "attention", SR, B, N, 64, "sdpa")
    where = "attention, segmented recurrent, B 4, N 1024, M 128, L 64"
    add([Row(where, "authors' loop")], "attention", SR, 4, 1024, 64, "loop")
    add([Row(where, "torch, vectorised")], "attention", SR, 4, 1024, 64, "vectorised")
    for model in ("T5-small", "BART-base"):
        for batch in (1, 8):
            name = f"{model} training step, source 1024, target 128, batch {batch}"
            add([Row(name + ", full attention", "transformers"), Row(name + ", AdamW alone", "transformers"),
                 Row(name + ", forward and backward", PRODUCT)], "training", model.lower(), 1024, 128, batch, 5)
            recurrent = [Row(name + ", segmented recurrent", "ours, full"),
                         Row(name + ", segmented recurrent, forward and backward", PRODUCT)]
            add(recurrent, "own_training", model.lower(), 1024, 128, batch, 5)
        for count, beams in ((1, 1), (1, 4), (8, 4)):
            for dtype in ("float32", "bfloat16"):
                sources = "source 1024" if count == 1 else f"{count} sources of 1024"
                work = f"{model} generation, {sources}, 128 tokens, {f'beam {beams}' if beams > 1 else 'greedy'}"
                add([Row(f"{work}, full, {dtype}", f"transformers {dtype}")], "generation", "transformers",
                    model.lower(), False, count, 1024, beams, dtype)
    return found


def measurements():
    """Every measurement on the CPU."""
    found = Measurements()
    add = found.add
    where = "attention, segmented recurrent, B {}, N {}, M 128, L {}"
    add([Row(where.format(4, 1024, 64), SDPA, 2.3)], "attention", SR, 4, 1024, 64, "sdpa")
    add([Row(where.format(4, 1024, 64), "authors' loop", 80)], "attention", SR, 4, 1024, 64, "loop")
    add([Row(where.format(4, 1024, 64), "torch, vectorised", 5)], "attention", SR, 4, 1024, 64, "vectorised")
    add([Row(where.format(4, 1024, 8), SDPA, 1.5)], "attention", SR, 4, 1024, 8, "sdpa")
    add([Row(where.format(1, 16384, 64), SDPA, 3.5)], "attention", SR, 1, 16384, 64, "sdpa")
    add([Row("attention, full, B 4, N 1024, M 128", SDPA, 1.2)], "attention", "full", 4, 1024, 64, "sdpa")

    def step(model, source, batch, goal, steps):
        name = f"{model} training step, source {source}, target 128, batch {batch}"
        memory = 1 / 0.6 if model == "T5-small" else None
        rows = [Row(name + ", full attention", "transformers", goal), Row(name + ", AdamW alone", "transformers"),
                Row(name + ", forward and backward", PRODUCT),
                Row(name + ", peak memory", "transformers", memory, "GiB")]
        add(rows, "training", model.lower(), source, 128, batch, steps)
        return name

    name = step("T5-small", 1024, 1, 2.5, 3)
    add([Row(name + ", full attention", "transformers, torch.compile", 1.4)], "training", "t5-small", 1024, 128, 1, 3,
        compiled=True)
    step("T5-small", 512, 4, 1.8, 2)
    step("BART-base", 1024, 1, 1.8, 2)
    for model in ("T5-small", "BART-base"):
        name = f"{model} training step, source 1024, target 128, batch 1, segmented recurrent"
        add([Row(name, "ours, full", 1), Row(name + ", forward and backward", PRODUCT)], "own_training", model.lower(),
            1024, 128, 1, 2)

    def generation(model, peer, goal, recurrent, count, width, beams, dtype="float32"):
        kind = ("segmented recurrent" if recurrent else "full") + (", int8" if dtype == "int8" else "")
        sources = f"source {width}" if count == 1 else f"{count} sources of {width}"
        work = f"{model} generation, {sources}, 128 tokens, {f'beam {beams}' if beams > 1 else 'greedy'}, {kind}"
        title = {"ctranslate2": f"CTranslate2 {dtype}"}.get(peer, peer) + ", full"
        add([Row(work, title, goal)], "generation", peer, model.lower(), recurrent, count, width, beams, dtype)

    for model in ("T5-small", "BART-base"):
        for beams in (1, 4):
            generation(model, "ctranslate2", 1.1, False, 1, 1024, beams)
            generation(model, "transformers", 2.5, False, 1, 1024, beams)
            generation(model, "ctranslate2", 1.2 if beams == 1 else 1.35, True, 1, 1024, beams)
            generation(model, "ours", 1, True, 1, 1024, beams)
            generation(model, "ctranslate2", 1.1, False, 1, 1024, beams, "int8")
        generation(model, "ctranslate2", 2, True, 8, 1024, 4)
    generation("T5-small", "ctranslate2", None, False, 32, 256, 1)
    generation("T5-small", "ctranslate2", None, True, 32, 256, 1)
    for model, limit in (("T5-small", 0.2), ("BART-base", 0.4)):
        work = f"{model} loading to the first token"
        add([Row(work, f"limit of {limit} s", 1)], "loading", model.lower(), limit)
    return found


def machine(args):
    if args.device == "cuda":
        asked = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        return subprocess.run(asked, capture_output=True, text=True).stdout.strip() or "no CUDA device"
    with open("/proc/cpuinfo") as f:
        cpu = next((line.split(":")[1].strip() for line in f if line.startswith("model name")), platform.machine())
    return f"{cpu}, {args.threads} threads"


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--build", default=os.path.join(ROOT, "build", "release"), help="where this library's programs are")
    p.add_argument("--work", default=os.path.join(ROOT, "build", "compare"), help="where checkpoints are made")
    p.add_argument("--venv", default=os.path.join(ROOT, "build", "compare-venv"), help="the peers' environment")
    p.add_argument("--python", help="an interpreter that has the peers, instead of such an environment")
    p.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="cuda: other rows, on a CUDA device")
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--steps", type=int, help="timed steps or repetitions a round; else as each row has them")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--only", default="", help="rows whose work or peer contain this word")
    p.add_argument("--list", action="store_true", help="name the rows and end")
    p.add_argument("--json", help="also write the rows to this file")
    args = p.parse_args()
    chosen = []
    for rows, measure in device_measurements() if args.device == "cuda" else measurements():
        wanted = [r for r in rows if args.only in f"{r.work} | {r.peer}"]
        if wanted:
            chosen.append((wanted, measure))
    if not chosen:
        sys.exit(f"no row contains \"{args.only}\"")
    if args.list:
        print("\n".join(f"{r.work} | {r.peer} | {r.goal or '-'}" for wanted, _ in chosen for r in wanted))
        return
    comparison, done, failed = Comparison(args), [], 0
    print(f"{machine(args)}, {args.rounds} rounds; ratio is the peer's time over ours\n")
    print("| work | peer | ours | peer's | unit | ratio | lowest | highest | at least |")
    print("|---|---|---|---|---|---|---|---|---|")
    for wanted, measure in chosen:
        try:
            measure(comparison)
        except Failure as failure:
            failed += 1
            print(f"| {wanted[0].work} | {wanted[0].peer} | FAILED: {failure} |", flush=True)
            continue
        for row in wanted:
            r = row.result()
            done.append(r)
            goal = f"{r['goal']:.2f}" if r["goal"] else "-"
            numbers = " | ".join([f"{r['ours_s']:.4g}", f"{r['peer_s']:.4g}", r["unit"], f"{r['ratio']:.2f}",
                                  f"{r['low']:.2f}", f"{r['high']:.2f}", goal])
            print(f"| {r['work']} | {r['peer']} | {numbers} |", flush=True)
    if args.json:
        with open(args.json, "w") as f:
            json.dump(done, f, indent=1)
    if failed:
        sys.exit(f"{failed} measurements failed")


if __name__ == "__main__":
    main()
