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
from verifier.bounds.crown import Trace
from verifier.bounds.dual import Optimised, Pass, Relaxation, Settings, Start, optimise
from verifier.bounds.program import Program
from verifier.bounds.targets import Targets
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
    ):
        """`rows`: coefficients (K, S, p) in the working precision and in float64, zero where padded; constants (K, S)
        float64, -1 where padded. `fine`: the program in float64.
        """
        self.relaxation = Relaxation(trace)
        self.rows, self.fine_rows, self.const = rows
        self.certifier = Certifier(self.relaxation, fine)
        self.heuristic = heuristic
        self.bias, self.least, self.most = self._facts()
        program = trace.program
        widest = max(size(s) for s in program.shapes)
        self.chunk = max(4, CHUNK_BYTES // (widest * trace.boxes[0][0].element_size()))

    def _facts(self) -> tuple[Tensor, Tensor, Tensor]:
        """Per column: the constant of the affine step before it, and the two slopes of its function."""
        r = self.relaxation
        bias, least, most = (torch.zeros_like(r.lower) for _ in range(3))
        for site in r.sites.values():
            offset = r.trace.offsets.get(site.value)
            if offset is not None:
                bias[site.cut] = offset if site.index is None else offset[site.index]
            least[site.cut], most[site.cut] = site.least, site.most
        return bias, least, most

    def bound(self, cases: Cases, settings: Settings, preferred: int) -> Bounded:
        """Bounds cases and ranks `preferred` splits of those that stay open."""
        n, device = len(cases), cases.score.device
        threads = torch.get_num_threads() if device.type == "cpu" else 1
        chunk = self.chunk if device.type == "cpu" else n
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
        lower, upper = cases.splits.boxes(r.lower, r.upper)
        start = Start(r.program.output, rows=self.rows[cases.slot], const=self.const[cases.slot].to(r.lower.dtype))
        found = optimise(r, start, lower, upper, cases.splits, cases.multipliers(r.lower.dtype), settings)
        middle = time.monotonic()
        refuted, overturned = self._certified(cases, found)
        end = time.monotonic()
        keep = torch.nonzero(~refuted).squeeze(1)
        kept = cases.take(keep)
        lb, m = found.lb[keep].double(), found.multipliers
        kept.alpha, kept.beta, kept.weights = m.alpha[keep].half(), m.beta[keep], m.weights[keep]
        kept.score = torch.maximum(torch.where(torch.isfinite(lb), lb, -1e30), kept.score).clamp(max=0.0)
        if len(keep):
            kept.prefer = self._ranked(kept, lower[keep], upper[keep], found.coef[keep], found.z[keep], preferred)
        figures = {"overturned by float64": overturned, "optimiser steps": found.steps * len(cases)}
        seconds = {"optimising": middle - begin, "certifying": end - middle, "branching": time.monotonic() - end}
        return Bounded(kept, found.x[keep], figures, seconds)

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

    def _ranked(self, kept: Cases, lower: Tensor, upper: Tensor, coef: Tensor, z: Tensor, count: int) -> Tensor:
        """The columns to split (N, count), best first; -1 where there are fewer."""
        r = self.relaxation
        free = (lower < 0) & (upper > 0) & r.splittable
        if not bool(free.any()):
            return torch.full((len(kept), count), -1, dtype=torch.int64, device=lower.device)
        lines = r.lines(lower, upper)
        alpha = kept.alpha.to(lower.dtype)
        view = View(
            lower,
            upper,
            coef,
            z,
            alpha,
            lines.up_a,
            lines.up_b,
            self.bias,
            self.least,
            self.most,
            free,
            kept.score,
            lambda columns: self.trial(kept, lower, upper, columns),
        )
        return self.heuristic(view, count)

    def trial(self, kept: Cases, lower: Tensor, upper: Tensor, columns: Tensor) -> Tensor:
        """Bounds (N, C, 2) of both children, z >= 0 first, of splits at columns (N, C), multipliers as they are."""
        n, c = columns.shape
        r = self.relaxation
        owner = torch.arange(n).repeat_interleave(2 * c)
        column = columns.clamp(min=0).repeat_interleave(2, 1).reshape(-1)
        up = torch.tensor([True, False]).repeat(n * c)
        l, u = lower[owner], upper[owner]
        each = torch.arange(len(owner))
        l[each, column] = torch.where(up, l[each, column].clamp(min=0), l[each, column])
        u[each, column] = torch.where(up, u[each, column], u[each, column].clamp(max=0))
        lines = r.lines(l, u)
        m = kept.multipliers(lower.dtype).take(owner)
        m.alpha = torch.minimum(torch.maximum(m.alpha, lines.least), lines.most)
        slot = kept.slot[owner]
        start = Start(r.program.output, rows=self.rows[slot], const=self.const[slot].to(lower.dtype))
        bounds = Pass(r, start, lines, kept.splits.take(owner)).backward(m)
        return bounds.reshape(n, c, 2)


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
