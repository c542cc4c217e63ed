"""Dual bounds: the best lower bound of a row over a domain that free slopes, split multipliers and row weights allow.

Wang et al., "Beta-CROWN" (arXiv 2103.06624), with analytic gradients in place of automatic differentiation. A domain
is a region's box cut by splits sign (z_j - p) >= 0 of neurons. Its row is sum_s w_s (C_s y + c_s), w >= 0: if all rows
of a disjunct were <= 0 somewhere, so were the weighted sum, so a positive bound of the sum refutes the disjunct. All
boxes of intermediate values stay fixed. What is optimised, per domain:

    alpha   slope of the lower line of every unstable neuron (any slope in its range is sound),
    beta    >= 0 per split: subtracts beta sign from the coefficient of z_j and adds beta sign p to the bias, which
            lowers the row by beta sign (z_j - p), a number that is >= 0 in the domain,
    w       the weights of the disjunct's rows, kept at sum 1.

The bound is piecewise multilinear in these. With x* the minimiser over the box and z the values of the relaxed forward
pass from x* (every nonlinear step replaced by the line that the backward pass took for it),

    d lb / d alpha_i = max(a_i, 0) z_i,   d lb / d beta_j = -sign_j (z_j - p_j),   d lb / d w_s = C_s y + c_s,

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

from verifier.bounds.crown import Trace
from verifier.ops.base import Affine, Joint
from verifier.ops.pointwise import ThroughZero


@dataclass(frozen=True)
class Site:
    """The unstable entries of one nonlinear step, and the lines of its other entries (where both lines are one)."""

    step: int
    value: int  # what the step reads
    index: Tensor | None  # (k,) flat entries, or None for all of them
    cut: slice  # their columns
    keep: Tensor  # (n,) slopes of all entries at the root
    shift: Tensor | None  # (n,) offsets of the stable ones, or None where all are zero; zero at unstable entries
    convex: bool  # lower slopes between `least` and `most` are sound without offset: the function is convex, through 0
    least: float
    most: float


class Relaxation:
    """What all domains of a region share: the program and the root's boxes and lines (`trace` of one domain)."""

    def __init__(self, trace: Trace):
        self.trace, self.program = trace, trace.program
        self.sites: dict[int, Site] = {}
        lower, upper, at = [], [], 0
        for k in sorted(trace.lines):
            step = self.program.steps[k]
            if isinstance(step.op, Joint):
                continue
            site = self._site(k, at)
            self.sites[k] = site
            at = site.cut.stop
            l, u = (t.reshape(-1) for t in trace.boxes[site.value])
            lower.append(l if site.index is None else l[site.index])
            upper.append(u if site.index is None else u[site.index])
        empty = trace.boxes[0][0].new_zeros(0)
        self.width = at
        self.lower = torch.cat([empty, *lower])
        self.upper = torch.cat([empty, *upper])
        self.alpha, self.up_a, self.up_b, self.lo_b, self.least, self.most, self.left, self.right = (
            torch.cat([empty, *parts]) for parts in zip(*map(self._root_lines, self.sites.values()))
        ) if self.sites else (empty,) * 8
        self.shifted = bool((self.lo_b != 0).any())
        self.splittable = (self.lower < 0) & (self.upper > 0) & (self.left < self.right)

    def _root_lines(self, site: Site) -> tuple[Tensor, ...]:
        """Per column: default lower slope, upper slope and offset, lower offset, range of the lower slope, and the
        slopes left and right of the kink (equal where there is none to split at).
        """
        step, (lo_a, lo_b, up_a, up_b) = self.program.steps[site.step], self.trace.lines[site.step]
        lo_a, up_a = self._flat(lo_a, site), self._flat(up_a, site)
        lo_b, up_b = (torch.zeros_like(lo_a) if t is None else self._flat(t, site) for t in (lo_b, up_b))
        if not site.convex:
            zero = torch.zeros_like(lo_a)
            return lo_a, up_a, up_b, lo_b, lo_a, lo_a, zero, zero
        left, right = (torch.full_like(lo_a, float(v)) for v in step.op.slopes)
        crossing = (self._flat(self.trace.boxes[site.value][0], site) < 0) & (
            self._flat(self.trace.boxes[site.value][1], site) > 0
        )
        lo_b = torch.where(crossing, 0.0, lo_b)
        least, most = torch.where(crossing, left, lo_a), torch.where(crossing, right, lo_a)
        return lo_a, up_a, up_b, lo_b, least, most, left, right

    def _flat(self, t: Tensor, site: Site) -> Tensor:
        t = t.reshape(-1)
        return t if site.index is None else t[site.index]

    def _site(self, k: int, at: int) -> Site:
        trace, step = self.trace, self.program.steps[k]
        lines = trace.lines[k]
        value = step.inputs[0]
        loose = step.op.loose(*trace.boxes[value]).reshape(-1)
        index = torch.nonzero(loose).squeeze(1)
        count = len(index)
        keep = lines.lo_a.reshape(-1)
        shift = None
        if lines.lo_b is not None:
            shift = torch.where(loose, 0.0, lines.lo_b.reshape(-1))
            shift = shift if bool((shift != 0).any()) else None
        convex = isinstance(step.op, ThroughZero) and step.op.slopes[0] <= step.op.slopes[1]
        least, most = (step.op.slopes[0], step.op.slopes[1]) if convex else (0.0, 0.0)
        whole = 2 * count > len(loose)  # picking most columns costs more than taking all
        if whole:
            index, count, shift = None, len(loose), None
        return Site(k, value, index, slice(at, at + count), keep, shift, convex, float(least), float(most))

    def project(self, alpha: Tensor, lines: ColumnLines) -> None:
        """Moves lower slopes (N, K) into their ranges, in place."""
        torch.clamp(alpha, self.least, self.most, out=alpha)
        lines.pin(alpha)

    def lines(self, splits: Splits) -> ColumnLines:
        """Lines of all columns in domains with the given splits: the root's, exact where a column was split."""
        n = len(splits.column)
        up_a, up_b = (t.expand(n, -1).clone() for t in (self.up_a, self.up_b))
        row, j = torch.nonzero(splits.column >= 0, as_tuple=True)
        column = splits.column[row, j]
        slope = torch.where(splits.sign[row, j] > 0, self.right[column], self.left[column])
        at = row * self.width + column
        up_a.view(-1)[at], up_b.view(-1)[at] = slope, 0.0
        return ColumnLines(up_a, up_b, at, slope)


@dataclass
class ColumnLines:
    """Upper lines (N, K); `at`: flat places of split columns in (N, K), where the lower slope is `slope` as well."""

    up_a: Tensor
    up_b: Tensor
    at: Tensor
    slope: Tensor

    def pin(self, alpha: Tensor) -> None:
        """Sets the lower slopes of split columns."""
        if len(self.at):
            alpha.view(-1)[self.at] = self.slope

    def take(self, index: Tensor) -> ColumnLines:
        """The lines of some domains (N',)."""
        n, k = self.up_a.shape
        new = torch.full((n,), -1, dtype=torch.int64, device=index.device)
        new[index] = torch.arange(len(index), device=index.device)
        row = new[self.at // k]
        mine = row >= 0
        at = row[mine] * k + self.at[mine] % k
        return ColumnLines(self.up_a[index], self.up_b[index], at, self.slope[mine])


@dataclass
class Splits:
    """Splits sign (z_column - point) >= 0 of N domains, (N, P) each; column -1 where a domain has fewer."""

    column: Tensor
    sign: Tensor
    point: Tensor

    @staticmethod
    def none(count: int, like: Tensor) -> Splits:
        empty = like.new_zeros((count, 0))
        return Splits(empty.long(), empty, empty.clone())

    def take(self, index: Tensor | slice) -> Splits:
        return Splits(self.column[index], self.sign[index], self.point[index])

    def boxes(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes (N, K) of all columns: the root's (K,) or the domains' own (N, K), cut by the splits."""
        n = len(self.column)
        l, u = lower.expand(n, lower.shape[-1]).clone(), upper.expand(n, upper.shape[-1]).clone()
        for j in range(self.column.shape[1]):
            at = torch.nonzero(self.column[:, j] >= 0).squeeze(1)
            c, p, up = self.column[at, j], self.point[at, j], self.sign[at, j] > 0
            l[at, c] = torch.where(up, torch.maximum(l[at, c], p), l[at, c])
            u[at, c] = torch.where(up, u[at, c], torch.minimum(u[at, c], p))
        return l, u


@dataclass
class Start:
    """Where rows begin: coefficients by value (N, *shape) that no weights mix, or rows over the output.

    `live`, `bias`: fixed rows standing on values up to `top`. Or `rows` (N, S, p), `const` (N, S) over the output,
    mixed by weights (N, S) that are optimised too.
    """

    top: int
    live: dict[int, Tensor] | None = None
    bias: Tensor | None = None
    rows: Tensor | None = None
    const: Tensor | None = None

    def take(self, index: Tensor) -> Start:
        if self.rows is not None:
            return Start(self.top, rows=self.rows[index], const=self.const[index])
        return Start(self.top, {k: t[index] for k, t in self.live.items()}, self.bias[index])


@dataclass
class Multipliers:
    """alpha (N, K), beta (N, P), weights (N, S)."""

    alpha: Tensor
    beta: Tensor
    weights: Tensor

    def take(self, index: Tensor | slice) -> Multipliers:
        return Multipliers(*(getattr(self, f.name)[index] for f in fields(self)))

    def clone(self) -> Multipliers:
        return Multipliers(*(getattr(self, f.name).clone() for f in fields(self)))


class Pass:
    """Backward and forward passes over a batch of domains; holds the batch's lines and what the last pass left."""

    def __init__(self, relaxation: Relaxation, start: Start, lines: ColumnLines, splits: Splits):
        self.r, self.start, self.lines, self.splits = relaxation, start, lines, splits
        trace = relaxation.trace
        x_l, x_u = trace.boxes[0]
        self.centre, self.radius = (x_l + x_u) / 2, (x_u - x_l) / 2
        self.n = len(lines.up_a)
        self.coef = torch.zeros_like(lines.up_a)  # coefficients at the neurons' outputs
        self.z = torch.zeros_like(lines.up_a)  # relaxed values before the neurons
        self.touched: list[int] = []
        self.plane: Tensor | None = None
        self.spread = {k: s.index.expand(self.n, -1) for k, s in relaxation.sites.items() if s.index is not None}
        self.marks = self._marks()

    def _marks(self) -> dict[int, tuple[Tensor, Tensor]]:
        """For every step with splits: flat places in its (N, k) columns, and in the (N, P) splits."""
        found = {}
        column = self.splits.column
        if not column.numel():
            return found
        for k, site in self.r.sites.items():
            c = site.cut
            row, j = torch.nonzero((column >= c.start) & (column < c.stop), as_tuple=True)
            if len(row):
                found[k] = (row * (c.stop - c.start) + column[row, j] - c.start, row * column.shape[1] + j)
        return found

    def backward(self, m: Multipliers) -> Tensor:
        """Bounds (N,) in plain arithmetic; leaves `coef`, `plane` and `x` behind."""
        r, start = self.r, self.start
        program, trace = r.program, r.trace
        if start.rows is not None:
            row = start.rows[:, 0] if start.rows.shape[1] == 1 else torch.einsum("ns,nsp->np", m.weights, start.rows)
            live, bias = {start.top: row}, (m.weights * start.const).sum(1)
        else:
            live, bias = dict(start.live), start.bias.clone()
        self.amount = m.beta * self.splits.sign
        if self.amount.shape[1]:
            bias = bias + (self.amount * self.splits.point).sum(1)
        self.touched.clear()
        for k in range(start.top, 0, -1):
            a = live.pop(k, None)
            if a is None:
                continue
            step = program.steps[k]
            if isinstance(step.op, Affine):
                if k in trace.offsets:
                    bias = bias + torch.mv(a.reshape(self.n, -1), trace.offsets[k])
                parts = step.op.adjoint(a)
            elif isinstance(step.op, Joint):
                self.touched.append(k)
                parts, more = self._enclosed(k, a)
                bias = bias + more
            else:
                self.touched.append(k)
                part, more = self._relaxed(k, a, m.alpha)
                bias = bias + more
                parts = (part,)
            for i, part in zip(step.inputs, parts):
                live[i] = live[i] + part if i in live else part
        a = live.pop(0, None)
        self.plane = bias.new_zeros((self.n, program.n_in)) if a is None else a.reshape(self.n, -1)
        self.bias = bias
        return bias + torch.mv(self.plane, self.centre[0]) - torch.mv(self.plane.abs(), self.radius[0])

    def _relaxed(self, k: int, a: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
        site, flat, lines = self.r.sites[k], a.reshape(self.n, -1), self.lines
        c = site.cut
        part = flat if site.index is None else flat.index_select(1, site.index)
        self.coef[:, c] = part
        pos = part.clamp(min=0)
        neg = part - pos
        bias = torch.linalg.vecdot(neg, lines.up_b[:, c])
        if self.r.shifted:
            bias = bias + torch.mv(pos, self.r.lo_b[c])
        out = pos.mul_(alpha[:, c]).addcmul_(neg, lines.up_a[:, c])
        if k in self.marks:
            place, which = self.marks[k]
            out.view(-1).index_add_(0, place, self.amount.reshape(-1)[which], alpha=-1)
        if site.index is not None:
            if site.shift is not None:
                bias = bias + torch.mv(flat, site.shift)
            out = (flat * site.keep).scatter_(1, self.spread[k], out)
        return out.reshape(self.n, *self.r.program.shapes[site.value]), bias

    def _enclosed(self, k: int, a: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        planes = self.r.trace.lines[k]
        wide = a.unsqueeze(0)
        pos, neg = wide.clamp(min=0), wide.clamp(max=0)
        self.joint = getattr(self, "joint", {})
        self.joint[k] = wide > 0
        bias = torch.mv(pos.reshape(self.n, -1), planes.lo_b.reshape(-1)) + torch.mv(
            neg.reshape(self.n, -1), planes.up_b.reshape(-1)
        )
        return tuple(p.squeeze(0) for p in planes.pull(pos, neg)), bias

    @property
    def x(self) -> Tensor:
        """The minimiser (N, m) of the last backward pass, to within rounding; the middle where nothing depends on x."""
        return torch.addcmul(self.centre, self.plane.sign(), self.radius, value=-1)

    def forward(self, m: Multipliers) -> Tensor | None:
        """Relaxed values from the minimiser: fills `z`; the output (N, p) where weights are optimised."""
        program = self.r.program
        values: dict[int, Tensor] = {0: self.x}
        mixed = self.start.rows is not None and self.start.rows.shape[1] > 1
        for k in self._order(mixed):
            step = program.steps[k]
            if isinstance(step.op, Affine):
                values[k] = step.op.forward(*(values[i] for i in step.inputs))
            elif isinstance(step.op, Joint):
                low, high = self.r.trace.lines[k].values(*(values[i].unsqueeze(0) for i in step.inputs))
                values[k] = torch.where(self.joint[k], low, high).squeeze(0)
            else:
                values[k] = self._line_values(k, values[step.inputs[0]], m.alpha)
        for k, site in self.r.sites.items():  # the topmost steps' inputs, whose outputs nobody asked for
            if k not in values and site.value in values:
                self.z[:, site.cut] = self._pick(site, values[site.value].reshape(self.n, -1))
        return values[program.output] if mixed else None

    def _order(self, mixed: bool) -> list[int]:
        """Steps that the relaxed values before the touched neurons depend on, in order."""
        program = self.r.program
        wanted = {program.output} if mixed else {i for k in self.touched for i in program.steps[k].inputs}
        order = []
        for k in range(max(wanted, default=0), 0, -1):
            if k in wanted:
                order.append(k)
                wanted.update(program.steps[k].inputs)
        return order[::-1]

    def _pick(self, site: Site, flat: Tensor) -> Tensor:
        return flat if site.index is None else flat.index_select(1, site.index)

    def _line_values(self, k: int, z: Tensor, alpha: Tensor) -> Tensor:
        site, lines, flat = self.r.sites[k], self.lines, z.reshape(self.n, -1)
        c = site.cut
        zu = self._pick(site, flat)
        self.z[:, c] = zu
        low = alpha[:, c] * zu
        if self.r.shifted:
            low = low + self.r.lo_b[c]
        high = torch.addcmul(lines.up_b[:, c], lines.up_a[:, c], zu)
        y = torch.lerp(high, low, self.coef[:, c].sign().clamp_(min=0))
        if site.index is not None:
            y = (flat * site.keep).scatter_(1, self.spread[k], y)
            if site.shift is not None:
                y = y + site.shift
        return y.reshape(self.n, *self.r.program.shapes[k])

    def gradients(self, output: Tensor | None) -> Multipliers:
        """Of the last two passes, which must be a backward and a forward one."""
        alpha = self.coef.clamp(min=0).mul_(self.z)
        s = self.splits
        if s.column.shape[1]:
            beta = s.sign * (s.point - self.z.gather(1, s.column.clamp(min=0)))
        else:
            beta = s.sign
        if output is not None:
            weights = torch.einsum("nsp,np->ns", self.start.rows, output) + self.start.const
        else:
            weights = self.coef.new_zeros((self.n, 0 if self.start.rows is None else 1))
        return Multipliers(alpha, beta, weights)


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
) -> Optimised:
    """Raises the bounds of N domains; one whose bound is above `target` is left alone from then on."""
    n = len(splits.column)
    lines = relaxation.lines(splits)
    m = multipliers.clone()
    relaxation.project(m.alpha, lines)
    out = Optimised(
        m.alpha.new_full((n,), -float("inf")),
        m.clone(),
        torch.zeros_like(m.alpha),
        m.alpha.new_zeros((n, relaxation.program.n_in)),
        torch.zeros_like(m.alpha),
    )
    run = _Run(relaxation, start, lines, splits, m, settings)
    alive = torch.arange(n)
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
        self.ascents = ascents or [Ascent(m.alpha), Ascent(m.beta), Ascent(m.weights)]
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
        self.ascents[0].step(m.alpha, g.alpha, s.alpha_rate * rate)
        self.relaxation.project(m.alpha, self.lines)
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
        if hasattr(old, "joint"):
            new.work.joint = {k: t[:, index] for k, t in old.joint.items()}
        new.work.amount = old.amount[index]
        if self.beta_scale is not None:
            new.beta_scale = self.beta_scale[index]
        return new
