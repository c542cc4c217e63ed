"""Reading a VNN-LIB 1.0 property: file to bytes, bytes to parts by one of two readers, parts to `Query`.

`fast` streams files of the two common shapes; whatever it does not recognise goes to `general`, which accepts every
and/or formula over linear comparisons and alone reports errors. Both deliver the same `Parts`. The grammar package is
imported only when it is needed.
"""

from __future__ import annotations

import os
import zlib
from dataclasses import replace
from pathlib import Path

from verifier.foreign import is_onnx, recognised
from verifier.result import FileError, PropertyError
from verifier.spec import fast
from verifier.spec.normal import assemble
from verifier.spec.query import Query

GZIP = b"\x1f\x8b"
MAX_BYTES = 4 << 30  # of the text, unpacked


def parse_property(path: str | os.PathLike[str]) -> Query:
    """The property in `path` (plain or gzip, told by content; `path`.gz where `path` is missing) in normal form.

    Raises FileError where the file cannot be read and PropertyError, with file:line:column, where it is not a property.
    """
    data, source = _load(os.fspath(path))
    return parse_bytes(data, source)


def parse_bytes(data: bytes, source: str = "<property>") -> Query:
    """As `parse_property`, from the unpacked text as bytes; `source` is the name for messages."""
    data = data.removeprefix(b"\xef\xbb\xbf")
    what = "an ONNX model: give the model first, then the property" if is_onnx(data) else recognised(data)
    if what:
        raise PropertyError(f"expected a VNN-LIB property, found {what}", f"{source}:1:1")
    text = None if data.isascii() else _decode(data, source)
    parts = fast.read(data)
    if parts is None:
        from verifier.spec import general  # brings in the grammar package, which most files do not need

        parts = general.read(data.decode("ascii") if text is None else text, source)
    return replace(assemble(parts, source), text=data)


def _decode(data: bytes, source: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = len(data[data.rfind(b"\n", 0, error.start) + 1 : error.start].decode("utf-8", "replace")) + 1
        found = f"byte 0x{data[error.start]:02x}"
        raise PropertyError(f"expected text in UTF-8, found {found}", f"{source}:{line}:{column}") from None


def _load(path: str) -> tuple[bytes, str]:
    """The unpacked bytes of a file and the path they came from."""
    try:
        if not os.path.exists(path) and os.path.exists(path + ".gz"):
            path += ".gz"
        data = Path(path).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a path with a null character
        reason = getattr(error, "strerror", None) or str(error)
        raise FileError(f"{path}: cannot read the property: {reason}") from None
    return (_unpack(data, path) if data.startswith(GZIP) else data), path


def _unpack(data: bytes, path: str) -> bytes:
    """All members of a gzip file one after another; zeros may follow the last."""
    pieces, room = [], MAX_BYTES
    while data:
        member = zlib.decompressobj(wbits=31)
        try:
            pieces.append(member.decompress(data, room))
        except zlib.error as error:
            raise FileError(f"{path}: damaged gzip file: {error}") from None
        room -= len(pieces[-1])
        if not member.eof:
            if member.unconsumed_tail or not room:
                raise FileError(f"{path}: unpacks to more than {MAX_BYTES:,} bytes")
            raise FileError(f"{path}: truncated gzip file")
        data = member.unused_data.lstrip(b"\0")
    return b"".join(pieces)
