"""Made-up results: a run of a hundred instances of four benchmarks with every kind of ending, and published answers."""

import csv
import json
import random
from pathlib import Path

SUITES = ("control", "images", "databases", "relations <b>&\"'$x_1$")


def record(suite="control", index=0, **changes):
    made = {
        "suite": suite,
        "index": index,
        "model": f"{suite}/onnx/net_{index % 3}.onnx.gz",
        "property": f"{suite}/vnnlib/prop_{index}.vnnlib.gz",
        "timeout": 60.0,
        "verdict": "unsat",
        "reason": "every disjunct refuted",
        "seconds": 1.5,
        "stages": {"model": 0.1, "attack": 0.4, "search": 0.9},
        "stats": {"domains": 17},
        "plan": ["a line"],
        "counterexample": None,
        "started": "2026-01-02T03:04:05",
        "version": "0.1.0",
    }
    return {**made, **changes}


def hundred(seed=0):
    rng = random.Random(seed)
    for k in range(100):
        suite, seconds = SUITES[k % 4], 10 ** rng.uniform(-2, 1.6)
        verdict = rng.choices(["unsat", "sat", "timeout", "unknown", "error"], [50, 25, 15, 6, 4])[0]
        reason = {
            "timeout": f"{k} domains still open",
            "unknown": "<script>document.title='broken'</script>",
            "error": "killed: out of memory",
        }.get(verdict, "replayed")
        seconds = 60.0 if verdict == "timeout" else seconds
        stages = {"model": 0.02 * seconds, "attack": 0.3 * seconds, "search": 0.6 * seconds}
        bounds = [[seconds * t / 20, max(0, 40 - 2 * t), t - 19.5] for t in range(21)] if k % 5 == 0 else None
        found = f"counterexamples/{k}.gz" if verdict == "sat" else None
        changes = {"verdict": verdict, "reason": reason, "seconds": seconds, "stages": stages, "counterexample": found}
        yield record(suite, k // 4, **changes, **({"bounds": bounds} if bounds else {}))


def write_run(folder: Path, records) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    return folder


def write_competition(path: Path, rows) -> Path:
    """(record, verdict, seconds) as the competition's results.csv."""
    with open(path, "w", newline="", encoding="utf-8") as f:
        for r, verdict, seconds in rows:
            line = [r["suite"], "./" + r["model"], "./" + r["property"], 0.01, verdict, seconds]
            csv.writer(f).writerow(line)
    return path
