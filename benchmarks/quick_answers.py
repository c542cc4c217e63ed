"""How long a person waits for what is easy: whole processes, from the shell's side, one after another.

Of the folders' instances.csv, those instances that another tool is known to have answered within `--known` seconds
(the column `--tool`_s, with an answer in column `--tool`); all of them where there is no such column. Each runs as a
`verify` process of its own, and is stopped after `--cap` seconds. Printed per folder and in all: instances, how many
were answered, and how many of these within `--goal` seconds; the median and the longest wait; peak memory of one
process.

usage: python benchmarks/quick_answers.py FOLDER... [--tool abcrown] [--known 8] [--goal 4] [--cap 10] [--verbose]
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from verifier.bench.suites import Instance, read

FORMAT = "{:<24} {:>9} {:>9} {:>9} {:>9} {:>9} {:>7}"
HEAD = ("folder", "instances", "answered", "in time", "median s", "longest s", "GiB")


def easy(folder: str, tool: str, known: float) -> list[Instance]:
    """The instances of a folder that a tool answered within `known` seconds."""
    suite = read([folder], 60.0)
    with open(Path(folder) / "instances.csv", newline="", encoding="utf-8") as f:
        rows = list(csv.DictReader(f))
    if not rows or f"{tool}_s" not in rows[0]:
        return suite
    fast = [r[tool] in ("sat", "unsat") and float(r[f"{tool}_s"] or "inf") < known for r in rows]
    return [i for i in suite if fast[i.index]]


def wait_for(instance: Instance, cap: float) -> tuple[str, float, float]:
    """The answer, the seconds it took, and peak memory in GiB of the process and those that it waited for."""
    model, prop = instance.paths
    command = [sys.executable, "-m", "verifier", model, prop, "--timeout", str(cap)]
    begin = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    said = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    answer = said.split()[0] if said.split() else "nothing"
    return answer, time.monotonic() - begin, usage.ru_maxrss / 2**20


def line(name: str, found: list[tuple[str, float, float]], goal: float) -> str:
    answered = [s for v, s, _ in found if v in ("sat", "unsat")]
    seconds = [s for _, s, _ in found]
    middle, longest = f"{statistics.median(seconds):.2f}", f"{max(seconds):.2f}"
    within, memory = sum(s <= goal for s in answered), f"{max(m for _, _, m in found):.2f}"
    return FORMAT.format(name, len(found), len(answered), within, middle, longest, memory)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("folders", nargs="+")
    p.add_argument("--tool", default="abcrown")
    p.add_argument("--known", type=float, default=8.0)
    p.add_argument("--goal", type=float, default=4.0)
    p.add_argument("--cap", type=float, default=10.0)
    p.add_argument("--verbose", action="store_true")
    args = p.parse_args()
    print(FORMAT.format(*HEAD))
    every = []
    for folder in args.folders:
        found = []
        for instance in easy(folder, args.tool, args.known):
            found.append(wait_for(instance, args.cap))
            if args.verbose:
                print(f"  {instance.index:>4} {found[-1][0]:<8} {found[-1][1]:6.2f} s  {instance.name}", flush=True)
        if found:
            print(line(Path(folder).name, found, args.goal), flush=True)
        every += found
    if every:
        print(line("all", every, args.goal))


if __name__ == "__main__":
    main()
