#!/usr/bin/env python3
"""cluster_simulation.py: what a training step takes on 1 to 1024 ranks, computed from one process and a network.

    python3 bench/cluster_simulation.py --forward 0.10 --backward 0.20 --update 0.02 --parameters 60.5e6 \\
        --bandwidth 10 --latency 30 --ranks_per_machine 1

Every rank does the work of one process on examples of its own, so the global batch grows with the ranks. A step is
the forward and backward passes of the rank's micro-batches, the exchange of gradients, and the update:

  reduce_scatter   in buckets, each of which starts once its gradients are final and the bucket before it is through.
                   They become final evenly over the backward pass of the last micro-batch, except the share --late,
                   which does at its end (tied embeddings).
  all_gather       without ZeRO of the summed gradients, each bucket behind its reduce_scatter; with --zero 1 of the
                   updated values, in the same buckets, after the update, which then is of a share of the parameters
                   alone.

Each of both moves (W-1)/W of the bytes of a bucket out of each of W ranks, in W-1 messages. --exchange says on which
way: `direct`, every rank to every other, as srformer does, where the ranks of a machine share its link; `ring`,
from neighbour to neighbour, where one flow leaves a machine. All ranks wait for the slowest: their times of computation
are normal with the relative deviation --spread, and a step takes the expectation of the largest of W.
Memory is that of values, gradients, the optimizer's state and --activations; code and buffers come on top.
"""
import argparse
import dataclasses
import math
import statistics
import sys

SIZES = [2**i for i in range(11)]


@dataclasses.dataclass(frozen=True)
class Setting:
    """One process's times in seconds, sizes in bytes, and the network in bytes per second and seconds."""

    forward: float  # of a micro-batch
    backward: float  # of a micro-batch
    update: float  # of all parameters
    parameters: float
    bandwidth: float  # of a machine's link, in each direction
    latency: float = 0.0  # of a message between machines
    local_bandwidth: float = math.inf  # of a rank to others of its machine
    local_latency: float = 0.0
    ranks_per_machine: int = 1
    accumulation: int = 1  # micro-batches of a rank in a step
    bytes_per_parameter: int = 4
    state_bytes: int = 8  # of the optimizer, for each parameter
    activations: float = 0.0
    bucket: float = 4e6
    late: float = 0.0  # share of the parameters whose gradients are final at the end alone
    spread: float = 0.0
    zero: int = 0
    exchange: str = "direct"
    overlap: bool = True

    def check(self):
        """Raises ValueError with what is wrong."""
        for name in ("forward", "backward", "update", "latency", "local_latency", "activations", "spread", "state_bytes"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is below 0")
        for name in ("parameters", "bandwidth", "local_bandwidth", "ranks_per_machine", "accumulation",
                     "bytes_per_parameter", "bucket"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is not above 0")
        if not self.forward + self.backward + self.update > 0:
            raise ValueError("forward, backward and update are all 0")
        if not 0 <= self.late <= 1:
            raise ValueError("late is not a share, from 0 to 1")
        if self.zero not in (0, 1):
            raise ValueError("zero is neither 0 nor 1")
        if self.exchange not in ("direct", "ring"):
            raise ValueError("exchange is neither direct nor ring")


@dataclasses.dataclass(frozen=True)
class Step:
    ranks: int
    seconds: float
    communication: float  # seconds in which something is exchanged
    waited: float  # of them those in which nothing is computed
    straggling: float  # seconds in which a rank of average speed waits for the slowest
    efficiency: float  # the time of one rank by that of so many
    memory: float  # bytes of a rank

    @property
    def hidden(self):
        """The share of the communication during which something is computed; nothing where there is none."""
        return 1 - self.waited / self.communication if self.communication > 0 else None


def largest_of(count):
    """The expectation of the largest of `count` standard normal numbers, to about 1e-6."""
    if count == 1:
        return 0.0
    normal, width, low = statistics.NormalDist(), 1 / 256, -9.0
    # E[max] = integral of x d(cdf(x)^n), by parts: of 1 - F above 0 and -F below it.
    total = 0.0
    for i in range(int(18 / width)):
        x = low + (i + 0.5) * width
        power = normal.cdf(x) ** count
        total += (1 - power if x > 0 else -power) * width
    return total


def half_exchange(setting, ranks, size):
    """Seconds of a reduce_scatter or an all_gather of `size` bytes."""
    if ranks == 1:
        return 0.0
    here = min(setting.ranks_per_machine, ranks)
    part = size / ranks
    crosses = ranks > here
    if setting.exchange == "ring":
        slowest = min(setting.local_bandwidth if here > 1 else math.inf, setting.bandwidth if crosses else math.inf)
        latency = max(setting.local_latency if here > 1 else 0.0, setting.latency if crosses else 0.0)
        return (ranks - 1) * (latency + part / slowest)
    local = (here - 1) * (setting.local_latency + part / setting.local_bandwidth)
    if not crosses:
        return local
    away = (ranks - here) * (setting.latency + here * part / setting.bandwidth)
    return local + away


def buckets(setting):
    """(seconds after the start of the last backward pass, bytes) of each bucket, in the order in which they are ready."""
    size = setting.parameters * setting.bytes_per_parameter
    found = []
    for share, late in ((1 - setting.late, False), (setting.late, True)):
        count = math.ceil(size * share / setting.bucket)
        for i in range(count):
            ready = setting.backward if late or not setting.overlap else setting.backward * (i + 1) / count
            found.append((ready, size * share / count))
    return found


def step(setting, ranks):
    """What a step of `ranks` ranks takes."""
    setting.check()
    if ranks < 1:
        raise ValueError("there is no rank")
    update = setting.update / ranks if setting.zero else setting.update
    passes = setting.accumulation * (setting.forward + setting.backward)
    slowest = 1 + setting.spread * largest_of(ranks)
    before = slowest * passes - setting.backward  # up to the last backward pass, which is as long on every rank
    phases = 1 if setting.zero else 2
    end = communication = 0.0
    for ready, part in buckets(setting):
        needed = phases * half_exchange(setting, ranks, part)
        end = max(end, ready) + needed
        communication += needed
    waited = max(0.0, end - setting.backward) if ranks > 1 else 0.0
    gathered = sum(half_exchange(setting, ranks, part) for _, part in buckets(setting)) if setting.zero else 0.0
    communication, waited = communication + gathered, waited + gathered
    seconds = before + setting.backward + waited + update
    alone = passes + setting.update
    state = setting.state_bytes / (ranks if setting.zero else 1)
    memory = setting.parameters * (2 * setting.bytes_per_parameter + state) + setting.activations
    return Step(ranks, seconds, communication, waited, (slowest - 1) * passes, alone / seconds, memory)


def table(steps):
    lines = ["| ranks | seconds per step | exchange, s | of it hidden | waiting for the slowest, s | efficiency | memory of a rank, MB |",
             "|---|---|---|---|---|---|---|"]
    for s in steps:
        hidden = "-" if s.hidden is None else f"{100 * s.hidden:.0f} %"
        lines.append(f"| {s.ranks} | {s.seconds:.3f} | {s.communication:.3f} | {hidden} | {s.straggling:.3f} | "
                     f"{100 * s.efficiency:.0f} % | {s.memory / 1e6:.0f} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    number = dict(type=float, metavar="X")
    parser.add_argument("--forward", required=True, help="seconds of a micro-batch in one process", **number)
    parser.add_argument("--backward", required=True, help="the same of the backward pass", **number)
    parser.add_argument("--update", required=True, help="seconds of the optimizer's update of all parameters", **number)
    parser.add_argument("--parameters", required=True, help="of the model", **number)
    parser.add_argument("--bandwidth", required=True, help="of the link of a machine, Gbit/s", **number)
    parser.add_argument("--latency", default=0.0, help="of a message between machines, microseconds", **number)
    parser.add_argument("--local_bandwidth", default=math.inf, help="of a rank inside its machine, GB/s", **number)
    parser.add_argument("--local_latency", default=0.0, help="inside a machine, microseconds", **number)
    parser.add_argument("--ranks_per_machine", type=int, default=1)
    parser.add_argument("--accumulation", type=int, default=1, help="micro-batches of a rank in a step")
    parser.add_argument("--bytes_per_parameter", type=int, default=4, help="of a value and of a gradient")
    parser.add_argument("--state_bytes", type=int, default=8, help="of the optimizer for each parameter; AdamW: 8")
    parser.add_argument("--activations", default=0.0, help="of a rank, MB", **number)
    parser.add_argument("--bucket", default=4.0, help="MB of gradients that are exchanged together", **number)
    parser.add_argument("--late", default=0.0, help="share of the parameters whose gradients are final at the end", **number)
    parser.add_argument("--spread", default=0.0, help="relative standard deviation of the ranks' times", **number)
    parser.add_argument("--zero", type=int, choices=(0, 1), default=0)
    parser.add_argument("--exchange", choices=("direct", "ring"), default="direct")
    parser.add_argument("--no_overlap", action="store_true", help="exchange after the backward pass alone")
    parser.add_argument("--ranks", type=int, nargs="+", default=SIZES)
    given = vars(parser.parse_args())
    ranks, overlap = given.pop("ranks"), not given.pop("no_overlap")
    for name, unit in (("bandwidth", 1e9 / 8), ("latency", 1e-6), ("local_bandwidth", 1e9), ("local_latency", 1e-6),
                       ("activations", 1e6), ("bucket", 1e6)):
        given[name] *= unit
    try:
        print(table([step(Setting(overlap=overlap, **given), count) for count in ranks]))
    except ValueError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
