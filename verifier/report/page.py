"""The page of a report: one HTML file with everything in it, style, plots and script; it asks nothing of any network.

A `Html` is text that is markup already; `tag` and `table` escape every other text, so that no name or reason out of a
results file can become markup.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files

from verifier.report.plots import Plot

TALL = 30  # rows above which a table scrolls by itself


class Html(str):
    """Text that is markup."""


def safe(value: object) -> Html:
    """The value as markup: numbers and texts escaped, markup as it is."""
    return value if isinstance(value, Html) else Html(escape(str(value), quote=True))


def join(parts: Iterable[object]) -> Html:
    return Html("".join(map(safe, parts)))


def tag(name: str, *inside: object, **attributes: object) -> Html:
    """An element; `class_` and the like lose their underscore."""
    words = "".join(f' {k.rstrip("_").replace("_", "-")}="{escape(str(v), quote=True)}"' for k, v in attributes.items())
    return Html(f"<{name}{words}>{join(inside)}</{name}>")


def table(head: Sequence[str], rows: Iterable[Sequence[object]], last_is_total: bool = False) -> Html:
    """A table that scrolls sideways where the screen is narrow, and up and down where it is long.

    Its columns sort by a click on their heads; a cell that is a (shown, sortable) pair sorts by the second. Numbers
    stand to the right.
    """
    rows = list(rows)
    made = [tag("tr", *map(_cell, row)) for row in rows]
    numeric = [bool(rows) and _is_number(rows[0][k]) for k in range(len(head))]
    foot = [tag("tfoot", made.pop())] if last_is_total and made else []
    heads = tag("thead", tag("tr", *map(_head, head, numeric)))
    kind = "wide tall" if len(made) > TALL else "wide"
    return tag("div", tag("table", heads, tag("tbody", *made), *foot), class_=kind, tabindex="0")


def _head(text: str, numeric: bool) -> Html:
    return tag("th", tag("button", text, type="button"), scope="col", **({"class_": "n"} if numeric else {}))


def _is_number(value: object) -> bool:
    return isinstance(value[1] if isinstance(value, tuple) else value, (int, float))


def _cell(value: object) -> Html:
    shown, key = value if isinstance(value, tuple) else (value, value)
    if _is_number(value):
        return tag("td", shown, class_="n", data_key="-inf" if math.isnan(key) else repr(float(key)))
    return tag("td", shown, class_="long") if not isinstance(shown, Html) and len(str(shown)) > 30 else tag("td", shown)


def seconds(value: float) -> tuple[str, float]:
    """A cell of seconds."""
    if not math.isfinite(value):
        return "–", math.inf
    return (f"{value:,.2f}" if value < 100 else f"{value:,.0f}"), value


def section(title: str, *inside: object, note: str = "") -> Html:
    key = "".join(c if c.isalnum() else "-" for c in title.lower())
    return tag("section", tag("h2", title), *([tag("p", note, class_="note")] if note else []), *inside, id=key)


def picture(plot: Plot) -> Html:
    return tag("figure", tag("h3", plot.title), Html(plot.svg), tag("figcaption", plot.caption))


def page(title: str, lead: object, sections: Sequence[Html]) -> str:
    """The whole file."""
    here = files("verifier.report")
    style = Html(here.joinpath("page.css").read_text(encoding="utf-8"))
    script = Html(here.joinpath("page.js").read_text(encoding="utf-8"))
    head = tag(
        "head",
        Html('<meta charset="utf-8">'),
        Html('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        Html('<meta name="color-scheme" content="light dark">'),
        Html('<link rel="icon" href="data:,">'),
        tag("title", title),
        tag("style", style),
    )
    body = tag("body", tag("main", tag("h1", title), lead, *sections), tag("script", script))
    return f'<!doctype html>\n<html lang="en">{head}{body}</html>\n'
