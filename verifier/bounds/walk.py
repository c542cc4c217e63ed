"""The two passes that an optimiser's step is made of: rows backward to the input, and the minimiser forward.

Backward, coefficients take the lines of every neuron as in `verifier.bounds.crown`, in plain arithmetic without error
terms, and splits subtract their multipliers. Forward, the minimiser runs through the lines that the backward pass took;
the relaxed values give all gradients (see `verifier.bounds.dual`). Only the columns are touched one by one: the other
entries of a nonlinear step are a product with fixed slopes.

Symbols: N domains, K columns, m input dimensions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from verifier.bounds.factors import Factor
from verifier.bounds.relaxation import ColumnLines, Multipliers, Relaxation, Site, Splits, Start
from verifier.ops.base import Affine, Joint, Planes


class Pass:
    """Backward and forward passes over a batch of domains; holds the batch's lines and what the last pass left."""

    def __init__(self, relaxation: Relaxation, start: Start, lines: ColumnLines, splits: Splits):
        self.r, self.start, self.lines, self.splits = relaxation, start, lines, splits
        trace = relaxation.trace
        x_l, x_u = trace.boxes[0]
        self.centre, self.radius = (x_l + x_u) / 2, (x_u - x_l) / 2
        self.n = len(lines.up_a)
        self.coef = torch.zeros_like(lines.up_a)  # coefficients at the neurons' outputs, and at factors themselves
        self.z = torch.zeros_like(lines.up_a)  # relaxed values before the neurons
        if lines.curves is not None:  # offsets of the curves' lines, and their derivatives by the slopes, (N, C)
            self.low_b, self.low_d, self.high_b, self.high_d = (
                torch.zeros_like(lines.curves.low.least).expand(4, -1, -1).clone()
            )
        self.touched: list[int] = []
        self.joint: dict[int, Tensor] = {}  # coefficients (N, *out_shape) at the outputs of joint steps
        self.plane: Tensor | None = None
        self.spread = {k: s.index.expand(self.n, -1) for k, s in relaxation.sites.items() if s.index is not None}
        self.marks = self._marks()

    def _marks(self) -> dict[tuple[int, int], tuple[Tensor, Tensor]]:
        """For every step and slot with splits: flat places in its (N, k) columns, and in the (N, P) splits."""
        found = {}
        column = self.splits.column
        if not column.numel():
            return found
        for site in self.r.readers:
            c = site.cut
            row, j = torch.nonzero((column >= c.start) & (column < c.stop), as_tuple=True)
            if len(row):
                found[site.step, site.slot] = (
                    row * (c.stop - c.start) + column[row, j] - c.start,
                    row * column.shape[1] + j,
                )
        return found

    def backward(self, m: Multipliers, states: dict[int, Start] | None = None) -> Tensor:
        """Bounds (N,) in plain arithmetic; leaves `coef`, `plane` and `x` behind. `states`, if given, collects where
        the pass stood before each nonlinear step: what it would start from if only lines from there on changed.
        """
        r, start = self.r, self.start
        program = r.program
        if start.rows is not None:
            row = start.rows[:, 0] if start.rows.shape[1] == 1 else torch.einsum("ns,nsp->np", m.weights, start.rows)
            live, bias = {start.top: row}, (m.weights * start.const).sum(1)
        else:
            live, bias = dict(start.live), start.bias.clone()
        self.amount = m.beta * self.splits.sign
        self.touched.clear()
        for k in range(start.top, 0, -1):
            if states is not None and k in r.split_steps and k in live:
                states[k] = Start(k, dict(live), bias)
            a = live.pop(k, None)
            if a is None:
                continue
            step = program.steps[k]
            if isinstance(step.op, Affine):
                if k in r.offsets:
                    bias = bias + torch.mv(a.reshape(self.n, -1), r.offsets[k])
                parts = step.op.adjoint(a)
            elif isinstance(step.op, Joint):
                self.touched.append(k)
                parts, more = self._enclosed(k, a)
                bias = bias + more
            else:
                self.touched.append(k)
                part, more = self._relaxed(k, a, m)
                bias = bias + more
                parts = (part,)
            for i, part in zip(step.inputs, parts):
                live[i] = live[i] + part if i in live else part
        a = live.pop(0, None)
        self.plane = bias.new_zeros((self.n, program.n_in)) if a is None else a.reshape(self.n, -1)
        self.bias = bias
        return bias + torch.mv(self.plane, self.centre[0]) - torch.mv(self.plane.abs(), self.radius[0])

    def _relaxed(self, k: int, a: Tensor, m: Multipliers) -> tuple[Tensor, Tensor]:
        site, flat, lines, alpha = self.r.sites[k], a.reshape(self.n, -1), self.lines, m.alpha
        c = site.cut
        part = flat if site.index is None else flat.index_select(1, site.index)
        self.coef[:, c] = part
        pos = part.clamp(min=0)
        neg = part - pos
        if site.curved is not None:
            low, high = alpha[:, c], m.upper[:, site.curved]
            low_b, self.low_d[:, site.curved], high_b, self.high_d[:, site.curved] = lines.curves.offsets(
                site.curved, low, high
            )
            self.low_b[:, site.curved], self.high_b[:, site.curved] = low_b, high_b
            bias = torch.linalg.vecdot(neg, high_b) + torch.linalg.vecdot(pos, low_b)
            out = pos.mul_(low).addcmul_(neg, high)
        else:
            bias = torch.linalg.vecdot(neg, lines.up_b[:, c])
            if self.r.shifted:
                bias = bias + torch.mv(pos, self.r.lo_b[c])
            out = pos.mul_(alpha[:, c]).addcmul_(neg, lines.up_a[:, c])
        bias = self._subtract(site, out, bias)
        if site.index is not None:
            if site.shift is not None:
                bias = bias + torch.mv(flat, site.shift)
            out = (flat * site.keep).scatter_(1, self.spread[k], out)
        return out.reshape(self.n, *self.r.program.shapes[site.value]), bias

    def _subtract(self, site: Site | Factor, out: Tensor, bias: Tensor) -> Tensor:
        """Subtracts the multipliers of the splits at a step's columns from their coefficients (N, k), in place; the
        bias (N,) with what they add to it.
        """
        if (site.step, site.slot) not in self.marks:
            return bias
        place, which = self.marks[site.step, site.slot]
        amount = self.amount.reshape(-1)[which]
        out.view(-1).index_add_(0, place, amount, alpha=-1)
        owner = which // self.splits.column.shape[1]
        return bias.index_add(0, owner, amount * self.splits.point.reshape(-1)[which])

    def _enclosed(self, k: int, a: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        planes, own = self._planes(k)
        wide = a.unsqueeze(own)
        pos, neg = wide.clamp(min=0), wide.clamp(max=0)
        self.joint[k] = a
        flat = [t.reshape(self.n, -1) for t in (pos, neg)]
        if own:
            bias = sum(torch.linalg.vecdot(t, b.reshape(self.n, -1)) for t, b in zip(flat, (planes.lo_b, planes.up_b)))
        else:
            bias = sum(torch.mv(t, b.reshape(-1)) for t, b in zip(flat, (planes.lo_b, planes.up_b)))
        parts = [p.squeeze(own) for p in planes.pull(pos, neg)]
        for f in self.r.factors_at.get(k, ()):
            wide = parts[f.slot].reshape(self.n, -1)
            part = f.pick(wide)
            self.coef[:, f.cut] = part
            if (k, f.slot) in self.marks:
                part = part.clone(memory_format=torch.contiguous_format)
                bias = self._subtract(f, part, bias)
                wide = part if f.index is None else wide.index_copy(1, f.index, part)
                parts[f.slot] = wide.reshape(parts[f.slot].shape)
        return tuple(parts), bias

    def _planes(self, k: int) -> tuple[Planes, int]:
        """The planes of a joint step; 1 where every domain has its own, 0 where all share those of the root."""
        own = self.lines.planes.get(k)
        return (self.r.joint[k], 0) if own is None else (own, 1)

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
                values[k] = self.r.hint(step.op.forward(*(values[i] for i in step.inputs)))
            elif isinstance(step.op, Joint):
                planes, own = self._planes(k)
                low, high = (t.squeeze(own) for t in planes.values(*(values[i].unsqueeze(own) for i in step.inputs)))
                values[k] = torch.where(self.joint[k] > 0, low, high)
            else:
                values[k] = self._line_values(k, values[step.inputs[0]], m)
        for k, site in self.r.sites.items():  # the topmost steps' inputs, whose outputs nobody asked for
            if k not in values and site.value in values:
                self.z[:, site.cut] = self._pick(site, values[site.value].reshape(self.n, -1))
        for f in self.r.factors:
            if f.value in values:
                self.z[:, f.cut] = f.pick(values[f.value].reshape(self.n, -1))
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

    def _line_values(self, k: int, z: Tensor, m: Multipliers) -> Tensor:
        site, lines, flat = self.r.sites[k], self.lines, z.reshape(self.n, -1)
        c = site.cut
        zu = self._pick(site, flat)
        self.z[:, c] = zu
        low = m.alpha[:, c] * zu
        if site.curved is not None:
            low = low + self.low_b[:, site.curved]
            high = torch.addcmul(self.high_b[:, site.curved], m.upper[:, site.curved], zu)
        else:
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
        upper = self.coef.new_zeros((self.n, 0))
        if self.lines.curves is not None:
            coef, z = self.coef[:, self.r.is_curve], self.z[:, self.r.is_curve]
            alpha[:, self.r.is_curve] = coef.clamp(min=0) * (z + self.low_d)
            upper = coef.clamp(max=0).mul_(z + self.high_d)
        s = self.splits
        if s.column.shape[1]:
            beta = s.sign * (s.point - self.z.gather(1, s.column.clamp(min=0)))
        else:
            beta = s.sign
        if output is not None:
            weights = torch.einsum("nsp,np->ns", self.start.rows, output) + self.start.const
        else:
            weights = self.coef.new_zeros((self.n, 0 if self.start.rows is None else 1))
        return Multipliers(alpha, upper, beta, weights)
