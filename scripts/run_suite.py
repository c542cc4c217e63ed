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

DECIDED = ("sat", "unsat")
COLUMNS = ("onnx", "vnnlib", "timeout", "expected", "verdict", "seconds", "note")
GRACE = 30.0  # seconds past its timeout after which an instance is killed


def instances(folder: Path) -> list[dict[str, str]]:
    """The lines of instances.csv as {onnx, vnnlib, timeout, expected}."""
    with open(folder / "instances.csv", newline="", encoding="utf-8") as f:
        rows = [row for row in csv.reader(f) if row]
    head = [cell.strip().lower() for cell in rows[0]] if rows else []
    if "onnx" not in head or "vnnlib" not in head:
        head = ["onnx", "vnnlib", "timeout"]
    else:
        rows = rows[1:]
    found = []
    for row in rows:
        cells = dict(zip(head, (cell.strip() for cell in row)))
        timeout = cells.get("timeout_s") or cells.get("timeout") or "300"
        line = {"onnx": cells["onnx"], "vnnlib": cells["vnnlib"], "timeout": timeout}
        found.append({**line, "expected": cells.get("expected", "")})
    return found


def run(command: list[str], folder: Path, line: dict[str, str], cap: float) -> dict[str, Any]:
    """Runs one instance; the line with verdict, seconds and note added."""
    limit = min(float(line["timeout"]), cap)
    with tempfile.TemporaryDirectory() as tmp:
        result = Path(tmp) / "result.txt"
        words = [str(folder / line["onnx"]), str(folder / line["vnnlib"]), "--timeout", f"{limit:g}"]
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
    if {verdict, line["expected"]} == set(DECIDED):
        note = "CONTRADICTS the expected answer"
    return {**line, "timeout": f"{limit:g}", "verdict": verdict, "seconds": f"{seconds:.2f}", "note": note[:100]}


def main() -> int:
    p = argparse.ArgumentParser(prog="run_suite.sh", description="Runs every instance of FOLDER/instances.csv.")
    p.add_argument("folder", type=Path)
    p.add_argument("out", nargs="?", type=Path, help="CSV file for the lines")
    p.add_argument(
        "--timeout-cap", type=float, default=float("inf"), metavar="S", help="no instance gets more than S seconds"
    )
    p.add_argument("--verify", default=f"{shlex.quote(sys.executable)} -m verifier", help="the command to run")
    args = p.parse_intermixed_args()
    if not (args.folder / "instances.csv").is_file():
        print(f"run_suite.sh: {args.folder}/instances.csv: no such file", file=sys.stderr)
        return 2
    done: list[dict[str, Any]] = []
    for line in instances(args.folder):
        row = run(shlex.split(args.verify), args.folder, line, args.timeout_cap)
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
