"""What clipping is worth: the same instances with every way of clipping, in one table per folder.

Printed for each way: instances solved, domains bounded, seconds of wall and of CPU time; and over the instances that it
and `none` both prove, the domains bounded as a share of those without clipping. A folder has an
`instances.csv` (as `scripts/run_suite.sh` reads it). Everything runs in this process, without start-up, with the
default configuration but for `clip.method`, the time, and what `--set` says; attacks only once, so that they do not
decide how many domains there are. How many levels are split at once
follows the measured speed, so domains depend a little on how busy the machine is, and seconds wholly.

usage: python benchmarks/clipping.py FOLDER… [--cap 120] [--methods none,relaxed,…] [--only 3,17] [-v]
"""

import argparse
import csv
import time
from collections import Counter
from pathlib import Path

from verifier import settings
from verifier.api import verify
from verifier.result import Verdict, VerifierError

METHODS = ("none", "relaxed", "reordered", "complete", "all")
DECIDED = (Verdict.SAT, Verdict.UNSAT)


def instances(folder: Path) -> list[dict[str, str]]:
    """Lines of instances.csv; without a head they are onnx, vnnlib, timeout."""
    with open(folder / "instances.csv", newline="", encoding="utf-8") as f:
        rows = [[cell.strip() for cell in row] for row in csv.reader(f) if row]
    head = [cell.lower() for cell in rows[0]]
    if "onnx" in head and "vnnlib" in head:
        return [dict(zip(head, row)) for row in rows[1:]]
    return [dict(zip(("onnx", "vnnlib", "timeout"), row)) for row in rows]


def measure(folder: Path, line: dict[str, str], method: str, cap: float, words: list[str]) -> dict:
    """One run: verdict, domains, seconds."""
    limit = min(cap, float(line.get("timeout_s") or line.get("timeout") or cap))
    config = settings.read(None, ["attack.share=0", *words, f"clip.method={method}", f"timeout={limit:g}"])
    wall, cpu = time.monotonic(), time.process_time()
    try:
        result = verify(folder / line["onnx"], folder / line["vnnlib"], config)
        verdict, stats = result.verdict, result.stats
    except VerifierError as e:
        verdict, stats = Verdict.UNKNOWN, {}
        print(f"  {line['onnx']} {line['vnnlib']}: {e}")
    return {
        "verdict": verdict,
        "domains": int(stats.get("domains", 0)),
        "closed": int(stats.get("closed by clipping", 0)),
        "wall": time.monotonic() - wall,
        "cpu": time.process_time() - cpu,
    }


def table(found: dict[str, list[dict]]) -> None:
    """The folder's table; `found` by method, in the instances' order."""
    head = ("solved", "domains", "closed by it", "wall s", "cpu s")
    print(f"  {'clip':10}", *(f"{word:>12}" for word in head), " of none, where both prove")
    base = found.get("none")
    for method, runs in found.items():
        counts = Counter(r["verdict"] for r in runs)
        total = {k: sum(r[k] for r in runs) for k in ("domains", "closed", "wall", "cpu")}
        share = ""
        if base:
            both = [(a, b) for a, b in zip(base, runs) if a["verdict"] == b["verdict"] == Verdict.UNSAT]
            whole = sum(a["domains"] for a, _ in both)
            share = (
                f"{sum(b['domains'] for _, b in both) / max(1, whole):.1%} of {whole} domains, {len(both)} instances"
            )
        print(
            f"  {method:10} {counts[Verdict.SAT] + counts[Verdict.UNSAT]:8}/{len(runs):3} {total['domains']:12} "
            f"{total['closed']:12} "
            f"{total['wall']:12.1f} {total['cpu']:12.1f}  {share}"
        )


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("folders", nargs="+", type=Path)
    p.add_argument("--cap", type=float, default=120.0, help="seconds per instance at most")
    p.add_argument("--methods", default=",".join(METHODS))
    p.add_argument("--only", default="", help="instances by their place in the file, from 0")
    p.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of all runs")
    p.add_argument("-v", "--verbose", action="store_true", help="a line for every run")
    args = p.parse_args()
    for folder in args.folders:
        chosen = [int(k) for k in args.only.split(",") if k]
        lines = [line for k, line in enumerate(instances(folder)) if not chosen or k in chosen]
        print(f"{folder.name}: {len(lines)} instances, at most {args.cap:g} s each")
        found: dict[str, list[dict]] = {m: [] for m in args.methods.split(",")}
        for line in lines:
            for method, runs in found.items():
                runs.append(measure(folder, line, method, args.cap, args.set))
                if args.verbose:
                    r, names = runs[-1], f"{Path(line['onnx']).name} {Path(line['vnnlib']).name}"
                    print(
                        f"  {method:10} {r['verdict'].value:8} {r['domains']:9} {r['cpu']:7.1f} s  {names}", flush=True
                    )
            said = {r[-1]["verdict"] for r in found.values()} & set(DECIDED)
            if len(said) > 1:
                print(f"  CONTRADICTION: {line['onnx']} {line['vnnlib']}")
        table(found)


if __name__ == "__main__":
    main()
