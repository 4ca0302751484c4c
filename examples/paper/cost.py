# SPDX-License-Identifier: Apache-2.0
"""What the systems cost: operations and numbers that the library counts, memory, time and energy that its programs take."""
import dataclasses
import json
import os
import pathlib
import platform
import shutil
import sys

from experiments import Run, Stop, flags_of

COMMANDS = {
    "table1": ("full", "segmented", "srformer"),
    "table4": ("full", "srformer", "transformer_xl", "global_tokens", "segmented"),
    "figure5": ("full", "srformer"),
}
USAGE = pathlib.Path(__file__).resolve().parent / "usage.py"


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Cross-attention of one source."""
    heads: int
    queries: int
    keys: int
    head_size: int
    segment_size: int
    horizon: int

    def record_name(self, system):
        return (f"operations-{system}-H{self.heads}-M{self.queries}-N{self.keys}-D{self.head_size}-L{self.segment_size}"
                f"-horizon{self.horizon}")

    def flags(self, system):
        return [*flags_of(system, self.segment_size, self.horizon), "--heads", self.heads, "--queries", self.queries,
                "--keys", self.keys, "--head_size", self.head_size]


def of_paper(queries):
    """The sizes of Table 1 at 128 queries, of Figure 5 at more: eight times as many keys."""
    return Sizes(heads=1, queries=queries, keys=8 * queries, head_size=64, segment_size=64, horizon=queries)


TABLE1 = of_paper(128)
FIGURE5 = tuple(of_paper(queries) for queries in (128, 256, 512, 1024))


def machine():
    """The processor as records name it: what was measured on another one is not compared."""
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            name = next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), name)
    except OSError:
        pass
    return f"{name}, {os.cpu_count()} processors"


def model_sizes(config):
    """Decoder layers, heads and features of a head of a config.json."""
    heads = config.get("decoder_attention_heads") or config["num_heads"]
    layers = config.get("decoder_layers") or config.get("num_decoder_layers") or config["num_layers"]
    return layers, heads, config.get("d_kv") or config["d_model"] // heads


def of_each(whole, start, count):
    """What each of `count` steps or pairs takes: a program less one that only starts. The peak is the program's."""
    each = {"peak_bytes": whole["peak_bytes"]}
    for name in ("seconds", "processor_seconds", "joules", "missed_bytes"):
        known = whole[name] is not None and start[name] is not None
        each[name] = (whole[name] - start[name]) / count if known else None
    return each


class Cost:
    """The commands on the folders and programs of a Paper."""

    def __init__(self, paper):
        self.paper, self.flags, self.data = paper, paper.flags, paper.data
        self.threads = self.flags.threads or len(os.sched_getaffinity(0))

    def make(self, command):
        # The page has rows for these alone.
        systems = [system for system in COMMANDS[command] if not self.flags.systems or system in self.flags.systems]
        if command == "table4":
            self.measure_all(systems)
        else:
            for sizes in [TABLE1] if command == "table1" else FIGURE5:
                for system in systems:
                    self.count(system, sizes)

    # ---- counted ----

    def count(self, system, sizes):
        """The record of what the library counts."""
        name = sizes.record_name(system)
        path = self.paper.record_path(name)
        if path.exists():
            return json.loads(path.read_text(encoding="utf-8"))
        self.paper.check_time(name)
        print(name, flush=True)
        output = self.paper.work / "log" / f"{name}.txt"
        self.paper.run(self.paper.program("count_operations"), *sizes.flags(system), log=output)
        record = {"kind": "operations", "system": system, **dataclasses.asdict(sizes),
                  **{part: counts for part, counts in json.loads(output.read_text(encoding="utf-8")).items()
                     if part in ("forward", "backward", "decoding")}}
        self.paper.write_record(name, record)
        return record

    def counted_bytes(self, system, start):
        """Bytes that the products of the cross-attentions of the decoder read and write for a step of training and for a
        decoded pair, at the full lengths."""
        layers, heads, head_size = model_sizes(json.loads((start / "config.json").read_text(encoding="utf-8")))
        counts = self.count(system, Sizes(heads, self.data.target, self.data.source, head_size, self.data.segment_size,
                                          self.data.horizon))
        of_pair = counts["forward"]["moved"] + counts["backward"]["moved"]
        return {"training": 4 * layers * self.data.batch * of_pair, "decoding": 4 * layers * counts["decoding"]["moved"]}

    # ---- measured ----

    def run_of(self, system):
        return Run(self.data, self.paper.model, system, self.data.segment_size, 1)

    def name_of(self, system):
        """Full attention too has the segment size in its name, as it is measured in turn with systems of that size."""
        return f"{self.data.name}-{self.paper.model}-{system}-L{self.data.segment_size}-usage"

    def settings(self):
        return {"steps": self.flags.measured_steps, "pairs": self.flags.measured_pairs,
                **{name: getattr(self.data, name) for name in ("batch", "source", "target", "segment_size", "horizon")}}

    def place(self):
        """What further rounds must have in common with those that there are; finished records may be of elsewhere."""
        return {"threads": self.threads, "machine": machine()}

    def measure_all(self, systems):
        """Rounds of all systems in turn, so that what else the machine does falls on all of them; each leaves its record."""
        self.paper.make_data()
        records = {}
        for system in systems:
            path = self.paper.record_path(self.name_of(system))
            if path.exists():
                records[system] = json.loads(path.read_text(encoding="utf-8"))
                given = {"threads": self.threads} if self.flags.threads else {}
                self.paper.same_settings(path, records[system], self.settings() | given)
        if all(len(records.get(system, {"rounds": ()})["rounds"]) >= self.flags.rounds for system in systems):
            return
        for system, record in records.items():
            self.paper.same_settings(self.paper.record_path(self.name_of(system)), record, self.place())
        start = self.paper.pretrained()
        print(f"table4: {self.threads} thread{'s' * (self.threads > 1)}, {self.flags.rounds} rounds, {self.flags.measured_steps} steps and "
              f"{self.flags.measured_pairs} pairs in each", flush=True)
        for system in systems:
            records.setdefault(system, {
                "kind": "usage", "data": self.data.name, "model": self.paper.model, "system": system,
                "pretraining": start.name, **self.settings(), **self.place(),
                "counted_bytes": self.counted_bytes(system, start), "rounds": []})
        for number in range(self.flags.rounds):
            for system in systems:
                rounds = records[system]["rounds"]
                if len(rounds) > number:
                    continue
                self.paper.check_time(self.name_of(system))
                rounds.append(self.measure(system, start))
                self.paper.write_record(self.name_of(system), records[system])
                print(f"round {number + 1}, {system}: {rounds[-1]['training']['seconds']:.4f} s a step, "
                      f"{rounds[-1]['decoding']['seconds']:.4f} s a pair", flush=True)

    def usage(self, name, *command):
        """Runs a program; what it took."""
        output = self.paper.work / "usage" / f"{name}.json"
        output.parent.mkdir(parents=True, exist_ok=True)
        self.paper.run(*command, through=(sys.executable, USAGE, output), log=self.paper.work / "log" / f"{name}.txt")
        return json.loads(output.read_text(encoding="utf-8"))

    def rows(self, split, count):
        path = self.paper.first_rows(split, count)
        with open(path, encoding="utf-8") as file:
            there = sum(1 for _ in file)
        if there < count:
            raise Stop(f"{self.paper.files / split}.jsonl holds {there} pairs of the {count} that are measured: give fewer by "
                       f"--measured_{'pairs' if split == 'test' else 'steps'} or --batch")
        return path

    def measure(self, system, start):
        """One round: steps of fine-tuning, and pairs decoded with its result, every summary as long as the longest."""
        d, name = self.data, self.name_of(system)
        steps, pairs = self.flags.measured_steps, self.flags.measured_pairs
        train = self.rows("train", d.batch * (1 + steps))
        output = self.paper.work / "usage" / name
        trained = {}
        for last in (1, 1 + steps):
            trained[last] = self.usage(
                f"{name}-training", self.paper.program("finetune"), "--model_name_or_path", start, "--output_dir", output,
                "--overwrite_output_dir", "--train_file", train, "--text_column", "text", "--summary_column", "summary",
                "--max_source_length", d.source, "--max_target_length", d.target, "--max_steps", last,
                "--per_device_train_batch_size", d.batch, "--learning_rate", d.rates[0], "--seed", 1,
                "--save_strategy", "no", "--threads", self.threads, *self.run_of(system).flags())
        decoded = {}
        for count in (d.batch, d.batch + pairs):
            decoded[count] = self.usage(
                f"{name}-decoding", self.paper.program("summarize"), "--model_name_or_path", output, "--input_file",
                self.rows("test", count), "--text_column", "text", "--output_file",
                self.paper.work / "usage" / f"{name}.txt", "--max_source_length", d.source, "--truncation",
                "--batch_size", d.batch, "--num_beams", 1, "--min_new_tokens", d.target, "--max_new_tokens", d.target,
                "--threads", self.threads)
        if not self.flags.keep:
            shutil.rmtree(output)
        return {"training": of_each(trained[1 + steps], trained[1], steps),
                "decoding": of_each(decoded[d.batch + pairs], decoded[d.batch], pairs)}
