"""What a person sees of a run: a live table on a terminal (with `rich`, where it is installed), plain lines elsewhere.

A line a result goes to standard output in either case, so that it can be piped and kept.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from typing import Any

from verifier.bench.suites import Instance

REDRAW = 0.25  # seconds


class Plain:
    """Lines, and nothing else."""

    def __init__(self, total: int, before: int, slots: int):
        self.total, self.finished, self.slots = total, before, slots
        self.counts: Counter[str] = Counter()
        self.begun = time.monotonic()
        self.seconds: list[float] = []
        self.running: dict[Any, tuple[Instance, str, float]] = {}
        self.trouble = ""  # why standard output takes no lines; the run goes on without

    def start(self, instance: Instance, stage: str = "start") -> None:
        """The instance is at work, at that stage."""
        known = self.running.get(instance.key)
        self.running[instance.key] = (instance, stage, known[2] if known else time.monotonic())

    def stop(self, instance: Instance) -> None:
        """The instance is no longer at work, without a result."""
        self.running.pop(instance.key, None)

    def result(self, instance: Instance, record: dict[str, Any]) -> None:
        self.running.pop(instance.key, None)
        self.finished += 1
        self.counts[record["verdict"]] += 1
        self.seconds.append(record["seconds"])
        width = len(str(self.total))
        note = "" if record["verdict"] in ("sat", "unsat") else f"  ({record['reason']})"
        if {record["verdict"], instance.expected} == {"sat", "unsat"}:
            note = f"  CONTRADICTS the expected {instance.expected}"
        count = f"{self.finished:{width}}/{self.total}"
        self.line(f"{count}  {record['verdict']:7} {record['seconds']:8.2f} s  {instance.name}{note}")

    def line(self, text: str) -> None:
        if self.trouble:
            return
        try:
            self.put(text)
        except BrokenPipeError:  # whoever read it wants no more, as every command takes it
            raise
        except OSError as e:
            self.trouble = e.strerror or str(e)

    def put(self, text: str) -> None:
        """Prints a line."""
        print(text, flush=True)

    def left(self) -> float:
        """Seconds that the rest will take if it is like what was."""
        if not self.seconds:
            return float("nan")
        return (self.total - self.finished) * sum(self.seconds) / len(self.seconds) / self.slots

    def tick(self) -> None:
        """Called several times a second."""

    def close(self) -> None:
        """Nothing is drawn after this."""


class Silent(Plain):
    """Nothing."""

    def put(self, text: str) -> None:
        pass


class Live(Plain):
    """A table below the lines: what runs and its stage, counts, time left. Draws from this thread only."""

    def __init__(self, total: int, before: int, slots: int):
        super().__init__(total, before, slots)
        from rich.console import Console
        from rich.live import Live as Area
        from rich.text import Text

        self.text = Text  # what is in brackets is no markup
        self.console = Console(highlight=False)
        self.area = Area(console=self.console, auto_refresh=False, transient=True, redirect_stderr=False)
        self.area.start()
        self.drawn = 0.0

    def put(self, text: str) -> None:
        self.console.print(self.text(text), soft_wrap=True)

    def tick(self) -> None:
        if time.monotonic() - self.drawn > REDRAW:
            self.drawn = time.monotonic()
            self.area.update(self._table(), refresh=True)

    def _table(self) -> Any:
        from rich.table import Table

        table = Table.grid(padding=(0, 2))
        now = time.monotonic()
        for instance, stage, since in list(self.running.values())[:16]:
            name, cyan = self.text(instance.name), self.text(stage, style="cyan")
            table.add_row(name, cyan, f"{now - since:6.1f} of {instance.timeout:g} s")
        counts = "  ".join(f"{n} {verdict}" for verdict, n in self.counts.most_common()) or "-"
        table.add_row(self.text(f"{self.finished} of {self.total}", style="bold"), counts, f"{clock(self.left())} left")
        return table

    def close(self) -> None:
        self.area.stop()


def clock(seconds: float) -> str:
    """Hours, minutes, seconds; `?` for what is not known."""
    if not seconds < float("inf"):
        return "?"
    minutes, s = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{s:02}" if hours else f"{minutes}:{s:02}"


def pick(total: int, before: int, slots: int, quiet: bool = False) -> Plain:
    """The live table where standard output is a terminal and `rich` is there."""
    if quiet:
        return Silent(total, before, slots)
    if sys.stdout.isatty():
        try:
            return Live(total, before, slots)
        except ImportError:
            pass
    return Plain(total, before, slots)
