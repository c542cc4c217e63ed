"""What looking split points up costs: its share of the rounds of a search, and what loading a table adds once.

The first property of every model of a folder with an `instances.csv` is searched on one thread for a while, without
attacks, with tables for all and the heuristics asked for. Printed for each: rounds, domains, seconds of the rounds, of
these in look-ups (`Points.at`, without loading) and their share, points looked up, and seconds that the tables took to
be there. GPUs do their work later than they are told, so figures are for a CPU.

usage: python benchmarks/points_speed.py [FOLDER] [--cap 15] [--neurons kfsb,babsr,bbps] [--set KEY=VALUE]
"""

import argparse
import csv
import time
from pathlib import Path

from verifier import settings
from verifier.api import verify
from verifier.branching.points import Points

HERE = Path(__file__).resolve().parent


class Clock:
    """Times calls of two methods of `Points`, the inner one apart from the outer one."""

    def __init__(self):
        self.looked, self.loaded, self.points = 0.0, 0.0, 0
        self.at, self.table = Points.at, Points.table

    def __enter__(self):
        def at(points, chosen, l, u):
            start, before = time.perf_counter(), self.loaded
            try:
                return self.at(points, chosen, l, u)
            finally:
                self.looked += time.perf_counter() - start - (self.loaded - before)
                self.points += l.numel()

        def table(points, known):
            start = time.perf_counter()
            try:
                return self.table(points, known)
            finally:
                self.loaded += time.perf_counter() - start

        Points.at, Points.table = at, table
        return self

    def __exit__(self, *_):
        Points.at, Points.table = self.at, self.table


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("folder", nargs="?", type=Path, default=HERE / "nonlinear")
    p.add_argument("--cap", type=float, default=15.0, help="seconds per search")
    p.add_argument("--neurons", default="kfsb,babsr,bbps", help="heuristics")
    p.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of all runs")
    args = p.parse_args()
    with open(args.folder / "instances.csv", newline="", encoding="utf-8") as f:
        first = {row[0]: row[1] for row in reversed(list(csv.reader(f)))}
    head = ("rounds", "domains", "rounds s", "look-ups s", "share", "points", "tables s")
    print(f"{'model':16} {'neurons':8}", *(f"{word:>10}" for word in head))
    for model, prop in sorted(first.items()):
        for neurons in args.neurons.split(","):
            words = ["attack.share=0", "threads=1", "search.split=neurons", f"branching.neurons={neurons}"]
            words += ["branching.points=tables", *args.set]
            config = settings.read(None, words, {"timeout": f"{args.cap:g}", "device": "cpu"})
            with Clock() as clock:
                result = verify(args.folder / model, args.folder / prop, config)
            seconds, stats = result.seconds.get("bounds", 0.0), result.stats
            share = f"{clock.looked / seconds:.1%}" if seconds else "-"
            print(
                f"{Path(model).stem:16} {neurons:8} {int(stats.get('rounds', 0)):10} {int(stats.get('domains', 0)):10} "
                f"{seconds:10.2f} {clock.looked:10.3f} {share:>10} {clock.points:10} {clock.loaded:10.3f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
