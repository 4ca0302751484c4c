#!/usr/bin/env python3
"""compare.py [--only WORD] [--rounds 5] [--json FILE]: this library beside its peers, in one run.

    cmake --preset release && cmake --build build/release --target bench example_init_model
    python3 bench/compare.py --build build/release

Each row runs this library and a peer in turn, in processes of their own, on the same inputs, threads
and precision (float32, dropout 0), for several interleaved rounds, and checks that both did the same
work (losses within 1e-4, where both run the same model). It prints the median of the rounds' ratios, peer's time over ours, with the
lowest and highest. The peers (torch, transformers) are installed by pip into a virtual environment
of its own.
"""
import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import venv

HERE = os.path.dirname(os.path.abspath(__file__))
PEERS = ["torch", "transformers", "sentencepiece", "safetensors", "numpy"]

PEER_TRAINING = r"""
import json, resource, sys, time
import torch
from transformers import T5ForConditionalGeneration
model_path, source, target, batch, steps, threads = sys.argv[1], *map(int, sys.argv[2:7])
torch.set_num_threads(threads)
model = T5ForConditionalGeneration.from_pretrained(model_path, dtype=torch.float32)
model.train()
for m in model.modules():
    if isinstance(m, torch.nn.Dropout):
        m.p = 0.0
    if isinstance(getattr(m, "dropout", None), float):
        m.dropout = 0.0
V, eos = model.config.vocab_size, model.config.eos_token_id
def ids(width):
    i = torch.arange(batch * width)
    x = 3 + i * 7919 % (V - 103)
    x[(i + 1) % width == 0] = eos
    return x.view(batch, width)
data = dict(input_ids=ids(source), attention_mask=torch.ones(batch, source, dtype=torch.long), labels=ids(target))
opt = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.0)
seconds, losses = [], []
for step in range(steps + 1):
    start = time.perf_counter()
    opt.zero_grad()
    loss = model(**data).loss
    loss.backward()
    opt.step()
    end = time.perf_counter()
    if step > 0:
        seconds.append(end - start)
    losses.append(float(loss))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps(dict(seconds=seconds, losses=losses, peak_bytes=peak)))
"""

PEER_ATTENTION = r"""
import json, sys, time
import torch
B, H, D, M, N, repetitions, threads = map(int, sys.argv[1:8])
torch.set_num_threads(threads)
torch.manual_seed(0)
q, k, v = (torch.randn(B, H, n, D, requires_grad=True) for n in (M, N, N))
g, seconds = torch.randn(B, H, M, D), []
for i in range(repetitions + 1):
    start = time.perf_counter()
    torch.nn.functional.scaled_dot_product_attention(q, k, v).backward(g)
    if i > 0:
        seconds.append(time.perf_counter() - start)
    q.grad = k.grad = v.grad = None
print(json.dumps(dict(seconds=seconds)))
"""


def environment(folder):
    """The interpreter of a virtual environment that has the peers."""
    python = os.path.join(folder, "bin", "python")
    if not os.path.exists(python):
        print(f"making {folder} with {', '.join(PEERS)}", file=sys.stderr)
        venv.create(folder, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *PEERS], check=True)
    return python


def run(command):
    env = {k: v for k, v in os.environ.items() if k not in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")}
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    if done.returncode != 0:
        sys.exit(f"{command[0]} failed: {done.stderr.strip()[-500:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


class Comparison:
    def __init__(self, args):
        self.args = args
        self.python = environment(args.venv)

    def model(self, name, *flags):
        """A checkpoint folder, made once."""
        folder = os.path.join(self.args.work, name)
        if not os.path.exists(os.path.join(folder, "config.json")):
            program = os.path.join(self.args.build, "examples", "init_model")
            subprocess.run([program, "--output_dir", folder, *flags], check=True, stdout=subprocess.DEVNULL)
        return folder

    def training(self, work, peer_model, our_model, source, target, batch, goal, same_loss=True):
        """Rows of training steps: this library's model beside transformers' with full attention."""
        threads, steps = str(self.args.threads), str(self.args.steps)
        sizes = [str(source), str(target), str(batch)]
        ratios, ours, peers, memory, rate = [], [], [], [], []
        for _ in range(self.args.rounds):
            a = run([os.path.join(self.args.build, "bench", "bench_training_step"), our_model, "--source", sizes[0],
                     "--target", sizes[1], "--batch", sizes[2], "--steps", steps, "--threads", threads])
            b = run([self.python, "-c", PEER_TRAINING, peer_model, *sizes, steps, threads])
            if same_loss and max(abs(x - y) for x, y in zip(a["losses"], b["losses"])) > 1e-4 * abs(b["losses"][0]):
                sys.exit(f"{work}: the losses differ: {a['losses']} and {b['losses']}")
            ours.append(statistics.median(a["seconds"]))
            peers.append(statistics.median(b["seconds"]))
            ratios.append(peers[-1] / ours[-1])
            memory.append(a["peak_bytes"] / b["peak_bytes"])
            rate.append(a["product_gflops"])
        return dict(work=work, peer="transformers", ours_s=statistics.median(ours), peer_s=statistics.median(peers),
                    ratio=statistics.median(ratios), low=min(ratios), high=max(ratios), goal=goal,
                    memory_ratio=statistics.median(memory), product_gflops=statistics.median(rate))


    def attention(self, work, variant, batch, keys, segment_size, goal):
        """Rows of one attention, forward and backward, beside torch's full attention at the same sizes."""
        threads, repetitions = str(self.args.threads), str(3 * self.args.steps)
        ours, peers = [], []
        for _ in range(self.args.rounds):
            a = run([os.path.join(self.args.build, "bench", "bench_attention"), variant, "--batch", str(batch), "--keys",
                     str(keys), "--segment_size", str(segment_size), "--repetitions", repetitions, "--threads", threads])
            b = run([self.python, "-c", PEER_ATTENTION, str(batch), "8", "64", "128", str(keys), repetitions, threads])
            ours.append(statistics.median(a["seconds"]))
            peers.append(statistics.median(b["seconds"]))
        ratios = [p / o for o, p in zip(ours, peers)]
        return dict(work=work, peer="torch SDPA, full", ours_s=statistics.median(ours), peer_s=statistics.median(peers),
                    ratio=statistics.median(ratios), low=min(ratios), high=max(ratios), goal=goal)


def rows():
    small = ("--preset", "t5-small", "--seed", "1")
    recurrent = ("--cross_attention", "segmented_recurrent", "--segment_size", "64")

    def full(c):
        return c.model("t5-small", *small)

    sr = "segmented_recurrent"
    return {
        "attention, segmented recurrent, B 4, N 1024, M 128, L 64": lambda c, n: c.attention(n, sr, 4, 1024, 64, 2.3),
        "attention, segmented recurrent, B 4, N 1024, M 128, L 8": lambda c, n: c.attention(n, sr, 4, 1024, 8, 1.5),
        "attention, segmented recurrent, B 1, N 16384, M 128, L 64": lambda c, n: c.attention(n, sr, 1, 16384, 64, 3.5),
        "attention, full, B 4, N 1024, M 128": lambda c, n: c.attention(n, "full", 4, 1024, 64, 1.2),
        "T5-small training step, source 1024, target 128, batch 1, full attention": lambda c, n: c.training(
            n, full(c), full(c), 1024, 128, 1, 1.0),
        "the same, segmented recurrent (ours) beside full": lambda c, n: c.training(
            n, full(c), c.model("t5-small-recurrent", *small, *recurrent), 1024, 128, 1, 1.0, same_loss=False),
        "T5-small training step, source 512, target 128, batch 4, full attention": lambda c, n: c.training(
            n, full(c), full(c), 512, 128, 4, 1.0),
    }


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = os.path.dirname(HERE)
    p.add_argument("--build", default=os.path.join(root, "build", "release"), help="where this library's programs are")
    p.add_argument("--work", default=os.path.join(root, "build", "compare"), help="where checkpoints are made")
    p.add_argument("--venv", default=os.path.join(root, "build", "compare-venv"), help="the peers' environment")
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--steps", type=int, default=3, help="timed steps a round")
    p.add_argument("--threads", type=int, default=os.cpu_count())
    p.add_argument("--only", default="", help="rows that contain this word")
    p.add_argument("--json", help="also write the rows to this file")
    args = p.parse_args()
    comparison, done = Comparison(args), []
    cpu = next((l.split(":")[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")), platform.machine())
    print(f"{cpu}, {args.threads} threads, {args.rounds} rounds; ratio is the peer's time over ours\n")
    print("| work | peer | ours s | peer s | ratio | lowest | highest | memory, ours over peer's |")
    print("|---|---|---|---|---|---|---|---|")
    for name, measure in rows().items():
        if args.only not in name:
            continue
        r = measure(comparison, name)
        done.append(r)
        memory = f"{r['memory_ratio']:.2f}" if "memory_ratio" in r else "-"
        print(f"| {r['work']} | {r['peer']} | {r['ours_s']:.3f} | {r['peer_s']:.3f} | {r['ratio']:.2f} | {r['low']:.2f} "
              f"| {r['high']:.2f} | {memory} |", flush=True)
    if args.json:
        with open(args.json, "w") as f:
            json.dump(done, f, indent=1)
    if not done:
        sys.exit(f"no row contains \"{args.only}\"")


if __name__ == "__main__":
    main()
