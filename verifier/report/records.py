"""What runs left behind, read and checked: records of runs, and answers that others published.

A run is a folder with `results.jsonl`, one JSON object a line:

    suite, index          the suite's name, and the instance's line in it, from 0
    model, property       paths
    timeout, seconds      seconds allowed, and taken
    verdict, reason       sat, unsat, unknown, timeout or error, and why in one line
    stages, stats, plan   seconds by stage; figures by name; lines of text
    counterexample        path below the folder, or null
    bounds                optional: [seconds, open domains, worst lower bound], in order of time
    started, version      when, and by which version

or a CSV file. A CSV file is the competition's own results.csv (no header: category, model, property, seconds of
preparation, verdict, seconds), or has a header that names its columns, as the instances.csv of a suite with published
answers and the output of `scripts/run_suite.sh` do.

Instances of different sources are matched by suite, model and property, the latter two by their file names without
`.gz`; a source that names no suite is matched by the file names alone.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from verifier import lists
from verifier.result import FileError

DECIDED = ("sat", "unsat")
VERDICTS = (*DECIDED, "unknown", "timeout", "error")
MEANS = {  # words that competitions' result files hold besides ours
    "violated": "sat",
    "holds": "unsat",
    "verified": "unsat",
    "falsified": "sat",
    "run_instance_timeout": "timeout",
    "timed-out": "timeout",
    "disputed": "unknown",
    "": "unknown",
}
Key = tuple[str, str, str]  # suite, model, property


@dataclass(frozen=True)
class Record:
    """One instance of a run: the fields of a line of results.jsonl."""

    suite: str
    index: int
    model: str
    property: str
    verdict: str
    seconds: float
    timeout: float
    reason: str = ""
    stages: dict[str, float] = field(default_factory=dict)
    stats: dict[str, Any] = field(default_factory=dict)
    counterexample: str | None = None
    bounds: tuple[tuple[float, float, float], ...] = ()
    started: str = ""
    version: str = ""
    file: str = ""  # the source's name where it names no suite

    @property
    def group(self) -> str:
        """The suite as it is shown."""
        return self.suite or self.file

    @property
    def key(self) -> Key:
        return self.suite, _stem(self.model), _stem(self.property)

    @property
    def name(self) -> str:
        return f"{self.group}/{self.index}"

    @property
    def files(self) -> str:
        return f"{_stem(self.model)} · {_stem(self.property)}"

    @property
    def late(self) -> bool:
        return self.seconds > self.timeout

    @property
    def decided(self) -> bool:
        """An answer, and in time."""
        return self.verdict in DECIDED and not self.late


@dataclass(frozen=True)
class Run:
    """All records of one source; `name` is what the page calls it."""

    name: str
    records: tuple[Record, ...]

    def by_key(self) -> dict[Key, Record]:
        """The last record of each instance; under an empty suite as well."""
        found = {("", *r.key[1:]): r for r in self.records}
        return found | {r.key: r for r in self.records}


def find(table: dict[Key, Record], key: Key) -> Record | None:
    """The record of the instance in a table made by `Run.by_key`: of the same suite, or of a source without suites."""
    found = table.get(key)
    if found is None:
        found = table.get(("", *key[1:]))
        if found is not None and found.suite:  # of another suite that has files of these names
            return None
    return found


def read_run(path: str | os.PathLike[str]) -> Run:
    """The run in a folder, a results.jsonl or a CSV file."""
    place = Path(path)
    if place.is_dir():
        found = [place / name for name in ("results.jsonl", "results.csv") if (place / name).is_file()]
        if not found:
            raise FileError(f"{path}: no results.jsonl or results.csv in this folder")
        return Run(place.resolve().name, tuple(_records(found[0])))
    name = place.resolve().parent.name if place.stem == "results" else place.stem
    return Run(name, tuple(_records(place)))


def read_published(path: str | os.PathLike[str]) -> Run:
    """Published answers: a CSV file, or a folder that holds one (`results.csv`, `instances.csv`) or folders that do."""
    place = Path(path)
    if not place.is_dir():
        return Run(place.stem, tuple(_records(place)))
    found = _lists(place) or [f for folder in sorted(place.iterdir()) if folder.is_dir() for f in _lists(folder)]
    if not found:
        raise FileError(f"{path}: no results.csv or instances.csv in this folder or those right below it")
    return Run(place.resolve().name, tuple(r for f in found for r in _records(f)))


def _lists(folder: Path) -> list[Path]:
    names = ("results.csv", "results.csv.gz", "instances.csv", "instances.csv.gz")
    return [folder / name for name in names if (folder / name).is_file()][:1]


def unique(runs: Iterable[Run]) -> list[Run]:
    """The runs with names that tell them apart."""
    done: dict[str, Run] = {}
    for run in runs:
        name, k = run.name, 2
        while name in done:
            name, k = f"{run.name} ({k})", k + 1
        done[name] = Run(name, run.records)
    return list(done.values())


def _records(path: Path) -> Iterator[Record]:
    text = lists.text(path)
    if path.name.removesuffix(".gz").endswith(".jsonl"):
        return _from_lines(text, path)
    return _from_csv(text, path)


def _from_lines(text: str, path: Path) -> Iterator[Record]:
    """A last line without its newline is what a killed run left of a record: it is passed over if it is no JSON."""
    lines = text.split("\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            given = json.loads(line)
        except (ValueError, RecursionError) as e:
            if number == len(lines):
                return
            raise FileError(f"{path}:{number}: not a JSON object: {getattr(e, 'msg', e)}") from None
        yield _record(given, f"{path}:{number}")


def _record(given: Any, where: str) -> Record:
    if not isinstance(given, dict):
        raise FileError(f"{where}: expected a JSON object, found {type(given).__name__}")
    for name in FIELDS:
        if name not in given and name in REQUIRED:
            raise FileError(f"{where}: '{name}' is missing")
        if name in given and given[name] is not None and not FIELDS[name][0](given[name]):
            raise FileError(f"{where}: '{name}' should be {FIELDS[name][1]}, found {_shown(given[name])}")
    kept = {name: given[name] for name in FIELDS if given.get(name) is not None and name != "plan"}
    for name in REQUIRED:
        if name not in kept:
            raise FileError(f"{where}: '{name}' should be {FIELDS[name][1]}, found null")
    kept["bounds"] = tuple((float(t), float(n), float("nan" if b is None else b)) for t, n, b in kept.get("bounds", ()))
    return Record(**kept)


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "…"


def _number(v: Any) -> bool:
    return isinstance(v, (int, float)) and not isinstance(v, bool)


def _text_value(v: Any) -> bool:
    return isinstance(v, str)


def _bounds(v: Any) -> bool:
    return isinstance(v, list) and all(map(_moment, v))


def _moment(p: Any) -> bool:
    return isinstance(p, list) and len(p) == 3 and all(map(_number, p[:2])) and (p[2] is None or _number(p[2]))


FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "suite": (_text_value, "a text"),
    "index": (lambda v: isinstance(v, int) and not isinstance(v, bool) and v >= 0, "a whole number of at least 0"),
    "model": (_text_value, "a path"),
    "property": (_text_value, "a path"),
    "timeout": (lambda v: _number(v) and v >= 0, "a number of at least 0"),
    "verdict": (lambda v: v in VERDICTS, f"one of {', '.join(VERDICTS)}"),
    "reason": (_text_value, "a text"),
    "seconds": (lambda v: _number(v) and 0 <= v < math.inf, "a number of at least 0"),
    "stages": (lambda v: isinstance(v, dict) and all(map(_number, v.values())), "an object of numbers"),
    "stats": (lambda v: isinstance(v, dict), "an object"),
    "plan": (lambda v: isinstance(v, list), "a list"),
    "counterexample": (_text_value, "a path or null"),
    "bounds": (_bounds, "a list of [seconds, open domains, worst lower bound]"),
    "started": (_text_value, "a text"),
    "version": (_text_value, "a text"),
}
REQUIRED = ("suite", "index", "model", "property", "timeout", "verdict", "seconds")


def _from_csv(text: str, path: Path) -> Iterator[Record]:
    head: list[str] | None = None
    suite = path.resolve().parent.name if path.name.startswith("instances.csv") else ""
    index = 0
    for where, cells in lists.rows(text, path):
        if head is None:
            lowered = [cell.lower() for cell in cells]
            named = "onnx" in lowered and "vnnlib" in lowered
            head = lowered if named else ["suite", "onnx", "vnnlib", "prepared", "verdict", "seconds"]
            if named:
                if not {"verdict", "expected"} & set(head):
                    raise FileError(f"{where}: no column 'verdict' or 'expected' among {', '.join(head)}")
                continue
        if len(cells) < len(head):
            raise FileError(f"{where}: expected {len(head)} columns ({', '.join(head)}), found {len(cells)}")
        yield _row(dict(zip(head, cells)), suite, path.name.split(".")[0], index, where)
        index += 1


def _row(row: dict[str, str], suite: str, file: str, index: int, where: str) -> Record:
    said = (row.get("verdict") if "verdict" in row else row["expected"]) or ""
    word = MEANS.get(said.lower(), said.lower())
    return Record(
        suite=row.get("suite") or suite,
        index=index,
        model=row["onnx"],
        property=row["vnnlib"],
        verdict=word if word in VERDICTS else "error",
        seconds=_seconds(row, ("seconds", "best_s"), 0.0 if word in DECIDED else math.inf, where),
        timeout=_seconds(row, ("timeout", "timeout_s"), math.inf, where),
        reason=row.get("note") or ("" if word in VERDICTS else said),
        file=file,
    )


def _seconds(row: dict[str, str], names: tuple[str, ...], absent: float, where: str) -> float:
    for name in names:
        if row.get(name):
            try:
                value = float(row[name])
            except ValueError:
                value = math.nan
            if not value >= 0:
                raise FileError(f"{where}: '{name}' should be a number of at least 0, found {row[name][:40]!r}")
            return value
    return absent


def _stem(path: str) -> str:
    return path.replace("\\", "/").rpartition("/")[2].removesuffix(".gz")
