#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Draws what each query sees in every cross-attention: keys across, queries down.

    python3 docs/images/make_what_a_query_sees.py docs/images/what_a_query_sees.svg
"""
import sys

QUERIES, KEYS, SIZE, HORIZON = 8, 16, 4, 8
SEGMENTS = -(-KEYS // SIZE)
CELL, GAP, LEFT, TOP = 14, 34, 44, 50
WIDTH, HEIGHT = KEYS * CELL, QUERIES * CELL

# What a cell stands for: colour and the words of the legend.
KINDS = {
    "softmax": ("#24578a", "the key itself, by softmax"),
    "product": ("#e39a2d", "in the key-value product of its segment, through the recurrence"),
    "memory": ("#3f9464", "as an output of the RNNs, by softmax"),
    "state": ("#bfe0ca", "through the state of the RNNs alone"),
    "mean": ("#9b7cc4", "in the mean of its segment, by softmax"),
    "sum": ("#8a8f94", "in sums over all keys, without softmax"),
}


def segment(i):
    return min(SEGMENTS - 1, i * SEGMENTS // HORIZON)


def full(i, t):
    return "softmax", None


def segmented(i, t):
    return ("softmax", None) if t // SIZE == segment(i) else (None, None)


def segmented_recurrent(i, t):
    # Z_j leaves segment j out, but the membrane still holds the Z of the steps before.
    own = t // SIZE == segment(i)
    return ("softmax", "product" if segment(i) > 0 else None) if own else ("product", None)


def transformer_xl(i, t):
    j, s = segment(i), t // SIZE
    if s == j:
        return "softmax", "memory" if j == 0 else None  # segment 0 precedes itself
    return ("memory" if s == j - 1 else "state" if s < j else None), None


def global_tokens(i, t):
    return ("softmax", "mean") if t // SIZE == segment(i) else ("mean", None)


def linear(i, t):
    return "sum", None


PANELS = [full, segmented, segmented_recurrent, transformer_xl, global_tokens, linear]


def rectangle(x, y, width, height, fill):
    return f'<rect x="{x}" y="{y}" width="{width}" height="{height}" fill="{fill}"/>'


def text(x, y, words, extra=""):
    return f'<text x="{x}" y="{y}"{extra}>{words}</text>'


def panel(sees, x, y):
    name = sees.__name__
    lines = [text(x, y - 8, name, ' font-weight="bold"'), f'<g id="{name}">']
    for i in range(QUERIES):
        for t in range(KEYS):
            whole, corner = sees(i, t)
            left, top = x + t * CELL, y + i * CELL
            fill = KINDS[whole][0] if whole else "#f1f1f1"
            lines.append(rectangle(left + 0.5, top + 0.5, CELL - 1, CELL - 1, fill))
            if corner:
                lines.append(rectangle(left + 5, top + 5, CELL - 10, CELL - 10, KINDS[corner][0]))
    lines.append("</g>")
    for s in range(SEGMENTS + 1):
        at = x + s * SIZE * CELL
        lines.append(f'<line x1="{at}" y1="{y - 3}" x2="{at}" y2="{y + HEIGHT + 3}" stroke="#555"/>')
    return lines


def picture():
    columns, rows = 3, 2
    step_x, step_y = WIDTH + GAP, HEIGHT + GAP + 18
    width = LEFT + columns * step_x
    legend = TOP + rows * step_y
    height = legend + 3 * 22 + 14
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="12" fill="#222">',
        "<title>What each query sees in every cross-attention</title>",
        rectangle(0, 0, width, height, "#ffffff"),
        text(LEFT, 18, f"{KEYS} keys across in {SEGMENTS} segments of {SIZE}, {QUERIES} queries down, horizon {HORIZON}"),
    ]
    for p, sees in enumerate(PANELS):
        x, y = LEFT + p % columns * step_x, TOP + p // columns * step_y
        lines += panel(sees, x, y)
        if p % columns == 0:
            lines.append(text(x - 8, y + 11, "i = 0", ' text-anchor="end"'))
            lines.append(text(x - 8, y + HEIGHT - 3, str(QUERIES - 1), ' text-anchor="end"'))
    for p, (fill, words) in enumerate(KINDS.values()):
        x, y = LEFT + p // 3 * (width - LEFT) * 0.55, legend + p % 3 * 22
        lines += [rectangle(x, y, CELL, CELL, fill), text(x + CELL + 8, y + 11, words)]
    return "\n".join([*lines, "</svg>", ""])


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    with open(sys.argv[1], "w", encoding="utf8", newline="\n") as out:
        out.write(picture())
