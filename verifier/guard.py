"""The answer comes in time, once, and whole: the run happens in a child process, and its parent alone speaks.

A verifier spends its time where Python cannot be interrupted: loading torch, one large product, a parser in C. A timer
or a signal handler in the same process waits until that call returns, and a thread waits as long when the call holds
the interpreter's lock (loading a shared library does, for a second at a time). So before anything heavy is imported,
the process forks. The child works and sends messages down a pipe; the parent sleeps in `select` on that pipe, on
signals and on the deadline, holds nothing but a few small modules, and so wakes within a millisecond whatever the
child does. Forking at this point costs about a millisecond: there are no threads yet and little memory.

Why exactly one verdict is written, and never half of it:

* only the parent writes verdicts, in one thread, and it decides once: the child's final message, or a signal, or the
  deadline;
* a message counts when it has arrived whole (its length goes first); a child that dies while sending has said nothing;
* signals are only noted (the wakeup descriptor), never acted on while a file is being written;
* files are written beside their place and renamed into it (`write_whole`), so that a reader sees the old state or the
  new one.

The parent killed with SIGKILL takes the child along (PR_SET_PDEATHSIG). A child that the system kills, which is what
running out of memory looks like, ends as `unknown`; one that crashes is our bug and is reported as one. The child's
standard output is standard error, so that no library can put a word before the verdict.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import signal
import struct
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

HEADER = struct.Struct("<cQ")  # kind of message, length
NOTE, FINAL = b"n", b"f"
IRREPLACEABLE = {errno.EACCES, errno.EPERM, errno.EBUSY, errno.EXDEV}
Send = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Ending:
    """How the run ended: `how` is answer, error, memory, bug, deadline, terminated, interrupted or killed.

    `said` holds the child's final message, over the notes that it sent before.
    """

    how: str
    said: dict[str, Any] = field(default_factory=dict)


def margin(timeout: float) -> float:
    """Seconds before the deadline at which the parent stops waiting: time to write the answer on a busy machine."""
    return min(0.25, 0.2 * timeout)


class Signals:
    """While entered, SIGTERM, SIGINT and SIGHUP are noted instead of acted on; `first` is the first that came. A hangup
    that the caller ignores (nohup) stays ignored.
    """

    def __init__(self) -> None:
        self.first: int | None = None
        self.awake, self._wake = os.pipe()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        for fd in (self.awake, self._wake):
            os.set_blocking(fd, False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._note)
        self._fd_before = signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        return self

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(self._fd_before)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        os.close(self.awake)
        os.close(self._wake)

    def _note(self, number: int, _: object) -> None:
        self.first = self.first or number


def supervise(work: Callable[[Send], dict[str, Any]], until: float, signals: Signals) -> Ending:
    """Runs `work(send)` in a child until it returns its final message, `until` (monotonic) passes, or a signal comes.

    The child still runs when this returns after a deadline or a signal: write the answer first, then `end_children`.
    """
    receive, give = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        os.close(receive)
        live(work, give, parent)
    os.close(give)
    _children[pid] = receive
    return _listen(pid, receive, until, signals)


_children: dict[int, int] = {}  # pid -> read end of its pipe; filled between `supervise` and `end_children` only


def end_children() -> None:
    """Ends what `supervise` left running, and waits for it: afterwards nothing of the run remains."""
    for pid, receive in list(_children.items()):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)
        os.close(receive)
        del _children[pid]


def live(work: Callable[[Send], dict[str, Any]], give: int, parent: int) -> NoReturn:
    """The child's whole life: does `work` and sends what it says into the pipe `give`; never returns."""
    status = 0
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # they reach the whole group; the parent decides
            signal.signal(number, signal.SIG_IGN)
        die_with(parent)
        os.dup2(2, 1)
        try:
            final = work(lambda note: send(give, NOTE, note))
        except MemoryError:
            final = {"end": "memory"}
        except BaseException as e:  # whatever escapes `work` is our own bug, and must be told as one
            final = {"end": "bug", "error": one_line(e), "traceback": traceback.format_exc()}
        send(give, FINAL, final)
    except BaseException:
        status = 1
    finally:
        with contextlib.suppress(BaseException):
            sys.stderr.flush()
        os._exit(status)  # no teardown: the answer is out, and freeing gigabytes piece by piece helps nobody


def die_with(parent: int) -> None:
    """Asks the system to kill this process when its parent is gone, however that ends."""
    try:
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    except (ImportError, OSError, AttributeError):
        return
    if os.getppid() != parent:
        os._exit(1)


def packed(kind: bytes, message: dict[str, Any]) -> bytes:
    """A message as it goes down a pipe."""
    body = json.dumps(message, default=plain).encode()
    return HEADER.pack(kind, len(body)) + body


def send(fd: int, kind: bytes, message: dict[str, Any]) -> None:
    """Writes a message, waiting where the pipe is full."""
    data = memoryview(packed(kind, message))
    while data:
        data = data[os.write(fd, data) :]


class Inbox:
    """Pieces of bytes in, whole messages out."""

    def __init__(self) -> None:
        self.buffer = bytearray()

    def feed(self, piece: bytes) -> Iterator[tuple[bytes, dict[str, Any]]]:
        """(kind, message) for every message that is whole now."""
        self.buffer += piece
        while len(self.buffer) >= HEADER.size:
            kind, length = HEADER.unpack_from(self.buffer)
            if len(self.buffer) < HEADER.size + length:
                return
            message = json.loads(self.buffer[HEADER.size : HEADER.size + length])
            del self.buffer[: HEADER.size + length]
            yield kind, message


def plain(value: Any) -> Any:
    """Numbers of numpy and torch as Python's, anything else as its text: the parent must not import what made them."""
    return value.item() if hasattr(value, "item") else str(value)


def _listen(pid: int, receive: int, until: float, signals: Signals) -> Ending:
    said: dict[str, Any] = {}
    inbox = Inbox()
    poll = select.poll()
    poll.register(receive, select.POLLIN)
    poll.register(signals.awake, select.POLLIN)
    while True:
        if signals.first is not None:
            return Ending("interrupted" if signals.first == signal.SIGINT else "terminated", said)
        left = until - time.monotonic()
        if left <= 0:
            return Ending("deadline", said)
        ready = dict(poll.poll(min(left, 3600.0) * 1000 + 1))
        if signals.awake in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(signals.awake, 64)
        if receive not in ready:
            continue
        piece = os.read(receive, 1 << 20)
        if not piece:
            return _ended_silently(pid, said)
        for kind, message in inbox.feed(piece):
            said.update(message)
            if kind == FINAL:
                return Ending(said.pop("end", "answer"), said)


def _ended_silently(pid: int, said: dict[str, Any]) -> Ending:
    """The pipe closed without a final message: the child was killed or crashed."""
    _, status = os.waitpid(pid, 0)
    os.close(_children.pop(pid))
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return Ending("killed", said)
    how = f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"status {os.WEXITSTATUS(status)}"
    return Ending("bug", {**said, "error": f"the working process ended with {how}"})


def one_line(error: BaseException) -> str:
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def write_whole(path: str | os.PathLike[str], text: str) -> None:
    """Puts `text` at `path` in one step, and makes its folder. What is no regular file (a terminal, a pipe) is just
    written to; so is a file that cannot be replaced (mounted by itself, or in a folder of somebody else's).
    """
    place = Path(os.path.realpath(path))
    if place.exists() and not place.is_file():
        place.write_text(text, encoding="utf-8")
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    temporary = place.with_name(f".{place.name[:200]}.{os.getpid()}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8") as f:
            f.write(text)
        os.replace(temporary, place)
    except BaseException as e:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if not (isinstance(e, OSError) and e.errno in IRREPLACEABLE and os.access(place, os.W_OK)):
            raise
        place.write_text(text, encoding="utf-8")
