"""A small process with torch loaded that starts jobs, watches over them, and ends them.

Why a process of its own. Importing torch costs a second; a fork of a process that has done it costs milliseconds.
But a fork copies only the thread that forks: whatever another thread was doing (holding the allocator's lock, say)
stays so for ever in the child, and a pool of OpenMP threads that the parent had started is gone there while the
runtime believes in it, which ends in a hang at the first parallel loop. So whoever forks must have a single thread,
always: this process sets torch to one thread before its first operation (then no pool is ever made), gives OpenBLAS,
which starts its threads when loaded, one thread too, and does not load ONNX Runtime, which starts one when imported.
`warm_up` runs the search on two tiny problems, since first calls are slow all through torch. Before each fork the
threads are counted; if there is a second one after all, the job gets a fresh interpreter instead. Jobs on a GPU
always do: a driver that was woken before a fork is of no use after it, and knows no forks.

The server is also the one that watches, because it is the parent: it alone can wait for a process, and may kill it
without fear that its number belongs to another by now. It does nothing else, so it wakes in time. Each job is a
session, and so a process group, and is killed as one. A job whose server is gone is killed by the system; a server
whose client is gone reads the end of its socket, kills its jobs and goes.

Messages, both ways, are those of `verifier.guard`: {"do": "start", "job": …}, {"do": "cancel", "id": …} in;
{"ready": …}, {"started": id}, {"note": id, …}, {"done": outcome} out.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import signal
import socket
import sys
import tempfile
import time
import traceback
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from verifier import guard
from verifier.bench.jobs import Job, Outcome, Trace, live, resident, visible_gpus

if TYPE_CHECKING:
    from verifier.net.graph import Network

TICK = 0.05  # seconds between looks at memory and time


class Running:
    """A job at work. `ended` is how, once the server has decided it: `deadline`, `memory` or `cancelled`."""

    def __init__(self, job: Job, pid: int, pipe: int, started: float):
        self.job, self.pid, self.pipe, self.started = job, pid, pipe, started
        self.until = started + job.timeout - guard.margin(job.timeout)
        self.inbox, self.trace = guard.Inbox(), Trace()
        self.said: dict[str, Any] = {}
        self.final = False
        self.ended = self.detail = ""
        self.most = 0  # bytes seen resident

    def read(self) -> list[dict[str, Any]]:
        """Takes what has come; returns the notes among it."""
        notes = []
        while not self.final:
            try:
                piece = os.read(self.pipe, 1 << 20)
            except BlockingIOError:
                break
            if not piece:
                break
            for kind, message in self.inbox.feed(piece):
                self.said.update(message)
                self.trace.add(time.monotonic() - self.started, message.get("stats", {}))
                if kind == guard.FINAL:
                    self.final = True
                    break
                notes.append(message)
        return notes

    def kill(self) -> None:
        for end in (os.killpg, os.kill):  # the group may not be there yet, in the first moment of the process
            with contextlib.suppress(ProcessLookupError, PermissionError):
                end(self.pid, signal.SIGKILL)

    def outcome(self, status: int) -> Outcome:
        """What the job came to, its process having ended with `status`."""
        how, detail = self.ended, self.detail
        if self.final:
            how = self.said.pop("end", "answer")
            detail = str(self.said.get("error", ""))
        elif not how and os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
            how, detail = "memory", "killed by the system"
        elif not how:
            signalled = os.WIFSIGNALED(status)
            how = "crash"
            detail = f"signal {os.WTERMSIG(status)}" if signalled else f"status {os.WEXITSTATUS(status)}"
        seconds = time.monotonic() - self.started
        return Outcome(self.job.id, how, seconds, detail, self.said, self.trace.points)


class Server:
    """Serves one client over `sock` until that is closed."""

    def __init__(self, sock: socket.socket):
        self.sock, self.inbox, self.outbox = sock, guard.Inbox(), bytearray()
        self.running: dict[int, Running] = {}
        self.looked = 0.0
        self.gpus = visible_gpus()
        sock.setblocking(False)

    def run(self) -> None:
        try:
            while True:
                readable = self._wait()
                if self.sock.fileno() in readable and not self._hear():
                    return
                for r in list(self.running.values()):
                    if r.pipe in readable:
                        self._tell_notes(r)
                self._look()
        finally:
            for r in self.running.values():
                r.kill()

    def _wait(self) -> set[int]:
        poll = select.poll()
        poll.register(self.sock, select.POLLIN | (select.POLLOUT if self.outbox else 0))
        for r in self.running.values():
            poll.register(r.pipe, select.POLLIN)
        events = poll.poll(TICK * 1000 if self.running else None)
        ready = {fd for fd, event in events if event & ~select.POLLOUT}
        if any(fd == self.sock.fileno() and event & select.POLLOUT for fd, event in events):
            with contextlib.suppress(BlockingIOError, ConnectionError):  # a client that is gone is noticed by `_hear`
                del self.outbox[: self.sock.send(self.outbox)]
        return ready

    def tell(self, message: dict[str, Any]) -> None:
        """Never waits for the client: a client that is stopped must not keep jobs from being watched."""
        self.outbox += guard.packed(guard.NOTE, message)

    def _hear(self) -> bool:
        """Does what the client asks; False once it is gone."""
        try:
            piece = self.sock.recv(1 << 20)
        except BlockingIOError:
            return True
        except ConnectionError:
            return False
        for _, message in self.inbox.feed(piece):
            if message["do"] == "start":
                self._start(Job(**message["job"]))
            elif message["id"] in self.running:
                self._end(self.running[message["id"]], "cancelled")
        return bool(piece)

    def _start(self, job: Job) -> None:
        started = time.monotonic()
        pipe, give = os.pipe()
        try:
            device = job.config.get("device", "cpu")
            fresh = device == "cuda" or (device == "auto" and self.gpus) or threads() > 1
            pid = (self._fresh if fresh else self._fork)(job, give, started)
        except OSError as e:
            os.close(pipe)
            self.tell({"done": Outcome(job.id, "crash", 0.0, f"no process could be started: {e.strerror}").as_dict()})
            return
        finally:
            os.close(give)
        os.set_blocking(pipe, False)
        self.running[job.id] = Running(job, pid, pipe, started)
        self.tell({"started": job.id, "pid": pid})

    def _fork(self, job: Job, give: int, started: float) -> int:
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            try:
                self.sock.close()
                for r in self.running.values():
                    os.close(r.pipe)
                os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
                if not self.gpus:  # spares each job the question
                    job = replace(job, config={**job.config, "device": "cpu"})
                live(job, give, parent, started)
            finally:
                os._exit(1)
        return pid

    def _fresh(self, job: Job, give: int, started: float) -> int:
        os.set_inheritable(give, True)
        words = [sys.executable, "-m", "verifier.bench.jobs", str(give), str(os.getpid()), repr(started)]
        with tempfile.TemporaryFile() as f:
            f.write(json.dumps(job.as_dict()).encode())
            f.seek(0)
            actions = [(os.POSIX_SPAWN_DUP2, f.fileno(), 0)]
            env = dict(os.environ)
            if self.gpus:
                env["CUDA_VISIBLE_DEVICES"] = self.gpus[job.id % len(self.gpus)]  # jobs take turns
            return os.posix_spawn(sys.executable, words, env, file_actions=actions)

    def _tell_notes(self, r: Running) -> None:
        for note in r.read():
            self.tell({"note": r.job.id, "stage": note.get("stage", ""), "seconds": time.monotonic() - r.started})

    def _look(self) -> None:
        """Ends jobs that are over, late or too large; at most every `TICK`, but for those with last words."""
        now = time.monotonic()
        whole = now - self.looked >= TICK
        if whole:
            self.looked = now
        for r in list(self.running.values()):
            if r.final:
                self._end(r, "")
            elif now >= r.until:
                self._end(r, "deadline")
            elif whole:
                self._look_at(r)

    def _look_at(self, r: Running) -> None:
        pid, status = os.waitpid(r.pid, os.WNOHANG)
        if pid:
            self._end(r, "", status)
        elif r.job.memory:
            used = resident(r.pid)
            r.most = max(r.most, used)
            if used > r.job.memory:
                self._end(r, "memory", detail=f"{used / 2**30:.1f} GiB resident, {r.job.memory / 2**30:.1f} allowed")

    def _end(self, r: Running, how: str, status: int | None = None, detail: str = "") -> None:
        """Ends the job and tells what it came to. What it has said before counts."""
        r.ended, r.detail = how, detail
        r.kill()  # the group: a process that has ended may have left children
        if status is None:
            _, status = os.waitpid(r.pid, 0)
        self._tell_notes(r)
        os.close(r.pipe)
        del self.running[r.job.id]
        self.tell({"done": r.outcome(status).as_dict()})


def threads() -> int:
    """How many threads this process has; 1 where the system does not tell."""
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return 1


def warm_up() -> None:
    """Loads what a job needs and runs the search once of either kind, with a single thread and no GPU."""
    import torch

    torch.set_num_threads(1)
    import numpy.ma  # noqa: F401, which numpy loads at the first call of `unique`
    import onnx

    onnx.defs.has("Relu")  # fills the table of operators
    import verifier.net.simplify
    import verifier.net.trace
    import verifier.spec.general  # noqa: F401
    from verifier import api
    from verifier.config import Config
    from verifier.events import Deadline, silent
    from verifier.net.load import check_supported
    from verifier.problem import compile_problem
    from verifier.search.strategy import solve
    from verifier.spec.parse import parse_bytes

    for n in (3, 24):  # few inputs are split themselves, with many the neurons are
        lines = [f"(declare-const X_{i} Real)" for i in range(n)] + [f"(declare-const Y_{i} Real)" for i in range(2)]
        lines += [f"(assert (>= X_{i} 0))(assert (<= X_{i} 0.2))" for i in range(n)]
        query = parse_bytes("\n".join([*lines, "(assert (>= Y_0 Y_1))"]).encode())
        network = _small_network(n)
        check_supported(network)  # reads the operators' names, once for all jobs
        problem = compile_problem(network, query)
        plan, config = api.prepare(problem, Config(threads=1, device="cpu"), {})
        solve(plan, config, Deadline.after(2.0), silent, lambda x: None)


def _small_network(n: int) -> Network:
    """n inputs, 8 neurons, 2 outputs, as the reader would give it: reading a file would bring ONNX Runtime in."""
    import numpy as np

    from verifier.net.graph import Network, Node, Tensor

    f, rng = np.dtype(np.float32), np.random.default_rng(0)
    x, y = Tensor("x", (1, n), f), Tensor("y", (1, 2), f)
    nodes = (
        Node("h", "Linear", ("x", "a", ""), (1, 8), f),
        Node("r", "Relu", ("h",), (1, 8), f),
        Node("y", "Linear", ("r", "b", ""), (1, 2), f),
    )
    weights = {"a": rng.normal(size=(n, 8)).astype(f), "b": rng.normal(size=(8, 2)).astype(f)}
    return Network((x,), nodes, weights, (y,), 13, "warm-up")


def main() -> None:
    """`python -m verifier.bench.server SOCKET warm|cold`"""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the client decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    sock = socket.socket(fileno=int(sys.argv[1]))
    trouble = ""
    try:
        if sys.argv[2] == "warm":
            warm_up()
    except Exception:  # jobs can do without, and will say what is wrong better than this process could
        trouble = traceback.format_exc()
    gc.collect()
    gc.freeze()  # the collector of a child need not look at, and so copy, what it shares with us
    server = Server(sock)
    server.tell({"ready": os.getpid(), "threads": threads(), "trouble": trouble})
    server.run()


if __name__ == "__main__":
    main()
