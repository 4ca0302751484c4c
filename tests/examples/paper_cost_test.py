#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""examples/paper on cost: what programs take, the sections of the page, and that a stopped command goes on.

    paper_cost_test.py PATH_OF_examples/paper

Programs and perf are stand-ins; their commands are looked at.
"""
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import xml.dom.minidom

PAPER = pathlib.Path(sys.argv[1]).resolve()
sys.path.insert(0, str(PAPER))
import cost  # noqa: E402
import cost_page  # noqa: E402
import page  # noqa: E402
import usage  # noqa: E402

checks = 0


def check(what, holds):
    global checks
    checks += 1
    if not holds:
        sys.exit(f"FAILED: {what}")


def write_program(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


# ---- usage.py ----

def zone(at, name, called, joules, wraps_at=1000):
    (at / name).mkdir(parents=True, exist_ok=True)
    for file, value in (("name", called), ("energy_uj", int(joules * 1e6)), ("max_energy_range_uj", int(wraps_at * 1e6))):
        (at / name / file).write_text(f"{value}\n")


def test_energy():
    with tempfile.TemporaryDirectory() as folder:
        at = pathlib.Path(folder)
        check("no counters", usage.energy(at) is None and usage.energy(at / "nowhere") is None)
        zone(at, "intel-rapl:0", "package-0", 10)
        zone(at, "intel-rapl:0:0", "core", 5)  # a part of the package
        zone(at, "intel-rapl:1", "package-1", 990)
        zone(at, "intel-rapl:2", "psys", 70)  # packages and more
        before = usage.energy(at)
        zone(at, "intel-rapl:0", "package-0", 14)
        zone(at, "intel-rapl:0:0", "core", 8)
        zone(at, "intel-rapl:2", "psys", 90)
        zone(at, "intel-rapl:1", "package-1", 3)  # has begun again
        check("both packages", abs(usage.joules(before, usage.energy(at)) - (4 + 13)) < 1e-9)
        check("a reading that is missing", usage.joules(None, before) is None and usage.joules(before, None) is None)
        (at / "intel-rapl:0/energy_uj").unlink()
        check("counters that cannot be read", usage.energy(at) is None)


PERF = r'''#!/bin/sh
[ "$PAPER_PERF" = refused ] && exit 255
while [ "$1" != -- ]; do
  [ "$1" = -o ] && out=$2
  shift
done
shift
"$@"
code=$?
count="<not supported>"
[ "$PAPER_PERF" = counts ] && count=1000
printf '# started on some day\n\n%s,,cache-misses:u,100,100.00,,\n' "$count" >"$out"
exit $code
'''


def test_usage():
    check("what perf could not count", usage.misses("<not counted>,,cache-misses:u,0,0.00,,\n") is None)
    check("nothing of perf", usage.misses("") is None)
    check("among other lines", usage.misses("# some day\n\n12,,cycles:u,1\n34,,cache-misses:u,1\n") == 34)
    ballast = bytearray(b"1") * (200 << 20)  # which a program started from here would count as its own
    with tempfile.TemporaryDirectory() as folder:
        at = pathlib.Path(folder)
        write_program(at / "bin/perf", PERF)
        grow = "import sys; x = bytearray(b'1') * (50 << 20); sys.exit(len(x) and 7)"

        def run(kind, *command):
            environment = {**os.environ, "PATH": f"{at / 'bin'}:{os.environ['PATH']}", "PAPER_PERF": kind}
            done = subprocess.run([sys.executable, PAPER / "usage.py", at / "out.json", *command], env=environment)
            return done.returncode, json.loads((at / "out.json").read_text())

        code, used = run("refused", sys.executable, "-c", grow)
        check("the status is the program's", code == 7)
        check(f"its own peak memory: {used}", 50 << 20 < used["peak_bytes"] < 120 << 20)
        check("time", 0 < used["processor_seconds"] and 0 < used["seconds"] < 60)
        check("no perf", used["missed_bytes"] is None)
        check("perf without the counter", run("cannot", "true")[1]["missed_bytes"] is None)
        code, used = run("counts", sys.executable, "-c", grow)
        check("lines", used["missed_bytes"] == 1000 * usage.line_bytes() and usage.line_bytes() >= 16)
        check("with perf the program's too", code == 7 and used["peak_bytes"] > 50 << 20)
    del ballast


# ---- sizes, page ----

def operations(system, sizes, forward, backward=None, held=(0, 0)):
    def counts(products):
        return {"multiply_adds": products, "multiplications": 2 * products, "moved": 3 * products, "scratch": held[0],
                "allocated": held[1]}

    return {"kind": "operations", "system": system, **vars(sizes), "forward": counts(forward),
            "backward": counts(backward or 3 * forward), "decoding": counts(forward)}


def test_sizes():
    for sizes, full, other in ((cost.TABLE1, 8388608, 0.4375), (cost.FIGURE5[-1], 536870912, 0.9296875)):
        whole, part = (cost_page.paper_counts(system, sizes)[0] for system in ("full", "srformer"))
        check("operations of the paper", whole == full and 1 - part / whole == other)
    check("numbers of the paper, in thousands",
          [round(cost_page.paper_counts(system, cost.TABLE1)[1] / 1000) for system in ("full", "segmented", "srformer")] ==
          [197, 74, 139])
    sizes = cost.Sizes(heads=4, queries=24, keys=128, head_size=32, segment_size=16, horizon=12)
    check("flags", [str(word) for word in sizes.flags("transformer_xl")] == (
        "--cross_attention transformer_xl --segment_size 16 --horizon 12 --generation_horizon 12 --heads 4 --queries 24 --keys 128 "
        "--head_size 32").split())
    check("of full attention", sizes.flags("full")[0] == "--heads")
    check("T5", cost.model_sizes({"num_layers": 6, "num_decoder_layers": 4, "num_heads": 8, "d_kv": 64, "d_model": 500}) ==
          (4, 8, 64) and cost.model_sizes({"num_layers": 6, "num_heads": 8, "d_kv": 64, "d_model": 512}) == (6, 8, 64))
    check("BART", cost.model_sizes({"encoder_layers": 3, "decoder_layers": 6, "decoder_attention_heads": 12, "d_model": 768,
                                    "num_hidden_layers": 3}) == (6, 12, 64))
    whole = {"seconds": 5.0, "processor_seconds": 9.0, "joules": 50.0, "missed_bytes": None, "peak_bytes": 7}
    start = {"seconds": 1.0, "processor_seconds": 1.0, "joules": 10.0, "missed_bytes": 3, "peak_bytes": 6}
    check("without the start", cost.of_each(whole, start, 4) == {
        "seconds": 1.0, "processor_seconds": 2.0, "joules": 10.0, "missed_bytes": None, "peak_bytes": 7})


def cells(lines):
    """{first cell: the others} of each table."""
    tables, inside = [], False
    for line in lines:
        if line.startswith("| "):
            if not inside:
                tables.append({})
            row = [cell.strip() for cell in line.strip("|").split("|")]
            tables[-1][row[0]] = row[1:]
        inside = line.startswith("|")
    return tables


def test_counted_sections():
    check("nothing is recorded", cost_page.sections([]) == ([], {}))
    other = cost.Sizes(heads=2, queries=128, keys=1024, head_size=64, segment_size=64, horizon=128)
    records = [operations("full", cost.TABLE1, 20_000_000, held=(68_928, 0)),
               operations("srformer", cost.TABLE1, 5_000_000, 30_000_000, held=(100_000, 34_464)),
               operations("srformer", other, 1)]
    lines, pictures = cost_page.sections(records)
    first, second = cells(lines)
    check("operations beside the paper's", first["SRformer, as the paper's"][:7] ==
          ["5,000", "0.250", "4,719", "0.562", "0.250", "0.500", "0.250"])
    # 2 N D = 131,072 and what is held beside it.
    check("numbers beside the paper's", first["SRformer, as the paper's"][7:] == ["266", "1.328", "139", "0.708"])
    check("only what is recorded", list(first) == ["system", "full attention", "SRformer, as the paper's"])
    check("one point of Figure 5", second["128"] == ["1,024", "20.0", "5.0", "75.0 %", "50.0 %", "43.8 %"])
    for sizes, full, part in zip(cost.FIGURE5[1:], (100, 100, 1000), (25, 150, 40)):  # dearer than full at one
        records += [operations("full", sizes, full), operations("srformer", sizes, part)]
    lines, pictures = cost_page.sections(records)
    check("all points", list(cells(lines)[1]) == ["queries", "128", "256", "512", "1,024"])
    drawn = xml.dom.minidom.parseString(pictures["figure5.svg"])
    lines_drawn = [p.getAttribute("d") for p in drawn.getElementsByTagName("path") if p.getAttribute("fill")]
    check("three lines of four points", [path.count("L") for path in lines_drawn] == [3, 3, 3])
    heights = [float(point.split()[1]) for path in lines_drawn for point in path[1:].split("L")]
    check("inside the picture", min(heights) >= 0 and max(heights) <= 400)
    labels = [float(t.getAttribute("y")) for t in drawn.getElementsByTagName("text") if t.getAttribute("fill")]
    check("labels do not meet", all(abs(a - b) >= 14 for i, a in enumerate(labels) for b in labels[:i]))
    whole = page.as_html(*page.page_of({}, {}, (lines, pictures)))
    check("the page of cost alone", whole.count("<svg") == 1 and whole.count("<table>") == 2 and "No run" not in whole)
    alone = cost_page.sections([records[1]])[0]
    check("without full attention there are no ratios", cells(alone)[0]["SRformer, as the paper's"][1] == "-")


def usage_record(system, seconds, joules=None, missed=None, counted=100, segment_size=16):
    rounds = [{part: {"seconds": value, "processor_seconds": 2 * value, "peak_bytes": 100 << 20, "joules": joules and joules * value,
                      "missed_bytes": missed} for part in ("training", "decoding")} for value in seconds]
    return {"kind": "usage", "data": "debian", "model": "t5", "system": system, "segment_size": segment_size, "machine": "a machine",
            "threads": 2, "batch": 32, "source": 128, "target": 24, "steps": 10, "pairs": 64,
            "counted_bytes": {"training": counted << 20, "decoding": counted << 18}, "rounds": rounds}


def test_measured_section():
    # The machine is half as fast in the second round: ratios are those within a round.
    records = [usage_record("full", [1.0, 2.0, 1.0]), usage_record("srformer", [0.5, 1.0, 0.6], counted=25)]
    lines, _ = cost_page.sections(records)
    text = "\n".join(lines)
    training, decoding = cells(lines)
    check("beside full", training["SRformer, as the paper's"] == [
        "100 (100 to 100)", "1.000", f"{60 / 49:.3f}", "25.00", "0.250", f"{60 / 91:.3f}", "600.00 (500.00 to 1000.00)", "0.500",
        "1200.00 (1000.00 to 2000.00)", "0.500"])
    check("decoding", decoding["full attention"][3] == "25.00" and decoding["full attention"][7] == "1.000")
    check("counters that could not be read are named", "perf's counter of cache misses could not be read" in text and
          "Energy is left out" in text and "3 rounds" in text and "2 threads" in text)
    records = [usage_record("full", [1.0], joules=20.0, missed=8 << 20), usage_record("srformer", [0.5], joules=20.0, missed=2 << 20)]
    lines, _ = cost_page.sections(records)
    row = cells(lines)[0]["SRformer, as the paper's"]
    check("counters that could", row[3:6] == ["2.00", "0.250", f"{60 / 91:.3f}"] and
          row[10:] == ["10.0000", "0.500", f"{80 / 99:.3f}"] and "as perf counts them" in "\n".join(lines) and
          "left out" not in "\n".join(lines))
    records.append(usage_record("segmented", [0.5], joules=20.0))
    row = cells(cost_page.sections(records)[0])[0]["segmented"]
    check("one that is not everywhere is nowhere", row[2] == "-" and row[3] == "100.00" and row[10] == "10.0000")
    records.append(usage_record("full", [1.0], segment_size=8))
    check("other segments are a table of their own", "\n".join(cost_page.sections(records)[0]).count("## Table 4") == 2)
    check("a time that is not above 0", cost_page.ratio(usage_record("srformer", [1.0]), usage_record("full", [-0.1]), "training",
                                                        "seconds") == "-")
    check("without full attention", cells(cost_page.sections([usage_record("srformer", [1.0])])[0])[0][
        "SRformer, as the paper's"][7] == "-")
    check("begun, no round yet", cost_page.sections([usage_record("full", [])]) == ([], {}))


# ---- commands ----

STAND_IN = r'''#!/usr/bin/env python3
import json, os, pathlib, sys
arguments = sys.argv[1:]
name = pathlib.Path(sys.argv[0]).name
with open(os.environ["PAPER_LOG"], "a") as log:
    log.write(json.dumps([name, *arguments]) + "\n")
def value(flag, default=None):
    return arguments[arguments.index(flag) + 1] if flag in arguments else default
lines = lambda path: open(path).read().splitlines()
if name == "finetune":
    out = pathlib.Path(value("--output_dir"))
    if value("--cross_attention") == os.environ.get("PAPER_FAIL"):
        print("error: stopped on purpose")
        sys.exit(3)
    out.mkdir(parents=True, exist_ok=True)
    (out / "model").write_text(value("--cross_attention", "full"))
    (out / "all_results.json").write_text(json.dumps({"eval_loss": 1}))
    (out / "metrics.jsonl").write_text("")
    if "--test_file" in arguments:
        (out / "generated_predictions.txt").write_text("words\n" * len(lines(value("--test_file"))))
elif name == "summarize":
    model = pathlib.Path(value("--model_name_or_path"), "model").read_text()
    pathlib.Path(value("--output_file")).write_text((model + "\n") * len(lines(value("--input_file"))))
elif name == "count_operations":
    counts = {"multiply_adds": 10, "multiplications": 20, "moved": 5, "scratch": 1, "allocated": 0}
    print(json.dumps({"cross_attention": {}, "forward": counts, "backward": {**counts, "moved": 7}, "decoding": {**counts, "moved": 9}}))
elif name == "first_words":
    pathlib.Path(value("--output_file")).write_text("a\n" * len(lines(value("--test_file"))))
elif name == "evaluate":
    row = json.dumps({"rouge1": 0.25, "rouge2": 0.125, "rougeL": 0.2, "rougeLsum": 0.2})
    pathlib.Path(value("--scores_file")).write_text((row + "\n") * len(lines(value("--references"))))
'''


class Folder:
    """Data, a checkpoint and stand-ins; what ran is in what run() returns."""

    def __init__(self, at):
        self.at = at
        for name in ("finetune", "summarize", "count_operations", "first_words", "evaluate"):
            write_program(at / "programs" / name, STAND_IN)
        write_program(at / "bin/perf", PERF)
        for split in ("train", "validation", "test"):
            (at / "files").mkdir(exist_ok=True)
            (at / "files" / f"{split}.jsonl").write_text("".join(
                json.dumps({"text": f"the {split} text {i}", "summary": f"sum {i}"}) + "\n" for i in range(12)))
        (at / "start").mkdir()
        (at / "start/config.json").write_text(json.dumps({"num_layers": 2, "num_heads": 4, "d_kv": 32, "d_model": 128}))

    def run(self, command, *arguments, fail="", perf="refused", code=0):
        log = self.at / "log.txt"
        log.write_text("")
        at = self.at
        done = subprocess.run(
            [sys.executable, PAPER / "main.py", command, "--data", at / "files", "--from", at / "start", "--work", at / "work",
             "--records", at / "records", "--page", at / "page", "--programs", at / "programs", *map(str, arguments)],
            capture_output=True, text=True, env={**os.environ, "PATH": f"{at / 'bin'}:{os.environ['PATH']}", "PAPER_PERF": perf,
                                                 "PAPER_LOG": str(log), "PAPER_FAIL": fail})
        check(f"exit {code}: {command} {arguments} {done.stderr}", done.returncode == code)
        return [json.loads(line) for line in log.read_text().splitlines()], done

    def record(self, name):
        return json.loads((self.at / "records" / f"{name}.json").read_text())


def named(commands, name):
    return [command for command in commands if command[0] == name]


def value(command, flag):
    return command[command.index(flag) + 1]


def test_counted_commands(folder):
    commands, _ = folder.run("table1", "--minutes", "0.0000001", code=1)
    check("the time is over before it begins", commands == [])
    commands, _ = folder.run("table1")
    check("one count of each system", len(commands) == 3 and {c[0] for c in commands} == {"count_operations"})
    check("no data are needed", not (folder.at / "work/data").exists())
    commands, _ = folder.run("figure5")
    check("Table 1's sizes are not counted again", len(commands) == 6 and
          {(value(c, "--queries"), value(c, "--keys")) for c in commands} == {("256", "2048"), ("512", "4096"), ("1024", "8192")})
    check("decoding over all segments", all(value(c, "--generation_horizon") == value(c, "--queries")
                                            for c in commands if "--horizon" in c))
    check("nothing is left to do", folder.run("figure5")[0] == [])
    text = (folder.at / "page/tables.md").read_text()
    check("sections and picture", "## Table 1" in text and "## Figure 5" in text and (folder.at / "page/figure5.svg").exists())


def test_measured_commands(folder):
    few = ("table4", "--rounds", 2, "--measured_steps", 3, "--measured_pairs", 5, "--batch", 2, "--threads", 1, "--source", 128,
           "--target", 24, "--segment_size", 16, "--horizon", 12)
    commands, done = folder.run(*few, fail="transformer_xl", code=1)
    check("the reason in one line", done.stderr.count("\n") == 1 and "finetune ended with 3: error: stopped" in done.stderr)
    check("threads are printed", "table4: 1 thread, 2 rounds" in done.stdout)
    check("a count of each at the data's lengths", len(named(commands, "count_operations")) == 5 and all(
        (value(c, "--queries"), value(c, "--keys"), value(c, "--heads"), value(c, "--head_size")) == ("24", "128", "4", "32")
        for c in named(commands, "count_operations")))
    check("two systems once", len(named(commands, "summarize")) == 4)
    check("steps, and a program that only starts", [value(c, "--max_steps") for c in named(commands, "finetune")] ==
          ["1", "4"] * 2 + ["1"])
    check("all from the same weights", {value(c, "--model_name_or_path") for c in named(commands, "finetune")} ==
          {str(folder.at / "start")})
    pairs = [pathlib.Path(value(c, "--input_file")).read_text().count("\n") for c in named(commands, "summarize")]
    check("pairs, and a program that only starts", pairs == [2, 7, 2, 7])
    check("summaries of one length", all(value(c, "--min_new_tokens") == value(c, "--max_new_tokens") == "24"
                                         for c in named(commands, "summarize")))
    check("threads are fixed", all(value(c, "--threads") == "1" for c in commands if c[0] in ("finetune", "summarize")))
    check("what is there is on the page", "## Table 4" in (folder.at / "page/tables.md").read_text())
    commands, done = folder.run(*few)
    check("it goes on in the first round", [value(c, "--cross_attention") if "--cross_attention" in c else "full"
                                            for c in named(commands, "finetune")][::2] ==
          ["transformer_xl", "global_tokens", "segmented", "full", "segmented_recurrent", "transformer_xl", "global_tokens",
           "segmented"])
    kept = folder.record("files-start-full-L16-usage")
    check("a record", len(kept["rounds"]) == 2 and kept["threads"] == 1 and kept["rounds"][0]["training"]["peak_bytes"] > 0 and
          kept["rounds"][0]["decoding"]["missed_bytes"] is None)
    # 4 bytes, 2 layers, and for training batches of 2.
    check("bytes that are counted", kept["counted_bytes"] == {"training": 4 * 2 * 2 * (5 + 7), "decoding": 4 * 2 * 9})
    check("nothing is left to do", folder.run(*few)[0] == [])
    check("more rounds go on", len(named(folder.run(*few, "--rounds", 3, "--systems", "full", "srformer")[0], "finetune")) == 2 * 2)
    for flag, other, key in (("--threads", 2, "threads 1, now 2"), ("--measured_steps", 4, "steps 3, now 4"),
                             ("--measured_pairs", 4, "pairs 5, now 4"), ("--source", 64, "source 128, now 64")):
        commands, done = folder.run(*few, flag, other, code=1)
        check(f"records of other settings: {done.stderr}", f"was made with {key}" in done.stderr and commands == [])
    path = folder.at / "records/files-start-srformer-L16-usage.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "machine": "another"}))
    check("finished on another machine", folder.run(*few)[0] == [])
    text = (folder.at / "page/tables.md").read_text()
    check("machines are not compared", text.count("## Table 4") == 2 and "another; 1 thread; 3 rounds" in text)
    check("records of another machine", "made with machine another, now" in folder.run(*few, "--rounds", 4, code=1)[1].stderr)
    commands, _ = folder.run(*few, "--segment_size", 8, "--systems", "full", "segmented", perf="counts")
    check("other segments beside", len(named(commands, "finetune")) == 2 * 2 * 2)
    check("a counter that can be read", folder.record("files-start-segmented-L8-usage")["rounds"][0]["training"]["missed_bytes"] == 0)
    _, done = folder.run(*few, "--segment_size", 4, "--measured_pairs", 11, code=1)
    check("too few pairs", "test.jsonl holds 12 pairs of the 13 that are measured" in done.stderr)


def test_all(folder):
    few = ("--seeds", 1, "--rates", "1e-3", "--systems", "full", "--rounds", 1, "--measured_steps", 1, "--measured_pairs", 1,
           "--batch", 2)
    commands, _ = folder.run("all", *few)
    check("all of them", len(named(commands, "count_operations")) == 5 and len(named(commands, "summarize")) == 2)
    text = (folder.at / "page/tables.md").read_text()
    check("runs and cost on one page", all(part in text for part in ("## files, start", "## Table 1", "## Table 4", "2 records")))
    check("nothing is left to do", folder.run("all", *few)[0] == [])


test_energy()
test_usage()
test_sizes()
test_counted_sections()
test_measured_section()
for test in (test_counted_commands, test_measured_commands, test_all):
    with tempfile.TemporaryDirectory() as at:
        test(Folder(pathlib.Path(at)))
print(f"{checks} checks")
