"""What to run, decided from facts: which operators occur, how many dimensions move, how many disjuncts there are, what
the device has.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from verifier.attack.pgd import Attack
from verifier.bounds import METHODS
from verifier.bounds.chunks import limits
from verifier.bounds.program import Program
from verifier.bounds.same import merged
from verifier.bounds.still import Still, affordable
from verifier.bounds.targets import Targets
from verifier.config import Config
from verifier.events import Deadline, Event, Listener
from verifier.evidence.near import NearMisses
from verifier.net.apart import apart
from verifier.ops.pointwise import Pointwise
from verifier.problem import Problem
from verifier.result import UsageError, Verdict, Witness
from verifier.search.bab import FEW_DIMENSIONS, Outcome, Parts, Search, regions_of
from verifier.search.first_pass import first_pass
from verifier.search.neurons import NeuronSearch
from verifier.search.portfolio import Portfolio
from verifier.search.summands import SumSearch

ATTACK_ONLY_SECONDS = 60.0  # how long a network without bounds is attacked before `unknown` is said
ATTACK_ONLY_SHARE = 0.5  # of the time left, at most
NAMED = 3  # nodes without bounds that are named
FEW_MOVING = 20  # up to so many moving inputs are split one by one first, if neurons can be split as well
MANY_MOVING = 64  # more than so many are not split one by one at all, if neurons can be
KINDS = {"input": Search, "neurons": NeuronSearch, "terms": SumSearch}
MANY_NUMBERS = 1 << 26  # rows of a region times outputs, beyond which neurons are not split
MANY_REGIONS = 16  # from so many on it is asked what stands still in them
VERY_MANY_REGIONS = 256  # so many are not taken one by one
POOL_BYTES = 2 << 30  # most that waiting domains take unless the configuration says otherwise


@dataclass(frozen=True)
class Plan:
    """The decisions, each with its reason; and what they need. `problem`: what intervals leave of the one asked for."""

    problem: Problem
    program: Program
    dtype: torch.dtype
    device: torch.device
    unbounded: tuple[str, ...]  # operators without bounds, and where they stand
    splits: tuple[str, ...]  # what is split (`KINDS`), in the order in which that is tried
    reasons: tuple[str, ...]

    def lines(self) -> list[str]:
        """The plan in words, one decision a line."""
        return list(self.reasons)


def pick_device(config: Config) -> torch.device:
    """The device that the configuration asks for; UsageError if it is not there."""
    there = config.device != "cpu" and torch.cuda.is_available()  # asking wakes the driver, and so is not free
    if config.device == "cuda" and not there:
        raise UsageError("device cuda was asked for, but torch sees no GPU; use --device cpu or auto")
    return torch.device("cuda" if there else "cpu")


def plan(problem: Problem, config: Config) -> Plan:
    """Raises UnsupportedError for operators that cannot even be run."""
    device = pick_device(config)
    model = problem.network.dtype
    asked = {"float32": torch.float32, "float64": torch.float64}
    dtype = asked.get(config.precision, torch.float64 if model == np.float64 else torch.float32)
    program = Program(problem.network, dtype, device)
    asked_for, disjuncts = problem, int(problem.slots.sum())
    problem = merged(problem, program)
    if problem.network is not asked_for.network:
        program = Program(problem.network, dtype, device)
    splits: tuple[str, ...] = ()
    unbounded = _unbounded(program)
    why = "as configured" if config.precision in asked else f"the model is written in {model}"
    reasons = [
        f"device {device}; precision {str(dtype).removeprefix('torch.')}, {why}",
        f"{problem.lower.shape[1]} of {len(problem.base)} input dimensions move; {len(problem.lower)} regions; "
        f"at most {int(problem.slots.max()) if len(problem.slots) else 0} disjuncts in a region",
    ]
    if config.attack.method != "none":
        reasons.append(
            f"attack: {config.attack.method}, a glance before anything is bounded, then {config.attack.restarts} "
            f"starts of {config.attack.steps} steps, and more beside the search"
        )
    if unbounded:
        reasons.append(f"no bounds for {', '.join(unbounded)}: attack only, for at most {ATTACK_ONLY_SECONDS:g} s")
    else:
        if trusts_float32(program) or dtype == torch.float64:
            asked_for, problem = problem, first_pass(problem, program)
            if problem.network is not asked_for.network:
                program = Program(problem.network, dtype, device)
        left = int(problem.slots.sum())
        if left < disjuncts:
            reasons.append(f"intervals refute {disjuncts - left} of {disjuncts} disjuncts")
        splits, why = _splits(problem, program, config)
        if config.search.split == "auto" and SumSearch.fits(problem, program):
            splits = ("terms", *splits)
        bounds = config.bounds.method
        if bounds == "auto":
            few = problem.most_moving <= FEW_DIMENSIONS
            bounds = f"crown{', or forward planes if a probe shows that they get further per second' if few else ''}"
        words = {
            "terms": "splitting the inputs of each of the terms that add up to the output, bounds by crown",
            "input": f"input splitting by {config.branching.method}, bounds by {bounds}",
            "neurons": f"neuron splitting by {config.branching.neurons}, optimised dual bounds on boxes by crown, "
            f"which are optimised{', then branched on, when the search stalls' if config.search.refine else ''}",
        }
        how = "; where that stalls, ".join(words[s] for s in splits)
        reasons.append(f"search: {how}, up to {config.search.batch} domains a round ({why})")
    return Plan(problem, program, dtype, device, unbounded, splits, tuple(reasons))


def _unbounded(program: Program) -> tuple[str, ...]:
    """The nodes without bounds by operator and name; of many only the first, and how many more there are."""
    nodes = [s.node for s in program.without_bounds()]
    named = list(dict.fromkeys(f"{n.operator} at {n.origin or n.name!r}" for n in nodes))
    return (*named[:NAMED], *([f"{len(named) - NAMED} more"] if len(named) > NAMED else []))


def _splits(problem: Problem, program: Program, config: Config) -> tuple[tuple[str, ...], str]:
    """What to split, in the order in which to try, and why."""
    kinks = sorted({s.node.kind for s in program.steps[1:] if isinstance(s.op, Pointwise) and s.op.uniform})
    if config.search.split != "auto" and (kinks or config.search.split == "input"):
        return (config.search.split,), "as configured"
    if problem.row.shape[1] * problem.coef.width > MANY_NUMBERS:
        return ("input",), "so many rows over so many outputs are not optimised together"
    if not kinks:
        return ("input",), "no function of one number to split"
    moving = problem.most_moving
    where = " in a region" if len(problem.lower) > 1 else ""
    move = f"{moving} dimensions move{where}, and {', '.join(kinks)} can be split"
    if moving > MANY_MOVING:
        return ("neurons",), move
    return ("neurons", "input") if moving > FEW_MOVING else ("input", "neurons"), move


def solve(
    plan: Plan,
    config: Config,
    deadline: Deadline,
    listener: Listener,
    confirm: Callable[[np.ndarray], Witness | None],
    near: NearMisses | None = None,
) -> Outcome:
    """Carries the plan out. `near` is told what comes nearest to satisfying the property."""
    METHODS.load()
    problem = plan.problem
    if not len(problem.lower):
        return Outcome(Verdict.UNSAT, "every disjunct refuted in every region; by intervals alone")
    targets = Targets(problem, plan.dtype, plan.device)
    whole = torch.from_numpy(problem.whole).to(plan.device)
    attack = Attack(plan.program, targets, config.seed, whole if bool(whole.any()) else None)
    memory = int(config.search.memory_gib * 2**30) or min(POOL_BYTES, free_memory(plan.device) // 2)
    parts = Parts(
        problem,
        plan.program,
        targets,
        attack,
        confirm,
        limits(plan.device, config.bounds.chunk_mib),
        memory,
        trusts_float32(plan.program),
        near=near or NearMisses(),
    )
    if plan.unbounded:
        until = deadline.sooner(min(ATTACK_ONLY_SECONDS, ATTACK_ONLY_SHARE * deadline.left()))
        return Search(parts, config, until, listener).attack_only(
            plan.unbounded, deadline
        )
    parts = replace(parts, memory=parts.memory // len(plan.splits))
    members = {}
    for s in plan.splits:
        mine = parts if s != "input" else with_still(parts, config, listener)
        members[f"splitting {s}"] = KINDS[s](mine, config, deadline, listener)
        if mine.still is not None and len(problem.lower) >= VERY_MANY_REGIONS:
            break  # the neurons of each region are split by themselves: there is not the time for that
    return Portfolio(members, deadline, listener).run()


def with_still(parts: Parts, config: Config, listener: Listener) -> Parts:
    """The parts with a program that walks over what moves alone, where most of the network stands still in a region.

    The rows of tables are taken apart for it, so that one may move while others stand still.
    """
    problem, program = parts.problem, parts.program
    everywhere = bool((problem.upper > problem.lower).all())  # then nothing stands still
    if len(problem.lower) < MANY_REGIONS or everywhere or not affordable(program):
        return parts
    network = apart(problem.network)
    if network is not problem.network:
        program = Program(network, program.dtype, program.device)
    fine = Program(network, torch.float64, program.device)
    regions = regions_of(problem, program)  # what the model sees of ends that its precision does not hold
    moving = torch.from_numpy(problem.upper > problem.lower).to(program.device)
    still = Still(program, fine, *(end.double() for end in regions), moving)
    if not still.pays():
        return parts
    facts = {"share that moves": round(still.share, 3), "groups of regions": len(still.moves)}
    listener(Event("search", "bounding what moves alone", facts))
    return replace(parts, program=program, still=still)


def trusts_float32(program: Program) -> bool:
    """Whether the error terms cover what the device does in float32.

    Not for a model written in float64, whose weights were rounded; nor for convolutions on a GPU, where the library
    may pick fast algorithms (Winograd, FFT) whose errors are not those of a sum of products.
    """
    convolves = any(s.node.kind in ("Conv", "ConvTranspose") for s in program.steps[1:])
    return program.network.dtype == np.float32 and not (program.device.type == "cuda" and convolves)


def free_memory(device: torch.device) -> int:
    """Bytes that the device could still give."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        with open("/proc/meminfo", encoding="ascii") as f:
            return next(int(line.split()[1]) * 1024 for line in f if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return 4 << 30
