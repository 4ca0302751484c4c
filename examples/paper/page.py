# SPDX-License-Identifier: Apache-2.0
"""The page that records of runs make: Markdown, the same as HTML, and the figures as SVG."""
import html
import json
import pathlib

import bootstrap as own
from experiments import ABLATIONS, PAPER, SYSTEMS


def read_records(folder):
    """All records of runs, by their names; items are ROUGE-1 in percent."""
    records = {}
    for path in sorted(pathlib.Path(folder).glob("*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        if "kind" in record:
            continue  # of cost_page.py
        record["items"] = [value / 100 for value in record["rouge1_items"]]
        records[path.stem] = record
    return records


class Group:
    """The seeds of a system at the rate that was chosen for it."""

    def __init__(self, records):
        self.records = sorted(records, key=lambda record: record["seed"])
        first = self.records[0]
        self.data, self.model, self.system = first["data"], first["model"], first["system"]
        self.segment_size = first["segment_size"]
        # Items are means over seeds, as a reader would judge the system by.
        self.items = [own.mean(of_item) for of_item in zip(*(record["items"] for record in self.records))]

    @property
    def mean(self):
        return own.mean(self.items)

    def rouge(self, name):
        return own.mean([record[name] for record in self.records])

    def seeds(self):
        return ", ".join(f"{own.mean(record['items']):.2f}" for record in self.records)

    def half(self, items):
        return own.mean([self.items[i] for i in items])


def groups_of(records):
    """Groups by (data, model, system, segment size), each at the rate of the lowest validation loss of its first seed."""
    by_group = {}
    for record in records.values():
        if record["system"] == "first_words":
            continue
        key = (record["data"], record["model"], record["system"], record["segment_size"])
        by_group.setdefault(key, []).append(record)
    groups = {}
    for key, members in by_group.items():
        first_seed = min(record["seed"] for record in members)
        best = min((record for record in members if record["seed"] == first_seed),
                   key=lambda record: record["validation_loss"])
        groups[key] = Group([record for record in members if record["rate"] == best["rate"]])
    return groups


def signed(value):
    return f"{value:+.2f}"


def compared(first, second):
    """\"+1.20 (0.40 to 2.10), above\" of two lists of items."""
    value, low, high = own.difference(first, second)
    word = "above" if low > 0 else "below" if high < 0 else "no difference shown"
    return f"{signed(value)} ({signed(low)} to {signed(high)}), {word}"


def table(head, rows):
    return ["| " + " | ".join(head) + " |", "|" + "---|" * len(head),
            *("| " + " | ".join(row) + " |" for row in rows), ""]


def system_rows(groups, lead):
    """One row for each system, with full and segmented of the same data and model beside."""
    full = next((g for g in groups if g.system == "full"), None)
    segmented = next((g for g in groups if g.system == "segmented"), None)
    hard = own.lower_half(lead) if lead else None
    order = list(SYSTEMS)
    for group in sorted(groups, key=lambda g: order.index(g.system)):
        low, high = own.interval(group.items)
        paper = PAPER.get(group.system)
        row = [SYSTEMS[group.system][0], f"{group.mean:.2f} ({low:.2f} to {high:.2f})", group.seeds(),
               f"{group.rouge('rouge2'):.2f}", f"{group.rouge('rougeL'):.2f}",
               f"{group.mean / full.mean:.3f}" if full and full.mean > 0 else "-",
               f"{paper / PAPER['full']:.3f}" if paper else "-",
               f"{group.half(hard):.2f}" if hard else "-"]
        if segmented and group.system != "segmented":
            row.append(compared(group.items, segmented.items))
        else:
            row.append("-")
        if full and segmented and group.system not in ("full", "segmented") and full.mean != segmented.mean:
            row.append(f"{100 * (group.mean - segmented.mean) / (full.mean - segmented.mean):.0f} %")
        else:
            row.append("-")
        yield row


HEAD = ["system", "ROUGE-1 (95 %)", "seeds", "ROUGE-2", "ROUGE-L", "of full", "in the paper", "where the lead is no help",
        "beside segmented", "way to full"]


def figure4(groups, width=640, height=400):
    """ROUGE-1 over segment sizes as SVG; full attention is a line across."""
    lines = {}
    for group in groups:
        if group.system != "full" and group.system in SYSTEMS and group.system not in ABLATIONS:
            lines.setdefault(group.system, []).append((group.segment_size, group.mean))
    lines = {system: sorted(points) for system, points in lines.items() if len(points) > 1}
    if not lines:
        return None
    full = next((g.mean for g in groups if g.system == "full"), None)
    sizes = sorted({size for points in lines.values() for size, _ in points})
    values = [value for points in lines.values() for _, value in points] + ([full] if full is not None else [])
    low, high = min(values), max(values)
    margin = max(0.5, 0.1 * (high - low))
    low, high = low - margin, high + margin
    x = {size: 60 + i * (width - 260) / max(1, len(sizes) - 1) for i, size in enumerate(sizes)}

    def y(value):
        return height - 50 - (value - low) / (high - low) * (height - 80)

    colours = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"]
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
           'font-size="13" role="img"><title>ROUGE-1 over segment size</title>'
           f'<rect width="{width}" height="{height}" fill="#ffffff"/>']
    step = max(1, round((high - low) / 6))
    for value in range(int(low) + 1, int(high) + 1, step):
        out.append(f'<path d="M60 {y(value):.1f}H{width - 200}" stroke="#dddddd"/>'
                   f'<text x="52" y="{y(value) + 4:.1f}" text-anchor="end">{value}</text>')
    for size in sizes:
        out.append(f'<text x="{x[size]:.1f}" y="{height - 28}" text-anchor="middle">{size}</text>')
    out.append(f'<text x="{(width - 140) / 2}" y="{height - 8}" text-anchor="middle">keys in a segment</text>'
               f'<text x="14" y="20">ROUGE-1</text>')
    if full is not None:
        out.append(f'<path d="M60 {y(full):.1f}H{width - 200}" stroke="#333333" stroke-dasharray="5 4"/>'
                   f'<text x="{width - 192}" y="{y(full) + 4:.1f}">full attention</text>')
    for i, (system, points) in enumerate(lines.items()):
        colour = colours[i % len(colours)]
        path = "L".join(f"{x[size]:.1f} {y(value):.1f}" for size, value in points)
        out.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        out += [f'<circle cx="{x[size]:.1f}" cy="{y(value):.1f}" r="3" fill="{colour}"/>' for size, value in points]
        out.append(f'<text x="{width - 192}" y="{y(points[-1][1]) + 4:.1f}" fill="{colour}">'
                   f'{html.escape(SYSTEMS[system][0])}</text>')
    return "".join(out) + "</svg>\n"


def page_of(records, default_sizes, costs=((), {})):
    """The lines of the page in Markdown, and {file name: SVG} of its pictures.
      costs  the same of cost_page.sections"""
    lines, pictures = ["# The paper's tables, here", ""], {}
    groups = groups_of(records)
    settings = sorted({(data, model) for data, model, _, _ in groups})
    if not settings:
        nothing = () if costs[0] else ("No run has been recorded yet.", "")
        return [*lines, *costs[0], *nothing], dict(costs[1])
    lines += ["Made by `examples/paper.sh page` from the records of finished runs. An item is a pair of the test set, its score the mean over",
              "seeds; \"above\" and \"below\" mean that the paired interval of 95 % excludes 0. \"Where the lead is no help\": ROUGE-1 on the",
              "half of the pairs whose first words score lowest. \"Way to full\": share of the gap from segmented to full attention.", ""]
    for data, model in settings:
        of_setting = [g for (d, m, _, _), g in groups.items() if (d, m) == (data, model)]
        lead = next((r["items"] for r in records.values() if r["system"] == "first_words" and r["data"] == data), None)
        size = default_sizes.get(data) or min(g.segment_size for g in of_setting)
        at_size = [g for g in of_setting if g.segment_size == size or g.system == "full"]
        lines += [f"## {data}, {model}, segments of {size}", ""]
        lines += table(HEAD, system_rows(at_size, lead))
        if lead:
            low, high = own.interval(lead)
            lines += [f"The first words of the text: {own.mean(lead):.2f} ({low:.2f} to {high:.2f}).", ""]
        picture = figure4(of_setting)
        if picture:
            name = f"figure4-{data}-{model}.svg"
            pictures[name] = picture
            lines += [f"![ROUGE-1 over segment size]({name})", ""]
    lines += costs[0]
    pictures |= costs[1]
    seconds = sum(record.get("seconds", 0) for record in records.values())
    lines += [f"{len(records)} records, {seconds / 3600:.1f} hours of training and generation together.", ""]
    return lines, pictures


def as_html(lines, pictures):
    """The same page for a browser, one file."""
    out = ["<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>The paper's tables, here</title>"
           "<style>body{font-family:sans-serif;max-width:75em;margin:2em auto;padding:0 1em}table{border-collapse:collapse}"
           "td,th{border:1px solid #ccc;padding:.3em .6em;text-align:left}svg{max-width:40em}</style><body>"]
    in_table = False
    for line in lines:
        if in_table and not line.startswith("|"):
            out.append("</table>")
            in_table = False
        if line.startswith("!["):
            out.append(pictures[line[line.index("(") + 1:-1]])
        elif line.startswith("#"):
            level = len(line) - len(line.lstrip("#"))
            out.append(f"<h{level}>{html.escape(line.lstrip('# '))}</h{level}>")
        elif line.startswith("|---"):
            continue
        elif line.startswith("|"):
            cell = "td" if in_table else "th"
            if not in_table:
                out.append("<table>")
                in_table = True
            cells = "".join(f"<{cell}>{html.escape(text.strip())}</{cell}>" for text in line.strip("|").split("|"))
            out.append(f"<tr>{cells}</tr>")
        elif line:
            out.append(f"<p>{html.escape(line)}</p>")
    return "\n".join(out) + ("</table>" if in_table else "") + "</body></html>\n"
