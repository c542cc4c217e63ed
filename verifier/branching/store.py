"""Where tables of split points come from: with the package, from the user's cache, or they are made.

Tables are named by their key, a hash of everything that decides what is in them (`verifier.branching.tables.key`).
Those that come with the package are in one file beside this one, an array of bytes for each (`scripts/make_tables.py`
writes it); the cache is a folder with a file for each.

A table (I, J) uint8 is packed as its differences along both axes, modulo 256, deflated: neighbours are nearly alike. A
file in the cache is SHA-256 of what follows, one line of JSON with the key and in words whose table it is, and the
packed table. It is written beside its place and renamed into it, so a reader sees all of it or none, whatever other
processes do; a file that its hash does not fit, or of another key or size, is made anew. A folder that cannot be
written to costs only the time to make its tables again.

A wrong table could only make the search slower: any point strictly inside an interval is sound.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from pathlib import Path

import numpy as np
import torch

from verifier.branching.tables import Consumer, build, grid_for, key

SHIPPED = Path(__file__).with_name("tables.npz")
DAMAGED = (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile)  # what reading a broken archive raises
DIGEST = hashlib.sha256().digest_size


def pack(levels: np.ndarray) -> bytes:
    """A table (I, J) uint8 in as few bytes as is easy."""
    steps = np.diff(np.diff(levels, axis=0, prepend=np.uint8(0)), axis=1, prepend=np.uint8(0))
    return zlib.compress(steps.tobytes(), 9)


def unpack(packed: bytes, shape: tuple[int, int]) -> np.ndarray | None:
    """The table again; None where these bytes hold none of this shape."""
    try:
        steps = np.frombuffer(zlib.decompress(packed), np.uint8)
    except zlib.error:
        return None
    if steps.size != shape[0] * shape[1]:
        return None
    return steps.reshape(shape).cumsum(1, dtype=np.uint8).cumsum(0, dtype=np.uint8)


def words(consumers: tuple[Consumer, ...]) -> str:
    return " + ".join(map(str, consumers))


@dataclass(frozen=True)
class Store:
    """Finds tables, and keeps those that it had to make in `folder` (None: nowhere)."""

    folder: Path | None = None

    @staticmethod
    def of_user() -> Store:
        """The store with the user's own cache."""
        home = os.environ.get("XDG_CACHE_HOME", "")
        try:  # the specification has relative paths ignored; there may be no home
            root = Path(home) if os.path.isabs(home) else Path.home() / ".cache"
        except RuntimeError:
            return Store()
        return Store(root / "clipbab" / "tables")

    def find(self, consumers: tuple[Consumer, ...]) -> tuple[np.ndarray | None, str]:
        """The table (I, J) uint8 of these operators if it is there, and from where: shipped, cached, or to be built."""
        name, shape = key(consumers), grid_for(consumers).shape
        levels = self._shipped(name, shape)
        if levels is not None:
            return levels, "shipped"
        levels = self._cached(name, shape)
        return levels, "to be built" if levels is None else "cached"

    def levels(
        self,
        consumers: tuple[Consumer, ...],
        device: torch.device | str = "cpu",
        seconds: float = inf,
        told: Callable[[float], None] = lambda share: None,
    ) -> np.ndarray | None:
        """The table (I, J) uint8 of these operators, made if need be; None where that would take more than `seconds`.
        `told` hears what share is made.
        """
        levels, _ = self.find(consumers)
        if levels is None:
            levels = build(consumers, device, seconds, told)
            if levels is not None and self.folder is not None:
                with contextlib.suppress(OSError):
                    self._write(key(consumers), words(consumers), levels)
        return levels

    @staticmethod
    def _shipped(name: str, shape: tuple[int, int]) -> np.ndarray | None:
        try:
            with np.load(SHIPPED) as held:
                return unpack(held[name].tobytes(), shape) if name in held else None
        except DAMAGED:  # a package put together without its data still works
            return None

    def _cached(self, name: str, shape: tuple[int, int]) -> np.ndarray | None:
        if self.folder is None:
            return None
        try:
            whole = self._place(name).read_bytes()
        except OSError:
            return None
        head, end, packed = whole[DIGEST:].partition(b"\n")
        if not end or hashlib.sha256(whole[DIGEST:]).digest() != whole[:DIGEST]:
            return None
        return unpack(packed, shape) if json.loads(head).get("key") == name else None

    def _write(self, name: str, whose: str, levels: np.ndarray) -> None:
        place = self._place(name)
        place.parent.mkdir(parents=True, exist_ok=True)
        body = json.dumps({"key": name, "table of": whose}).encode() + b"\n" + pack(levels)
        handle, beside = tempfile.mkstemp(prefix=f".{name}.", suffix=".tmp", dir=place.parent)
        try:
            with os.fdopen(handle, "wb") as f:
                f.write(hashlib.sha256(body).digest() + body)
            os.replace(beside, place)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(beside)
            raise

    def _place(self, name: str) -> Path:
        return self.folder / f"{name}.table"
