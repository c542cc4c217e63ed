"""Branch and bound for a sum whose terms depend on different inputs: every term has a tree of its own.

Where a property compares two networks on inputs of their own, or one network with itself at two places, what must be
positive is row(x) = c (s_1 f_1(x) + … + s_J f_J(x)) + const, and no input reaches two of the f_j. Splitting x splits
them all at once: each part of what f_1 reads is combined with each part of what f_2 reads, so trees multiply. Here
every term's own inputs are split, and trees add up.

A task is a row over a region. For each term it has leaves, boxes that cover the region, with lower bounds lb of
c s_j f_j. With L_j the least of a term's leaves, every x of a leaf of term j has

    row(x) >= lb + sum of L_i over i != j + const.

If that is positive the leaf is closed. It stays so, since children inherit their parents' bounds and no L_i falls. A
task is refuted when a term of it has no open leaf left.

Sound: the leaves of every term cover the region (`split`: both halves share the middle), whatever the terms depend on;
that they depend on different inputs only makes it pay. Bounds are float64's with their error terms; the sum of a few of
them is off by less than `ERROR` of its terms' size.

Symbols: T tasks, J terms, D leaves, m dimensions.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from verifier.bounds.chunks import bound_rows
from verifier.bounds.program import Program
from verifier.bounds.proved import proves_positive
from verifier.bounds.still import affordable, reach
from verifier.events import Event
from verifier.net.graph import Network, Node
from verifier.net.graph import Tensor as Place
from verifier.problem import Problem
from verifier.search.bab import Search
from verifier.search.domains import Arrays, halvable

ERROR = 1e-12
MOST_TASKS = 64  # rows over regions; more are taken together by the other searches
MOST_TERMS = 16  # every one has a program and trees of its own
LEAST_BATCH, BATCH = 4, 128  # leaves of a term that are split in a round; at most a quarter of the open ones


@dataclass(frozen=True)
class Term:
    """s f: a network from the flat input to the one number f, and the sign."""

    network: Network
    sign: float


@dataclass
class Leaves(Arrays):
    """`lower`, `upper` (D, m); `task` (D,); `score` (D,) the lower bound; `prefer` (D,) the dimension to split, -1
    where none can be; `share` (D,) of the region.
    """

    lower: Tensor
    upper: Tensor
    task: Tensor
    score: Tensor
    prefer: Tensor
    share: Tensor


def terms_of(network: Network) -> list[Term]:
    """What the single output is the sum of, by additions and subtractions of single numbers; a single term where it is
    none, or one of more than `MOST_TERMS`.
    """
    by_name, found, waiting = {n.name: n for n in network.nodes}, [], [(network.outputs[0].name, 1.0)]
    while waiting:
        name, sign = waiting.pop()
        n = by_name.get(name)
        single = n is not None and all(i in by_name and np.prod(by_name[i].shape) == 1 for i in n.inputs)
        if single and n.kind == "Reshape":
            waiting.append((n.inputs[0], sign))
        elif single and n.kind in ("Add", "Sub"):
            waiting += [(n.inputs[1], sign if n.kind == "Add" else -sign), (n.inputs[0], sign)]
        else:
            found.append((name, sign))
        if len(found) + len(waiting) > MOST_TERMS:
            return [Term(network, 1.0)]
    return [Term(_up_to(network, name), sign) for name, sign in found]


def _up_to(network: Network, name: str) -> Network:
    """The network that ends with one of its values, made flat."""
    dtype = network.outputs[0].dtype
    wanted, kept = {name}, [Node("//term", "Reshape", (name,), (1,), dtype)]
    for n in reversed(network.nodes):
        if n.name in wanted:
            kept.append(n)
            wanted.update(n.inputs)
    return replace(network, nodes=tuple(reversed(kept)), outputs=(Place("//term", (1,), dtype),))


class SumSearch(Search):
    """One run over one problem whose rows are sums; see the file's head."""

    leaves: Sequence[Leaves] = ()  # of every term

    @staticmethod
    def fits(problem: Problem, program: Program) -> bool:
        """Whether the output is a sum of terms that read different inputs, two of which move in some region."""
        one_output = problem.network.outputs[0].shape == (1,)
        if not one_output or not 0 < problem.row.size <= MOST_TASKS or problem.row.shape[1] != 1:
            return False
        if (problem.row < 0).any() or (problem.slots != 1).any():  # a disjunct without rows holds everywhere
            return False
        terms = terms_of(problem.network)
        if len(terms) < 2 or not affordable(program):
            return False
        inputs = [reach(Program(t.network, program.dtype, program.device))[:, -1].cpu().numpy() for t in terms]
        moving = (problem.upper > problem.lower).any(0)
        apart = (np.stack(inputs) & moving).sum(0).max() <= 1
        return bool(apart) and sum(bool((i & moving).any()) for i in inputs) >= 2

    def rounds(self) -> Iterator[None]:
        """The search, round by round."""
        p, device = self.parts.problem, self.parts.program.device
        self.fresh = self._regions()
        self.terms = terms_of(p.network)
        self.programs = [Program(t.network, torch.float64, device) for t in self.terms]
        self.reached = [reach(q)[:, -1] for q in self.programs]
        task = self.fresh.region  # every region has one row
        self.factor = torch.from_numpy(p.coef[p.row[:, 0]][:, 0].copy()).to(device)
        self.const = torch.from_numpy(p.const[:, 0]).to(device)
        self.strict = torch.from_numpy(p.strict[:, 0]).to(device)
        self.least = torch.full((len(self.terms), len(task)), torch.inf, dtype=torch.float64, device=device)
        self.floor = self.least.clone()  # of closed leaves
        self.open = torch.ones_like(task, dtype=torch.bool)
        self._attack(self.config.attack.share)
        l, u = self.fresh.lower.double(), self.fresh.upper.double()
        parent = torch.full((len(task),), -torch.inf, dtype=torch.float64, device=device)
        whole = Leaves(l, u, task, parent, torch.zeros_like(task), torch.ones_like(parent))
        self.leaves = [self._bounded(j, whole) for j in range(len(self.terms))]
        while self.witness is None and not self.deadline.passed():
            self._close()
            if not bool(self.open.any()):
                break
            if not self._split():
                self.unsplittable = int(self.open.sum())
                break
            self.stats["rounds"] += 1
            self._attack(self.config.attack.share)
            self._tell_sums()
            if self.config.search.max_rounds and self.stats["rounds"] >= self.config.search.max_rounds:
                return
            yield
        self.done = not bool(self.open.any()) or self.unsplittable > 0

    def _bounded(self, j: int, leaves: Leaves) -> Leaves:
        """Leaves of term j with bounds, not below the scores that they had, and the dimensions to split."""
        program, out, start = self.programs[j], leaves.take(slice(None)), time.monotonic()
        coef = self.factor.unsqueeze(1) * self.terms[j].sign
        bounds = bound_rows(program, out.lower, out.upper, coef, out.task.unsqueeze(1), "crown", self.parts.limit)
        self.stats["domains"] += len(out)
        self.seconds["bounds"] += time.monotonic() - start
        lb = bounds.lb[:, 0]
        out.score = torch.maximum(out.score, torch.where(torch.isfinite(lb), lb, -torch.inf))
        width, can = out.upper - out.lower, halvable(out.lower, out.upper) & self.reached[j]
        slope = torch.nan_to_num(bounds.slope[:, 0].abs(), posinf=0.0)
        gain = slope * width
        gain = torch.where(can, gain + 1e-3 * (1e-30 + gain.amax(1, keepdim=True)) * (width > 0), -1.0)
        out.prefer = torch.where(can.any(1), gain.argmax(1), -1)
        return out

    def _close(self) -> None:
        """Drops leaves that are closed and tasks that are refuted, until nothing more can be."""
        for j, leaves in enumerate(self.leaves):
            self.least[j] = self.floor[j].scatter_reduce(0, leaves.task, leaves.score, "amin")
        for j, leaves in enumerate(self.leaves):
            others = torch.cat([self.least[:j], self.least[j + 1 :]])
            rest, size = others.sum(0) + self.const, others.abs().sum(0) + self.const.abs()
            total = leaves.score + rest[leaves.task]
            error = ERROR * (leaves.score.abs() + size[leaves.task])
            closed = proves_positive(total - error, self.strict[leaves.task])
            self.floor[j] = self.floor[j].scatter_reduce(
                0, leaves.task, torch.where(closed, leaves.score, torch.inf), "amin"
            )
            left = leaves.take(~closed)
            some = torch.zeros_like(self.open)
            some[left.task] = True
            self.open &= some
            self.leaves[j] = left
        self.leaves = [leaves.take(self.open[leaves.task]) for leaves in self.leaves]

    def _split(self) -> bool:
        """Splits the worst leaves of every term; whether there was one to split."""
        any_split = False
        for j, leaves in enumerate(self.leaves):
            can = torch.nonzero(leaves.prefer >= 0).squeeze(1)
            if not len(can):
                continue
            any_split = True
            count = min(len(can), max(LEAST_BATCH, min(BATCH, len(can) // 4)))
            chosen = can[torch.topk(leaves.score[can], count, largest=False).indices]
            parents, rest = leaves.take(chosen), torch.ones(len(leaves), dtype=torch.bool, device=can.device)
            rest[chosen] = False
            d = parents.prefer.unsqueeze(1)
            middle = parents.lower + (parents.upper - parents.lower) / 2
            left, right = parents.take(slice(None)), parents.take(slice(None))
            left.upper = parents.upper.scatter(1, d, middle.gather(1, d))
            right.lower = parents.lower.scatter(1, d, middle.gather(1, d))
            children = Leaves.join([left, right])
            children.share = children.share / 2
            self.leaves[j] = Leaves.join([leaves.take(rest), self._bounded(j, children)])
        return any_split

    def open_share(self) -> float:
        """How much is open: of every task the share of the term that has closed most."""
        if not self.leaves:
            return 1.0
        zero = torch.zeros_like(self.const)
        parts = [zero.scatter_add(0, leaves.task, leaves.share) for leaves in self.leaves]
        return float((torch.stack(parts).amin(0) * self.open).mean())

    def _waiting(self) -> int:
        return sum(map(len, self.leaves))

    def _tell_sums(self) -> None:
        worst = float((self.least.sum(0) + self.const)[self.open].min()) if bool(self.open.any()) else 0.0
        facts = {"domains": self.stats["domains"], "waiting": self._waiting(), "worst bound": worst}
        self.listener(Event("search", "round", facts))
