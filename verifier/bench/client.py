"""The near end of a job server: starts it, sends jobs, hears of them."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import subprocess
import sys
from typing import Any

from verifier import guard
from verifier.bench.jobs import Job

# OpenBLAS starts its threads as it is loaded, and a server must have none (see `verifier.bench.server`). Threads that
# wait by spinning stall for whole time slices as soon as other jobs want their core.
ENVIRONMENT = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "passive",
    "ONEDNN_DEFAULT_FPMATH_MODE": "STRICT",
    "TOKENIZERS_PARALLELISM": "false",
}


class ServerGone(RuntimeError):
    """The server has ended; its jobs were killed with it."""


class Client:
    """A server and the way to it. Not for several threads at once. `warm`: whether it loads torch, which jobs of other
    work than solving do not need.
    """

    def __init__(self, warm: bool = True) -> None:
        near, far = socket.socketpair()
        with far:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "verifier.bench.server", str(far.fileno()), "warm" if warm else "cold"],
                pass_fds=[far.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for us
                env={**os.environ, **ENVIRONMENT},
            )
        self.sock, self.inbox = near, guard.Inbox()

    def fileno(self) -> int:
        return self.sock.fileno()

    def start(self, job: Job) -> None:
        """Raises ServerGone."""
        self._send({"do": "start", "job": job.as_dict()})

    def cancel(self, id: int) -> None:
        """The job ends as `cancelled`, if it has not ended by then."""
        self._send({"do": "cancel", "id": id})

    def _send(self, message: dict[str, Any]) -> None:
        try:
            self.sock.sendall(guard.packed(guard.NOTE, message))
        except OSError:
            raise ServerGone from None

    def receive(self, timeout: float) -> list[dict[str, Any]]:
        """What the server has said, after at most `timeout` seconds; raises ServerGone."""
        if not select.select([self.sock], [], [], timeout)[0]:
            return []
        try:
            piece = self.sock.recv(1 << 20)
        except ConnectionError:
            piece = b""
        if not piece:
            raise ServerGone
        return [message for _, message in self.inbox.feed(piece)]

    def close(self) -> None:
        """Ends the server and whatever it runs."""
        self.sock.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(5)
        self.process.kill()
        self.process.wait()
