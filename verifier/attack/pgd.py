"""Projected gradient descent on the property's rows, batched over starting points.

A point satisfies a disjunct when its largest row is <= 0. Every start aims at one disjunct of its region and descends
the hinge sum_s max(row_s, -margin): rows that hold by the margin stop pulling, the others are pushed down together.
Steps follow the sign of the gradient, a fixed share of the box's width per dimension, with momentum, shrinking over
the run (Madry et al., arXiv 1706.06083; Dong et al., arXiv 1710.06081). Starts are the centre, random corners and
uniform points. All points stay in the box; every one visited counts, not just the last.

Signs alone circle around the corner where several rows meet, so the points that came nearest are polished by
Gauss-Newton steps: with v_s > 0 the violated rows and J their Jacobian in units of the box's width, the shortest step
that removes all of them at once is -J^T (J J^T + damping)^-1 v. Networks are nearly linear over short distances, so a
few steps settle it.

Symbols: N points, m dimensions, D boxes; l, u (D, m); K disjuncts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from verifier.bounds.program import Program
from verifier.bounds.targets import Targets
from verifier.events import Deadline

POLISHED = 64  # points polished after a descent
POLISHED_ROWS = 16  # rows that a polishing step looks at, the largest first
POLISHED_DIMENSIONS = 1000  # beyond, a Jacobian per point costs more than more descents would
POLISH_STEPS = 20


@dataclass
class Found:
    """Points (N, m) that look like counterexamples, best first; the smallest value met (<= 0 if there is one), and the
    point (1, m) with the smallest of those evaluated last.
    """

    points: Tensor
    least: float
    nearest: Tensor | None = None


def starts(l: Tensor, u: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """(count, D, m): centres first, then half corners and half uniform points."""
    shape = (count, *l.shape)
    r = torch.rand(shape, generator=generator, dtype=l.dtype).to(l.device)
    corner = torch.arange(count, device=l.device).view(-1, 1, 1) % 2 == 1
    r = torch.where(corner, (r > 0.5).to(l.dtype), r)
    r[0] = 0.5
    return (l + (u - l) * r).clamp(l, u)


class Attack:
    """Attacks the boxes it is given; keeps its random generator, and nothing else."""

    def __init__(self, program: Program, targets: Targets, seed: int, whole: Tensor | None = None):
        """`whole` (m,) bool: dimensions of whole numbers, which points are rounded to before they are evaluated."""
        self.program, self.targets, self.whole = program, targets, whole
        self.generator = torch.Generator().manual_seed(seed)

    def _rounded(self, x: Tensor) -> Tensor:
        return x if self.whole is None else torch.where(self.whole, x.round(), x)

    @torch.no_grad()
    def probe(self, x: Tensor, region: Tensor) -> Found:
        """Evaluates points (N, m) in regions (N,)."""
        if not len(x):
            return Found(x, float("inf"))
        x = self._rounded(x)
        least = self.targets.values(self.program.forward(x), region).amin(1)
        good = torch.nonzero(least <= 0).squeeze(1)
        order, nearest = torch.argsort(least[good])[:16], least.argmin()
        return Found(x[good[order]], float(least[nearest]), x[nearest].unsqueeze(0))

    def descend(
        self,
        l: Tensor,
        u: Tensor,
        region: Tensor,
        open: Tensor,
        restarts: int,
        steps: int,
        deadline: Deadline,
        polish: bool = True,
    ) -> Found:
        """Runs `steps` steps from `restarts` starts in every box and polishes what came nearest; stops early once
        something is found. open: (D, K) disjuncts to aim at.
        """
        x = starts(l, u, restarts, self.generator).flatten(0, 1)
        l, u, region, open = (t.repeat(restarts, *[1] * (t.ndim - 1)) for t in (l, u, region, open))
        aim = self._aim(x, region, open)
        width, velocity = u - l, torch.zeros_like(x)
        least = float("inf")
        for i in range(steps):
            if deadline.passed():
                break
            seen = self._rounded(x)
            value, gradient, all_values = self._gradient(seen, region, aim)
            with torch.no_grad():
                every = all_values.amin(1)
                least = min(least, float(every.min()))
                if least <= 0:
                    good = torch.nonzero(every <= 0).squeeze(1)
                    return Found(seen[good[torch.argsort(every[good])[:16]]], least)
                # Where the network is flat there is no way down: go anywhere.
                flat = (gradient == 0).all(1, keepdim=True)
                noise = torch.rand(x.shape, generator=self.generator, dtype=x.dtype).to(x.device) - 0.5
                gradient = torch.where(flat, noise, gradient)
                velocity = 0.75 * velocity + gradient / gradient.abs().amax(1, keepdim=True).clamp(min=1e-30)
                size = 0.25 * (0.02 ** (i / max(1, steps - 1)))
                x = torch.minimum(torch.maximum(x - size * width * velocity.sign(), l), u)
        found = self.probe(x, region)
        polish = polish and self.targets.row.shape[1] > 0 and self.program.n_in <= POLISHED_DIMENSIONS
        if polish and not len(found.points):
            found = self._polish(x, l, u, region, aim, deadline)
        return Found(found.points, min(least, found.least), found.nearest)

    def _polish(self, x: Tensor, l: Tensor, u: Tensor, region: Tensor, aim: Tensor, deadline: Deadline) -> Found:
        """Gauss-Newton steps from the `POLISHED` points nearest to satisfying the disjunct that they aim at."""
        with torch.no_grad():
            values = self.targets.values(self.program.forward(x), region).gather(1, aim.unsqueeze(1)).squeeze(1)
        best = torch.topk(values, min(POLISHED, len(values)), largest=False).indices
        x, l, u, region, aim = (t[best] for t in (x, l, u, region, aim))
        width = u - l
        found = self.probe(x, region)
        for _ in range(POLISH_STEPS):
            if len(found.points) or deadline.passed():
                break
            v, jacobian = self._jacobian(x, region, aim)
            excess = (v + 1e-6 * (1 + v.abs()) + 0.05 * v.amax(1, keepdim=True).clamp(min=0)).clamp(min=0)
            # A coordinate at its end can only move inwards; a row that holds takes no part.
            push = -(jacobian * excess.unsqueeze(-1)).sum(1)
            free = ((x > l) | (push > 0)) & ((x < u) | (push < 0))
            j = jacobian * (width * free).unsqueeze(1) * (excess > 0).unsqueeze(-1)
            gram = j @ j.mT
            damping = 1e-4 * gram.diagonal(dim1=1, dim2=2).amax(1).clamp(min=1e-20)
            gram = gram + damping.view(-1, 1, 1) * torch.eye(gram.shape[-1], dtype=x.dtype, device=x.device)
            step = (j.mT @ torch.linalg.solve(gram, excess.unsqueeze(-1))).squeeze(-1)
            x = torch.minimum(torch.maximum(x - width * torch.nan_to_num(step), l), u)
            found = self.probe(x, region)
        return found

    def _jacobian(self, x: Tensor, region: Tensor, aim: Tensor) -> tuple[Tensor, Tensor]:
        """The largest rows of the aimed disjunct (N, S'), at most POLISHED_ROWS of them, and their Jacobian (N, S',
        m).
        """
        x = x.detach().requires_grad_(True)
        t = self.targets
        with torch.enable_grad():
            row, slot = t.row[region], t.slot[region]
            value = t.apply(self.program.forward(x, guided=True), row.clamp(min=0)) + t.const[region].to(x.dtype)
            value = torch.where((row >= 0) & (slot == aim.unsqueeze(1)), value, -float("inf"))
            top = torch.topk(value, min(POLISHED_ROWS, value.shape[1]), dim=1).values
            if not top.requires_grad:
                return torch.nan_to_num(top, neginf=-1e30), x.new_zeros((*top.shape, x.shape[1]))
            finite = [torch.where(torch.isfinite(c), c, 0.0).sum() for c in top.unbind(1)]
            parts = [torch.autograd.grad(f, x, retain_graph=True, allow_unused=True)[0] for f in finite]
        zero = torch.zeros_like(x)
        jacobian = torch.stack([zero if p is None else torch.nan_to_num(p) for p in parts], 1)
        return torch.nan_to_num(top.detach(), neginf=-1e30), jacobian

    def _aim(self, x: Tensor, region: Tensor, open: Tensor) -> Tensor:
        """One open disjunct per point: half take the nearest one at their start, half are dealt out in turn."""
        with torch.no_grad():
            values = torch.where(open, self.targets.values(self.program.forward(x), region), float("inf"))
        nearest = values.argmin(1)
        turn = torch.arange(len(x), device=x.device) % open.sum(1).clamp(min=1)
        dealt = (open.cumsum(1) == turn.unsqueeze(1) + 1).to(torch.uint8).argmax(1)
        return torch.where(torch.arange(len(x), device=x.device) // 2 % 2 == 0, nearest, dealt)

    def _gradient(self, x: Tensor, region: Tensor, aim: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Hinge of the aimed disjunct (N,), its gradient (N, m), and the values of all disjuncts (N, K)."""
        x = x.detach().requires_grad_(True)
        with torch.enable_grad():
            y = self.program.forward(x, guided=True)
            t = self.targets
            row, slot, const = t.row[region], t.slot[region], t.const[region]
            mine = (row >= 0) & (slot == aim.unsqueeze(1))
            most = max(1, int(mine.sum(1).max())) if mine.shape[1] else 0
            if not most:
                return x.new_zeros(len(x)), torch.zeros_like(x), t.values(y.detach(), region)
            index = torch.topk(mine.to(torch.uint8) if mine.device.type == "cpu" else mine.float(), most, dim=1).indices
            value = t.apply(y, row.gather(1, index).clamp(min=0)) + const.gather(1, index).to(y.dtype)
            margin = 1e-6 * (1 + value.detach().abs().amax(1, keepdim=True))
            hinge = torch.where(mine.gather(1, index), torch.maximum(value, -margin), 0.0).sum(1)
            gradient = None
            if hinge.requires_grad:  # not where a comparison or an argmax lies between x and y
                (gradient,) = torch.autograd.grad(hinge.sum(), x, allow_unused=True)
        gradient = torch.zeros_like(x) if gradient is None else torch.nan_to_num(gradient)
        return hinge.detach(), gradient, t.values(y.detach(), region)
