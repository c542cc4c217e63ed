"""Where answers go: files, which appear in one step, and descriptors, which are written to as they are.

`-`, /dev/stdout, /dev/stderr, /dev/fd/N (what a shell's `>(…)` stands for) and a file that standard output or standard
error is sent to are descriptors: the file behind one may be a pipe without a name, or be in use by others, so it is
never looked up, removed or replaced; the answer is appended to what went there before.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import select
import stat
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from verifier import guard
from verifier.result import FileError, UsageError

STDIN, STDOUT, STDERR = 0, 1, 2
NAMED = re.compile(r"/dev/(stdin|stdout|stderr)|/(?:dev|proc/(?:self|thread-self|(\d+)))/fd/(\d+)")
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EBADF, errno.EIO, errno.EFBIG}  # what writing to a descriptor fails of


@dataclass(frozen=True)
class Output:
    """A place for an answer: `name` as the user gave it, and the open descriptor that it is, if any."""

    name: str
    descriptor: int | None

    @property
    def place(self) -> str:
        """The same for two outputs that cannot both be written; '' for what can be, such as /dev/null."""
        if self.descriptor is not None:
            return f"descriptor {self.descriptor}"
        place = os.path.realpath(self.name)
        return "" if os.path.exists(place) and not os.path.isfile(place) else place

    def write(self, text: str) -> str:
        """Writes the text; returns what went wrong, in one line, or ''."""
        try:
            if self.descriptor is None:
                guard.write_whole(self.name, text)
            else:
                write_to(self.descriptor, text)
        except OSError as e:
            left = self.descriptor is not None and isinstance(e, BrokenPipeError)  # whoever read it has gone
            return "" if left else f"{self.name}: cannot be written: {e.strerror}"
        return ""


def output(name: str, inputs: Iterable[str] = ()) -> Output:
    """The output of that name, made ready: its folder exists, and an older run's answer is gone.

    Raises UsageError or FileError where it cannot be written, or is one of `inputs`.
    """
    try:
        descriptor = _descriptor(name)
        if descriptor is not None:
            os.fstat(descriptor)
        else:
            _clear(name, inputs)
    except OSError as e:
        raise FileError(f"{name}: cannot be written: {e.strerror}") from None
    return Output(name, descriptor)


def result_and_record(
    results_file: str | None, record: str | None, inputs: Iterable[str]
) -> tuple[Output | None, Output | None]:
    """Where the result and the record go, those that are asked for, made ready; UsageError where they are one place."""
    first, second = (output(name, inputs) if name else None for name in (results_file, record))
    if first and second and first.place and first.place == second.place:
        raise UsageError(f"--results-file {first.name} and --json {second.name} are one place; name two")
    return first, second


def _descriptor(name: str) -> int | None:
    """The open descriptor that `name` stands for, if any."""
    if name == "-":
        return STDOUT
    path = os.path.abspath(name)
    for _ in range(40):  # as many links as systems follow
        match = NAMED.fullmatch(path)
        if match and match[1]:
            return {"stdin": STDIN, "stdout": STDOUT, "stderr": STDERR}[match[1]]
        if match and match[2] in (None, str(os.getpid())):
            return int(match[3])
        if match:
            return os.open(path, os.O_WRONLY | os.O_APPEND)  # another process's
        if not os.path.islink(path):
            break
        path = os.path.normpath(os.path.join(os.path.dirname(path), os.readlink(path)))
    for descriptor in (STDOUT, STDERR):
        with contextlib.suppress(OSError):
            held, named = os.fstat(descriptor), os.stat(name)
            if stat.S_ISREG(held.st_mode) and os.path.samestat(held, named):
                return descriptor
    return None


def _clear(name: str, inputs: Iterable[str]) -> None:
    place = Path(os.path.realpath(name))
    if place.is_dir() or name.endswith(os.sep):
        raise UsageError(f"{name}: is a folder; name a file for the result")
    for given in (g for word in inputs for g in (word, word + ".gz")):
        if place.exists() and os.path.exists(given) and os.path.samefile(place, given):
            raise UsageError(f"{name}: is what is read (the model, the property or settings); name another file")
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.is_file():
        try:
            place.unlink()
        except OSError:  # a folder that is not ours, a file that is mounted: it may still be written to
            place.write_text("", encoding="utf-8")
    elif not place.exists() and not os.access(place.parent, os.W_OK):
        raise PermissionError(errno.EACCES, "Permission denied")


def write_to(descriptor: int, text: str) -> None:
    """Writes all of the text, waiting where there is no room at present; raises OSError."""
    left = memoryview(text.encode("utf-8", "backslashreplace"))
    while left:
        try:
            left = left[os.write(descriptor, left) :]
        except BlockingIOError:
            select.select([], [descriptor], [])


def open_standard_streams() -> None:
    """Stands in for standard streams that were closed, so that no file of ours takes their numbers: writing to standard
    output then fails as it should, and standard error goes nowhere. Names that are no text do not end a run either.
    """
    for descriptor, mode in ((STDIN, os.O_RDONLY), (STDOUT, os.O_RDONLY), (STDERR, os.O_WRONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, mode)  # gets the least number that is free, which is this one
    if sys.stdout is None:
        sys.stdout = open(STDOUT, "w", encoding="utf-8", closefd=False)
    if sys.stderr is None:
        sys.stderr = open(STDERR, "w", encoding="utf-8", closefd=False)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def silence() -> None:
    """Sends standard output nowhere, so that what is left in its buffer cannot fail again."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, STDOUT)
    os.close(nowhere)


@contextlib.contextmanager
def flushed() -> Iterator[None]:
    """What was printed within is out afterwards. Raises OSError where it is not, but not in place of another error."""
    try:
        yield
    except Exception:
        try:
            sys.stdout.flush()
        except OSError:
            silence()
        raise
    finally:
        sys.stdout.flush()


def say(text: str) -> None:
    """A line on standard error, if that can still be written to."""
    with contextlib.suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)


def told(error: OSError) -> str:
    """An error of the system in one line: which file, and what is wrong with it."""
    why = error.strerror or str(error)
    if error.filename is not None:
        return f"{os.fsdecode(error.filename)}: {why}" if isinstance(error.filename, (str, bytes)) else why
    return f"standard output: cannot be written: {why}" if error.errno in FULL else why
