"""Stands in for the verifier in tests: the model's name says how the process behaves. Imported by working processes."""

import os
import signal
import time


def work(job, send, deadline):
    name = os.path.basename(job.model).split(".")[0].split("_")[0]
    send({"stage": "search", "stats": {"waiting": 3, "worst bound": -1.5}})
    if name == "hog":  # touches a GiB every few milliseconds
        kept = []
        while True:
            kept.append(bytearray(b"x") * (64 << 20))
    if name == "sharedhog":  # what RLIMIT_DATA does not see
        import mmap

        kept = []
        while True:
            kept.append(mmap.mmap(-1, 16 << 20))
            kept[-1].write(b"x" * (16 << 20))
    if name == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    if name == "deaf":
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM):
            signal.signal(number, signal.SIG_IGN)
        if os.fork() == 0:
            time.sleep(1000)
        time.sleep(1000)
    if name == "bug":
        raise ValueError("played")
    if name == "missing":
        return {"end": "error", "error": f"{job.model}: cannot be read"}
    time.sleep(0.4 if name == "slow" else 0.02)
    stage = {"seconds": {"search": 0.02}, "stats": {"domains": 1, "worst": float("inf")}, "plan": ["played"]}
    if name == "sat":
        return {"verdict": "sat", "reason": "played", "witness": "((X_0 0.5)\n(Y_0 1.0))", **stage}
    return {"verdict": "unsat", "reason": "played", "witness": "", **stage}
