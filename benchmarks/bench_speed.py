"""How much faster a suite is under `verify bench` than as one `verify` process after another; and whether they agree.

    python benchmarks/bench_speed.py [--jobs N] [--count N] [--timeout-cap S] SUITE…

Takes the first instances of each suite in turn until there are `--count` (60), runs them both ways, prints the
seconds of both and their ratio, the start-up that an instance costs in either (what is left of its time after all
stages), and every verdict that differs. Run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from verifier.bench import suites  # noqa: E402


def chosen(folders: list[str], count: int) -> list[suites.Instance]:
    """Instances of all suites in turn, with absolute paths."""
    by_suite = [suites.read([folder], 300.0) for folder in folders]
    turns = itertools.chain.from_iterable(itertools.zip_longest(*by_suite))
    return [i for i in turns if i is not None][:count]


def alone(command: list[str], instances: list[suites.Instance], cap: float) -> tuple[float, list[str]]:
    """Wall seconds and verdicts of one process after another."""
    verdicts, start = [], time.perf_counter()
    for i in instances:
        words = [*i.paths, "--timeout", f"{min(cap, i.timeout):g}", "-q"]
        done = subprocess.run([*command, *words], capture_output=True, text=True)
        verdicts.append((done.stdout.split() or ["error"])[0])
    return time.perf_counter() - start, verdicts


def together(
    command: list[str], instances: list[suites.Instance], cap: float, jobs: int, folder: Path
) -> tuple[float, list[dict]]:
    """Wall seconds of the whole command, and its records in order."""
    lines = [",".join([*i.paths, f"{i.timeout:g}"]) for i in instances]
    (folder / "instances.csv").write_text("\n".join(lines) + "\n")
    out, start = folder / "out", time.perf_counter()
    words = ["bench", str(folder), "--jobs", str(jobs), "--out", str(out), "--timeout-cap", f"{cap:g}"]
    subprocess.run([*command, *words], check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - start
    with open(out / "results.jsonl") as f:
        return seconds, sorted(map(json.loads, f), key=lambda r: r["index"])


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("suites", nargs="+")
    p.add_argument("--jobs", type=int, default=2)
    p.add_argument("--count", type=int, default=60)
    p.add_argument("--timeout-cap", type=float, default=60.0)
    args = p.parse_args()
    os.environ["PYTHONPATH"] = str(ROOT)
    command = [sys.executable, "-m", "verifier"]
    instances = chosen(args.suites, args.count)
    with tempfile.TemporaryDirectory() as folder:
        fast, records = together(command, instances, args.timeout_cap, args.jobs, Path(folder))
    slow, verdicts = alone(command, instances, args.timeout_cap)
    startup = [r["seconds"] - sum(v for k, v in r["stages"].items() if k != "start") for r in records if r["stages"]]
    differ = [(i.name, v, r["verdict"]) for i, v, r in zip(instances, verdicts, records) if v != r["verdict"]]
    print(f"{len(instances)} instances, one process after another: {slow:.1f} s")
    print(f"{len(instances)} instances, verify bench --jobs {args.jobs}: {fast:.1f} s")
    print(f"ratio {slow / fast:.2f}; start-up of an instance: median {sorted(startup)[len(startup) // 2]:.3f} s")
    for name, one, other in differ:
        print(f"DIFFERS {name}: {one} alone, {other} in the suite")
    print(f"{len(differ)} verdicts differ")


if __name__ == "__main__":
    main()
