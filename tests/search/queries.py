"""Queries, problems and searches put together by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from verifier.attack.pgd import Attack
from verifier.bounds.chunks import limits
from verifier.bounds.program import Program
from verifier.bounds.targets import Targets
from verifier.config import BoundsConfig, BranchingConfig, Config, SearchConfig
from verifier.events import Deadline, silent
from verifier.problem import Problem, compile_problem
from verifier.result import Verdict, Witness
from verifier.search.bab import Outcome, Parts, Search
from verifier.spec.query import Query

Row = tuple[dict[int, float], float]  # coefficients by variable, inputs before outputs; and the constant


def query(n_in: int, n_out: int, regions: list, disjuncts: list[tuple[int, list[Row]]]) -> Query:
    """Regions are pairs of ends, disjuncts pairs of a region and rows."""
    disjuncts = sorted(disjuncts, key=lambda d: d[0])
    rows = [r for _, ds in disjuncts for r in ds]
    terms = [sorted((v, c) for v, c in r.items() if c) for r, _ in rows]
    flat = [t for ts in terms for t in ts]
    return Query(
        "by hand",
        n_in,
        n_out,
        np.array([l for l, _ in regions], float).reshape(-1, n_in),
        np.array([u for _, u in regions], float).reshape(-1, n_in),
        np.array([r for r, _ in disjuncts], np.int64),
        np.cumsum([0, *(len(ds) for _, ds in disjuncts)]),
        np.cumsum([0, *(len(ts) for ts in terms)]),
        np.array([v for v, _ in flat], np.int64),
        np.array([c for _, c in flat], float),
        np.array([c for _, c in rows], float),
        np.zeros(len(rows), bool),
        np.ones(len(rows), np.int64),
    )


def judge(problem: Problem, network):
    """Confirms what holds on a float64 run of the original network on an input rounded as the model would."""
    whole = Program(network, torch.float64, "cpu")

    def confirm(x: np.ndarray) -> Witness | None:
        x = np.clip(x, problem.query.lower.min(0), problem.query.upper.max(0))
        y = whole.forward(torch.from_numpy(x)[None])[0].numpy()
        return Witness(x, y) if problem.query.holds(x, y) >= 0 else None

    return confirm


def refuse(x: np.ndarray) -> None:
    return None


def settings(method="crown", heuristic="sensitivity", rounds=0, batch=256, attack="pgd") -> Config:
    c = Config()
    return replace(
        c,
        bounds=BoundsConfig(method),
        branching=BranchingConfig(heuristic),
        search=SearchConfig(batch=batch, max_rounds=rounds),
        attack=replace(c.attack, method=attack, restarts=32, steps=15),
    )


def search(
    network,
    q: Query,
    config: Config,
    confirm=None,
    dtype=torch.float32,
    seconds=20.0,
    memory=1 << 30,
    trusted=True,
    kind=Search,
) -> Outcome:
    problem = compile_problem(network, q)
    if not len(problem.lower):
        return Outcome(Verdict.UNSAT, "nothing to search")
    program = Program(problem.network, dtype, "cpu")
    targets = Targets(problem, dtype, "cpu")
    confirm = judge(problem, network) if confirm is None else confirm
    attack = Attack(program, targets, config.seed)
    parts = Parts(problem, program, targets, attack, confirm, limits(torch.device("cpu")), memory, trusted)
    run = kind(parts, config, Deadline.after(seconds), silent)
    for each in getattr(run, "members", (run,)):
        each.clipper.deep = True  # searches as small as these would end before it is weighed
    return run.run()
