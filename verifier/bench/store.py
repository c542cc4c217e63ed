"""The folder of results: what is in it is never lost and never doubled.

    run.json          what the results were made with: settings, limits, suites, versions
    results.jsonl     one line an instance, in the order of their ends; the truth
    results.csv       the same as competitions write it: category, onnx, vnnlib, seconds to prepare, verdict, seconds
    counterexamples/  SUITE/MODEL_PROPERTY.counterexample.gz
    stderr.log        what the working processes had to say

A line counts once it is whole. It is written and synced before the next instance's; a counterexample is on the disk
before the line that names it. So after any death the list is whole but for its last line, which is cut off (or, if
only its newline is missing, completed) when the run goes on. results.csv is derived, and is made anew then.

A run goes on only with the settings it was begun with, or its results would be those of two runs. One that has no
results yet may be begun anew with any.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TextIO

from verifier import guard
from verifier.bench.suites import Instance
from verifier.record import strict
from verifier.result import FileError, UsageError

MUST_AGREE = ("config", "timeout_scale", "timeout_cap", "memory_gib", "clipbab")


class Store:
    """Opens or begins the folder; `done` holds the records by (suite, index)."""

    def __init__(self, folder: Path, run: dict[str, Any], instances: Iterable[Instance]):
        self.folder, self.done = folder, {}
        self.instances = {i.key: i for i in instances}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = _locked(folder)
            self.lines = _repaired(folder / "results.jsonl")
            before = self._before(run) if os.fstat(self.lines.fileno()).st_size else {}
            self._take(_records(folder / "results.jsonl"))
            suites = {**before.get("suites", {}), **run["suites"]}
            guard.write_whole(folder / "run.json", json.dumps({**run, "suites": suites}, indent=1) + "\n")
            self._write_csv()
            self.csv = open(folder / "results.csv", "a", newline="", encoding="utf-8")
        except OSError as e:
            raise FileError(f"{e.filename or folder}: cannot be written: {e.strerror}") from None

    def _before(self, run: dict[str, Any]) -> dict[str, Any]:
        """What the folder's earlier run was; UsageError if this one is another."""
        path = self.folder / "run.json"
        if not path.exists():
            raise UsageError(f"{self.folder}: holds results without a run.json; choose another --out")
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
            differences = [d for key in MUST_AGREE for d in _differences(key, before[key], run[key])]
        except (ValueError, KeyError, TypeError):
            raise FileError(f"{path}: damaged; choose another --out") from None
        for name, folder in run["suites"].items():
            if before["suites"].get(name, folder) != folder:
                differences.append(f"suite {name} was {before['suites'][name]}, now {folder}")
        if differences:
            listed = "; ".join(differences[:4]) + (f"; and {len(differences) - 4} more" if len(differences) > 4 else "")
            raise UsageError(
                f"{self.folder}: holds a run with other settings ({listed}): "
                "go on with the same ones, or choose another --out"
            )
        return before

    def _take(self, records: Iterable[dict[str, Any]]) -> None:
        for record in records:
            key = record["suite"], record["index"]
            listed = self.instances.get(key)
            if listed and (listed.model, listed.property) != (record["model"], record["property"]):
                raise UsageError(
                    f"{self.folder}: instance {key[1]} of {key[0]} is not what it was ({record['model']} "
                    f"{record['property']}): the list has changed; choose another --out"
                )
            self.done.setdefault(key, record)

    def add(self, record: dict[str, Any], witness: str = "") -> None:
        """Puts a result where nothing that happens afterwards can take it away; one there already stays."""
        key = record["suite"], record["index"]
        if key in self.done:
            return
        try:
            self._write(record, witness)
        except OSError as e:
            raise FileError(
                f"{e.filename or self.folder}: cannot be written: {e.strerror}; all results before are kept: "
                "the same command goes on"
            ) from None
        self.done[key] = record

    def _write(self, record: dict[str, Any], witness: str) -> None:
        if record["counterexample"]:
            place = self.folder / record["counterexample"]
            place.parent.mkdir(parents=True, exist_ok=True)
            temporary = place.with_name(f".{place.name}.tmp")
            with open(temporary, "wb") as f:
                f.write(gzip.compress((witness + "\n").encode(), mtime=0))
                f.flush()
                os.fsync(f.fileno())
            os.replace(temporary, place)
        line = json.dumps(strict(record), default=guard.plain) + "\n"
        _append(self.lines.fileno(), line.encode())
        self.csv.write(_csv_line(record))
        self.csv.flush()

    def _write_csv(self) -> None:
        order = sorted(self.done.values(), key=lambda r: (r["suite"], r["index"]))
        guard.write_whole(self.folder / "results.csv", "".join(map(_csv_line, order)))

    def close(self) -> None:
        """Puts results.csv in order and lets others into the folder."""
        with contextlib.suppress(OSError):  # results.csv is derived, and made anew by the next run
            self.csv.close()
        with contextlib.suppress(OSError):
            self._write_csv()
        self.lines.close()
        self._lock.close()


def _csv_line(record: dict[str, Any]) -> str:
    text = io.StringIO()
    cells = [record["suite"], record["model"], record["property"], 0, record["verdict"], f"{record['seconds']:.3f}"]
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()


def _locked(folder: Path) -> TextIO:
    lock = open(folder / ".lock", "w", encoding="ascii")
    with contextlib.suppress(ImportError):
        import fcntl

        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"{folder}: another run is writing there; wait for it, or choose another --out") from None
    return lock


def _repaired(path: Path) -> Any:
    """The list, opened for appending, its last line whole."""
    with open(path, "ab+") as f:
        f.seek(0)
        data = f.read()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            try:
                json.loads(data[whole:])
                f.write(b"\n")
            except ValueError:
                f.truncate(whole)
            f.flush()
            os.fsync(f.fileno())
    return open(path, "ab", buffering=0)


def _append(fd: int, line: bytes) -> None:
    """The whole line, on the disk, or nothing of it: a disk that is full takes the first bytes of a line gladly."""
    size, left = os.fstat(fd).st_size, memoryview(line)
    try:
        while left:
            left = left[os.write(fd, left) :]
        os.fsync(fd)
    except OSError:
        with contextlib.suppress(OSError):
            os.ftruncate(fd, size)
        raise


def _records(path: Path) -> Iterable[dict[str, Any]]:
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            record = json.loads(line)
            record["suite"], record["index"], record["model"], record["property"], record["verdict"]
            record["seconds"] += 0.0
        except (ValueError, KeyError, TypeError):
            raise FileError(f"{path}:{number}: no result; remove the line to run that instance again") from None
        yield record


def _differences(name: str, before: Any, now: Any) -> list[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        found = []
        for key in sorted({*before, *now}):
            inner = key if name == "config" else f"{name.removeprefix('config.')}.{key}"
            found += _differences(inner, before.get(key), now.get(key))
        return found
    return [] if before == now else [f"{name} was {before}, now {now}"]
