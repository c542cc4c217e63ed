"""CROWN: linear bounds pushed backward from rows over the output to the input, batched over domains and rows, on any
DAG.

Zhang et al., "Efficient Neural Network Robustness Certification with General Activation Functions" (arXiv 1811.00866);
Xu et al., "Automatic Perturbation Analysis for Scalable Certified Robustness and Beyond" (arXiv 2002.12920) for
general graphs.

A row a over some value v is rewritten step by step into a row over the input: through an affine step by its adjoint (a
<- a M, bias += a b), through a nonlinear one by putting the lower line where a >= 0 and the upper line where a < 0.
Each replacement can only lower the row's value, so the final a x + bias, minimised over the box, is a lower bound. An
upper bound is minus the lower bound of -a.

Rounding. Every computed coefficient is taken as exact from there on; what was lost is charged to the row. The adjoint
of a step whose sums have m terms is off by at most gamma_m |a| |M|, which acts on values of size |x|, so it costs
gamma_m |a| (|M||x|), and the step's magnitude (`verifier.bounds.interval`) bounds |M||x| + |b|; the product with a
line's slope and the addition of rows over one value count as more terms of that sum (`Program.product_error`). Where
no such step made the value, or several rows meet, the product with the slope is charged by itself. What goes to the
bias, |a||b|, the lines' offsets and at last |a||x|, is charged with the gamma of those sums (`Program.sum_error`): long
ones are cut into blocks of 64 that are added in float64, so they count 64 terms. All of this is subtracted from the
bounds: rows come out sound in real arithmetic.

Where a box is infinite, so are offsets of lines, and weights. A row that multiplies one of them by anything but 0 is
lost: its bias becomes -inf, which says that nothing is known. 0 times them is 0, so all other rows are what they are
without them. Traces say whether there is anything to look for (`Trace.wild`).

Symbols: D domains, S rows, N = D S, m input dimensions; a: (N, *shape) of the value it stands on; bias, charge: (N,).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from verifier.bounds.program import BLOCK
from verifier.bounds.trace import Trace
from verifier.ops.base import Affine, Joint, size
from verifier.ops.products import Product


@dataclass
class Rows:
    """A pass under way: coefficients by value, and what has been collected so far. `products`: coefficients on the
    products met, by step, if somebody wants them (`verifier.bounds.bilinear`).
    """

    live: dict[int, Tensor]
    bias: Tensor
    charge: Tensor
    products: dict[int, Tensor] | None = None


def dot(a: Tensor, w: Tensor) -> Tensor:
    """Sums over the last axis of a (…, n) times w (n,), at most BLOCK + log2 terms deep in the working precision."""
    n = a.shape[-1]
    if n <= 2 * BLOCK:
        return torch.mv(a.reshape(-1, n), w).reshape(a.shape[:-1])
    return block_sum(a * w)


def block_sum(a: Tensor) -> Tensor:
    """Sum over the last axis; blocks of BLOCK in the working precision, their sums in float64."""
    n = a.shape[-1]
    whole = n - n % BLOCK
    blocks = a[..., :whole].unflatten(-1, (whole // BLOCK, BLOCK)).sum(-1) if whole else a[..., :0]
    total = blocks.sum(-1, dtype=torch.float64)
    if whole < n:
        total = total + a[..., whole:].sum(-1)
    return total.to(a.dtype)


def backward(trace: Trace, value: int, rows: Rows, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Pushes rows that stand on values up to `value` down to the input; `count` = S. Returns plane (D, S, m), bias and
    charge (D, S).
    """
    for k in range(value, 0, -1):
        if k in rows.live:
            step_back(trace, k, rows, count)
    return finish(trace, rows, count)


def step_back(trace: Trace, k: int, rows: Rows, count: int) -> None:
    """Pushes the row over value k through step k."""
    a, step = rows.live.pop(k), trace.program.steps[k]
    if isinstance(step.op, Affine):
        _collect(trace, rows, k, a)
        parts = step.op.adjoint(a)
    elif isinstance(step.op, Joint):
        parts = _enclosed(trace, rows, k, a)
    else:
        parts = (_relaxed(trace, rows, k, a, count),)
    for i, part in zip(step.inputs, parts):
        if not trace.moves(i):
            settle(trace, rows, i, part)
            continue
        if trace.program.reads[i] > 1 and isinstance(step.op, Affine) and k not in trace.rounding:
            charge_for(trace, rows, part, trace.product_weight(i))  # its addition to the others rounds
        rows.live[i] = rows.live[i] + part if i in rows.live else part


def settle(trace: Trace, rows: Rows, value: int, a: Tensor) -> None:
    """Minimises a (N, *shape) over the box of a value that stands still: its part of the rows ends here."""
    l, u = (t.reshape(trace.domains, 1, -1) for t in trace.boxes[value])
    wide = a.reshape(trace.domains, -1, l.shape[-1])
    if trace.wild:
        lost = ((wide > 0) & ~torch.isfinite(l)) | ((wide < 0) & ~torch.isfinite(u)) | torch.isnan(wide)
        rows.bias[lost.any(-1).flatten()] = -torch.inf
        l, u = torch.where(torch.isfinite(l), l, 0.0), torch.where(torch.isfinite(u), u, 0.0)
    low = block_sum(wide.clamp(min=0).mul_(l).add_(wide.clamp(max=0).mul_(u)))
    mass = block_sum(wide.abs().mul_(torch.maximum(l.abs(), u.abs())))
    rows.bias += low.flatten()
    rows.charge.add_(mass.flatten(), alpha=trace.program.sum_error)


def finish(trace: Trace, rows: Rows, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Plane (D, S, m), bias and charge (D, S) of rows that have reached the input."""
    domains, program = trace.domains, trace.program
    a = rows.live.pop(0, None)
    if a is None:
        a = rows.bias.new_zeros((domains * count, program.n_in))
    charge_for(trace, rows, a, trace.size_of(0) * program.sum_error)
    charge = rows.charge * 1.01 + trace.underflow
    return a.reshape(domains, count, -1), rows.bias.reshape(domains, count), charge.reshape(domains, count)


def charge_for(trace: Trace, rows: Rows, a: Tensor, weight: Tensor) -> None:
    """Adds |a| . weight to the charge."""
    if trace.wild:
        weight = _known(rows, a.reshape(len(a), -1), weight)
    rows.charge += dot(torch.abs(a, out=trace.scratch(a)).view(len(a), -1), weight)


def _known(rows: Rows, a: Tensor, numbers: Tensor) -> Tensor:
    """The numbers (n,) or (N, n) with 0 for those that are not finite; rows a (N, n) that read one of them are lost."""
    known = torch.isfinite(numbers)
    rows.bias[((a != 0) & ~known).any(-1)] = -torch.inf
    return torch.where(known, numbers, 0.0)


def _collect(trace: Trace, rows: Rows, k: int, a: Tensor) -> None:
    """Bias and rounding of an affine step."""
    if k in trace.offsets:
        flat, offset = a.reshape(len(a), -1), trace.offsets[k]
        rows.bias += dot(flat, _known(rows, flat, offset) if trace.wild else offset)
    if k in trace.weights:
        charge_for(trace, rows, a, trace.weights[k])


def _relaxed(trace: Trace, rows: Rows, k: int, a: Tensor, count: int) -> Tensor:
    """Puts lines in place of a nonlinear step; a (N, *out) to (N, *in)."""
    lines, n = trace.lines[k], a.shape[0]
    wide = a.reshape(trace.domains, count, -1)
    pos = wide.clamp(min=0)
    neg = torch.sub(wide, pos, out=trace.scratch(wide, 1))
    for part, offset, sign in ((pos, lines.lo_b, -1), (neg, lines.up_b, 1)):
        if offset is None:
            continue
        offset = offset.reshape(trace.domains, 1, -1)
        if trace.wild:
            each = offset.expand_as(part).reshape(n, -1)
            offset = _known(rows, part.reshape(n, -1), each).view_as(part)
        flat = torch.mul(part, offset, out=trace.scratch(part)).view(n, -1)
        ones = flat.new_ones(flat.shape[-1])
        total = dot(flat, ones)
        rows.bias += total
        # Where all offsets have the sign that makes every product <= 0, the sum of absolute values is at hand.
        absolute = -total if (k, sign) in trace.one_sided else dot(flat.abs_(), ones)
        rows.charge.add_(absolute, alpha=trace.program.sum_error)
    out = pos.mul_(lines.lo_a.reshape(trace.domains, 1, -1)).addcmul_(neg, lines.up_a.reshape(trace.domains, 1, -1))
    out = out.reshape(n, *trace.program.shapes[trace.program.steps[k].inputs[0]])
    i = trace.program.steps[k].inputs[0]
    if (k, 0) in trace.cuts or not trace.covers(i):
        # The step that made this value will not cover the product's rounding.
        charge_for(trace, rows, out, trace.product_weight(i))
    _subtract(trace, rows, k, 0, out)
    return out


def _subtract(trace: Trace, rows: Rows, k: int, slot: int, out: Tensor) -> None:
    """Subtracts b sign (z - p) >= 0 for the splits of what step k reads as input `slot`, from the coefficients there
    (N, *in), in place; one row per domain.
    """
    if (k, slot) not in trace.cuts:
        return
    cuts, weight = trace.cuts[k, slot], trace.product_weight(trace.program.steps[k].inputs[slot])
    owner, entry = cuts.place // weight.numel(), cuts.place % weight.numel()
    # A place may be added to several times; every partial sum is at most |out| and all the amounts there.
    size = cuts.repeats * (cuts.amount.abs() + out.view(-1)[cuts.place].abs())
    rows.charge.index_add_(0, owner, size * weight[entry])
    out.view(-1).index_add_(0, cuts.place, cuts.amount, alpha=-1)
    rows.bias += cuts.bias
    rows.charge.add_(cuts.mass, alpha=trace.program.sum_error)


def _enclosed(trace: Trace, rows: Rows, k: int, a: Tensor) -> tuple[Tensor, ...]:
    """Puts planes in place of a joint step; a (N, *out) to (N, *in_i) for each of its inputs.

    The planes' weights bound |coefficient| |x| entry by entry, so what the products round is charged with them.
    """
    planes, n, program = trace.lines[k], a.shape[0], trace.program
    if rows.products is not None and isinstance(program.steps[k].op, Product):
        rows.products[k] = a
    error = max(program.product_error(program.steps[k].op.terms), program.sum_error)
    domains = len(planes.lo_b)  # all domains may share the planes of one
    wide = a.reshape(domains, -1, *a.shape[1:])
    pos, neg = wide.clamp(min=0), wide.clamp(max=0)
    # Of pos and neg one is 0 in every entry, so adding up both sides first rounds nothing.
    flat_pos, flat_neg = (t.reshape(domains, wide.shape[1], -1) for t in (pos, neg))
    offsets_and_weights = (planes.lo_b, planes.up_b, planes.lo_w, planes.up_w)
    low, high, low_w, high_w = (t.reshape(domains, 1, -1) for t in offsets_and_weights)
    if trace.wild:
        sides = (flat_pos, low), (flat_neg, high), (flat_pos, low_w), (flat_neg, high_w)
        each = ((f.reshape(n, -1), t.expand_as(f).reshape(n, -1)) for f, t in sides)
        low, high, low_w, high_w = (_known(rows, f, t).view_as(flat_pos) for f, t in each)
    rows.bias += block_sum((flat_pos * low).addcmul_(flat_neg, high)).view(n)
    weighed = block_sum((flat_pos * low_w).addcmul_(flat_neg, high_w, value=-1)).view(n)
    rows.charge.add_(weighed, alpha=error)
    parts = tuple(p.flatten(0, 1) for p in planes.pull(pos, neg))
    for slot in range(len(parts)):
        if (k, slot) in trace.cuts:
            parts = (*parts[:slot], parts[slot].contiguous(), *parts[slot + 1 :])
            _subtract(trace, rows, k, slot, parts[slot])
    return parts


def concretise(plane: Tensor, l: Tensor, u: Tensor) -> Tensor:
    """Minimum of plane (D, S, m) @ x over boxes l, u (D, m): (D, S)."""
    terms = plane.clamp(min=0).mul_(l.unsqueeze(1)).add_(plane.clamp(max=0).mul_(u.unsqueeze(1)))
    return terms.sum(-1) if terms.shape[-1] <= 2 * BLOCK else block_sum(terms)


def seed(trace: Trace, value: int, index: Tensor) -> tuple[Rows, int]:
    """Rows ±(entry index of value) for (D, K) flat indices, and the value that they start at.

    For every domain K plain rows come first, then the same K negated.
    """
    sign = torch.ones((len(index), 2 * index.shape[1]), dtype=trace.boxes[0][0].dtype, device=index.device)
    sign[:, index.shape[1] :] = -1
    return rows_at(trace, value, torch.cat([index, index], 1).reshape(-1), sign.reshape(-1))


def rows_at(trace: Trace, value: int, entry: Tensor, sign: Tensor) -> tuple[Rows, int]:
    """Rows sign times an entry of value, for flat entries and signs (N,), and the value that they start at."""
    op = trace.program.steps[value].op if value else None
    if not isinstance(op, Affine):
        unit = torch.zeros((len(entry), size(trace.program.shapes[value])), dtype=sign.dtype, device=entry.device)
        unit.scatter_(1, entry[:, None], sign[:, None])
        zero = torch.zeros_like(sign)
        return Rows({value: unit.reshape(-1, *trace.program.shapes[value])}, zero, zero.clone()), value
    bias = trace.offsets[value][entry] * sign if value in trace.offsets else torch.zeros_like(sign)
    charge = trace.weights[value][entry] if value in trace.weights else torch.zeros_like(sign)
    rows = Rows({}, bias, charge)
    for i, part in zip(trace.program.steps[value].inputs, op.rows(entry, sign)):
        if not trace.moves(i):
            settle(trace, rows, i, part)
        else:  # a step may read the same value twice
            rows.live[i] = rows.live[i] + part if i in rows.live else part
    return rows, value - 1
