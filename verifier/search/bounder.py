"""Bounds cases of one region: optimise their multipliers, certify what looks refuted, rank the splits of the rest.

A batch is cut into chunks whose coefficient tensors stay in the cache; each goes through all three stages on one
thread. Symbols as in `verifier.search.cases`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from verifier.bounds.certify import Certifier
from verifier.bounds.chunks import workers
from verifier.bounds.dual import Optimised, Settings, optimise
from verifier.bounds.program import Program
from verifier.bounds.relaxation import ColumnLines, Multipliers, Relaxation, Start
from verifier.bounds.targets import Targets
from verifier.bounds.trace import Trace
from verifier.bounds.walk import Pass
from verifier.branching.view import View
from verifier.ops.base import size
from verifier.search.cases import Cases

CHUNK_BYTES = 2 << 20  # of one coefficient tensor on a CPU
Heuristic = Callable[[View, int], Tensor]


@dataclass
class Bounded:
    """What became of a batch: the cases that stay open, their minimisers (D, m), and figures to be added up."""

    kept: Cases
    x: Tensor
    figures: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @staticmethod
    def join(parts: list[Bounded]) -> Bounded:
        figures: dict[str, float] = {}
        seconds: dict[str, float] = {}
        for part in parts:
            for total, mine in ((figures, part.figures), (seconds, part.seconds)):
                for name, value in mine.items():
                    total[name] = total.get(name, 0) + value
        return Bounded(Cases.join([p.kept for p in parts]), torch.cat([p.x for p in parts]), figures, seconds)


class Bounder:
    """One region's root, and what is computed on it."""

    def __init__(
        self,
        trace: Trace,
        rows: tuple[Tensor, Tensor, Tensor],
        fine: Program,
        heuristic: Heuristic,
        chunk_bytes: int = CHUNK_BYTES,
    ):
        """`rows`: coefficients (K, S, p) in the working precision and in float64, zero where padded; constants (K, S)
        float64, -1 where padded. `fine`: the program in float64. `chunk_bytes`: of one coefficient tensor.
        """
        self.relaxation = Relaxation(trace)
        self.rows, self.fine_rows, self.const = rows
        self.certifier = Certifier(self.relaxation, fine)
        self.heuristic = heuristic
        self.bias = self._constants()
        program = trace.program
        widest = max(size(s) for s in program.shapes)
        self.chunk = max(4, chunk_bytes // (widest * trace.boxes[0][0].element_size()))

    def _constants(self) -> Tensor:
        """Per column the constant of the affine step before it."""
        r = self.relaxation
        bias = torch.zeros_like(r.lower)
        for site in r.sites.values():
            offset = r.trace.offsets.get(site.value)
            if offset is not None:
                bias[site.cut] = offset if site.index is None else offset[site.index]
        return bias

    def bound(self, cases: Cases, settings: Settings, preferred: int) -> Bounded:
        """Bounds cases and ranks `preferred` splits of those that stay open."""
        n, device = len(cases), cases.score.device
        threads = torch.get_num_threads() if device.type == "cpu" else 1
        chunk = self.chunk
        if threads > 1 and n >= 2:
            chunk = min(chunk, -(-n // threads))
        cuts = [slice(at, at + chunk) for at in range(0, n, chunk)]
        if threads > 1:  # one chunk as well: threads inside small operations mostly wait for each other
            parts = workers(threads).map(lambda c: self._bound(cases.take(c), settings, preferred), cuts)
            return Bounded.join(list(parts))
        return Bounded.join([self._bound(cases.take(c), settings, preferred) for c in cuts])

    @torch.no_grad()
    def _bound(self, cases: Cases, settings: Settings, preferred: int) -> Bounded:
        r, begin = self.relaxation, time.monotonic()
        found = optimise(r, self._start(cases.slot), cases.splits, cases.multipliers(r.lower.dtype), settings)
        middle = time.monotonic()
        refuted, overturned = self._certified(cases, found)
        end = time.monotonic()
        keep = torch.nonzero(~refuted).squeeze(1)
        kept = cases.take(keep)
        lb, m = found.lb[keep].double(), found.multipliers
        kept.alpha, kept.beta, kept.weights = m.alpha[keep].half(), m.beta[keep], m.weights[keep]
        kept.score = torch.maximum(torch.where(torch.isfinite(lb), lb, -1e30), kept.score).clamp(max=0.0)
        if len(keep):
            kept.prefer = self._ranked(kept, found.coef[keep], found.z[keep], preferred)
        figures = {"overturned by float64": overturned, "optimiser steps": found.steps * len(cases)}
        seconds = {"optimising": middle - begin, "certifying": end - middle, "branching": time.monotonic() - end}
        return Bounded(kept, found.x[keep], figures, seconds)

    def _start(self, slot: Tensor) -> Start:
        r = self.relaxation
        return Start(r.program.output, rows=self.rows[slot], const=self.const[slot].to(r.lower.dtype))

    def _certified(self, cases: Cases, found: Optimised) -> tuple[Tensor, int]:
        """Which cases are refuted (N,) bool, by a bound in float64 with its error; and how many only seemed so."""
        hopeful = torch.nonzero(found.lb > 0).squeeze(1)
        refuted = torch.zeros(len(cases), dtype=torch.bool, device=found.lb.device)
        if not len(hopeful):
            return refuted, 0
        slot = cases.slot[hopeful]
        splits, m = cases.splits.take(hopeful), found.multipliers.take(hopeful)
        lb = self.certifier.bounds(self.fine_rows[slot], self.const[slot], splits, m)
        refuted[hopeful] = torch.isfinite(lb) & (lb > 0)
        return refuted, len(hopeful) - int(refuted.sum())

    def _ranked(self, kept: Cases, coef: Tensor, z: Tensor, count: int) -> Tensor:
        """The columns to split (N, count), best first; -1 where there are fewer."""
        r, dtype = self.relaxation, coef.dtype
        free = r.splittable.expand(len(kept), -1).clone()
        row, j = torch.nonzero(kept.column >= 0, as_tuple=True)
        free[row, kept.column[row, j]] = False
        if not bool(free.any()):
            return torch.full((len(kept), count), -1, dtype=torch.int64, device=coef.device)
        lines, m = r.lines(kept.splits), kept.multipliers(dtype)
        r.project(m.alpha, lines)
        trial = lambda columns: self.trial(kept, lines, m, columns)
        view = View(coef, z, m.alpha, lines.up_a, lines.up_b, self.bias, r.left, r.right, free, kept.score, trial)
        return self.heuristic(view, count)

    def trial(self, kept: Cases, lines: ColumnLines, m: Multipliers, columns: Tensor) -> Tensor:
        """Bounds (N, C, 2) of both children, z >= 0 first, of splits at columns (N, C), multipliers as they are; -inf
        for columns of -1. Above the split step nothing changes: children start where the parents' pass stood there.
        """
        r = self.relaxation
        states: dict[int, Start] = {}
        Pass(r, self._start(kept.slot), lines, kept.splits).backward(m, states)
        bounds = lines.up_a.new_full((*columns.shape, 2), -float("inf"))
        for k, state in states.items():
            cut = r.sites[k].cut
            owner, place = torch.nonzero((columns >= cut.start) & (columns < cut.stop), as_tuple=True)
            if not len(owner):
                continue
            column = columns[owner, place]
            up_a, up_b, mine = lines.up_a[owner], lines.up_b[owner], m.take(owner)
            at = torch.arange(len(owner), device=owner.device) * r.width + column
            up_b.view(-1)[at] = 0.0
            walk = Pass(r, state.take(owner), ColumnLines(up_a, up_b, at, r.right[column]), kept.splits.take(owner))
            for side, slope in ((0, r.right), (1, r.left)):
                up_a.view(-1)[at] = mine.alpha.view(-1)[at] = slope[column]
                bounds[owner, place, side] = walk.backward(mine)
        return bounds


def tables(targets: Targets, fine: Targets, region: int) -> tuple[Tensor, Tensor, Tensor]:
    """A region's rows by disjunct: `Bounder`'s `rows`."""
    row, slot, const = targets.row[region], targets.slot[region], targets.const[region]
    mine = [torch.nonzero((slot == k) & (row >= 0)).squeeze(1) for k in range(targets.n_slots)]
    most = max([1, *(len(i) for i in mine)])
    index = torch.full((targets.n_slots, most), -1, dtype=torch.int64, device=row.device)
    consts = torch.full((targets.n_slots, most), -1.0, dtype=torch.float64, device=row.device)
    for k, i in enumerate(mine):
        index[k, : len(i)], consts[k, : len(i)] = row[i], const[i]
    real = (index >= 0).unsqueeze(-1)
    coef, fine_coef = (torch.where(real, t.coef[index.clamp(min=0)], 0.0) for t in (targets, fine))
    return coef, fine_coef, consts
