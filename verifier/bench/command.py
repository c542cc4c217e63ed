"""`verify bench SUITE…`: every instance of the suites in a process of its own, results into a folder.

A run that was ended, however it was, goes on when the same command is given again.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Protocol

from verifier import __version__, guard, settings
from verifier.bench import display, suites
from verifier.bench.jobs import Job, Outcome
from verifier.bench.local import Happening, Local
from verifier.bench.store import Store
from verifier.bench.suites import Instance
from verifier.config import Config
from verifier.result import FileError, UsageError

POLL = 0.2  # seconds
INTERRUPTED, WRONG = 130, 1


class Engine(Protocol):
    """Where jobs are run."""

    def free(self) -> int: ...
    def start(self, job: Job) -> None: ...
    def poll(self, timeout: float) -> list[Happening]: ...
    def close(self) -> None: ...


def add_words(p: argparse.ArgumentParser) -> None:
    """The command line, but for the settings that `verify` has as well."""
    p.add_argument(
        "suites",
        metavar="SUITE",
        nargs="+",
        help="a folder with an instances.csv (or that file), plain or .gz; or 'MODELS:PROPERTIES', two file patterns",
    )
    p.add_argument("--out", metavar="DIR", help="folder for the results; a run that was ended there goes on")
    p.add_argument("--jobs", metavar="N", type=int, default=1, help="instances at a time; they share the cores")
    p.add_argument("--timeout-scale", metavar="X", type=float, default=1.0, help="times what the suite allows")
    p.add_argument("--timeout-cap", metavar="S", type=float, help="no instance gets more than S seconds")
    p.add_argument("--memory", metavar="GIB", type=float, help="memory of one instance; else its share of what is free")
    p.add_argument("--filter", metavar="REGEX", help="only instances whose 'SUITE MODEL PROPERTY' matches")
    p.add_argument("--limit", metavar="N", type=int, help="only the first N instances of each suite")
    p.add_argument("--seed", metavar="N", help="seed of every random choice")
    p.add_argument("--timeout", metavar="S", help="seconds for instances whose suite lists none")
    p.add_argument("--cluster", metavar="ADDRESS", help="a Dask cluster: a scheduler's address or file, or local:N")


def run(args: argparse.Namespace, config: Config, argv: list[str], work: str = Job.work) -> int:
    """Runs the suites; the exit status."""
    _check(args)
    listed = _chosen(suites.read(args.suites, config.timeout), args)
    out = Path(args.out or datetime.now().strftime("bench-%Y%m%d-%H%M%S"))
    store = Store(out, _describe(args, config, listed), listed)
    try:
        todo = [i for i in listed if i.key not in store.done]
        before = len(listed) - len(todo)
        if before and not args.quiet:
            print(f"{out}: {before} of {len(listed)} instances have results; {len(todo)} to run", flush=True)
        interrupted = bool(todo) and _work(todo, before, args, config, store, work)
        mine = [(i, store.done[i.key]) for i in listed if i.key in store.done]
        wrong = _sum_up(mine, out)
    finally:
        store.close()
    if interrupted:
        words = argv if args.out else [*argv, "--out", str(out)]
        print(f"interrupted; to go on: {shlex.join(['verify', 'bench', *words])}", file=sys.stderr, flush=True)
        return INTERRUPTED
    return WRONG if wrong else 0


def _check(args: argparse.Namespace) -> None:
    for name, least in (("jobs", 1), ("limit", 1)):
        value = getattr(args, name)
        if value is not None and value < least:
            raise UsageError(f"--{name} {value}: must be at least {least}")
    for name in ("timeout_scale", "timeout_cap", "memory"):
        value = getattr(args, name)
        if value is not None and not 0 < value < float("inf"):
            raise UsageError(f"--{name.replace('_', '-')} {value:g}: must be greater than 0")
    try:
        re.compile(args.filter or "")
    except re.error as e:
        raise UsageError(f"--filter {args.filter}: not a regular expression: {e}") from None


def _chosen(listed: list[Instance], args: argparse.Namespace) -> list[Instance]:
    if args.filter:
        listed = [i for i in listed if re.search(args.filter, f"{i.suite} {i.model} {i.property}")]
    seen: Counter[str] = Counter()
    chosen = []
    for i in listed:
        seen[i.suite] += 1
        if not args.limit or seen[i.suite] <= args.limit:
            timeout = min(i.timeout * args.timeout_scale, args.timeout_cap or float("inf"))
            chosen.append(replace(i, timeout=timeout))
    if not chosen:
        raise UsageError(f"--filter {args.filter}: matches no instance")
    return chosen


def _describe(args: argparse.Namespace, config: Config, listed: list[Instance]) -> dict[str, Any]:
    """What run.json holds."""
    return {
        "clipbab": __version__,
        "config": settings.as_dict(config),
        "timeout_scale": args.timeout_scale,
        "timeout_cap": args.timeout_cap,
        "memory_gib": args.memory,
        "suites": {i.suite: i.folder for i in listed},
        "jobs": args.jobs,
        "cores": cores(),
        "cluster": args.cluster,
        "begun": now(),
    }


def _work(todo: list[Instance], before: int, args: argparse.Namespace, config: Config, store: Store, work: str) -> bool:
    """Runs what is to be run; whether it was interrupted."""
    with guard.Signals() as signals:
        engine = _engine(args, config, warm=work == Job.work and config.device != "cuda")
        show = display.pick(before + len(todo), before, args.jobs, args.quiet)
        try:
            make = job_maker(args, config, str(store.folder / "stderr.log"), work)
            interrupted = _loop(todo, engine, make, show, store, signals)
        finally:
            show.close()
            engine.close()
    if show.trouble:
        raise FileError(f"standard output: cannot be written: {show.trouble}; results are in {store.folder}")
    return interrupted


def _engine(args: argparse.Namespace, config: Config, warm: bool) -> Engine:
    if not args.cluster:
        return Local(args.jobs, warm)
    from verifier.bench.cluster import Cluster

    return Cluster(args.cluster, config)


def _loop(
    todo: list[Instance],
    engine: Engine,
    make: Callable[[int, Instance], Job],
    show: display.Plain,
    store: Store,
    signals: guard.Signals,
) -> bool:
    waiting, running, begun = list(enumerate(todo))[::-1], {}, {}
    while waiting or running:
        while waiting and engine.free() > 0:
            id, instance = waiting.pop()
            engine.start(make(id, instance))
            running[id], begun[id] = instance, now()
            show.start(instance)
        for id, what, value in engine.poll(POLL):
            if id not in running:
                continue
            if what == "stage":
                show.start(running[id], value or "work")
                continue
            instance = running.pop(id)
            record = record_of(instance, value, begun[id])
            store.add(record, value.said.get("witness", ""))
            show.result(instance, record)
        show.tick()
        if signals.first is not None:
            return True
    return False


def job_maker(args: argparse.Namespace, config: Config, log: str, work: str) -> Callable[[int, Instance], Job]:
    """From an instance to its job: threads and memory are shared out between jobs."""
    if not config.threads:
        config = replace(config, threads=1 if args.cluster else max(1, cores() // args.jobs))
    memory = args.memory * 2**30 if args.memory else 0.0 if args.cluster else 0.9 * free_memory() / args.jobs
    values = settings.as_dict(config)

    def make(id: int, instance: Instance) -> Job:
        model, prop = instance.paths
        return Job(id, model, prop, values, instance.timeout, int(memory), work, os.path.abspath(log))

    return make


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_memory() -> float:
    """Bytes; 0, no limit, where the system does not tell."""
    try:
        with open("/proc/meminfo", encoding="ascii") as f:
            return next(int(line.split()[1]) * 1024.0 for line in f if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return 0.0


def record_of(instance: Instance, outcome: Outcome, begun: str) -> dict[str, Any]:
    """The line of results.jsonl."""
    said = outcome.said
    if outcome.how == "answer":
        verdict, reason = said["verdict"], said["reason"]
    elif outcome.how == "deadline":
        verdict = "timeout"
        reason = "the deadline passed" + (f" (stage: {said['stage']})" if said.get("stage") else "")
    else:
        kind = {"error": "input"}.get(outcome.how, outcome.how)
        verdict, reason = "error", f"{kind}: {outcome.detail}" if outcome.detail else kind
    return {
        "suite": instance.suite,
        "index": instance.index,
        "model": instance.model,
        "property": instance.property,
        "timeout": instance.timeout,
        "verdict": verdict,
        "reason": " ".join(reason.split()),
        "seconds": round(outcome.seconds, 4),
        "stages": said.get("seconds", {}),
        "stats": said.get("stats", {}),
        "plan": said.get("plan", []),
        "counterexample": instance.evidence if said.get("witness") else None,
        "bounds": outcome.bounds,
        "started": begun,
        "version": __version__,
    }


def now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _sum_up(done: list[tuple[Instance, dict[str, Any]]], out: Path) -> int:
    """Prints a line for each suite, and the total; returns how many answers contradict what is expected."""
    names = list(dict.fromkeys(i.suite for i, _ in done))
    wrong = 0
    for name in [*names, *(["total"] if len(names) != 1 else [])]:
        some = [(i, r) for i, r in done if name in (i.suite, "total")]
        counts = Counter(r["verdict"] for _, r in some)
        wrong = sum({r["verdict"], i.expected} == {"sat", "unsat"} for i, r in some)
        words = ", ".join(f"{n} {verdict}" for verdict, n in counts.most_common())
        seconds = sum(r["seconds"] for _, r in some)
        print(f"{name}: {len(some)} instances: {words or 'no results'}; {wrong} contradicting; {seconds:.1f} s")
    print(f"results in {out}", flush=True)
    return wrong
