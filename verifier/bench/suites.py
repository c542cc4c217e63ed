"""What a suite holds: the lines of an instances.csv, or pairs of models and properties found by name.

An instances.csv has either a header (`onnx`, `vnnlib`, `timeout` or `timeout_s`, perhaps `expected`, in any order,
others ignored) or the competition's three columns without one. Paths are relative to the file's folder. Files may be
gzip-compressed, the list itself included.

A word `MODELS:PROPERTIES` with a file pattern on each side stands for pairs: a property belongs to the model whose name
begins its own (`net.onnx`, `net_17.vnnlib`; the longest such), or to the only model there is.
"""

from __future__ import annotations

import glob
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

from verifier import lists
from verifier.result import FileError, UsageError

SUFFIXES = {".gz", ".onnx", ".vnnlib"}


@dataclass(frozen=True)
class Instance:
    """A line of a suite. `index` is its number in the list from 0, the header not counted; `evidence` where a
    counterexample goes, below the folder of results.
    """

    suite: str
    index: int
    model: str  # as listed
    property: str
    timeout: float  # seconds
    folder: str  # what the paths are relative to, absolute
    expected: str = ""
    evidence: str = ""

    @property
    def key(self) -> tuple[str, int]:
        return self.suite, self.index

    @property
    def paths(self) -> tuple[str, str]:
        """Model and property, absolute."""
        return str(Path(self.folder, self.model)), str(Path(self.folder, self.property))

    @property
    def name(self) -> str:
        return f"{self.suite}[{self.index}] {PurePath(self.model).name} {PurePath(self.property).name}"


def read(words: Iterable[str], timeout: float) -> list[Instance]:
    """All instances of the suites that `words` name: folders, instances.csv files, or `MODELS:PROPERTIES`.

    `timeout` is for instances that list none. Raises FileError or UsageError.
    """
    suites: dict[str, list[Instance]] = {}
    folders: dict[str, str] = {}
    for word in words:
        found = _pairs(word, timeout) if _is_pattern(word) else _listed(Path(word), timeout)
        folder = found[0].folder
        name = found[0].suite
        if name in suites and folders[name] == folder:
            raise UsageError(f"{word}: the suite is named twice")
        if name in suites:  # the same benchmark of two years, say
            name = f"{Path(folder).parent.name}_{name}"
        if name in suites:
            raise UsageError(f"{word}: two suites are called {name}; rename a folder, or run them one by one")
        suites[name], folders[name] = [replace(i, suite=name) for i in found], folder
    return [i for found in suites.values() for i in _with_evidence(found)]


def _is_pattern(word: str) -> bool:
    return ":" in word and not Path(word).exists()


def _listed(path: Path, timeout: float) -> list[Instance]:
    if path.is_dir():
        places = [path / "instances.csv", path / "instances.csv.gz"]
        path = next((p for p in places if p.is_file()), places[0])
    if not path.is_file():
        raise FileError(f"{path}: no such file; a suite is a folder with an instances.csv, or 'MODELS:PROPERTIES'")
    listed = list(lists.rows(lists.text(path), path))
    head, hint = [cell.lower() for cell in listed[0][1]] if listed else [], ""
    if "onnx" in head and "vnnlib" in head:
        listed = listed[1:]
    else:
        head, hint = ["onnx", "vnnlib", "timeout"], "; if this line is a header, name its columns onnx, vnnlib, timeout"
    if not listed:
        raise FileError(f"{path}: lists no instances")
    folder, found = path.parent.resolve(), []
    for index, (where, row) in enumerate(listed):
        found.append(_instance(dict(zip(head, row)), index, folder, where, timeout, hint))
        hint = ""
    return found


def _instance(cells: dict[str, str], index: int, folder: Path, where: str, timeout: float, hint: str) -> Instance:
    """`where` is file:line and `hint` what more to say, for mistakes."""
    if not cells.get("onnx") or not cells.get("vnnlib"):
        raise FileError(f"{where}: expected onnx,vnnlib,timeout: a model, a property, seconds{hint}")
    word = cells.get("timeout_s") or cells.get("timeout") or str(timeout)
    try:
        seconds = float(word)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise FileError(f"{where}: {word!r} is not a time in seconds{hint}")
    return Instance(folder.name, index, cells["onnx"], cells["vnnlib"], seconds, str(folder), cells.get("expected", ""))


def _pairs(word: str, timeout: float) -> list[Instance]:
    models, properties = ([Path(p) for p in sorted(glob.glob(w, recursive=True))] for w in word.split(":", 1))
    for what, some in (("model", models), ("property", properties)):
        if not some:
            raise FileError(f"{word}: no {what} matches")
    folder, found = Path.cwd(), []
    for k, p in enumerate(properties):
        name = stem(str(p))
        own = [m for m in models if name.startswith(stem(str(m)))]
        if not own and len(models) > 1:
            raise UsageError(f"{word}: {p} belongs to no model: its name begins with none of theirs")
        model = max(own, key=lambda m: len(stem(str(m)))) if own else models[0]
        found.append(Instance(folder.name, k, str(model), str(p), timeout, str(folder)))
    return found


def stem(path: str) -> str:
    """The file's name without .onnx, .vnnlib, .gz."""
    name = PurePath(path)
    while name.suffix in SUFFIXES:
        name = name.with_suffix("")
    return name.name


def _with_evidence(suite: list[Instance]) -> list[Instance]:
    """Names for counterexamples as competitions choose them: `MODEL_PROPERTY.counterexample.gz`, with the model's
    folder before it where that is not unique, and the number after it where that is not enough.
    """
    short = [f"{stem(i.model)}_{stem(i.property)}" for i in suite]
    count = Counter(short)
    longer = [s if count[s] == 1 else f"{PurePath(i.model).parent.name}_{s}" for s, i in zip(short, suite)]
    count = Counter(longer)
    names = [s if count[s] == 1 else f"{s}_{i.index}" for s, i in zip(longer, suite)]
    return [replace(i, evidence=f"counterexamples/{i.suite}/{name}.counterexample.gz") for i, name in zip(suite, names)]
