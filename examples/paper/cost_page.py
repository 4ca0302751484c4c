# SPDX-License-Identifier: Apache-2.0
"""The sections of the page on cost: Table 1, Table 4 and Figure 5, beside the paper's numbers."""
import html
import json
import pathlib
import statistics

from cost import COMMANDS, FIGURE5, TABLE1
from experiments import SYSTEMS
from page import table

# Table 4: memory, time spent accessing memory and power of a GPU, in percent.
PAPER = {"full": (49, 91, 99), "transformer_xl": (82, 70, 89), "global_tokens": (73, 80, 90), "srformer": (60, 60, 80)}
MIB = 1 << 20


def read_records(folder):
    """All records of cost."""
    records = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(pathlib.Path(folder).glob("*.json"))]
    return [record for record in records if "kind" in record]


def of_full(value, full):
    """\"0.594\", or a dash where one of them is missing or nothing was measured."""
    return f"{value / full:.3f}" if value is not None and full is not None and full > 0 else "-"


# ---- counted ----

def paper_counts(system, sizes):
    """The formulas of Table 1: operations, and numbers in memory."""
    m, n, d, length = sizes.queries, sizes.keys, sizes.head_size, sizes.segment_size
    return {"full": (m * n * d, n * d + m * n),
            "segmented": (m * length * d, n * d + m * length),
            "srformer": (m * length * d + n * d * d, n * d + m * length + n // length * d * d)}[system]


def counted(records, sizes):
    """{system: record} of the sizes."""
    return {record["system"]: record for record in records if record["kind"] == "operations" and
            all(record[name] == value for name, value in vars(sizes).items())}


def numbers_held(record):
    """Keys, values, and what the forward holds beside them."""
    return (2 * record["heads"] * record["keys"] * record["head_size"] + record["forward"]["scratch"] +
            record["forward"]["allocated"])


def table1(records, sizes):
    of_sizes = counted(records, sizes)
    full = of_sizes.get("full")
    paper_full = paper_counts("full", sizes)
    for system in COMMANDS["table1"]:
        if system not in of_sizes:
            continue
        record = of_sizes[system]
        operations, numbers = paper_counts(system, sizes)

        def share(part, name, record=record):
            return of_full(record[part][name], full and full[part][name])

        yield [SYSTEMS[system][0], f"{record['forward']['multiply_adds'] / 1000:,.0f}", share("forward", "multiply_adds"),
               f"{operations / 1000:,.0f}", of_full(operations, paper_full[0]), share("forward", "multiplications"),
               share("backward", "multiply_adds"), share("decoding", "multiply_adds"), f"{numbers_held(record) / 1000:,.0f}",
               of_full(numbers_held(record), full and numbers_held(full)), f"{numbers / 1000:,.0f}",
               of_full(numbers, paper_full[1])]


TABLE1_HEAD = ["system", "products", "of full", "in the paper", "of full", "all multiplications, of full", "backward, of full",
               "decoding, of full", "numbers held", "of full", "in the paper", "of full"]


def table1_section(records):
    rows = list(table1(records, TABLE1))
    if not rows:
        return []
    return ["## Table 1: operations and memory of cross-attention", "",
            f"Counted while the library runs (`count_operations`), in thousands: one source and head, {TABLE1.queries} queries, "
            f"{TABLE1.keys:,} keys, D and L {TABLE1.head_size}.",
            "Products are the multiply-adds of the matrix products of the forward, q K^T and the weights times V both; the paper counts one of "
            "the two, and neither the products of W in the recurrence nor q R. Numbers held are keys, values and what the forward holds beside "
            "them at a time; the paper counts keys or values once, all weights and all states.", "", *table(TABLE1_HEAD, rows)]


def savings(records):
    """(sizes, {part: share that SRformer saves of full attention}) where both are counted; that of the paper's formulas too."""
    for sizes in FIGURE5:
        of_sizes = counted(records, sizes)
        if not {"full", "srformer"} <= of_sizes.keys():
            continue
        both = [of_sizes[system] for system in ("full", "srformer")]
        saved = {part: 1 - both[1][part]["multiply_adds"] / both[0][part]["multiply_adds"] for part in ("forward", "backward")}
        yield sizes, saved | {"paper": 1 - paper_counts("srformer", sizes)[0] / paper_counts("full", sizes)[0]}, both


LINES = (("paper", "in the paper", "#333333"), ("forward", "forward, here", "#0072b2"), ("backward", "backward, here", "#d55e00"))


def figure5(points, width=640, height=400):
    """Share of the operations that SRformer saves, over the number of queries, as SVG."""
    right, bottom = width - 160, height - 50
    x = {sizes.queries: 60 + i * (right - 60) / max(1, len(points) - 1) for i, (sizes, _, _) in enumerate(points)}
    low = min(0.0, min(min(saved.values()) for _, saved, _ in points))

    def y(share):
        return bottom - (share - low) / (1 - low) * (bottom - 30)

    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
           'font-size="13" role="img"><title>Operations saved over the number of queries</title>'
           f'<rect width="{width}" height="{height}" fill="#ffffff"/>']
    for percent in range(0, 101, 20):
        out.append(f'<path d="M60 {y(percent / 100):.1f}H{right}" stroke="#dddddd"/>'
                   f'<text x="52" y="{y(percent / 100) + 4:.1f}" text-anchor="end">{percent}</text>')
    for queries, at in x.items():
        out.append(f'<text x="{at:.1f}" y="{height - 28}" text-anchor="middle">{queries}</text>')
    out.append(f'<text x="{(60 + right) / 2}" y="{height - 8}" text-anchor="middle">queries M, of 8 M keys</text>'
               '<text x="14" y="20">% of the operations saved</text>')
    ends = sorted((points[-1][1][part], part) for part, _, _ in LINES)
    label = {part: height for part, _, _ in LINES}
    for value, part in ends:  # from below, a line of text apart
        label[part] = min(y(value), min(label.values()) - 15)
    for part, words, colour in LINES:
        path = "L".join(f"{x[sizes.queries]:.1f} {y(saved[part]):.1f}" for sizes, saved, _ in points)
        out.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        out += [f'<circle cx="{x[sizes.queries]:.1f}" cy="{y(saved[part]):.1f}" r="3" fill="{colour}"/>'
                for sizes, saved, _ in points]
        out.append(f'<text x="{right + 8}" y="{label[part] + 4:.1f}" fill="{colour}">{html.escape(words)}</text>')
    return "".join(out) + "</svg>\n"


def figure5_section(records):
    points = list(savings(records))
    if not points:
        return [], {}
    rows = [[f"{sizes.queries:,}", f"{sizes.keys:,}", *(f"{record['forward']['multiply_adds'] / 1e6:,.1f}" for record in both),
             *(f"{100 * saved[part]:.1f} %" for part in ("forward", "backward", "paper"))] for sizes, saved, both in points]
    lines = ["## Figure 5: what SRformer saves of the operations of cross-attention", "",
             "Multiply-adds of the matrix products as in Table 1, in millions, at eight times as many keys as queries, D and L 64. The paper's "
             "are those of its formulas, M N D against M L D + N D^2: 93 % at 1,024 queries.", "",
             *table(["queries", "keys", "full", "SRformer", "saved, forward", "saved, backward", "in the paper"], rows),
             "![Operations saved over the number of queries](figure5.svg)", ""]
    return lines, {"figure5.svg": figure5(points)}


# ---- measured ----

def values_of(record, part, name):
    """Of all rounds; None where a round has none."""
    values = [one[part][name] for one in record["rounds"]]
    return None if not values or None in values else values


def ratio(record, full, part, name):
    """The median of the rounds' ratios to full attention."""
    values, of = values_of(record, part, name), full and values_of(full, part, name)
    if not values or not of or min(of) <= 0:
        return "-"
    return f"{statistics.median(a / b for a, b in zip(values, of)):.3f}"


def with_range(values, factor, digits):
    middle, low, high = (factor * value for value in (statistics.median(values), min(values), max(values)))
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def usage_rows(records, part, moved_by_counter, with_energy):
    full = records.get("full")
    for system in COMMANDS["table4"]:
        if system not in records or not records[system]["rounds"]:
            continue
        record = records[system]
        paper = [of_full(of, whole) for of, whole in zip(PAPER[system], PAPER["full"])] if system in PAPER else ["-"] * 3
        if moved_by_counter:
            moved = [f"{statistics.median(values_of(record, part, 'missed_bytes')) / MIB:.2f}",
                     ratio(record, full, part, "missed_bytes")]
        else:
            moved = [f"{record['counted_bytes'][part] / MIB:.2f}",
                     of_full(record["counted_bytes"][part], full and full["counted_bytes"][part])]
        energy = []
        if with_energy:
            energy = [f"{statistics.median(values_of(record, part, 'joules')):.4f}", ratio(record, full, part, "joules"), paper[2]]
        yield [SYSTEMS[system][0], with_range(values_of(record, part, "peak_bytes"), 1 / MIB, 0),
               ratio(record, full, part, "peak_bytes"), paper[0], *moved, paper[1],
               with_range(values_of(record, part, "seconds"), 1000, 2), ratio(record, full, part, "seconds"),
               with_range(values_of(record, part, "processor_seconds"), 1000, 2), ratio(record, full, part, "processor_seconds"),
               *energy]


def usage_head(with_energy):
    return ["system", "peak memory, MiB", "of full", "in the paper", "moved, MiB", "of full", "time in memory, in the paper",
            "time, ms", "of full", "processors' time, ms", "of full",
            *(["energy, J", "of full", "power, in the paper"] if with_energy else [])]


def usage_section(data, model, records):
    measured = [record for record in records.values() if record["rounds"]]
    if not measured:
        return []

    def everywhere(name):
        return all(values_of(record, part, name) for record in measured for part in ("training", "decoding"))

    moved, energy = everywhere("missed_bytes"), everywhere("joules")
    one = measured[0]
    rounds = sorted({len(record["rounds"]) for record in measured})
    lines = [f"## Table 4: memory, time and energy, {data}, {model}, segments of {one['segment_size']}", "",
             f"{one['machine']}; {one['threads']} thread{'s' * (one['threads'] > 1)}; {' or '.join(map(str, rounds))} rounds of all systems in turn, medians, the lowest and "
             f"the highest. A step of training has {one['batch']} pairs of up to {one['source']:,} and {one['target']} tokens; every decoded "
             f"summary has {one['target']} tokens, greedily. Time, energy and what the processor moves are those of {one['steps']} steps and "
             f"of {one['pairs']} pairs, without the programs' start; peak memory is the whole program's. Ratios are medians of the rounds' ratios. "
             "The paper's are of BART on a GPU.",
             "Moved: cache misses of the whole program times the bytes of a line, as perf counts them." if moved else
             "Moved: what the products of the decoder's cross-attention read and write, as the library counts it at full lengths, since perf's "
             "counter of cache misses could not be read. It is not memory traffic, and the rest of the model is not in it.",
             "Energy: of the processor packages as the kernel counts it (/sys/class/powercap), with whatever else they do." if energy else
             "Energy is left out: no counter of the processor packages could be read (/sys/class/powercap).", ""]
    for part, of in (("training", "A step of training"), ("decoding", "A decoded pair")):
        lines += [f"### {of}", "", *table(usage_head(energy), usage_rows(records, part, moved, energy))]
    return lines


def sections(records):
    """The lines in Markdown, and {file name: SVG} of the pictures; nothing where nothing is recorded."""
    lines = table1_section(records)
    by_setting = {}
    for record in records:
        if record["kind"] == "usage":
            key = (record["data"], record["model"], record["segment_size"], record["machine"], record["threads"])
            by_setting.setdefault(key, {})[record["system"]] = record
    for (data, model, *_), of_setting in sorted(by_setting.items()):
        lines += usage_section(data, model, of_setting)
    more, pictures = figure5_section(records)
    return lines + more, pictures
