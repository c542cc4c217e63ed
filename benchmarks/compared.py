"""The same instances decided in several ways, one table per folder: what other files here compare is a dict of ways.

Printed for each way: instances solved, domains bounded, seconds of wall and of CPU time; and over the instances that it
and the first way both prove, the domains bounded as a share of the first one's. A folder has an `instances.csv` (as
`scripts/run_suite.sh` reads it). Everything runs in this process, without start-up, with the default configuration but
for the way's settings, the time, and what `--set` says. How many levels are split at once follows the measured speed,
so domains depend a little on how busy the machine is, and seconds wholly; with `--cpu` deadlines and all that the
search times count seconds of CPU time, for a busy machine (one thread only).
"""

from __future__ import annotations

import argparse
import csv
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

from verifier import settings
from verifier.api import verify
from verifier.result import Verdict, VerifierError

DECIDED = (Verdict.SAT, Verdict.UNSAT)


@dataclass(frozen=True)
class Way:
    """Settings as `--set` takes them, and what else is to be in force during a run."""

    words: tuple[str, ...] = ()
    within: AbstractContextManager = field(default_factory=nullcontext)  # entered once per run


class Without:
    """A part replaced in each run."""

    def __init__(self, *parts: tuple[object, dict]):
        self.parts = parts

    def __enter__(self) -> None:
        self.patches = [patch.multiple(owner, **changes) for owner, changes in self.parts]
        for p in self.patches:
            p.start()

    def __exit__(self, *error) -> None:
        for p in self.patches:
            p.stop()


def instances(folder: Path) -> list[dict[str, str]]:
    """Lines of instances.csv; without a head they are onnx, vnnlib, timeout."""
    with open(folder / "instances.csv", newline="", encoding="utf-8") as f:
        rows = [[cell.strip() for cell in row] for row in csv.reader(f) if row]
    head = [cell.lower() for cell in rows[0]]
    if "onnx" in head and "vnnlib" in head:
        return [dict(zip(head, row)) for row in rows[1:]]
    return [dict(zip(("onnx", "vnnlib", "timeout"), row)) for row in rows]


def measure(folder: Path, line: dict[str, str], way: Way, cap: float, words: list[str]) -> dict:
    """One run: verdict, domains, seconds."""
    limit = min(cap, float(line.get("timeout_s") or line.get("timeout") or cap))
    config = settings.read(None, [*words, *way.words, f"timeout={limit:g}"])
    wall, cpu = time.perf_counter(), time.process_time()
    try:
        with way.within:
            result = verify(folder / line["onnx"], folder / line["vnnlib"], config)
        verdict, stats = result.verdict, result.stats
    except VerifierError as e:
        verdict, stats = Verdict.UNKNOWN, {}
        print(f"  {line['onnx']} {line['vnnlib']}: {e}")
    return {
        "verdict": verdict,
        "domains": int(stats.get("domains", 0)),
        "wall": time.perf_counter() - wall,
        "cpu": time.process_time() - cpu,
    }


def table(found: dict[str, list[dict]]) -> None:
    """The folder's table; `found` by way, in the instances' order."""
    first, wide = next(iter(found)), max(map(len, found))
    print(f"  {'':{wide}}", *(f"{word:>10}" for word in ("solved", "domains", "wall s", "cpu s")))
    for name, runs in found.items():
        counts = Counter(r["verdict"] for r in runs)
        total = {k: sum(r[k] for r in runs) for k in ("domains", "wall", "cpu")}
        both = [(a, b) for a, b in zip(found[first], runs) if a["verdict"] == b["verdict"] == Verdict.UNSAT]
        whole = sum(a["domains"] for a, _ in both)
        print(
            f"  {name:{wide}} {sum(counts[v] for v in DECIDED):6}/{len(runs):3} {total['domains']:10} "
            f"{total['wall']:10.1f} {total['cpu']:10.1f}  {sum(b['domains'] for _, b in both) / max(1, whole):.1%} of "
            f"{whole} domains of '{first}' on the {len(both)} that both prove",
            flush=True,
        )


def compare(about: str, ways: Mapping[str, Way]) -> None:
    """The command of a comparison; `about` says what it compares."""
    p = argparse.ArgumentParser(description=about)
    p.add_argument("folders", nargs="+", type=Path)
    p.add_argument("--cap", type=float, default=120.0, help="seconds per instance at most")
    p.add_argument("--ways", default=",".join(ways), help="which, the first of which the others are compared with")
    p.add_argument("--only", default="", help="instances by their place in the file, from 0")
    p.add_argument("--cpu", action="store_true", help="count CPU time")
    p.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of all runs")
    p.add_argument("-v", "--verbose", action="store_true", help="a line for every run")
    args = p.parse_args()
    if args.cpu:
        time.monotonic = time.process_time
        args.set.append("threads=1")
    for folder in args.folders:
        chosen = [int(k) for k in args.only.split(",") if k]
        lines = [line for k, line in enumerate(instances(folder)) if not chosen or k in chosen]
        print(f"{folder.name}: {len(lines)} instances, at most {args.cap:g} s each", flush=True)
        found: dict[str, list[dict]] = {name: [] for name in args.ways.split(",")}
        for line in lines:
            for name, runs in found.items():
                runs.append(measure(folder, line, ways[name], args.cap, args.set))
                if args.verbose:
                    r, files = runs[-1], f"{Path(line['onnx']).name} {Path(line['vnnlib']).name}"
                    print(f"  {name:10} {r['verdict'].value:8} {r['domains']:9} {r['cpu']:7.1f} s  {files}", flush=True)
            said = {r[-1]["verdict"] for r in found.values()} & set(DECIDED)
            if len(said) > 1:
                print(f"  CONTRADICTION: {line['onnx']} {line['vnnlib']}")
        table(found)
