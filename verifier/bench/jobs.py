"""One instance as a message, and what the process that gets it does.

A `Job` says which files, under which settings and limits. The process that works on it (a fork of the server, or a new
interpreter where a GPU is used) sends notes while it works, and last words; `Outcome` is what the server makes of that
and of how the process ended. Jobs and outcomes are plain values, so they travel through pipes and clusters alike.

Memory. RLIMIT_AS is of no use here: torch and its libraries reserve address space by the gigabyte that they never
touch. RLIMIT_DATA counts what a process may write, touched or not; at the job's limit an allocation fails, which the
search answers with smaller batches, and where it cannot, with its last words. It misses shared memory and what
children take; for that the server looks at the resident memory of the whole family twenty times a second, and kills.
(RLIMIT_RSS has had no effect since Linux 2.4; control groups need rights that a user may not have.)
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, NoReturn

from verifier import guard, outputs, settings
from verifier.events import Deadline, Event
from verifier.result import InputError

POINTS = 200  # of bound over time, at most
NOTE_EVERY = 0.2  # seconds between notes


@dataclass(frozen=True)
class Job:
    """`config` as `settings.as_dict` writes it; `memory` in bytes, 0 for no limit; `work` names the function to call;
    `log` takes standard error; `more` is for that function.
    """

    id: int
    model: str
    property: str
    config: dict[str, Any]
    timeout: float
    memory: int = 0
    work: str = "verifier.bench.jobs:solve"
    log: str = os.devnull
    more: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Outcome:
    """`how` it ended: answer, error (the user's files), bug, memory, crash, deadline, cancelled, lost. `said` is the
    process's last words over its notes.
    """

    id: int
    how: str
    seconds: float
    detail: str = ""
    said: dict[str, Any] = field(default_factory=dict)
    bounds: list[list[float]] = field(default_factory=list)  # [seconds, open domains, worst lower bound]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def solve(job: Job, send: guard.Send, deadline: Deadline) -> dict[str, Any]:
    """Decides the instance; the last words of the process."""
    from verifier import api

    return api.last_words(api.verify(job.model, job.property, settings.from_dict(job.config), Notes(send), deadline))


class Notes:
    """Events to notes for the server: the stage when it changes, figures a few times a second."""

    def __init__(self, send: guard.Send):
        self.send, self.stage, self.sent = send, "", float("-inf")

    def __call__(self, event: Event) -> None:
        now = time.monotonic()
        if event.stage == "plan":
            self.send({"stage": "plan", "plan": list(event.figures["lines"])})
        elif event.stage != self.stage or now - self.sent > NOTE_EVERY:
            self.sent = now
            self.send({"stage": event.stage, "stats": dict(event.figures)})
        self.stage = event.stage


class Trace:
    """Bound over time, thinned as it grows: when full, every second point goes and points come half as often."""

    def __init__(self) -> None:
        self.points: list[list[float]] = []
        self.step, self.count = 1, 0

    def add(self, seconds: float, stats: dict[str, Any]) -> None:
        """Takes the figures of a round of the search; others are no point."""
        if "waiting" not in stats or "worst bound" not in stats:
            return
        if self.count % self.step == 0:
            self.points.append([round(seconds, 3), stats["waiting"], stats["worst bound"]])
        self.count += 1
        if len(self.points) >= POINTS:
            self.points, self.step = self.points[::2], 2 * self.step


def live(job: Job, give: int, parent: int, started: float) -> NoReturn:
    """The whole life of the process that works on a job: takes leave of its parent's terminal and group, limits itself,
    works, and tells by the pipe `give`.
    """
    with contextlib.suppress(OSError):
        os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with contextlib.suppress(OSError):
        log = os.open(job.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.dup2(log, 2)
    _limit_memory(job.memory)
    module, _, name = job.work.partition(":")
    whole = job.timeout - guard.margin(job.timeout)
    deadline = Deadline(started + whole - min(0.2, 0.1 * job.timeout))

    def work(send: guard.Send) -> dict[str, Any]:
        function: Callable[..., dict[str, Any]] = getattr(importlib.import_module(module), name)
        try:
            return function(job, send, deadline)
        except InputError as e:
            return {"end": "error", "error": str(e)}
        except OSError as e:
            return {"end": "error", "error": outputs.told(e)}
        except MemoryError:
            raise
        except Exception:  # our bug: `guard` tells of it in a line, the log in full
            print(f"{job.model} {job.property}", file=sys.stderr)
            traceback.print_exc()
            raise

    guard.live(work, give, parent)


def _limit_memory(memory: int) -> None:
    with contextlib.suppress(OSError):  # if the system runs out of memory all the same, this process shall go first
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as f:
            f.write("500")
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if memory:
            resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))


def visible_gpus() -> list[str]:
    """Names of this machine's GPUs for CUDA_VISIBLE_DEVICES, found without waking the driver."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        return [word for word in listed.split(",") if word.strip() not in ("", "-1")]
    return [str(k) for k in range(64) if os.path.exists(f"/dev/nvidia{k}")]


def resident(pid: int) -> int:
    """Bytes resident in the process and all its children; 0 where that cannot be read."""
    total = 0
    try:
        with open(f"/proc/{pid}/statm", encoding="ascii") as f:
            total = int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children", encoding="ascii") as f:
                total += sum(resident(int(child)) for child in f.read().split())
    except (OSError, ValueError, IndexError):
        pass  # it has ended, or this is no Linux
    return total


def main() -> None:
    """A fresh process: `python -m verifier.bench.jobs PIPE PARENT STARTED`, the job on standard input."""
    import json

    job = Job(**json.load(sys.stdin))
    live(job, int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))


if __name__ == "__main__":
    main()
