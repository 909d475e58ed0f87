"""What `verify` found as one page of HTML: tables and plots in SVG, no script, nothing fetched from anywhere."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape as html_escape
from pathlib import Path

from modelkit import __version__
from modelkit.operations.verify import Request, Verification
from modelkit.report.text import escape
from modelkit.report.verification import CONTEXT, verification_lines
from modelkit.sources import explained

WIDTH, HEIGHT, LEFT, BOTTOM = 860, 220, 64, 26
POINTS = 800  # of a curve at most; each stands for the largest value of its share
MOST = 20  # tensors and disagreements in tables

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 900px; margin: 2em auto; padding: 0 1em; color: #222; }
h1 { font-size: 1.4em; } h2 { font-size: 1.1em; margin-top: 2em; }
pre { background: #f5f5f2; padding: 1em; overflow-x: auto; font-size: 13px; }
table { border-collapse: collapse; font-size: 14px; } td, th { padding: .2em 1em .2em 0; text-align: left; }
th { border-bottom: 1px solid #999; } td.number { font-variant-numeric: tabular-nums; }
svg { width: 100%; height: auto; } .curve { fill: none; stroke: #1f6f8b; stroke-width: 1.5; }
.second { stroke: #c8553d; } .axis { stroke: #bbb; } text { font-size: 11px; fill: #555; }
.answer { display: inline-block; padding: .1em .7em; border-radius: 4px; color: #fff; }
.passed { background: #2e7d4f; } .failed { background: #b3261e; } .inconclusive { background: #9a6b00; }
@media (prefers-color-scheme: dark) {
  body { background: #17191b; color: #ddd; } pre { background: #222528; } text { fill: #aaa; } .axis { stroke: #444; }
  .curve { stroke: #6cc3dd; } .second { stroke: #f0907c; }
}
"""


def write(path: str, found: Verification, request: Request) -> None:
    """Write the page under `path`, whole or not at all. Raises CannotAccess."""
    part = Path(path + ".part")
    with explained(path):
        part.write_text(page(found, request), encoding="utf-8")
        part.replace(path)


def page(found: Verification, request: Request) -> str:
    """The whole document."""
    title = f"{request.original} and {request.converted}"
    body = [f"<h1>{words(title)}</h1>", answer(found)]
    body.append(f"<pre>{words_of_lines(verification_lines(found, request))}</pre>")
    own = [one.local for one in found.layers if one.local is not None]
    body += [
        "<h2>Relative error of the hidden state after each layer</h2>",
        plot([[one.relative for one in found.layers], own], "layer"),
        *(["<p>Blue: accumulated. Red: the layer's own, fed with the original's input.</p>"] if own else []),
        "<h2>1 - cosine of the worst token after each layer</h2>",
        plot([[1 - one.worst_cosine for one in found.layers]], "layer"),
        "<h2>KL divergence at each position, nats</h2>",
        plot([thinned([float(value) for value in found.distributions.kl])], "position"),
    ]
    if found.weights:
        head = ("tensor", "relative error", "worst run", "typical run", "row", "column")
        rows = [
            (e.tensor, f"{e.relative:.3e}", f"{e.worst:.3e}", f"{e.typical:.3e}", f"{e.row:,}", f"{e.column:,}")
            for e in found.weights[:MOST]
        ]
        body += ["<h2>Tensors that differ most</h2>", table(head, rows)]
    places = found.disagreements(MOST)
    if places:
        lines = []
        for one in places:
            pieces = [found.sample.piece([number]) or f"#{number}" for number in (one.original, one.converted)]
            before = found.sample.around(one.position, CONTEXT)[0]
            lines.append((f"{one.position:,}", before, *map(repr, pieces), f"{one.kl:.2e}"))
        body += ["<h2>Different predictions</h2>", table(("position", "after", "original", "converted", "KL"), lines)]
    body.append(f"<p>modelkit {__version__}</p>")
    head_part = f"<meta charset='utf-8'><title>verify: {words(title)}</title><style>{STYLE}</style>"
    return f"<!doctype html>\n<html lang='en'><head>{head_part}</head><body>\n" + "\n".join(body) + "\n</body></html>\n"


def answer(found: Verification) -> str:
    """The gate's answer as a coloured word."""
    if found.judgement is None:
        return ""
    judged = found.judgement
    return f"<p>gate {words(judged.gate.name)}: <span class='answer {judged.answer}'>{judged.answer}</span></p>"


def words(text: object) -> str:
    """Text that came from anywhere: control codes made visible, then escaped for HTML."""
    return html_escape(escape(text))


def words_of_lines(lines: Iterable[str]) -> str:
    """Lines, each made safe."""
    return "\n".join(words(line) for line in lines)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """An HTML table; every cell is made safe."""
    lines = ["<table><tr>" + "".join(f"<th>{words(cell)}</th>" for cell in head) + "</tr>"]
    lines += ["<tr>" + "".join(f"<td class='number'>{words(cell)}</td>" for cell in row) + "</tr>" for row in rows]
    return "\n".join([*lines, "</table>"])


def thinned(values: Sequence[float]) -> list[float]:
    """At most POINTS values: the largest of each share, so that no peak is lost."""
    share = max(1, -(-len(values) // POINTS))
    return [max(values[first : first + share]) for first in range(0, len(values), share)]


def plot(curves: Sequence[Sequence[float]], title: str) -> str:
    """Curves over their index, on a logarithmic axis of powers of ten; what is 0 lies on the floor."""
    known = [value for curve in curves for value in curve if 0 < value < math.inf]
    if not known:
        return "<p>0 everywhere.</p>"
    low, high = math.floor(math.log10(min(known))), math.ceil(math.log10(max(known)))
    high = max(high, low + 1)
    parts = [f"<svg viewBox='0 0 {WIDTH} {HEIGHT}' role='img'>"]
    for power in range(low, high + 1, max(1, (high - low) // 6)):
        y = height(10.0**power, low, high)
        parts.append(f"<line class='axis' x1='{LEFT}' x2='{WIDTH}' y1='{y:.1f}' y2='{y:.1f}'/>")
        parts.append(f"<text x='4' y='{y + 4:.1f}'>1e{power:+03d}</text>")
    for number, curve in enumerate(curves):
        step = (WIDTH - LEFT) / max(len(curve) - 1, 1)
        line = " ".join(f"{LEFT + step * at:.1f},{height(value, low, high):.1f}" for at, value in enumerate(curve))
        if curve:
            parts.append(f"<polyline class='curve{' second' if number else ''}' points='{line}'/>")
    parts.append(f"<text x='{LEFT}' y='{HEIGHT - 6}'>{words(title)} 0</text>")
    return "".join([*parts, "</svg>"])


def height(value: float, low: int, high: int) -> float:
    """Where a value stands in the picture."""
    level = low if value <= 0 else min(max(math.log10(min(value, 1e300)), low), high)
    return 8 + (HEIGHT - BOTTOM - 8) * (high - level) / (high - low)
