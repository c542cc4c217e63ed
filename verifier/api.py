"""The only place where parts meet: model and property in, `Result` out.

Order matters here. Whatever can go wrong with the user's files is found first, by parts that do not import torch;
torch and the search come in only when there is something to compute. Nothing is printed and no process state is kept
but what torch itself keeps: its number of threads, and TF32, which is switched off because a product rounded to ten
bits proves nothing at the error bounds that the search uses.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from verifier.config import Config, ModelConfig
from verifier.events import Deadline, Event, Listener, silent
from verifier.evidence.gate import Gate
from verifier.evidence.near import NearMisses
from verifier.evidence.replay import Judgement, Replayer
from verifier.evidence.witness import render
from verifier.net.graph import Network
from verifier.net.inputs import InputBox
from verifier.net.load import check_supported, load_network, parse, read_model_bytes
from verifier.problem import Problem, compile_problem
from verifier.result import Result, Undecided, UnsupportedError, Verdict
from verifier.spec.evaluate import Reading
from verifier.spec.parse import parse_property
from verifier.spec.query import Query

if TYPE_CHECKING:
    from verifier.search.strategy import Plan

Model = Any  # a path, an ONNX file's bytes, or a ModelProto


@dataclass(frozen=True)
class Loaded:
    """Model and property as read, and the problem that they make together."""

    network: Network
    query: Query
    problem: Problem
    replayer: Replayer
    reread: Callable[[Mapping[str, str]], Network]  # with these nodes left to ONNX Runtime

    def without(self, nodes: Mapping[str, str]) -> Loaded:
        """The same with nodes that cannot be run here left to ONNX Runtime: no bounds, but attacks. Their names, and
        what is wrong with them."""
        network = self.reread(nodes)
        check_supported(network)
        return replace(self, network=network, problem=compile_problem(network, self.query))


def load(
    model: Model, prop: str | os.PathLike[str], seconds: dict[str, float], config: ModelConfig | None = None
) -> Loaded:
    """Reads both, the property first because that is quicker and says what the model's inputs are; raises InputError.
    Adds to `seconds` by stage.
    """
    with _stage("property", seconds):
        query = parse_property(prop)
    model = _readable_twice(model)
    reread = partial(load_network, model, (), True, input_box(query), config)
    with _stage("model", seconds):
        network = reread({})
        check_supported(network)
    with _stage("problem", seconds):
        problem = compile_problem(network, query)
    # The bytes are read again on the first candidate: most proofs never need them.
    return Loaded(network, query, problem, Replayer(lambda: _bytes(model, config), network, query), reread)


def input_box(query: Query) -> InputBox:
    """The least box that holds all regions in which the property asks for anything."""
    regions = np.unique(query.disjunct_region)
    regions = regions[~query.empty[regions]]
    if not len(regions):
        return InputBox(np.full(query.n_inputs, -np.inf), np.full(query.n_inputs, np.inf))
    return InputBox(query.lower[regions].min(0), query.upper[regions].max(0))


def verify(
    model: Model,
    prop: str | os.PathLike[str],
    config: Config | None = None,
    on_event: Listener = silent,
    deadline: Deadline | None = None,
) -> Result:
    """Decides the property (a VNN-LIB file) of the model (an ONNX file, its bytes or proto) before `deadline`.

    Without a deadline, `config.timeout` counts from now. Raises InputError for what is wrong with files or settings.
    Runs in the caller's process and thread.
    """
    config = config or Config()
    deadline = deadline or Deadline.after(config.timeout)
    seconds: dict[str, float] = {}
    return decide(load(model, prop, seconds, config.model), config, on_event, deadline, seconds)


def decide(loaded: Loaded, config: Config, on_event: Listener, deadline: Deadline, seconds: dict[str, float]) -> Result:
    """As `verify`, for what is loaded already; `seconds` holds what that took, by stage."""
    judge, near = judge_of(loaded, config), NearMisses()
    found = search(loaded, config, on_event, deadline, seconds, judge, near)
    return answer(loaded, config, found, judge, near, deadline, on_event)


def judge_of(loaded: Loaded, config: Config) -> Replayer:
    """What replays candidates and judges them as the settings ask."""
    reading = Reading.of(config.spec.reading)
    if not reading.proof_wins:
        return loaded.replayer.under(reading)

    def disproved(x: np.ndarray) -> bool:
        from verifier.evidence.proof import PointProof

        return PointProof(loaded.problem)(x)

    return loaded.replayer.under(reading, disproved)


def answer(
    loaded: Loaded,
    config: Config,
    found: Result,
    judge: Replayer,
    near: NearMisses,
    deadline: Deadline,
    on_event: Listener = silent,
) -> Result:
    """What may be said of what a search has found: every verdict passes here, and ONNX Runtime is asked."""
    seconds = dict(found.seconds)
    with _stage("gate", seconds):
        gate = Gate(loaded.problem, judge, config.seed)
        subproblems = found.stats.get("domains", 0)
        verdict, reason, witness, figures = gate.passed(found.verdict, found.reason, near, subproblems, deadline)
    if figures:
        on_event(Event("gate", "ONNX Runtime asked", figures))
    stats = {**found.stats, **figures}
    return replace(
        found, verdict=verdict, reason=reason, witness=found.witness or witness, seconds=seconds, stats=stats
    )


def search(
    loaded: Loaded,
    config: Config,
    on_event: Listener,
    deadline: Deadline,
    seconds: dict[str, float],
    judge: Replayer,
    near: NearMisses,
) -> Result:
    """What searching comes to, before ONNX Runtime is asked (`answer`); `near` is told what came nearest."""
    on_event(Event("load", "read", {"inputs": loaded.network.n_inputs, "outputs": loaded.network.n_outputs}))
    problem = loaded.problem
    if not len(problem.lower):
        return Result(Verdict.UNSAT, _why_nothing_to_search(loaded.query), seconds=seconds)
    lines: tuple[str, ...] = ()
    with _stage("centre", seconds):
        witness = Gate(problem, judge, config.seed).centre() if config.attack.method != "none" else None
    if witness is not None:  # known before torch is there
        stats = {"replays": judge.calls}
        return Result(Verdict.SAT, "counterexample replayed in ONNX Runtime", witness, seconds, stats)
    try:
        problem, plan, config = planned(loaded, config, seconds)
        lines = tuple(plan.lines())
        on_event(Event("plan", "made", {"lines": lines, "device": config.device}))
        if deadline.passed():
            return Result(Verdict.TIMEOUT, "the deadline passed before the search began", seconds=seconds, plan=lines)
        if plan.unbounded and Gate(problem, judge, config.seed).every() is not None:
            reason = f"no bounds for {', '.join(plan.unbounded)}"
            return Result(Verdict.UNKNOWN, reason, seconds=seconds, plan=lines)  # the gate runs through all inputs
        from verifier.search.strategy import solve

        outcome = solve(plan, config, deadline, on_event, judge, near)
    except Undecided as e:
        return Result(Verdict.UNKNOWN, str(e), seconds=seconds, plan=lines)
    except (MemoryError, RuntimeError) as e:
        from verifier.bounds.chunks import out_of_memory

        if not out_of_memory(e):
            raise
        return Result(Verdict.UNKNOWN, "out of memory", seconds=seconds, plan=lines)
    stats = {**outcome.stats, "replays": judge.calls}
    return Result(outcome.verdict, outcome.reason, outcome.witness, {**seconds, **outcome.seconds}, stats, lines)


def planned(loaded: Loaded, config: Config, seconds: dict[str, float]) -> tuple[Problem, Plan, Config]:
    """`prepare`, and the problem that the plan is for: where operators turn out not to fit where they stand, the one in
    which ONNX Runtime computes them."""
    try:
        return loaded.problem, *prepare(loaded.problem, config, seconds)
    except UnsupportedError as e:
        problem = loaded.without({name: why for (name, *_), why in zip(e.nodes, e.why)}).problem
        return problem, *prepare(problem, config, seconds)


def make_plan(loaded: Loaded, config: Config) -> tuple[Problem, tuple[str, ...]]:
    """The problem that `verify` would search, and what it would do, in words."""
    if not len(loaded.problem.lower):
        return loaded.problem, (f"nothing to search: {_why_nothing_to_search(loaded.query)}",)
    problem, plan, _ = planned(loaded, config, {})
    return problem, tuple(plan.lines())


def replay(
    model: Model, prop: str | os.PathLike[str], x: np.ndarray, config: Config | None = None
) -> tuple[Judgement | None, str]:
    """(what ONNX Runtime finds at x exactly as given, and what is wrong with x if anything).

    No judgement, and a text, where x has not as many entries as the model has inputs.
    """
    config = config or Config()
    reading = Reading.of(config.spec.reading)
    if reading.proof_wins:
        judge = judge_of(load(model, prop, {}, config.model), config)
    else:
        judge = replayer(model, prop, config.model).under(reading)
    if len(x) != judge.query.n_inputs:
        return None, f"the counterexample has {len(x)} inputs, the model takes {judge.query.n_inputs}"
    judgement = judge.judge(x)
    return judgement, judgement.wrong


def replayer(model: Model, prop: str | os.PathLike[str], config: ModelConfig | None = None) -> Replayer:
    """What runs the model in ONNX Runtime and judges by the property; whether there are bounds for it matters not."""
    query = parse_property(prop)
    model = _readable_twice(model)
    network = load_network(model, box=input_box(query), config=config)
    if query.n_inputs != network.n_inputs or query.n_outputs != network.n_outputs:
        compile_problem(network, query)  # raises the error that says so
    return Replayer(lambda: _bytes(model, config), network, query)


def _readable_twice(model: Model) -> Model:
    """The model, or its bytes where its path is a pipe's, as a shell's `<(…)` is."""
    if isinstance(model, (str, os.PathLike)):
        with suppress(OSError, ValueError):  # the reader says better what is wrong with the path
            if stat.S_ISFIFO(os.stat(model).st_mode):
                return read_model_bytes(model)
    return model


def _bytes(model: Model, config: ModelConfig | None) -> bytes:
    """The model for ONNX Runtime: the file's own bytes, with the weights that it keeps in other files, if any; cut
    where the configuration says so."""
    data = model if hasattr(model, "SerializeToString") else read_model_bytes(model)
    outputs = config.outputs if config else ""
    if isinstance(data, bytes):
        if not outputs and b"location" not in data:  # the word without which there are no weights in other files
            return data
        data = parse(data, "model" if isinstance(model, bytes) else os.fspath(model), outputs)
    elif outputs:
        data = parse(data, "model", outputs)
    return data.SerializeToString()


def prepare(problem: Problem, config: Config, seconds: dict[str, float]) -> tuple[Plan, Config]:
    """Brings torch up, and plans; the configuration returned names the device that was found."""
    with _stage("start", seconds):
        # Threads that wait for each other by spinning stall for whole time slices as soon as another process wants a
        # core: measured ten times slower on a busy machine. Read by the OpenMP runtime when torch loads it.
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
        os.environ["ONEDNN_DEFAULT_FPMATH_MODE"] = "STRICT"  # float32 means float32: no bfloat16 in its stead
        import torch

        from verifier.bounds.chunks import keep_freed_memory
        from verifier.search.strategy import pick_device
        from verifier.search.strategy import plan as make

        keep_freed_memory()
        if config.threads:
            torch.set_num_threads(config.threads)
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.nnpack.set_flags(False)  # its fast convolutions do not obey the error terms either
        config = replace(config, device=pick_device(config).type)
    with _stage("plan", seconds):
        return make(problem, config), config


def _why_nothing_to_search(query: Query) -> str:
    if query.n_regions and query.empty.all():
        which = "input box is" if query.n_regions == 1 else "input boxes are all"
        region, i = np.argwhere(query.lower > query.upper)[0]
        why = f"X_{i} is to be at least {query.lower[region, i]:g} and at most {query.upper[region, i]:g}"
        return f"the property's {which} empty: {why}; it asks about no input, and says nothing of the model"
    return "no input can satisfy the property: its constraints contradict each other"


@contextmanager
def _stage(name: str, seconds: dict[str, float]) -> Iterator[None]:
    start = time.monotonic()
    try:
        yield
    finally:
        seconds[name] = seconds.get(name, 0.0) + time.monotonic() - start


def last_words(result: Result) -> dict[str, Any]:
    """A result as the process that found it tells it to its parent: plain values, the witness as it is printed."""
    return {
        "verdict": str(result.verdict),
        "reason": result.reason,
        "witness": render(result.witness) if result.witness else "",
        "seconds": result.seconds,
        "stats": result.stats,
        "plan": list(result.plan),
    }
