"""Runs a folder of instances through `verify`, one process each; see the head of run_suite.sh, which calls this."""

from __future__ import annotations

import argparse
import csv
import shlex
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from verifier.bench.suites import Instance, read
from verifier.result import InputError

DECIDED = ("sat", "unsat")
COLUMNS = ("onnx", "vnnlib", "timeout", "expected", "verdict", "seconds", "note")
GRACE = 30.0  # seconds past its timeout after which an instance is killed


def run(command: list[str], instance: Instance, cap: float) -> dict[str, Any]:
    """Runs one instance; its line of the results."""
    limit = min(instance.timeout, cap)
    with tempfile.TemporaryDirectory() as tmp:
        result = Path(tmp) / "result.txt"
        words = [*instance.paths, "--timeout", f"{limit:g}"]
        start = time.monotonic()
        try:
            done = subprocess.run(
                [*command, *words, "--results-file", str(result)], capture_output=True, text=True, timeout=limit + GRACE
            )
            said = (done.stderr.strip().splitlines() or [""])[-1]
        except subprocess.TimeoutExpired:
            said = "killed"
        seconds = time.monotonic() - start
        text = result.read_text(encoding="utf-8").split() if result.exists() else []
    verdict = text[0] if text else "error"
    note = "" if verdict in DECIDED else said.partition(" s] ")[2] or said
    if verdict in DECIDED and seconds > limit:
        note = "late"
    if {verdict, instance.expected} == set(DECIDED):
        note = "CONTRADICTS the expected answer"
    line = [instance.model, instance.property, f"{limit:g}", instance.expected, verdict, f"{seconds:.2f}", note[:100]]
    return dict(zip(COLUMNS, line))


def main() -> int:
    p = argparse.ArgumentParser(prog="run_suite.sh", description="Runs every instance of FOLDER/instances.csv.")
    p.add_argument("folder", type=Path)
    p.add_argument("out", nargs="?", type=Path, help="CSV file for the lines")
    p.add_argument(
        "--timeout-cap", type=float, default=float("inf"), metavar="S", help="no instance gets more than S seconds"
    )
    p.add_argument("--verify", default=f"{shlex.quote(sys.executable)} -m verifier", help="the command to run")
    args = p.parse_intermixed_args()
    try:
        listed = read([str(args.folder)], 300.0)
    except InputError as e:
        print(f"run_suite.sh: {e}", file=sys.stderr)
        return 2
    done: list[dict[str, Any]] = []
    for instance in listed:
        row = run(shlex.split(args.verify), instance, args.timeout_cap)
        done.append(row)
        names = f"{Path(row['onnx']).name} {Path(row['vnnlib']).name}"
        expected = f"expected {row['expected']}" if row["expected"] else ""
        print(f"{row['verdict']:8} {row['seconds']:>8} s  {names}  {expected} {row['note']}".rstrip(), flush=True)
        if args.out:
            with open(args.out, "w", newline="", encoding="utf-8") as f:
                writer = csv.DictWriter(f, COLUMNS, lineterminator="\n")
                writer.writeheader()
                writer.writerows(done)
    counts = Counter(row["verdict"] for row in done)
    wrong = sum(row["note"].startswith("CONTRADICTS") for row in done)
    total = sum(float(row["seconds"]) for row in done)
    words = ", ".join(f"{n} {verdict}" for verdict, n in counts.most_common())
    print(f"total: {len(done)} instances: {words}; {wrong} contradicting; {total:.1f} s")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
