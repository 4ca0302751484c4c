#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""examples/paper: intervals, what is kept out of pretraining, the page, and that a stopped command goes on.

    paper_test.py PATH_OF_examples/paper

Programs are stand-ins that write what the real ones write; their commands are looked at.
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
import bootstrap  # noqa: E402
import experiments  # noqa: E402
import main  # noqa: E402
import page  # noqa: E402

checks = 0


def check(what, holds):
    global checks
    checks += 1
    if not holds:
        sys.exit(f"FAILED: {what}")


def test_bootstrap():
    check("of one value", bootstrap.interval([3.0] * 7) == (3.0, 3.0))
    values = [float(i % 10) for i in range(400)]
    low, high = bootstrap.interval(values)
    # 1.96 standard errors of 2.87 / 20.
    check("about the normal interval", abs((high - low) / 2 - 1.96 * 2.872 / 20) < 0.03 and low < 4.5 < high)
    check("the same seed, the same interval", bootstrap.interval(values) == (low, high))
    # Large differences between items, a small one between systems: pairing tells them apart.
    first = [value + 0.1 for value in values]
    value, low, high = bootstrap.difference(first, values)
    check("pairs", abs(value - 0.1) < 1e-9 and low > 0.09 and high < 0.11)
    check("halves", bootstrap.lower_half([5, 1, 1, 9, 0]) == [1, 2, 4])
    check("spread", bootstrap.spread([3.0, 1.0, 2.0]) == 1.0)
    try:
        bootstrap.difference([1.0], [1.0, 2.0])
        check("lists of two lengths are no pairs", False)
    except ValueError:
        pass


def test_held_out():
    held_out = ["a summary of four words", "too common text", "one whole document that is longer than that"]
    texts = ["this holds a summary of four words inside", "a summary of four", "too common text",
             "ONE whole document that is longer than that", "one whole document that is longer than that"]
    kept, dropped = main.without_held_out(texts, held_out)
    check("texts that hold what is held out are dropped", kept == [texts[1], texts[2], texts[3]] and dropped == 2)
    check("spaces do not matter", main.without_held_out(["a\tsummary  of four words"], held_out) == ([], 1))


def test_runs():
    debian = experiments.DATA["debian"]
    runs = list(experiments.runs_of("figure4", debian, "t5", 2))
    names = [run.group for run in runs]
    check("full attention is run once for all segment sizes", names.count("debian-t5-full") == 2)
    check("others at each", names.count("debian-t5-segmented-L8") == 2 and len(runs) == 2 * (1 + 5 * 3))
    run = experiments.Run(debian, "t5", "srformer_gate", 16, 3, 1e-3)
    check("flags", run.flags() == ["--cross_attention", "segmented_recurrent", "--gate", "true", "--segment_size", "16",
                                   "--horizon", "12", "--generation_horizon", "12", "--recurrence_init_scale", "0.1"])
    run = experiments.Run(debian, "t5", "srformer_auto", 16, 3, 1e-3)
    check("a start that is measured", run.flags()[-2:] == ["--recurrence_init_scale", "auto"])
    check("how training starts is not asked of what counts", not any("--recurrence_init_scale" in
          experiments.flags_of(system, 16, 12) for system in experiments.SYSTEMS))
    run = experiments.Run(debian, "t5", "segmented_horizon4", 16, 3, 1e-3)
    check("four times the horizon", run.flags()[-4:] == ["--horizon", "48", "--generation_horizon", "48"] and
          run.group == "debian-t5-segmented_horizon4-L16")
    check("full attention has no segments", experiments.Run(debian, "t5", "full", 16, 3, 1e-3).flags() == [])


def record(system, size, seed, rate, loss, items, data="debian"):
    return {"data": data, "model": "t5", "system": system, "segment_size": size, "seed": seed, "rate": rate,
            "validation_loss": loss, "rouge2": 1.0, "rougeL": 2.0, "seconds": 3600.0, "items": items}


def test_page():
    wide = [float(i) for i in range(100)]
    records = {
        "a": record("full", 0, 1, 1e-3, 2.0, [v + 10 for v in wide]),
        "b": record("full", 0, 2, 1e-3, 2.0, [v + 12 for v in wide]),
        "c": record("full", 0, 1, 2e-3, 2.5, [v + 90 for v in wide]),  # not the rate that validation chooses
        "d": record("segmented", 16, 1, 1e-3, 3.0, wide),
        "e": record("srformer", 16, 1, 1e-3, 2.2, [v + 5.5 for v in wide]),
        "f": record("srformer", 8, 1, 1e-3, 2.2, [v + 5 for v in wide]),
        "g": record("segmented", 8, 1, 1e-3, 3.0, [v + 50 for v in wide]),
        "h": {"data": "debian", "system": "first_words", "items": list(reversed(wide))},
    }
    lines, pictures = page.page_of(records, {"debian": 16})
    text = "\n".join(lines)
    rows = {line.split(" | ")[0].strip("| "): line.split(" | ") for line in lines if line.startswith("| ")}
    check("the rate is validation's", rows["full attention"][1].startswith("60.50 (") and
          rows["full attention"][2] == "59.50, 61.50")
    srformer = rows["SRformer, as the paper's"]
    check("the table is of the data's segment size", srformer[1].startswith("55.00 ("))
    check("beside full", srformer[5] == f"{55 / 60.5:.3f}" and srformer[6] == f"{39.39 / 41.6:.3f}")
    check("the half where the lead scores low", srformer[7] == f"{74.5 + 5.5:.2f}")
    check("paired difference", srformer[8] == "+5.50 (+5.50 to +5.50), above")
    check("way to full", srformer[9].startswith("50 %"))
    check("below", page.compared(wide, [v + 1 for v in wide]).endswith("below"))
    check("no difference shown", page.compared([0.0, 1.0] * 20, [1.0, 0.0] * 20).endswith("no difference shown"))
    check("the baseline", "The first words of the text: 49.50" in text)
    check("time", "8 records, 7.0 hours" in text)
    svg = pictures["figure4-debian-t5.svg"]
    drawn = xml.dom.minidom.parseString(svg)
    check("a line for each system", len([p for p in drawn.getElementsByTagName("path") if p.getAttribute("fill")]) == 2)
    whole = page.as_html(lines, pictures)
    check("one file", whole.count("<table>") == whole.count("</table>") == 1 and "<svg" in whole and "http://www.w3" in whole)
    nothing = page.page_of({"a": record("full", 0, 1, 1e-3, 9.0, [0.0] * 4)}, {})[0]
    check("a model that scores 0", any(line.startswith("| full attention | 0.00 (0.00 to 0.00)") for line in nothing))
    check("nothing yet", "No run has been recorded yet." in page.page_of({}, {})[0])


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
    if "--test_file" in arguments and os.environ.get("PAPER_FAIL") == value("--cross_attention", "full"):
        (out / "checkpoint-3").mkdir(parents=True, exist_ok=True)
        (out / "checkpoint-3/trainer_state.json").write_text("{}")
        print("error: stopped on purpose")
        sys.exit(3)
    out.mkdir(parents=True, exist_ok=True)
    (out / "model.safetensors").write_text("weights of " + str(out))
    rate = float(value("--learning_rate"))
    (out / "all_results.json").write_text(json.dumps({"eval_loss": abs(rate - 1e-3) + 1}))
    (out / "metrics.jsonl").write_text('{"step": 5, "loss": 2.5}\n{"step": 5, "eval_loss": 1}\n')
    if "--test_file" in arguments:
        n = len(lines(value("--test_file")))
        (out / "generated_predictions.txt").write_text("words\n" * n)
elif name == "init_model":
    out = pathlib.Path(value("--output_dir"))
    out.mkdir(parents=True, exist_ok=True)
    (out / "config.json").write_text("{}")
elif name == "first_words":
    pathlib.Path(value("--output_file")).write_text("a\n" * len(lines(value("--test_file"))))
elif name == "evaluate":
    n = len(lines(value("--references")))
    assert n == len(lines(value("--predictions")))
    row = json.dumps({"rouge1": 0.25, "rouge2": 0.125, "rougeL": 0.2, "rougeLsum": 0.2})
    pathlib.Path(value("--scores_file")).write_text((row + "\n") * n)
'''


def test_commands():
    with tempfile.TemporaryDirectory() as folder:
        at = pathlib.Path(folder)
        (at / "programs").mkdir()
        for name in ("finetune", "init_model", "first_words", "evaluate"):
            (at / "programs" / name).write_text(STAND_IN)
            (at / "programs" / name).chmod(0o755)
        (at / "files").mkdir()
        for split, rows in (("train", 9), ("validation", 3), ("test", 5)):
            (at / "files" / f"{split}.jsonl").write_text("".join(
                json.dumps({"text": f"the {split} text number {i} of some", "summary": f"the sum of {split} {i}"}) + "\n"
                for i in range(rows)))
        log = at / "log.txt"
        log.write_text("")

        def run(*arguments, fail="", code=0):
            log.write_text("")
            done = subprocess.run([sys.executable, PAPER / "main.py", arguments[0], "--data", at / "files", "--work", at / "work",
                                   "--records", at / "records", "--page", at / "page", "--programs", at / "programs",
                                   *arguments[1:]],
                                  capture_output=True, text=True, env={**os.environ, "PAPER_LOG": str(log), "PAPER_FAIL": fail})
            check(f"exit {code}: {arguments} {done.stderr}", done.returncode == code)
            return [json.loads(line) for line in log.read_text().splitlines()], done

        def tunings(commands):
            return [c for c in commands if c[0] == "finetune" and "--test_file" in c]

        few = ("table2", "--seeds", "2", "--systems", "full", "segmented", "--rates", "1e-3", "2e-3")
        commands, done = run(*few, fail="segmented", code=1)
        check("the reason in one line", done.stderr.count("\n") == 1 and "stopped on purpose" in done.stderr)
        check("pretrained once", sum("--objective" in c for c in commands) == 1)
        check("two rates of one system, then the other", len(tunings(commands)) == 3)
        check("the page is there all the same", "full attention" in (at / "page/tables.md").read_text())
        commands, _ = run(*few)
        check("what is done is not done again", len(tunings(commands)) == 2 + 2 and
              not any("--objective" in c for c in commands))
        check("what was begun goes on", "--resume_from_checkpoint" in tunings(commands)[0])
        check("the second seed has the chosen rate", [c[c.index("--learning_rate") + 1] for c in tunings(commands)
                                                      if c[c.index("--seed") + 1] == "2"] == ["0.001", "0.001"])
        check("all from the same weights", len({c[c.index("--model_name_or_path") + 1] for c in tunings(commands)}) == 1)
        records = sorted(path.stem for path in (at / "records").glob("*.json"))
        check("a record of each", records == sorted(
            ["files-first_words", *(f"files-t5-{s}-rate{r}-seed1" for s in ("full", "segmented-L64") for r in ("0.001", "0.002")),
             "files-t5-full-rate0.001-seed2", "files-t5-segmented-L64-rate0.001-seed2"]))
        kept = json.loads((at / "records/files-t5-full-rate0.001-seed2.json").read_text())
        check("of its scores", kept["rouge1"] == 25.0 and kept["rouge1_items"] == [2500] * 5 and kept["losses"] == [[5, 2.5]])
        commands, _ = run(*few)
        check("nothing is left to do", commands == [])
        another = (*few, "--from", str(at / "work/pretrained-files-t5"), "--systems", "full")
        commands, _ = run(*another)
        check("from another checkpoint it is another model", len(tunings(commands)) == 3 and
              (at / "records/files-pretrained-files-t5-full-rate0.001-seed1.json").exists())
        _, done = run(*another, "--test_samples", "2", code=1)
        check("records of other pairs", "files-first_words.json: was made with pairs 5, now 2" in done.stderr)
        commands, _ = run(*another, "--test_samples", "2", "--records", str(at / "part"))
        check("the first pairs alone are scored", len(json.loads(
            (at / "part/files-pretrained-files-t5-full-rate0.001-seed1.json").read_text())["rouge1_items"]) == 2)
        weights = at / "work/pretrained-files-t5/model.safetensors"
        trained = weights.read_bytes()
        weights.write_bytes(trained + b"of another machine")
        _, done = run(*few, code=1)
        check("records that started from other weights", "was made with weights " in done.stderr)
        weights.write_bytes(trained)
        _, done = run(*few, "--steps", "7", code=1)
        check("records of other settings", "was made with steps 1000, now 7" in done.stderr)
        commands, _ = run("figure4", "--seeds", "2", "--systems", "segmented", "--jobs", "3", "--threads", "1")
        check("several at a time, the rate of one segment size for all", len(tunings(commands)) == 1 + 4 and
              all(c[c.index("--threads") + 1] == "1" for c in tunings(commands)))
        commands, done = run("figure4", "--seeds", "4", "--jobs", "2", fail="global_tokens", code=1)
        check("the first error ends several", "stopped on purpose" in done.stderr and len(tunings(commands)) < 2 + 3 * 4)
        commands, done = run("table3", "--seeds", "1", "--minutes", "0.0000001", code=1)
        check("the time is over", "the same command goes on with files-t5-no_local-L64-rate0.001-seed1" in done.stderr)
        _, done = run("table2", "--programs", str(at / "nowhere"), "--model", "bart", code=1)
        check("programs that are not built", "build the target example_" in done.stderr)


test_bootstrap()
test_held_out()
test_runs()
test_page()
test_commands()
print(f"{checks} checks")
