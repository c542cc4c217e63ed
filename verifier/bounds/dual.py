"""Dual bounds: the best lower bound of a row over a domain that free slopes, split multipliers and row weights allow.

Wang et al., "Beta-CROWN" (arXiv 2103.06624), with analytic gradients in place of automatic differentiation. A domain
is a region's box cut by splits sign (z_j - p) >= 0 of neurons. Its row is sum_s w_s (C_s y + c_s), w >= 0: if all rows
of a disjunct were <= 0 somewhere, so were the weighted sum, so a positive bound of the sum refutes the disjunct. All
boxes of intermediate values stay fixed. What is optimised, per domain:

    alpha   slope of the lower line of every unstable neuron (any slope in its range is sound), and for curves that of
            the upper line; the offsets b(s) follow (`verifier.bounds.curves`),
    beta    >= 0 per split: subtracts beta sign from the coefficient of z_j and adds beta sign p to the bias, which
            lowers the row by beta sign (z_j - p), a number that is >= 0 in the domain,
    w       the weights of the disjunct's rows, kept at sum 1.

The bound is piecewise multilinear in these. With x* the minimiser over the box and z the values of the relaxed forward
pass from x* (every nonlinear step replaced by the line that the backward pass took for it),

    d lb / d alpha_i = max(a_i, 0) (z_i + b'(alpha_i)),   d lb / d beta_j = -sign_j (z_j - p_j),
    d lb / d w_s = C_s y + c_s,

a_i the coefficient at the neuron's output. So a step costs one backward and one forward pass and keeps no graph.

Sound: nothing here proves anything. The numbers found are hints; `verifier.bounds.certify` evaluates them with the
error terms of `verifier.bounds.crown`.

Symbols: N domains, K columns (the unstable entries of all nonlinear steps side by side), P splits, S rows, m input
dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from verifier.bounds.relaxation import Multipliers, Relaxation, Splits, Start
from verifier.bounds.walk import Pass


@dataclass(frozen=True)
class Settings:
    """How multipliers are optimised."""

    steps: int = 20
    alpha_rate: float = 0.25
    beta_rate: float = 0.2
    weight_rate: float = 0.1
    decay: float = 0.96
    compact: float = 0.2  # share of finished domains at which the batch is compacted
    patience: int = 10  # steps without any domain's improvement


@dataclass
class Optimised:
    """What an optimisation found, per domain: best bound, its multipliers, and what branching and attack can use.

    `coef` (N, K) at the neurons' outputs, `x` (N, m) the minimiser, `z` (N, K): of the last pass, not the best one.
    """

    lb: Tensor
    multipliers: Multipliers
    coef: Tensor
    x: Tensor
    z: Tensor
    steps: int = 0

    def take(self, index: Tensor) -> Optimised:
        m = self.multipliers.take(index)
        return Optimised(self.lb[index], m, self.coef[index], self.x[index], self.z[index], self.steps)


class Ascent:
    """Adam (Kingma & Ba, arXiv 1412.6980) for one tensor, with the mean of |g| in place of the root of that of g^2: as
    good here, and it needs no roots of tiny numbers, which are slow.
    """

    def __init__(self, like: Tensor):
        self.first, self.second, self.count = torch.zeros_like(like), torch.zeros_like(like), 0

    def step(self, p: Tensor, g: Tensor, rate: float | Tensor) -> None:
        """Moves p uphill by about `rate` per entry."""
        self.count += 1
        self.first.lerp_(g, 0.1)
        self.second.lerp_(g.abs_(), 0.02)
        fix = (1 - 0.98**self.count) / (1 - 0.9**self.count)
        step = torch.add(self.second, 1e-20)
        p.add_(torch.div(self.first, step, out=step).mul_(rate * fix))

    def take(self, index: Tensor) -> None:
        self.first, self.second = self.first[index], self.second[index]


def optimise(
    relaxation: Relaxation,
    start: Start,
    splits: Splits,
    multipliers: Multipliers,
    settings: Settings,
    target: float = 0.0,
    boxes: tuple[Tensor, Tensor] | None = None,
) -> Optimised:
    """Raises the bounds of N domains; one whose bound is above `target` is left alone from then on. `boxes` (N, K):
    where the columns' values lie, the root's intervals without.
    """
    n = len(splits.column)
    lines = relaxation.lines(splits, boxes)
    m = multipliers.clone()
    relaxation.project(m, lines)
    out = Optimised(
        m.alpha.new_full((n,), -float("inf")),
        m.clone(),
        torch.zeros_like(m.alpha),
        m.alpha.new_zeros((n, relaxation.program.n_in)),
        torch.zeros_like(m.alpha),
    )
    run = _Run(relaxation, start, lines, splits, m, settings)
    alive = torch.arange(n, device=m.alpha.device)
    idle = 0
    for t in range(settings.steps + 1):
        lb = run.work.backward(run.m)
        better = torch.nonzero(lb > out.lb[alive]).squeeze(1)
        gained = bool(len(better)) and bool((lb[better] > out.lb[alive[better]] + 1e-4 * lb[better].abs()).any())
        run.keep(out, alive, better, lb)
        idle = 0 if gained else idle + 1
        out.steps = t
        over = lb > target
        last = t == settings.steps or idle > settings.patience
        done = int(over.sum())
        if last or done == len(over) or done >= settings.compact * len(over):
            run.leave(out, alive, with_forward=last)
            if last or done == len(over):
                break
            keep = torch.nonzero(~over).squeeze(1)
            alive = alive[keep]
            run = run.take(keep)
        run.advance(t)
    return out


class _Run:
    """The state of an optimisation under way."""

    def __init__(self, relaxation, start, lines, splits, m, settings, ascents=None, passed=None):
        self.relaxation, self.start, self.lines, self.splits = relaxation, start, lines, splits
        self.m, self.settings = m, settings
        self.work = Pass(relaxation, start, lines, splits)
        if passed is not None:
            self.work.touched = passed.touched
        self.ascents = ascents or [Ascent(m.alpha), Ascent(m.beta), Ascent(m.weights), Ascent(m.upper)]
        self.beta_scale: Tensor | None = None

    def keep(self, out: Optimised, alive: Tensor, better: Tensor, lb: Tensor) -> None:
        if not len(better):
            return
        whole, at = len(better) == len(out.lb), alive[better]
        out.lb[at] = lb[better]
        for f in fields(Multipliers):
            mine, best = getattr(self.m, f.name), getattr(out.multipliers, f.name)
            if whole:
                best.copy_(mine)
            elif mine.shape[1]:
                best.index_copy_(0, at, mine.index_select(0, better))

    def leave(self, out: Optimised, alive: Tensor, with_forward: bool) -> None:
        """Hands out what the last passes left."""
        if with_forward:
            self.work.forward(self.m)
        out.coef[alive], out.x[alive], out.z[alive] = self.work.coef, self.work.x, self.work.z

    def advance(self, t: int) -> None:
        """One ascent step; the backward pass has been made."""
        s, m = self.settings, self.m
        output = self.work.forward(m)
        g = self.work.gradients(output)
        rate = s.decay**t
        curves, slope_rate = self.lines.curves, s.alpha_rate * rate
        if curves is None:
            self.ascents[0].step(m.alpha, g.alpha, slope_rate)
        else:  # as far as the range of slopes is wide
            span = torch.ones_like(m.alpha)
            span[:, self.relaxation.is_curve] = curves.low.most - curves.low.least
            self.ascents[0].step(m.alpha, g.alpha, span.mul_(slope_rate))
            self.ascents[3].step(m.upper, g.upper, (curves.high.most - curves.high.least).mul_(slope_rate))
        self.relaxation.project(m, self.lines)
        if m.beta.shape[1]:
            if self.beta_scale is None:
                self.beta_scale = self._scale()
            self.ascents[1].step(m.beta, g.beta, s.beta_rate * rate * self.beta_scale)
            m.beta.clamp_(min=0)
        if output is not None:
            self.ascents[2].step(m.weights, g.weights, s.weight_rate * rate)
            m.weights.clamp_(min=0)
            m.weights.div_(m.weights.sum(1, keepdim=True).clamp(min=1e-12))

    def _scale(self) -> Tensor:
        """(N, 1): the size that multipliers of splits have, from the coefficients where the splits are."""
        c = self.splits.column
        real = (c >= 0).to(self.m.beta.dtype)
        near = (self.work.coef.gather(1, c.clamp(min=0)).abs() * real).sum(1) / real.sum(1).clamp(min=1)
        return (near + self.work.coef.abs().mean(1)).unsqueeze(1)

    def take(self, index: Tensor) -> _Run:
        """The run over some of the domains, its last passes included."""
        for ascent in self.ascents:
            ascent.take(index)
        new = _Run(
            self.relaxation,
            self.start.take(index),
            self.lines.take(index),
            self.splits.take(index),
            self.m.take(index),
            self.settings,
            self.ascents,
            self.work,
        )
        old = self.work
        new.work.coef, new.work.z, new.work.plane = old.coef[index], old.z[index], old.plane[index]
        if self.lines.curves is not None:
            for name in ("low_b", "low_d", "high_b", "high_d"):
                setattr(new.work, name, getattr(old, name)[index])
        new.work.joint = {k: t[index] for k, t in old.joint.items()}
        new.work.amount = old.amount[index]
        if self.beta_scale is not None:
            new.beta_scale = self.beta_scale[index]
        return new
