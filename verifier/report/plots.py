"""The plots of a report, drawn by matplotlib (extra `plots`) without a display.

Each is drawn once and comes out as SVG to stand inside the page, and as SVG and PNG files. Inside the page, lines and
letters take the page's own colour (`currentColor`), so that they show on a dark ground as on a light one, and every
identifier carries the plot's name, since identifiers of one page share one space.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from verifier.report.figures import Judged
from verifier.report.records import DECIDED, Record

INK = "#010203"  # stands for the page's colour
SERIES = ("#1b84c6", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a6fd1", "#7f8c2d", "#a0522d", "#2f4f6f")
MARKS = "osD^vPX*"
VERDICT = {"sat": "#d55e00", "unsat": "#1b84c6"}
WRONG, NEITHER = "#e01030", "#8c8c8c"
STAGES = 7  # drawn by themselves
LEAST = 0.01  # seconds: what is quicker is drawn there
STYLE = {
    "font.size": 9,
    "font.family": "sans-serif",
    "svg.fonttype": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.alpha": 0.2,
    "legend.framealpha": 0.0,
    "savefig.bbox": "tight",
    **{key: INK for key in ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")},
}


@dataclass(frozen=True)
class Plot:
    """A drawn plot: `svg` stands in a page, `files` are the contents of files by ending."""

    name: str
    title: str
    caption: str
    svg: str
    files: dict[str, bytes]


def available() -> bool:
    from importlib.util import find_spec

    return find_spec("matplotlib") is not None


def figure(width: float, height: float) -> Any:
    """A figure of matplotlib's object interface: no window, no state of the whole process."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(made)
    return made


def style() -> Any:
    import matplotlib

    return matplotlib.rc_context(STYLE)


def finished(name: str, title: str, caption: str, fig: Any) -> Plot:
    png, svg = io.BytesIO(), io.StringIO()
    fig.savefig(svg, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Format": None})
    fig.savefig(png, format="png", dpi=150, facecolor="white")
    text = svg.getvalue()
    return Plot(name, title, caption, inline(text, name, title), {"svg": text.encode(), "png": png.getvalue()})


def inline(svg: str, name: str, title: str) -> str:
    """The SVG element of a file, fit to stand in a page beside others. `title` names it to those who cannot see it."""
    text = svg[svg.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.S)
    text = text.replace(INK, "currentColor")
    text = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r'((?:xlink:)?href="|url\()#', rf"\g<1>#{name}-", text)
    opening, rest = text.split(">", 1)
    opening = re.sub(r' (width|height)="[^"]*"', "", opening)
    return f'{opening} role="img" aria-label="{_attribute(title)}">{rest}'


def _attribute(text: str) -> str:
    from html import escape

    return escape(text, quote=True)


def plain(text: str) -> str:
    """The text as letters to matplotlib, which reads formulas between dollar signs."""
    return text.replace("$", r"\$")


def cactus(curves: Sequence[tuple[str, list[float]]], instances: int) -> Plot:
    """`curves`: (name, ascending seconds of what is solved)."""
    with style():
        fig = figure(4.7, 3.4)
        axes = fig.add_subplot()
        for k, (name, times) in enumerate(curves):
            shown = [max(t, LEAST) for t in times]
            colour = SERIES[k % len(SERIES)]
            label = plain(f"{name} ({len(times)})")
            many = {"marker": MARKS[k % len(MARKS)], "markersize": 3} if len(shown) <= 200 else {}
            axes.plot(range(1, len(shown) + 1), shown, color=colour, label=label, linewidth=1.4, **many)
        axes.set_yscale("log")
        axes.set_xlim(0, instances + 0.5)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_xlabel("instances solved")
        axes.set_ylabel("seconds for each")
        axes.legend(loc="upper left")
        caption = f"The n-th quickest answer of each source, of {instances} instances. Right and low is better."
        return finished("cactus", "Solved over time", caption, fig)


def scatter(name: str, mine: str, other: str, pairs: Sequence[tuple[Judged, Record]]) -> Plot:
    """One point an instance: seconds of this run against the other source's; what is not solved lies on the edge."""
    top = max([r.timeout for j, b in pairs for r in (j.record, b) if math.isfinite(r.timeout)], default=0.0)
    top = max([top, LEAST * 100] + [r.seconds for j, b in pairs for r in (j.record, b) if r.verdict in DECIDED])
    edge = top * 1.6
    groups: dict[str, list[tuple[float, float]]] = {"sat": [], "unsat": [], "neither": [], "contradicting": []}
    for j, b in pairs:
        point = tuple(max(LEAST, r.seconds) if ok else edge for r, ok in ((j.record, j.solved), (b, b.decided)))
        answers = {r.verdict for r in (j.record, b) if r.verdict in DECIDED}
        kind = "contradicting" if len(answers) == 2 else min(answers, default="neither")
        groups[kind].append(point)
    colours = {**VERDICT, "neither": NEITHER, "contradicting": WRONG}
    with style():
        fig = figure(4.7, 4.2)
        axes = fig.add_subplot()
        axes.plot([LEAST, edge], [LEAST, edge], color=INK, alpha=0.4, linewidth=0.8)
        for place in (axes.axvline, axes.axhline):
            place(top * 1.25, color=INK, alpha=0.4, linewidth=0.8, linestyle=":")
        for mark, (kind, points) in zip("osx*", groups.items()):
            if points:
                x, y = zip(*points)
                size = 60 if mark == "*" else 16
                axes.scatter(x, y, s=size, marker=mark, color=colours[kind], alpha=0.75, label=f"{kind} ({len(x)})")
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel(plain(f"{mine}: seconds"))
        axes.set_ylabel(plain(f"{other}: seconds"))
        axes.set_aspect("equal")
        axes.legend(loc="best")
        caption = (
            f"{len(pairs)} instances that both have. Above the diagonal {mine} was quicker; beyond the dotted lines "
            "lies what was not solved."
        )
        return finished(name, f"{mine} against {other}", caption, fig)


def stages(order: Sequence[str], table: dict[str, dict[str, float]]) -> Plot:
    """Seconds by stage, one bar a suite, as shares of the suite's time."""
    suites = sorted(table, reverse=True)
    with style():
        fig = figure(4.7, 1.3 + 0.32 * len(suites))
        axes = fig.add_subplot()
        start = [0.0] * len(suites)
        shown = [stage for stage in order if stage != "other"][:STAGES]
        for colour, stage in zip([*SERIES[: len(shown)], NEITHER], [*shown, "other"]):
            share = []
            for suite in suites:
                spent, whole = table[suite], sum(table[suite].values()) or 1.0
                part = spent.get(stage, 0.0) if stage != "other" else whole - sum(spent.get(s, 0.0) for s in shown)
                share.append(100 * part / whole)
            axes.barh([plain(s) for s in suites], share, left=start, color=colour, label=plain(stage))
            start = [s + w for s, w in zip(start, share)]
        axes.set_xlim(0, 100)
        axes.set_xlabel("share of the time, %")
        axes.grid(axis="y", visible=False)
        fig.legend(loc="outside upper center", ncols=4, fontsize=8)
        caption = "Shares of a benchmark's time. Other: further stages, and what no stage accounts for."
        return finished("stages", "Time by stage", caption, fig)


def bounds(records: Sequence[Record]) -> Plot:
    """The worst lower bound and the open domains over time, one line an instance."""
    with style():
        fig = figure(4.7, 4.8)
        upper, lower = fig.subplots(2, 1, sharex=True)
        for k, r in enumerate(records):
            seconds, open_domains, bound = zip(*r.bounds)
            colour, label = SERIES[k % len(SERIES)], plain(f"{r.name} ({r.verdict})")
            mark = {"marker": MARKS[k % len(MARKS)], "markersize": 3} if len(seconds) <= 50 else {}
            upper.plot(seconds, bound, color=colour, label=label, linewidth=1.3, **mark)
            lower.plot(seconds, open_domains, color=colour, linewidth=1.3, drawstyle="steps-post")
        upper.axhline(0.0, color=INK, alpha=0.5, linewidth=0.8, linestyle="--")
        upper.set_yscale("symlog", linthresh=0.01)
        upper.yaxis.get_major_locator().set_params(numticks=7)
        upper.set_ylim(top=max(0.1, 3 * max((b for r in records for *_, b in r.bounds if math.isfinite(b)), default=0)))
        upper.set_ylabel("worst lower bound")
        lower.set_yscale("symlog", linthresh=1)
        lower.set_ylim(0, 3 * max(1, *(n for r in records for _, n, _ in r.bounds)))
        lower.set_xlim(left=0)
        lower.set_ylabel("open domains")
        lower.set_xlabel("seconds")
        fig.legend(loc="outside upper center", ncols=2, fontsize=8)
        caption = "An instance is proved when its worst lower bound is above zero (dashed) or no domain is open."
        return finished("bounds", "Bounds over time", caption, fig)
