"""What a run tells while it works: values that a listener prints, records or ignores; and the clock every stage obeys.

Nothing here prints. A stage calls `emit(Event(...))`; `cli` turns events into lines on standard error.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Event:
    """One thing that happened: `stage` (load, attack, bounds, search, replay), a short text, and figures by name."""

    stage: str
    text: str
    figures: dict[str, Any] = field(default_factory=dict)


Listener = Callable[[Event], None]


def silent(event: Event) -> None:
    """The listener that ignores everything."""


def process_start() -> float:
    """When this process started, on the clock of `time.monotonic` (seconds); the time of this call where the system
    does not tell.
    """
    try:
        with open("/proc/self/stat", encoding="ascii", errors="replace") as f:
            ticks = int(f.read().rpartition(")")[2].split()[19])
        return ticks / os.sysconf("SC_CLK_TCK") + time.monotonic() - time.clock_gettime(time.CLOCK_BOOTTIME)
    except (OSError, ValueError, IndexError, AttributeError):
        return time.monotonic()


@dataclass(frozen=True)
class Deadline:
    """A moment on the monotonic clock. Stages ask `left()`, in seconds, and stop in good time; it may be infinite."""

    at: float = float("inf")

    @classmethod
    def after(cls, seconds: float, start: float | None = None) -> Deadline:
        return cls((time.monotonic() if start is None else start) + seconds)

    def left(self) -> float:
        return self.at - time.monotonic()

    def passed(self) -> bool:
        return self.left() <= 0

    def sooner(self, seconds: float) -> Deadline:
        """The earlier of this deadline and `seconds` from now."""
        return Deadline(min(self.at, time.monotonic() + seconds))
