"""Jobs on this machine, through a server that is started anew should it die."""

from __future__ import annotations

from typing import Any

from verifier.bench.client import Client, ServerGone
from verifier.bench.jobs import Job, Outcome

Happening = tuple[int, str, Any]  # (job's id, "stage" or "done", stage or Outcome)


class Local:
    """Runs up to `slots` jobs at a time. A job during which the server died is tried once more."""

    def __init__(self, slots: int, warm: bool = True):
        self.slots, self.warm = slots, warm
        self.jobs: dict[int, Job] = {}
        self.tried: dict[int, int] = {}
        self.client: Client | None = Client(warm)  # at once: it loads torch while the caller reads on

    def free(self) -> int:
        return self.slots - len(self.jobs)

    def start(self, job: Job) -> None:
        self.jobs[job.id] = job
        self.tried[job.id] = self.tried.get(job.id, 0) + 1
        self.client = self.client or Client(self.warm)
        try:
            self.client.start(job)
        except ServerGone:
            pass  # the next poll finds out as well

    def poll(self, timeout: float) -> list[Happening]:
        """What happened, after at most `timeout` seconds."""
        self.client = self.client or Client(self.warm)
        try:
            messages = self.client.receive(timeout)
        except ServerGone:
            return self._begin_again()
        found: list[Happening] = []
        for message in messages:
            if message.get("trouble"):
                raise RuntimeError(f"the job server cannot work: {message['trouble']}")
            if "note" in message:
                found.append((message["note"], "stage", message["stage"]))
            elif "done" in message:
                outcome = Outcome(**message["done"])
                self.jobs.pop(outcome.id, None)
                found.append((outcome.id, "done", outcome))
        return found

    def _begin_again(self) -> list[Happening]:
        if self.client:
            self.client.close()
        self.client = None
        lost = [job for job in self.jobs.values() if self.tried[job.id] > 1]
        again = [job for job in self.jobs.values() if self.tried[job.id] <= 1]
        self.jobs = {}
        for job in again:
            self.start(job)
        return [(job.id, "done", Outcome(job.id, "lost", 0.0, "the job server died twice")) for job in lost]

    def close(self) -> None:
        """Ends everything that runs."""
        if self.client:
            self.client.close()
