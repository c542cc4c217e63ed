"""Lists of instances and of results: files of text, plain or compressed; CSV row by row, each with its place."""

from __future__ import annotations

import csv
import gzip
import io
import os
import zlib
from collections.abc import Iterator
from pathlib import Path

from verifier.result import FileError


def text(path: Path) -> str:
    """What is in the file, plain or gzip-compressed; raises FileError."""
    try:
        data = path.read_bytes()
        return (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode("utf-8-sig")
    except (EOFError, zlib.error, gzip.BadGzipFile) as e:
        raise FileError(f"{path}: damaged gzip file: {e}") from None
    except UnicodeDecodeError:
        raise FileError(f"{path}: not a text file") from None
    except OSError as e:
        raise FileError(f"{path}: cannot be read: {e.strerror}") from None


def rows(content: str, path: str | os.PathLike[str]) -> Iterator[tuple[str, list[str]]]:
    """(`path:LINE`, cells without blanks around them) for every row that is not empty.

    Raises FileError for what is no CSV. No cell spans lines: a quotation mark that is not closed would swallow the rest
    of the list.
    """
    reader = csv.reader(io.StringIO(content), strict=True)
    line = 1
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as e:
            raise FileError(f"{path}:{line}: not a line of a CSV file: {e} (is a quotation mark missing?)") from None
        if cells is None:
            return
        if reader.line_num > line:
            raise FileError(f"{path}:{line}: a quotation mark is not closed on its line")
        if any(cell.strip() for cell in cells):
            yield f"{path}:{line}", [cell.strip() for cell in cells]
        line = reader.line_num + 1
