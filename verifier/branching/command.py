"""`verify tables`: which tables of split points there are and where each comes from; makes and draws them.

A picture shows the point p and the fraction t = (p - l) / (u - l) for intervals [l, u], where an operator has a value
on all of them. matplotlib (the extra `plots`) draws it.
"""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from verifier.branching.known import KNOWN
from verifier.branching.points import MARGIN
from verifier.branching.store import Store, words
from verifier.branching.tables import Consumer, Table, Waves, grid_for
from verifier.result import FileError, UsageError

EDGE = 6.0  # of the picture; one period to either side where functions have one
PIXELS = 301
EVERY = 0.1  # share of a table after which progress is told


@dataclass(frozen=True)
class Entry:
    """A known table: its name, whose it is, and where it comes from."""

    name: str
    consumers: tuple[Consumer, ...]
    source: str


def add_words(p: argparse.ArgumentParser) -> None:
    """The command line, but for --device and --no-cache."""
    p.add_argument("tables", metavar="TABLE", nargs="*", help="only these (default: all that are known)")
    p.add_argument("--build", action="store_true", help="make those that are not there, and keep them in the cache")
    p.add_argument("--plot", metavar="DIR", help="draw them, a PNG each")


def run(args: argparse.Namespace, store: Store, device: torch.device) -> int:
    """Lists what was asked for, after making and drawing it; the exit status."""
    if args.build and store.folder is None:
        raise UsageError("--build has nowhere to keep what it makes: there is no cache")
    if args.plot:
        drawer()  # says so before anything is made if there is none
    names = chosen(args.tables)
    made = {n: levels_of(n, store, device) for n in names if args.build or args.plot}
    listed = [Entry(n, KNOWN[n], store.find(KNOWN[n])[1]) for n in names]
    if args.build and any(e.source == "to be built" for e in listed):
        print(f"verify: not kept: {store.folder} cannot be written to", file=sys.stderr, flush=True)
    print("\n".join(lines(listed, store)))
    if args.plot:
        for n in names:
            print(f"written: {draw(n, KNOWN[n], made[n], Path(args.plot))}", flush=True)
    return 0


def chosen(asked: list[str]) -> list[str]:
    for name in asked:
        if name not in KNOWN:
            near = difflib.get_close_matches(name, KNOWN, 1, 0.5)
            raise UsageError(f"no table {name!r}{f'; did you mean {near[0]!r}?' if near else ''}")
    return list(dict.fromkeys(asked)) or list(KNOWN)


def levels_of(name: str, store: Store, device: torch.device) -> np.ndarray:
    """The table, with lines on standard error while it is made."""
    told = 0.0

    def tell(share: float) -> None:
        nonlocal told
        if share >= told + EVERY or share == 1:
            told = share
            print(f"{name}: {share:.0%}", file=sys.stderr, flush=True)

    return store.levels(KNOWN[name], device, told=tell)


def lines(listed: list[Entry], store: Store) -> list[str]:
    """A table of them, and where the cache is and what it takes."""
    rows = [(e.name, words(e.consumers), "x".join(map(str, grid_for(e.consumers).shape)), e.source) for e in listed]
    rows.insert(0, ("table", "operators", "nodes", "from"))
    widths = [max(len(r[i]) for r in rows) for i in range(4)]
    said = ["  ".join(c.ljust(w) for c, w in zip(r, widths)).rstrip() for r in rows]
    if store.folder is None:
        return [*said, "no cache"]
    files = list(store.folder.glob("*.table")) if store.folder.is_dir() else []
    return [*said, f"cache: {store.folder} ({len(files)} tables, {sum(f.stat().st_size for f in files):,} bytes)"]


def drawer() -> Callable[..., Any]:
    """matplotlib's class of figures."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UsageError("--plot needs matplotlib (pip install 'clipbab[plots]')") from None
    return Figure


def draw(name: str, consumers: tuple[Consumer, ...], levels: np.ndarray, folder: Path) -> Path:
    """Writes NAME.png; where."""
    edge = 2 * torch.pi if isinstance(grid_for(consumers), Waves) else EDGE
    ends, p, t = field(consumers, levels, edge)
    figure = drawer()(figsize=(9.6, 4.2), layout="constrained")
    pairs = ((p, "point p", "RdBu_r", edge), (t, "fraction (p - l) / (u - l)", "viridis", None))
    for axes, (values, title, colours, most) in zip(figure.subplots(1, 2), pairs):
        low, high = (0, 1) if most is None else (-most, most)
        shown = axes.pcolormesh(ends, ends, values.T, cmap=colours, vmin=low, vmax=high, rasterized=True)
        figure.colorbar(shown, ax=axes)
        axes.set(title=f"{words(consumers)}: {title}", xlabel="l", ylabel="u", aspect="equal")
    place = folder / f"{name}.png"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        figure.savefig(place, dpi=100)
    except OSError as e:
        raise FileError(f"{place}: cannot be written: {e.strerror}") from None
    return place


def field(consumers: tuple[Consumer, ...], levels: np.ndarray, edge: float) -> tuple[np.ndarray, ...]:
    """Ends (n,) of intervals, and for every l and u the point and the fraction (n, n); NaN where there is no interval
    or no value.
    """
    ends = torch.linspace(-edge, edge, PIXELS, dtype=torch.float64)
    l, u = ends[:, None].expand(PIXELS, PIXELS), ends[None].expand(PIXELS, PIXELS)
    there = u > l
    for c in consumers:
        out = None if c.product else c.operator().outside(l, u)
        there = there if out is None else there & ~out
    t = Table.of(grid_for(consumers), levels, "cpu").fraction(l, u).clamp(MARGIN, 1 - MARGIN)
    t = torch.where(there, t, torch.nan)
    return ends.numpy(), (l + t * (u - l)).numpy(), t.numpy()
