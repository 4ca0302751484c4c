# SPDX-License-Identifier: Apache-2.0
"""Makes the paper's tables on real data and writes a page of them.

    paper.sh table2 | table3 | figure4 | all     pretrains once, then every system from the same weights with the same steps
    paper.sh table1 | figure5                    operations and memory, counted; `all` makes these too
    paper.sh table4                              memory, bytes moved, time and energy of each system, measured in turn
    paper.sh page                                the page alone, from the records that there are

The rate of a system is that of three with the lowest validation loss at the first seed and the data's own segment size;
the last checkpoint is scored. A finished run leaves a record, so the same command goes on where it stopped, on another
machine too.
"""
import argparse
import concurrent.futures
import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import time

import bootstrap
import cost
import cost_page
import page as pages
from experiments import COMMANDS, DATA, MODELS, OTHER, SYSTEMS, WITHOUT_SEGMENTS, Data, Run, Stop, runs_of

HERE = pathlib.Path(__file__).resolve().parent


def words_of(text):
    return text.split()


def without_held_out(texts, held_out):
    """The texts that hold no text of held_out, word by word, and how many are dropped. Those of fewer than four words are
    too common to tell."""
    by_first_words = {}
    for text in held_out:
        words = words_of(text)
        if len(words) >= 4:
            by_first_words.setdefault(tuple(words[:4]), []).append(words)
    kept, dropped = [], 0
    for text in texts:
        words = words_of(text)
        found = any(words[i:i + len(known)] == known
                    for i in range(len(words) - 3) for known in by_first_words.get(tuple(words[i:i + 4]), ()))
        if found:
            dropped += 1
        else:
            kept.append(text)
    return kept, dropped


@functools.cache
def fingerprint(folder):
    """Twelve hexadecimal digits of the SHA-256 of a checkpoint's weights."""
    weights = sorted(path for pattern in ("*.safetensors", "*.bin") for path in folder.glob(pattern))
    digest = hashlib.sha256()
    for path in weights:
        with open(path, "rb") as file:
            while piece := file.read(1 << 20):
                digest.update(piece)
    return digest.hexdigest()[:12]


def read_rows(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.strip()]


class Paper:
    def __init__(self, flags):
        self.flags = flags
        self.work = pathlib.Path(flags.work)
        self.records = pathlib.Path(flags.records)
        self.programs = pathlib.Path(flags.programs)
        self.deadline = time.monotonic() + 60 * flags.minutes if flags.minutes else None
        if flags.data in DATA:
            self.data = DATA[flags.data]
            self.files = self.work / "data" / flags.data
        else:
            self.files = pathlib.Path(flags.data)
            self.data = Data(**{**OTHER.__dict__, "name": self.files.name})
        changes = {name: getattr(flags, name) for name in ("steps", "batch", "source", "target", "segment_size", "horizon")
                   if getattr(flags, name) is not None}
        if flags.rates:
            changes["rates"] = tuple(flags.rates)
        self.data = Data(**{**self.data.__dict__, **changes})
        # What records call the model: runs from another checkpoint are others.
        self.model = pathlib.Path(flags.from_).resolve().name if flags.from_ else flags.model

    # ---- programs ----

    def run(self, *command, log=None, through=()):
        """Runs a program of examples/, or a script, by the words before it that `through` has; what it says goes to a log,
        whose end is shown where it fails."""
        log = log or self.work / "last.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "w", encoding="utf-8") as file:
            # Threads that wait for each other by spinning take processors that other runs are on.
            code = subprocess.run([str(word) for word in (*through, *command)], stdout=file, stderr=subprocess.STDOUT,
                                  env={"GOMP_SPINCOUNT": "1000", **os.environ}).returncode
        if code != 0:
            end = log.read_text(encoding="utf-8", errors="replace").splitlines()[-5:]
            raise Stop(f"{pathlib.Path(command[0]).name} ended with {code}: {' / '.join(end)} (all of it: {log})")

    def program(self, name):
        path = self.programs / name
        if not path.exists():
            raise Stop(f"{path} is not there: build the target example_{name}, or give --programs")
        return path

    # ---- data, pretrained model ----

    def make_data(self):
        if (self.files / "test.jsonl").exists():
            return
        if self.flags.data not in DATA:
            raise Stop(f"{self.files}: holds no test.jsonl; give debian, rfc or a folder with train.jsonl, "
                       "validation.jsonl and test.jsonl")
        print(f"fetching {self.flags.data}", flush=True)
        script = HERE.parent / "data" / f"{self.flags.data}.sh"
        name = {"debian": "debian_descriptions", "rfc": "rfc_pairs"}[self.flags.data]
        options = ["--min_characters", "200"] if self.flags.data == "debian" else []
        self.run(script, self.files, self.program(name), *options)

    def pretraining_text(self):
        """The file of texts to pretrain on: the training split's, without any that holds a held-out text or summary."""
        path = self.work / "data" / f"{self.data.name}-pretraining.txt"
        if path.exists():
            return path
        held_out = [row[column] for split in ("validation", "test") for row in read_rows(self.files / f"{split}.jsonl")
                    for column in ("text", "summary")]
        given = self.files / "pretraining.txt"
        if given.exists():
            texts = given.read_text(encoding="utf-8").splitlines()
        else:
            texts = [" ".join(words_of(row["text"])) for row in read_rows(self.files / "train.jsonl")]
        kept, dropped = without_held_out(texts, held_out)
        print(f"{path}: {len(kept)} texts, {dropped} that hold a held-out text or summary left out", flush=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(".tmp")
        aside.write_text("".join(text + "\n" for text in kept), encoding="utf-8")
        aside.replace(path)
        return path

    def start(self):
        """Where the checkpoint is, or will be, that every system starts from."""
        return pathlib.Path(self.flags.from_ or self.work / f"pretrained-{self.data.name}-{self.model}")

    def can_start(self):
        """Whether that checkpoint is there."""
        return bool(self.flags.from_) or (self.start() / "all_results.json").exists()

    def pretrained(self):
        """The checkpoint that every system starts from."""
        model = self.model
        done = self.start()
        if self.can_start():
            return done
        text = self.pretraining_text()
        flags, vocabulary, steps = MODELS[model]
        steps = self.flags.pretraining_steps or steps
        fresh = self.work / f"fresh-{self.data.name}-{model}"
        if not (fresh / "config.json").exists():
            self.run(self.program("init_model"), "--output_dir", fresh, "--overwrite_output_dir", *flags, "--train_tokenizer",
                     text, "--tokenizer_vocab_size", vocabulary, "--tokenizer_samples", 100_000, "--seed", 1)
        print(f"pretraining {model} on {text.name}: {steps} steps", flush=True)
        self.run(self.program("finetune"), "--model_name_or_path", fresh, "--output_dir", done, *self.go_on(done),
                 "--train_file", text, "--objective", "text_infilling", "--whole_words", "--separate_texts", "--text_length", 60,
                 "--noise_density", 0.08, "--span_length", "uniform", "--mean_span_length", 2, "--denoised_length", 40,
                 "--max_source_length", 160, "--max_target_length", 128, "--max_steps", steps,
                 "--per_device_train_batch_size", 32, "--learning_rate", 2e-3, "--warmup_steps", max(1, steps // 25),
                 "--dropout_rate", 0, "--logging_steps", 50, "--save_steps", max(1, steps // 5), "--save_total_limit", 1,
                 *self.threads(), log=self.work / "log" / f"{done.name}.txt")
        return done

    @staticmethod
    def go_on(folder):
        there = any(folder.glob("checkpoint-*/trainer_state.json"))
        return ["--resume_from_checkpoint", "auto"] if there else ["--overwrite_output_dir"]

    def threads(self, jobs=1):
        """Flags of a program that runs beside jobs - 1 others."""
        threads = self.flags.threads
        if not threads and jobs > 1:
            threads = max(1, len(os.sched_getaffinity(0)) // jobs)
        return ["--threads", threads] if threads else []

    # ---- runs ----

    def record_path(self, name):
        return self.records / f"{name}.json"

    def write_record(self, name, record):
        self.records.mkdir(parents=True, exist_ok=True)
        aside = self.record_path(name).with_suffix(".tmp")
        aside.write_text(json.dumps(record) + "\n", encoding="utf-8")
        aside.replace(self.record_path(name))

    def test_file(self):
        """The pairs that are scored: all of the test set, or with --test_samples the first ones."""
        limit = self.flags.test_samples
        return self.first_rows("test", limit) if limit else self.files / "test.jsonl"

    def first_rows(self, split, limit):
        """A file of the first rows of a split."""
        part = self.work / "data" / f"{self.data.name}-{split}-{limit}.jsonl"
        if not part.exists():
            with open(self.files / f"{split}.jsonl", encoding="utf-8") as file:
                part.parent.mkdir(parents=True, exist_ok=True)
                part.write_text("".join(line for line, _ in zip(file, range(limit))), encoding="utf-8")
        return part

    def scores(self, name, predictions):
        """ROUGE of a run's predictions: means in percent, and each item's ROUGE-1 in hundredths of a percent."""
        file = self.work / "log" / f"{name}-scores.jsonl"
        self.run(self.program("evaluate"), "--predictions", predictions, "--references", self.test_file(),
                 "--reference_column", "summary", "--scores_file", file, "--bootstrap_samples", 1,
                 log=self.work / "log" / f"{name}-evaluate.txt")
        rows = read_rows(file)
        file.unlink()
        result = {name: round(100 * bootstrap.mean([row[name] for row in rows]), 4)
                  for name in ("rouge1", "rouge2", "rougeL", "rougeLsum")}
        return result | {"pairs": len(rows), "rouge1_items": [round(10000 * row["rouge1"]) for row in rows]}

    def first_words(self):
        """The baseline: as many first words as summaries have on average."""
        name = f"{self.data.name}-first_words"
        if self.record(name, {}):
            return
        predictions = self.work / "first_words.txt"
        self.run(self.program("first_words"), "--train_file", self.files / "train.jsonl", "--test_file", self.test_file(),
                 "--output_file", predictions)
        self.write_record(name, {"data": self.data.name, "system": "first_words", **self.scores(name, predictions)})

    def known(self, run):
        """The record of a run that is finished. Throws Stop where it was made with other settings."""
        now = {name: getattr(run.data, name) for name in ("steps", "batch", "source", "target")} | {"horizon": run.horizon}
        if self.can_start():
            now["weights"] = fingerprint(self.start())
        return self.record(run.name, now)

    def record(self, name, settings):
        path = self.record_path(name)
        if not path.exists():
            return None
        record = json.loads(path.read_text(encoding="utf-8"))
        with open(self.test_file(), encoding="utf-8") as file:
            self.same_settings(path, record, {**settings, "pairs": sum(1 for _ in file)})
        return record

    @staticmethod
    def same_settings(path, record, now):
        for key, value in now.items():
            if record.get(key) != value:
                raise Stop(f"{path}: was made with {key} {record.get(key)}, now {value}; "
                           "give those settings, or another --records")

    def check_time(self, name):
        if self.deadline and time.monotonic() > self.deadline:
            raise Stop(f"--minutes {self.flags.minutes:g} are over; the same command goes on with {name}")

    def tune(self, run):
        """Makes the run, or takes its record."""
        record = self.known(run)
        if record:
            return record
        self.check_time(run.name)
        start = self.pretrained()
        print(f"{run.name}: {run.data.steps} steps", flush=True)
        began = time.monotonic()
        output = self.work / "runs" / run.name
        d = run.data
        self.run(self.program("finetune"), "--model_name_or_path", start, "--output_dir", output, *self.go_on(output),
                 "--train_file", self.files / "train.jsonl", "--validation_file", self.files / "validation.jsonl",
                 "--test_file", self.test_file(), "--text_column", "text", "--summary_column", "summary",
                 "--max_source_length", d.source, "--max_target_length", d.target, "--max_steps", d.steps,
                 "--per_device_train_batch_size", d.batch, "--per_device_eval_batch_size", d.batch, "--group_by_length",
                 "--learning_rate", run.rate, "--warmup_steps", max(1, d.steps // 20), "--seed", run.seed,
                 "--logging_steps", max(1, d.steps // 18), "--save_steps", max(1, d.steps // 3), "--save_total_limit", 1,
                 "--predict_with_generate", *run.flags(), *self.threads(self.flags.jobs), log=self.work / "log" / f"{run.name}.txt")
        results = json.loads((output / "all_results.json").read_text(encoding="utf-8"))
        log = [json.loads(line) for line in (output / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        record = {"data": d.name, "model": run.model, "system": run.system,
                  "segment_size": 0 if run.system in WITHOUT_SEGMENTS else run.segment_size, "seed": run.seed, "rate": run.rate,
                  "steps": d.steps, "batch": d.batch, "source": d.source, "target": d.target, "horizon": run.horizon,
                  "pretraining": start.name, "weights": fingerprint(start), "validation_loss": results["eval_loss"],
                  "losses": [[row["step"], round(row["loss"], 4)] for row in log if "loss" in row and "step" in row],
                  "seconds": round(time.monotonic() - began, 1), "machine": platform.processor() or platform.machine(),
                  **self.scores(run.name, output / "generated_predictions.txt")}
        self.write_record(run.name, record)
        if not self.flags.keep:
            shutil.rmtree(output)
        print(f"  validation loss {record['validation_loss']:.3f}, ROUGE-1 {record['rouge1']:.2f}, {record['seconds']:.0f} s",
              flush=True)
        return record

    def at_rates(self, run):
        """The runs that the rate of a system is chosen from: the first seed at the data's own segment size."""
        return [Run(run.data, run.model, run.system, run.data.segment_size, 1, rate) for rate in run.data.rates]

    def tune_all(self, runs):
        """Makes each run once, --jobs at a time; their records by name. The first error ends it after those that run."""
        runs = list({run.name: run for run in runs}.values())
        if not all(self.known(run) for run in runs):
            self.pretrained()
        with concurrent.futures.ThreadPoolExecutor(self.flags.jobs) as pool:
            def tune(run):
                try:
                    return self.tune(run)
                except BaseException:
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise

            made = {run.name: pool.submit(tune, run) for run in runs}
            return {name: future.result() for name, future in made.items()}

    def make(self, command):
        if command in cost.COMMANDS:
            return cost.Cost(self).make(command)
        self.make_data()
        self.test_file()
        self.first_words()
        runs = list(runs_of(command, self.data, self.model, self.flags.seeds, self.flags.systems))
        tried = self.tune_all(candidate for run in runs for candidate in self.at_rates(run))
        rate = {run.system: min(self.at_rates(run), key=lambda r: tried[r.name]["validation_loss"]).rate for run in runs}
        # A seed of all systems before the next one, so that what is there after a stop can be compared.
        runs.sort(key=lambda run: run.seed)
        self.tune_all(dataclasses.replace(run, rate=rate[run.system]) for run in runs)

    def write_page(self):
        default_sizes = {name: data.segment_size for name, data in DATA.items()}
        costs = cost_page.sections(cost_page.read_records(self.records))
        lines, pictures = pages.page_of(pages.read_records(self.records), default_sizes, costs)
        folder = pathlib.Path(self.flags.page)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "tables.md").write_text("\n".join(lines), encoding="utf-8")
        (folder / "tables.html").write_text(pages.as_html(lines, pictures), encoding="utf-8")
        for name, svg in pictures.items():
            (folder / name).write_text(svg, encoding="utf-8")
        print(f"{folder / 'tables.md'}, {folder / 'tables.html'}")


def parse(arguments):
    at_least_one = lambda text: max(1, int(text))  # noqa: E731
    parser = argparse.ArgumentParser(prog="paper.sh", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("command", choices=[*COMMANDS, *cost.COMMANDS, "all", "pretrain", "page"])
    parser.add_argument("--data", default="debian", help="debian, rfc, or a folder with train, validation and test.jsonl")
    parser.add_argument("--model", default="t5", choices=MODELS)
    parser.add_argument("--from", dest="from_", metavar="CHECKPOINT", help="in place of pretraining")
    parser.add_argument("--seeds", type=at_least_one, default=3, help="of each system (3)")
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, help="these in place of the command's own; of table1, table4 and figure5 those alone")
    parser.add_argument("--minutes", type=float, help="start no run after so many")
    parser.add_argument("--work", default="build/paper", help="folder of data and checkpoints (build/paper)")
    parser.add_argument("--records", default="bench/records", help="folder of records (bench/records)")
    parser.add_argument("--page", default="build/paper", help="folder of the page (build/paper)")
    parser.add_argument("--programs", default="build/release/examples", help="folder of the programs")
    parser.add_argument("--jobs", type=at_least_one, default=1, help="fine-tunings at a time (1), which share the processors")
    parser.add_argument("--threads", type=int, help="of each program; else as many as processors")
    parser.add_argument("--keep", action="store_true", help="keep the checkpoints of finished runs")
    parser.add_argument("--test_samples", type=int, help="score the first so many pairs alone")
    parser.add_argument("--pretraining_steps", type=int)
    parser.add_argument("--rounds", type=at_least_one, default=5, help="of measurement in table4 (5)")
    parser.add_argument("--measured_steps", type=at_least_one, default=10, help="of fine-tuning in a round (10)")
    parser.add_argument("--measured_pairs", type=at_least_one, default=512, help="decoded in a round (512)")
    for name in ("steps", "batch", "source", "target", "segment_size", "horizon"):
        parser.add_argument(f"--{name}", type=int, help="in place of the data's own")
    parser.add_argument("--rates", type=float, nargs="+", help="learning rates to choose from")
    return parser.parse_args(arguments)


def main(arguments):
    flags = parse(arguments)
    try:
        paper = Paper(flags)
        if flags.command == "pretrain":
            paper.make_data()
            print(paper.pretrained())
            return 0
        if flags.command != "page":
            try:
                for command in [*COMMANDS, *cost.COMMANDS] if flags.command == "all" else [flags.command]:
                    paper.make(command)
            finally:
                paper.write_page()
        else:
            paper.write_page()
    except Stop as reason:
        print(f"error: {reason}", file=sys.stderr)
        return 1
    except OSError as reason:
        print(f"error: {reason.filename}: {reason.strerror}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
