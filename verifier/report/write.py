"""`verify report`: reads runs and published answers, writes the page and the plots, and says the figures in short.

The first run is the one reported on; further runs, and what is published, are what it is compared with.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from verifier.report import figures, plots
from verifier.report.figures import Judged
from verifier.report.page import Html, join, page, picture, seconds, section, table, tag
from verifier.report.plots import Plot
from verifier.report.records import DECIDED, Record, Run, find, read_published, read_run, unique
from verifier.result import FileError, UsageError

SLOWEST, BOUNDS = 15, 6  # how many instances are listed, and drawn, unless chosen


@dataclass(frozen=True)
class Report:
    """What a report is made of."""

    run: Run
    judged: list[Judged]
    others: list[Run]
    published: Run | None
    chosen: tuple[str, ...] = ()


def read(runs: Sequence[str], published: Sequence[str], chosen: Sequence[str] = ()) -> Report:
    """`runs` and `published` are paths; `chosen` names instances (`suite/index`) whose bounds are drawn."""
    first, *others = unique(map(read_run, runs))
    if not first.records:
        raise FileError(f"{runs[0]}: holds no results")
    known = [read_published(p) for p in published]
    merged = Run(known[0].name, tuple(r for k in known for r in k.records)) if known else None
    names = {r.name for r in first.records if r.bounds}
    for name in chosen:
        if name not in names:
            has = f"those that have them are {', '.join(sorted(names)[:5])}…" if names else "no instance has them"
            raise UsageError(f"--bounds {name}: no instance of this name with bounds over time in {runs[0]}; {has}")
    return Report(first, figures.judge(first, merged), others, merged, tuple(chosen))


def write(report: Report, out: str | os.PathLike[str]) -> list[Path]:
    """Writes the page at `out` and the plots into a folder beside it (`NAME_plots`); what was written."""
    from verifier.guard import write_whole

    place = Path(out)
    if place.suffix.lower() not in (".html", ".htm"):  # so that no results are written over by mistake
        raise UsageError(f"{out}: name a page that ends with .html")
    drawn = draw(report) if plots.available() else []
    try:
        write_whole(place, render(report, drawn))
        written = [place]
        folder = place.with_name(f"{place.stem}_plots")
        if drawn:
            folder.mkdir(exist_ok=True)
        for plot in drawn:
            for ending, content in plot.files.items():
                written.append(folder / f"{plot.name}.{ending}")
                written[-1].write_bytes(content)
    except OSError as e:
        raise FileError(f"{e.filename or out}: cannot be written: {e.strerror}") from None
    return written


def draw(report: Report) -> list[Plot]:
    """All plots that the data allow."""
    sources = report.others + ([report.published] if report.published else [])
    both = [(source, figures.pairs(report.judged, source)) for source in sources]
    curves = [(report.run.name, figures.solved_times(report.judged))]
    for source, pairs in both:
        times = sorted(r.seconds for _, r in pairs if r.decided)
        if any(times):  # published answers may come without times
            curves.append((source.name, times))
    drawn = [plots.cactus(curves, len(report.judged))]
    for k, (source, pairs) in enumerate(both):
        if any(r.seconds for _, r in pairs if r.decided):
            drawn.append(plots.scatter(f"scatter_{k + 1}", report.run.name, source.name, pairs))
    order, spent = figures.stage_times(report.judged)
    if len(order) > 1:
        drawn.append(plots.stages(order, spent))
    traced = figures.with_bounds(report.judged, report.chosen, BOUNDS)
    if traced:
        drawn.append(plots.bounds(traced))
    return drawn


def summary(report: Report) -> list[str]:
    """The table by benchmark as lines of text."""
    lines = figures.by_suite(report.judged)
    rows = [["benchmark", "instances", "solved", "sat", "unsat", "wrong", "new", "PAR2 s"]]
    for line in lines:
        counts = map(str, (line.n, line.solved, line.sat, line.unsat, line.wrong, line.new))
        rows.append([line.suite, *counts, seconds(line.par2)[0]])
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    return ["  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:]))]) for row in rows]


def render(report: Report, drawn: Sequence[Plot]) -> str:
    """The page."""
    total = figures.by_suite(report.judged)[-1]
    facts = [(total.solved, f"solved of {total.n}"), (total.sat, "sat"), (total.unsat, "unsat"), (total.wrong, "wrong")]
    if report.published:
        facts.append((total.new, "newly solved"))
    facts.append((seconds(total.par2)[0], "PAR2, seconds"))
    boxes = tag("ul", *(tag("li", tag("strong", n), tag("span", text)) for n, text in facts), class_="facts")
    body = [_by_suite(report)]
    if drawn:
        body.append(section("Plots", tag("div", *map(picture, drawn), class_="plots")))
    else:
        body.append(section("Plots", note="No plots: matplotlib is not installed (pip install 'clipbab[plots]')."))
    body += [_contradictions(report), *_comparisons(report), _stages(report), _slow(report), _failed(report)]
    body.append(_all(report))
    return page(f"Results: {report.run.name}", join([_lead(report), boxes]), [part for part in body if part])


def _lead(report: Report) -> Html:
    versions = sorted({r.version for r in report.run.records if r.version})
    started = sorted(r.started for r in report.run.records if r.started)
    words = [f"{len(report.judged)} instances"]
    words += [f"clipbab {', '.join(versions)}"] if versions else []
    words += [f"{started[0]} to {started[-1]}"] if started else []
    against = [*(r.name for r in report.others), *([f"published: {report.published.name}"] if report.published else [])]
    words += [f"compared with {', '.join(against)}"] if against else []
    return tag("p", " · ".join(words), class_="note")


def _by_suite(report: Report) -> Html:
    head = ["benchmark", "instances", "solved", "sat", "unsat", "wrong", "newly solved", "PAR2, s", "not solved"]
    rows = []
    for line in figures.by_suite(report.judged):
        rest = ", ".join(f"{n} {verdict}" for verdict, n in line.other.most_common())
        wrong = (tag("span", line.wrong, class_="bad"), line.wrong) if line.wrong else 0
        new = ("–", -1) if not line.known else (tag("span", line.new, class_="good"), line.new) if line.new else 0
        rows.append([line.suite, line.n, line.solved, line.sat, line.unsat, wrong, new, seconds(line.par2), rest])
    note = (
        "Solved: sat or unsat in time, and not wrong. Wrong: against a published answer, but for a sat with a replayed "
        "counterexample. Newly solved: published without an answer. PAR2: seconds, twice the timeout where not solved."
    )
    return section("By benchmark", table(head, rows, last_is_total=True), note=note)


def _contradictions(report: Report) -> Html | None:
    rows = [
        [_name(j.record), j.record.verdict, j.published.verdict, tag("span", "wrong", class_="bad") if j.wrong else
         "refutes what is published: its counterexample was replayed"]
        for j in report.judged if j.contradicts
    ]  # fmt: skip
    head = ["instance", "answer", "published", "so"]
    return section("Against published answers", table(head, rows)) if rows else None


def _comparisons(report: Report) -> list[Html]:
    made = []
    for other in report.others:
        both = figures.pairs(report.judged, other)
        differ = [(j, r) for j, r in both if j.solved != r.decided or (j.solved and j.record.verdict != r.verdict)]
        only = sum(j.solved and not r.decided for j, r in both)
        lost = sum(r.decided and not j.solved for j, r in both)
        note = f"{len(both)} instances in both: {only} solved only by {report.run.name}, {lost} only by {other.name}."
        rows = []
        for j, r in differ:
            against = {j.record.verdict, r.verdict} == set(DECIDED)
            mine = tag("span", j.record.verdict, class_="bad") if against else j.record.verdict
            rows.append([_name(j.record), mine, seconds(j.record.seconds), r.verdict, seconds(r.seconds)])
        head = ["instance", report.run.name, "seconds", other.name, "seconds"]
        made.append(section(f"Compared with {other.name}", *([table(head, rows)] if rows else []), note=note))
    return made


def _stages(report: Report) -> Html | None:
    order, spent = figures.stage_times(report.judged)
    if order in ([], ["other"]):
        return None
    rows = [[suite, *(seconds(spent[suite].get(s, 0.0)) for s in order)] for suite in sorted(spent)]
    rows.append(["total", *(seconds(sum(spent[suite].get(s, 0.0) for suite in spent)) for s in order)])
    note = "Seconds summed over a benchmark's instances; other is what no stage accounts for, start-up included."
    return section("Time by stage", table(["benchmark", *order], rows, last_is_total=True), note=note)


def _slow(report: Report) -> Html | None:
    rows = []
    for r in (j.record for j in figures.slowest(report.judged, SLOWEST)):
        most = max(r.stages.items(), key=lambda p: p[1], default=None)
        where = f"{most[0]} {most[1]:.1f} s" if most else ""
        rows.append([_name(r), r.verdict, seconds(r.seconds), seconds(r.timeout), where, r.reason])
    head = ["instance", "answer", "seconds", "timeout", "longest stage", "reason"]
    return section("Slowest solved", table(head, rows)) if rows else None


def _failed(report: Report) -> Html:
    failed = [j for j in report.judged if not j.solved]
    if not failed:
        return section("Not solved", note="Every instance was solved.")
    kinds = Counter((j.record.verdict, _kind(j.why)) for j in failed)
    counts = table(["verdict", "reason", "instances"], [[v, why, n] for (v, why), n in kinds.most_common(12)])
    rows = [
        [_name(r), _answer(j), seconds(r.seconds), seconds(r.timeout), j.why, _last_bound(r)]
        for j in failed
        for r in [j.record]
    ]
    head = ["instance", "answer", "seconds", "timeout", "reason", "last bound"]
    return section("Not solved", tag("h3", "Reasons"), counts, tag("h3", "Instances"), table(head, rows))


def _kind(why: str) -> str:
    """The reason without its figures, so that equal ones count together."""
    import re

    return re.sub(r"\d[\d.,]*(e[-+]?\d+)?", "…", why)


def _last_bound(r: Record) -> tuple[str, float]:
    value = r.bounds[-1][2] if r.bounds else math.nan
    return ("" if math.isnan(value) else f"{value:.4g}"), value


def _answer(j: Judged) -> object:
    return tag("span", j.record.verdict, class_="bad") if j.wrong else j.record.verdict


def _name(r: Record) -> Html:
    return join([r.name, tag("span", r.files, class_="files")])


def _all(report: Report) -> Html:
    others = [(o.name, o.by_key()) for o in report.others] + (
        [(f"published: {report.published.name}", report.published.by_key())] if report.published else []
    )
    rows = []
    for j in report.judged:
        r = j.record
        beside = [(found.verdict if found else "–") for _, known in others for found in [find(known, r.key)]]
        rows.append([_name(r), _answer(j), seconds(r.seconds), *beside, "" if j.solved else j.why])
    head = ["instance", "answer", "seconds", *(name for name, _ in others), "reason"]
    return section("All instances", tag("details", tag("summary", f"{len(rows)} instances"), table(head, rows)))
