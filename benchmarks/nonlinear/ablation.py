"""What each part of branching is worth on this suite, in one table: nothing split, kinks only, and ways to pick a
neuron and a point.

    plain          bounds at the root alone, optimised at length, intermediate ones too; nothing is split
    relu           only piecewise linear functions are split, by kfsb; where a network has none that is unstable this is
                   plain (but for intermediate bounds, which are left as they are): all but the transformers here
    local middle   curves as well, by an estimate that ends at the affine step before the neuron (the paper's baseline,
                   which it calls BaBSR-like), at the middle of their intervals
    babsr middle   by the score of one backward pass: what a neuron's lines cost the bound, wherever that is lost
    bbps middle    by planes kept from the root
    bbps tables    the same, at points that leave the least gap
    kfsb middle    by trials of the best few
    kfsb tables    the same, at points that leave the least gap

The default takes points from tables only where functions bend one way or have a pole, and no split function here does:
it is kfsb middle.

Every mode is a run of `verify bench` with the defaults but for these settings, `search.split=neurons`, and what `--set`
says, in a folder of its own below `--out`; what was ended goes on there. Printed for each mode: instances verified
(unsat) and falsified (sat), mean seconds over all of them with the whole allowance for those not decided, and domains
bounded as the geometric mean over the instances that both this mode and the reference prove, beside the reference's
own. The reference is local middle. `verify bench` contradicting itself is told.

usage: python benchmarks/nonlinear/ablation.py [--cap 60] [--limit N] [--jobs N] [--modes plain,relu,…] [--out DIR]
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
from math import exp, log
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
REFERENCE = "local middle"
MODES = {
    "plain": ("search.max_rounds=1",),
    "relu": ("branching.curves=false",),
    "local middle": ("branching.neurons=local", "branching.points=middle"),
    "babsr middle": ("branching.neurons=babsr", "branching.points=middle"),
    "bbps middle": ("branching.neurons=bbps", "branching.points=middle"),
    "bbps tables": ("branching.neurons=bbps", "branching.points=tables"),
    "kfsb middle": ("branching.neurons=kfsb", "branching.points=middle"),
    "kfsb tables": ("branching.neurons=kfsb", "branching.points=tables"),
}
Results = dict[int, dict]  # by place in the list


def choose(folder: Path, limit: int | None) -> int:
    """Writes the list of what is run, the first `limit` of every network; how many that are."""
    with open(HERE / "instances.csv", newline="", encoding="utf-8") as f:
        rows = [row[:3] for row in csv.reader(f) if row]
    taken: dict[str, int] = {}
    kept = []
    for model, prop, seconds in rows:
        taken[model] = taken.get(model, 0) + 1
        if limit is None or taken[model] <= limit:
            kept.append((HERE / model, HERE / prop, seconds))
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "instances.csv", "w", newline="", encoding="utf-8") as f:
        csv.writer(f).writerows(kept)
    return len(kept)


def run(mode: str, out: Path, args: argparse.Namespace) -> Results:
    """Runs one mode, or what is left of it."""
    place = out / mode.replace(" ", "-")
    words = ["search.split=neurons", *MODES[mode], *args.set]
    command = [sys.executable, "-m", "verifier", "bench", str(out / "nonlinear"), "--out", str(place)]
    command += ["--jobs", str(args.jobs), "--timeout-cap", f"{args.cap:g}", *(f"--set={w}" for w in words)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))}
    done = subprocess.run(command, env=env, stdout=None if args.verbose else subprocess.DEVNULL)
    if done.returncode:
        raise SystemExit(f"{mode}: verify bench ended with status {done.returncode}")
    lines = (place / "results.jsonl").read_text(encoding="utf-8").splitlines()
    return {r["index"]: r for r in map(json.loads, lines)}


def decided(r: dict) -> bool:
    return r["verdict"] in ("sat", "unsat")


def mean_domains(results: Results, which: list[int]) -> float:
    """The geometric mean over some instances."""
    return exp(sum(log(max(1.0, results[k]["stats"].get("domains", 1))) for k in which) / len(which))


def row(mode: str, results: Results, base: Results | None, cap: float) -> str:
    verdicts = [r["verdict"] for r in results.values()]
    seconds = [min(cap, r["seconds"]) if decided(r) else cap for r in results.values()]
    said = f"{mode:14} {verdicts.count('unsat'):8} {verdicts.count('sat'):9} {sum(seconds) / len(seconds):8.2f}"
    if base is None:
        return said
    both = [k for k, r in results.items() if k in base and r["verdict"] == base[k]["verdict"] == "unsat"]
    if not both:
        return f"{said}       -         -     0"
    return f"{said} {mean_domains(results, both):7.1f} {mean_domains(base, both):9.1f} {len(both):5}"


def table(found: dict[str, Results], cap: float) -> list[str]:
    lines = [f"{'mode':14} verified falsified   mean s domains reference  both"]
    lines += [row(mode, results, found.get(REFERENCE), cap) for mode, results in found.items()]
    for k in sorted({k for results in found.values() for k in results}):
        said = {r[k]["verdict"] for r in found.values() if k in r and decided(r[k])}
        if len(said) > 1:
            lines.append(f"CONTRADICTION: instance {k}")
    return lines


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--cap", type=float, default=60.0, help="seconds per instance at most")
    p.add_argument("--limit", type=int, help="instances of each network")
    p.add_argument("--jobs", type=int, default=1, help="instances at a time")
    p.add_argument("--modes", default=",".join(MODES), help="some of them")
    p.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of all runs")
    p.add_argument("--out", type=Path, help="folder for the runs, to go on later (default: a temporary one)")
    p.add_argument("-v", "--verbose", action="store_true", help="a line for every instance")
    args = p.parse_args()
    modes = args.modes.split(",")
    if unknown := set(modes) - set(MODES):
        p.error(f"no mode {', '.join(sorted(unknown))}; there are {', '.join(MODES)}")
    with tempfile.TemporaryDirectory() as spare:
        out = (args.out or Path(spare)).resolve()
        count = choose(out / "nonlinear", args.limit)
        print(f"{count} instances, at most {args.cap:g} s each", flush=True)
        found: dict[str, Results] = {}
        for mode in modes:
            found[mode] = run(mode, out, args)
            print(row(mode, found[mode], None, args.cap), flush=True)
        print("\n" + "\n".join(table(found, args.cap)))


if __name__ == "__main__":
    main()
