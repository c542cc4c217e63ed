"""What a run tells while it works: its events as lines on standard error, and as notes for the process that answers."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import Any

from verifier import guard
from verifier.events import Event


class Progress:
    """Events to lines on standard error, and to notes for the parent, which tells of them if the child cannot.

    Level 1 prints what is new, and what repeats every two seconds; level 2 prints everything.
    """

    EVERY = 2.0

    def __init__(self, level: int, start: float, send: guard.Send):
        self.level, self.start, self.send = level, start, send
        self.printed: dict[str, float] = {}
        self.noted = float("-inf")

    def __call__(self, event: Event) -> None:
        now = time.monotonic()
        if event.stage == "plan":
            self.send({"plan": list(event.figures["lines"]), "device": event.figures["device"]})
            for line in event.figures["lines"] if self.level > 1 else ():
                self._print(now, f"plan: {line}")
            return
        if now - self.noted > 0.2:
            self.noted = now
            self.send({"stage": event.stage, "stats": dict(event.figures)})
        key = f"{event.stage} {event.text}"
        if self.level > 1 or (self.level and now - self.printed.get(key, float("-inf")) > self.EVERY):
            self.printed[key] = now
            figures = "".join(f"  {k}={_short(v)}" for k, v in event.figures.items())
            self._print(now, f"{event.stage}: {event.text}{figures}")

    def _print(self, now: float, text: str) -> None:
        with contextlib.suppress(OSError):
            print(f"[{now - self.start:8.2f} s] {text}", file=sys.stderr, flush=True)


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
