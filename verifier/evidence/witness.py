"""Counterexamples as text: `((X_0 v)\\n(X_1 v)\\n…(Y_0 v)\\n…)`, the form that competitions read.

Every number is the shortest decimal that reads back as the very same float64, so nothing is lost between the point
that was replayed and the point that is printed. Reading is stricter than writing asks for: every index once, none
missing, nothing between the pairs.
"""

from __future__ import annotations

import gzip
import os
import re
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from verifier.result import FileError, PropertyError, Witness

NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|[-+]?(?:inf|nan)"
PAIR = re.compile(rf"\s*\(\s*([XY])_(\d+)\s+({NUMBER})\s*\)", re.IGNORECASE)
VERDICT = re.compile(r"\s*sat\b")


@dataclass(frozen=True)
class Point:
    """A counterexample as read: `x` (n,) float64, and `y` (p,) as the file claims it, or None without any."""

    x: np.ndarray
    y: np.ndarray | None


def render(witness: Witness) -> str:
    """The counterexample in competition form, without a final newline."""
    pairs = [f"(X_{i} {v!r})" for i, v in enumerate(np.asarray(witness.x, np.float64).tolist())]
    pairs += [f"(Y_{i} {v!r})" for i, v in enumerate(np.asarray(witness.y, np.float64).tolist())]
    return "(" + "\n".join(pairs) + ")"


def read(path: str | os.PathLike[str]) -> Point:
    """The counterexample in a file, plain or gzip-compressed, with or without a first line `sat`."""
    try:
        data = Path(path).read_bytes()
        if data.startswith(b"\x1f\x8b"):
            data = gzip.decompress(data)
        text = data.decode("utf-8")
    except (EOFError, zlib.error, gzip.BadGzipFile) as e:
        raise FileError(f"{path}: damaged gzip file: {e}") from None
    except UnicodeDecodeError:
        raise FileError(f"{path}: not a text file, so no counterexample") from None
    except (OSError, ValueError) as e:
        raise FileError(f"{path}: cannot read the counterexample: {getattr(e, 'strerror', None) or e}") from None
    return parse(text, str(path))


def parse(text: str, source: str = "<counterexample>") -> Point:
    """The counterexample in `text`; raises PropertyError with the place where it is not one."""
    first = VERDICT.match(text)
    at = _expect(text, first.end() if first else 0, "(", source)
    found: dict[str, dict[int, float]] = {"X": {}, "Y": {}}
    while pair := PAIR.match(text, at):
        letter, index = pair[1].upper(), int(pair[2])
        if index in found[letter]:
            raise PropertyError(f"{letter}_{index} is given twice", _where(text, pair.start(1), source))
        found[letter][index] = float(pair[3])
        at = pair.end()
    at = _expect(text, at, ")", source)
    if text[at:].strip():
        raise PropertyError("expected the end of the counterexample", _where(text, at, source))
    return Point(_vector(found, "X", source), _vector(found, "Y", source) if found["Y"] else None)


def _expect(text: str, at: int, symbol: str, source: str) -> int:
    """The position after `symbol`, which must stand at `at` but for blanks."""
    at += len(text[at:]) - len(text[at:].lstrip())
    if text[at : at + 1] != symbol:
        wanted = "'(' and then pairs like (X_0 0.5)" if symbol == "(" else "a pair like (X_0 0.5), or ')'"
        found = repr(text[at : at + 20].split("\n")[0]) if at < len(text) else "the end of the file"
        raise PropertyError(f"expected {wanted}, found {found}", _where(text, at, source))
    return at + 1


def _vector(found: dict[str, dict[int, float]], letter: str, source: str) -> np.ndarray:
    values = found[letter]
    missing = next((i for i in range(len(values)) if i not in values), None)
    if missing is not None or not values:
        raise PropertyError(f"{letter}_{missing or 0} is missing", source)
    return np.array([values[i] for i in range(len(values))])


def _where(text: str, at: int, source: str) -> str:
    line = text.count("\n", 0, at) + 1
    return f"{source}:{line}:{at - (text.rfind(chr(10), 0, at) + 1) + 1}"
