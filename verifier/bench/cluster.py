"""Jobs on a Dask cluster: the same jobs, the same outcomes.

A task runs on a worker's thread and hands its job to a job server of that worker (`verifier.bench.server`), so that
an instance there lives in a process of its own under its own limits, as at home; the worker itself computes nothing,
and stays in touch with the scheduler. A worker that dies takes its servers and jobs along, and the scheduler gives
their tasks to others. A task is cancelled when its client asks for that, or is gone; the thread sees it and ends the
job.

Model and property must be at the same place for all (a shared file system). With `device=cuda` a task asks for one
`GPU`, a resource that workers are started with: `dask worker ADDRESS --resources GPU=1 --nthreads 1`. Workers
started by dask-jobqueue (Slurm and others) need nothing more. A job computes with one thread unless the setting
`threads` says otherwise.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import queue
import threading
import time
import uuid
from typing import Any

from verifier.bench.client import Client as Server
from verifier.bench.client import ServerGone
from verifier.bench.jobs import Job, Outcome
from verifier.bench.local import Happening
from verifier.config import Config
from verifier.result import UsageError

CONNECT, FIRST_WORKER = 15.0, 120.0  # seconds
REFRESH = 2.0  # seconds between questions for the number of workers

_idle: list[Server] = []  # this worker's servers that have nothing to do
_lock = threading.Lock()
_ids = itertools.count()


def run_job(values: dict[str, Any]) -> dict[str, Any]:
    """The task: runs one job on this worker, and returns its outcome as plain values."""
    from distributed import get_worker

    worker = get_worker()
    key = worker.get_current_task()

    def cancelled() -> bool:
        task = worker.state.tasks.get(key)
        return task is None or task.state == "cancelled"

    job = Job(**{**values, "id": next(_ids)})
    for attempt in range(2):
        server = _take(job)
        try:
            server.start(job)
            outcome = _wait(server, job.id, cancelled)
        except ServerGone:
            server.close()
            if attempt:
                outcome = Outcome(job.id, "lost", 0.0, "the job server died twice")
            continue
        with _lock:
            _idle.append(server)
        break
    return {**outcome.as_dict(), "id": values["id"]}


def _take(job: Job) -> Server:
    with _lock:
        if _idle:
            return _idle.pop()
    return Server(warm=job.work.startswith("verifier.") and job.config["device"] != "cuda")


def _wait(server: Server, id: int, cancelled: Any) -> Outcome:
    asked = False
    while True:
        for message in server.receive(0.2):
            if "done" in message and message["done"]["id"] == id:
                return Outcome(**message["done"])
        if not asked and cancelled():
            server.cancel(id)
            asked = True


class Cluster:
    """The near end. `address` is a scheduler's address or its file, or `local:N` for N workers on this machine."""

    def __init__(self, address: str, config: Config, ahead: int = 2):
        """`ahead`: how many jobs for each thread of a worker are handed over at a time."""
        try:
            import distributed
        except ImportError:
            raise UsageError(
                f"--cluster {address}: needs the package distributed; install it with pip install 'clipbab[cluster]'"
            ) from None
        self.ahead, self.ours = ahead, None
        self.resources = {"GPU": 1} if config.device == "cuda" else None
        self.futures: dict[int, Any] = {}
        self.over: queue.Queue[tuple[int, Any]] = queue.Queue()
        self.run = uuid.uuid4().hex[:8]
        self.asked, self.threads = float("-inf"), 1
        kind, _, count = address.partition(":")
        try:
            if kind == "local":
                if count and not (count.isdecimal() and int(count)):
                    raise UsageError(f"--cluster {address}: expected local:N with a number N of workers")
                workers = {"n_workers": int(count or os.cpu_count() or 1), "threads_per_worker": 1}
                self.ours = distributed.LocalCluster(**workers, dashboard_address=None)
                self.client = distributed.Client(self.ours, timeout=CONNECT)
            elif os.path.isfile(address):
                self.client = distributed.Client(scheduler_file=address, timeout=CONNECT)
            else:
                self.client = distributed.Client(address, timeout=CONNECT)
            self.client.wait_for_workers(1, timeout=FIRST_WORKER)
        except (OSError, ValueError, TimeoutError) as e:
            why = str(e).strip().splitlines()[:1] or [type(e).__name__]
            raise UsageError(f"--cluster {address}: {why[0]}") from None

    def free(self) -> int:
        return self.ahead * self.slots() - len(self.futures)

    def slots(self) -> int:
        """Threads of all workers at present; at least one, since a lost worker may come back."""
        if time.monotonic() - self.asked > REFRESH:
            self.asked = time.monotonic()
            with contextlib.suppress(OSError, TimeoutError):
                self.threads = max(1, sum(self.client.nthreads().values()))
        return self.threads

    def start(self, job: Job) -> None:
        key = f"clipbab-{self.run}-{job.id}"
        future = self.client.submit(run_job, job.as_dict(), key=key, pure=False, resources=self.resources)
        self.futures[job.id] = future
        future.add_done_callback(lambda f, id=job.id: self.over.put((id, f)))

    def cancel(self, id: int) -> None:
        """The job's outcome is not wanted any more."""
        future = self.futures.pop(id, None)
        if future is not None:
            self.client.cancel([future], asynchronous=False, force=True)

    def poll(self, timeout: float) -> list[Happening]:
        found: list[Happening] = []
        with contextlib.suppress(queue.Empty):
            while True:
                id, future = self.over.get(timeout=0 if found else timeout)
                if self.futures.get(id) is future:
                    del self.futures[id]
                    found.append((id, "done", _outcome(id, future)))
        return found

    def close(self) -> None:
        with contextlib.suppress(Exception):  # the cluster may be gone; there is nothing to be done about that here
            self.client.cancel(list(self.futures.values()), force=True)
        with contextlib.suppress(Exception):
            self.client.close(timeout=5)
        if self.ours is not None:
            with contextlib.suppress(Exception):
                self.ours.close(timeout=5)


def _outcome(id: int, future: Any) -> Outcome:
    if future.status == "finished":
        return Outcome(**future.result())
    if future.status == "error":
        from distributed import KilledWorker

        error = future.exception()
        if not isinstance(error, KilledWorker):  # nothing about the instance: the run ends, and can go on later
            why = " ".join(str(error).split())[:160]
            raise UsageError(f"the cluster cannot run jobs: {why}; scheduler and workers need this clipbab installed")
        return Outcome(id, "lost", 0.0, "every worker that ran it died")
    return Outcome(id, "lost", 0.0, "the scheduler gave the task up")
