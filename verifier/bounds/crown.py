"""CROWN: linear bounds pushed backward from rows over the output to the input, batched over domains and rows, on any
DAG.

Zhang et al., "Efficient Neural Network Robustness Certification with General Activation Functions" (arXiv 1811.00866);
Xu et al., "Automatic Perturbation Analysis for Scalable Certified Robustness and Beyond" (arXiv 2002.12920) for
general graphs.

A row a over some value v is rewritten step by step into a row over the input: through an affine step by its adjoint (a
<- a M, bias += a b), through a nonlinear one by putting the lower line where a >= 0 and the upper line where a < 0.
Each replacement can only lower the row's value, so the final a x + bias, minimised over the box, is a lower bound. An
upper bound is minus the lower bound of -a.

Intermediate bounds: the lines of a nonlinear step need a box around its input. Values are walked in order; each gets
its interval from its inputs' boxes, and where a nonlinear step reads it, the entries that are loose there are bounded
by backward passes of their own (both signs), intersected with the interval.

Rounding. Every computed coefficient is taken as exact from there on; what was lost is charged to the row. The adjoint
of a step whose sums have m terms is off by at most gamma_m |a| |M|, which acts on values of size |x|, so it costs
gamma_m |a| (|M||x|), and the step's magnitude (`verifier.bounds.interval`) bounds |M||x| + |b|. Summed over the pass,
`mass` = sum of |a| . magnitude, plus the absolute line offsets and |a| . |x| at the input; the charge is gamma of (the
longest sum + two roundings per step) times mass. Long sums are cut into blocks of 64 that are added in float64, so
they count 64 terms. All of this is subtracted from the bounds: rows come out sound in real arithmetic.

Symbols: D domains, S rows, N = D S, m input dimensions; a: (N, *shape) of the value it stands on; bias, mass: (N,).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from verifier.bounds import METHODS
from verifier.bounds.base import RowBounds
from verifier.bounds.interval import step_interval
from verifier.bounds.program import BLOCK, Program
from verifier.ops.base import Affine, Joint, Lines, Nonlinear, Planes, gamma, size


@dataclass
class Trace:
    """What one call knows of the values so far: boxes (D, *shape), lines of nonlinear steps, weights of rounding
    errors (flat, worst over D).
    """

    program: Program
    boxes: list[tuple[Tensor, Tensor]]
    lines: dict[int, Lines | Planes] = field(default_factory=dict)
    weights: dict[int, Tensor] = field(default_factory=dict)
    offsets: dict[int, Tensor] = field(default_factory=dict)
    # (k, 1): the upper offsets of step k are all >= 0; (k, -1): its lower ones are all <= 0
    one_sided: set[tuple[int, int]] = field(default_factory=set)
    buffers: dict[int, Tensor] = field(default_factory=dict)
    sizes: dict[int, Tensor] = field(default_factory=dict)
    # What products too small for the working precision may have lost, over all steps so far.
    underflow: float = 0.0
    # Multipliers of splits by the step that reads the split values (see `verifier.bounds.certify`).
    cuts: dict[int, Cuts] = field(default_factory=dict)

    @property
    def domains(self) -> int:
        return self.boxes[0][0].shape[0]

    def scratch(self, like: Tensor, slot: int = 0) -> Tensor:
        """A tensor of this shape whose contents last until the slot's next use: temporaries stay in the cache then."""
        n, held = like.numel(), self.buffers.get(slot)
        if held is None or held.numel() < n:
            held = self.buffers[slot] = like.new_empty(n)
        return held[:n].view(like.shape)

    def size_of(self, value: int) -> Tensor:
        """Largest absolute entry of a value over all domains, flat; as first asked for, since boxes only shrink."""
        if value not in self.sizes:
            l, u = self.boxes[value]
            self.sizes[value] = torch.maximum(u.amax(0), -l.amin(0)).reshape(-1)
        return self.sizes[value]


class Cuts(NamedTuple):
    """Splits sign (z_e - p) >= 0 that hold in their domain, times multipliers b >= 0: flat places (M,) of the entries e
    in (D n,), amounts b sign (M,), and per domain the sums of b sign p and of their absolute values (D,), the latter
    rounded up.
    """

    place: Tensor
    amount: Tensor
    bias: Tensor
    mass: Tensor


@dataclass
class Rows:
    """A pass under way: coefficients by value, and what has been collected so far."""

    live: dict[int, Tensor]
    bias: Tensor
    mass: Tensor


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
    program, live = trace.program, rows.live
    for k in range(value, 0, -1):
        a = live.pop(k, None)
        if a is None:
            continue
        if program.reads[k] > 1:  # several rows were added up here
            _charge(trace, rows, a, trace.size_of(k))
        step = program.steps[k]
        if isinstance(step.op, Affine):
            _collect(trace, rows, k, a)
            parts = step.op.adjoint(a)
        elif isinstance(step.op, Joint):
            parts = _enclosed(trace, rows, k, a)
        else:
            parts = (_relaxed(trace, rows, k, a, count),)
        for i, part in zip(step.inputs, parts):
            live[i] = live[i] + part if i in live else part
    domains = trace.domains
    a = live.pop(0, None)
    if a is None:
        a = rows.bias.new_zeros((domains * count, program.n_in))
    _charge(trace, rows, a, trace.size_of(0))
    charge = rows.mass * (1.01 * gamma(program.longest_sum + program.roundings + 8, a.dtype)) + trace.underflow
    return a.reshape(domains, count, -1), rows.bias.reshape(domains, count), charge.reshape(domains, count)


def _charge(trace: Trace, rows: Rows, a: Tensor, weight: Tensor) -> None:
    """Adds |a| . weight to the mass."""
    rows.mass += dot(torch.abs(a, out=trace.scratch(a)).view(len(a), -1), weight)


def _collect(trace: Trace, rows: Rows, k: int, a: Tensor) -> None:
    """Bias and rounding of an affine step."""
    if k in trace.offsets:
        rows.bias += dot(a.reshape(len(a), -1), trace.offsets[k])
    if k in trace.weights:
        _charge(trace, rows, a, trace.weights[k])


def _relaxed(trace: Trace, rows: Rows, k: int, a: Tensor, count: int) -> Tensor:
    """Puts lines in place of a nonlinear step; a (N, *out) to (N, *in)."""
    lines, n = trace.lines[k], a.shape[0]
    wide = a.reshape(trace.domains, count, -1)
    pos = wide.clamp(min=0)
    neg = torch.sub(wide, pos, out=trace.scratch(wide, 1))
    for part, offset, sign in ((pos, lines.lo_b, -1), (neg, lines.up_b, 1)):
        if offset is None:
            continue
        flat = torch.mul(part, offset.reshape(trace.domains, 1, -1), out=trace.scratch(part)).view(n, -1)
        ones = flat.new_ones(flat.shape[-1])
        total = dot(flat, ones)
        rows.bias += total
        # Where all offsets have the sign that makes every product <= 0, the sum of absolute values is at hand.
        rows.mass += -total if (k, sign) in trace.one_sided else dot(flat.abs_(), ones)
    out = pos.mul_(lines.lo_a.reshape(trace.domains, 1, -1)).addcmul_(neg, lines.up_a.reshape(trace.domains, 1, -1))
    out = out.reshape(n, *trace.program.shapes[trace.program.steps[k].inputs[0]])
    i = trace.program.steps[k].inputs[0]
    if i not in trace.weights or k in trace.cuts:  # the step that made this value will not cover the product's rounding
        _charge(trace, rows, out, trace.size_of(i))
    if k in trace.cuts:  # one row per domain: subtracts b sign (z - p) >= 0
        cuts = trace.cuts[k]
        out.view(-1).index_add_(0, cuts.place, cuts.amount, alpha=-1)
        _charge(trace, rows, out, trace.size_of(i))
        rows.bias += cuts.bias
        rows.mass += cuts.mass
    return out


def _enclosed(trace: Trace, rows: Rows, k: int, a: Tensor) -> tuple[Tensor, ...]:
    """Puts planes in place of a joint step; a (N, *out) to (N, *in_i) for each of its inputs.

    The planes' weights bound |coefficient| |x| entry by entry, so what the products round goes to the mass with them.
    """
    planes, n = trace.lines[k], a.shape[0]
    wide = a.reshape(len(planes.lo_b), -1, *a.shape[1:])  # all domains may share the planes of one
    pos, neg = wide.clamp(min=0), wide.clamp(max=0)
    for part, offset, weight in ((pos, planes.lo_b, planes.lo_w), (neg, planes.up_b, planes.up_w)):
        flat = part.flatten(2)
        rows.bias += block_sum(flat * offset.flatten(1).unsqueeze(1)).view(n)
        rows.mass += block_sum(flat.abs() * weight.flatten(1).unsqueeze(1)).view(n)
    return tuple(p.flatten(0, 1) for p in planes.pull(pos, neg))


def concretise(plane: Tensor, l: Tensor, u: Tensor) -> Tensor:
    """Minimum of plane (D, S, m) @ x over boxes l, u (D, m): (D, S)."""
    terms = plane.clamp(min=0).mul_(l.unsqueeze(1)).add_(plane.clamp(max=0).mul_(u.unsqueeze(1)))
    return terms.sum(-1) if terms.shape[-1] <= 2 * BLOCK else block_sum(terms)


def _seed(trace: Trace, value: int, index: Tensor) -> tuple[Rows, int]:
    """Rows ±(entry index of value) for (D, K) flat indices, and the value that they start at.

    For every domain K plain rows come first, then the same K negated.
    """
    domains, k = index.shape
    op = trace.program.steps[value].op if value else None
    flat = torch.cat([index, index], 1).reshape(-1)
    sign = torch.ones((domains, 2 * k), dtype=trace.boxes[0][0].dtype, device=index.device)
    sign[:, k:] = -1
    sign = sign.reshape(-1)
    if not isinstance(op, Affine):
        unit = torch.zeros((len(flat), size(trace.program.shapes[value])), dtype=sign.dtype, device=index.device)
        unit.scatter_(1, flat[:, None], sign[:, None])
        zero = torch.zeros_like(sign)
        return Rows({value: unit.reshape(-1, *trace.program.shapes[value])}, zero, zero.clone()), value
    parts: dict[int, Tensor] = {}
    for i, part in zip(trace.program.steps[value].inputs, op.rows(flat, sign)):
        parts[i] = parts[i] + part if i in parts else part  # a step may read the same value twice
    bias = trace.offsets[value][flat] * sign if value in trace.offsets else torch.zeros_like(sign)
    mass = trace.weights[value][flat] if value in trace.weights else torch.zeros_like(sign)
    return Rows(parts, bias, mass), value - 1


def by_crown(trace: Trace, value: int, loose: Tensor, limit: int) -> None:
    """Intersects the box of `value` with backward bounds of its loose entries (bool, (D, *shape)); row blocks keep
    tensors under `limit` bytes.
    """
    l, u = (t.flatten(1) for t in trace.boxes[value])
    loose = loose.flatten(1)
    most = int(loose.sum(1).max())
    if not most:
        return
    # Loose entries first; domains with fewer than `most` are padded with settled ones, for which a second bound does
    # no harm.
    index = torch.topk(loose.to(torch.uint8) if loose.device.type == "cpu" else loose.float(), most, dim=1).indices
    widest = max(size(s) for s in trace.program.shapes[: value + 1])
    block = max(1, int(limit // max(1, 2 * trace.domains * widest * l.element_size())))
    x_l, x_u = trace.boxes[0]
    new_l, new_u = l.clone(), u.clone()
    for part in index.split(block, dim=1):
        rows, start = _seed(trace, value, part)
        plane, bias, charge = backward(trace, start, rows, 2 * part.shape[1])
        low = concretise(plane, x_l, x_u) + bias - charge
        below, above = low[:, : part.shape[1]], -low[:, part.shape[1] :]
        below = torch.where(torch.isfinite(below), below, -float("inf"))
        above = torch.where(torch.isfinite(above), above, float("inf"))
        new_l.scatter_(1, part, torch.maximum(below, l.gather(1, part)))
        new_u.scatter_(1, part, torch.minimum(above, u.gather(1, part)))
    # Both are valid boxes of a non-empty set, so they cross only by a hair of rounding; there the interval stands.
    crossed = new_l > new_u
    shape = (-1, *trace.program.shapes[value])
    trace.boxes[value] = (torch.where(crossed, l, new_l).reshape(shape), torch.where(crossed, u, new_u).reshape(shape))


def _count_underflow(trace: Trace, k: int) -> None:
    """Adds what step k may lose to underflow: every product is off by at most the smallest normal number.

    A coefficient sums at most `terms` products and acts on its input, |x| <= size; offsets and charges sum one product
    per entry.
    """
    program, info = trace.program, torch.finfo(trace.boxes[0][0].dtype)
    step = program.steps[k]
    terms = step.op.terms[1] if isinstance(step.op, Affine) else step.op.terms if isinstance(step.op, Joint) else 2
    reach = sum((float(trace.size_of(i).sum()) for i in step.inputs), float(trace.size_of(k).sum()))
    trace.underflow = trace.underflow + 4 * info.tiny * ((terms + 2) * reach + 4 * size(program.shapes[k]))


Tighten = Callable[["Trace", int, Tensor, int], None]


def trace_values(program: Program, l: Tensor, u: Tensor, limit: int, tighten: Tighten = by_crown) -> Trace:
    """Boxes and lines of every value over input boxes l, u (D, m); `tighten` improves the box of a value that a
    nonlinear step will read.
    """
    trace = Trace(program, [(l, u)])
    done: set[int] = set()  # a value's box is final once a nonlinear step has read it
    for k in range(1, len(program.steps)):
        step = program.steps[k]
        if isinstance(step.op, Nonlinear):
            for i in set(step.inputs) - done:
                done.add(i)
                if not program.exact[i]:
                    tighten(trace, i, loose_entries(trace, i), limit)
        low, high, magnitude = step_interval(step, [trace.boxes[i] for i in step.inputs])
        trace.boxes.append((low, high))
        _count_underflow(trace, k)
        if isinstance(step.op, Nonlinear):
            lines = trace.lines[k] = relax(trace, k)
            for offset, sign in ((lines.lo_b, -1), (lines.up_b, 1)) if isinstance(lines, Lines) else ():
                if offset is not None and bool((offset * sign >= 0).all()):
                    trace.one_sided.add((k, sign))
        elif isinstance(step.op, Affine):
            offset = step.op.offset()
            if offset is not None:
                trace.offsets[k] = offset.reshape(-1).contiguous()
            if magnitude is not None:
                trace.weights[k] = magnitude.amax(0).reshape(-1)
            elif step.op.terms[1] > 1 or offset is not None:
                # A move whose adjoint adds up repeated entries, or whose constants are summed into the bias.
                trace.weights[k] = trace.size_of(k)
    return trace


def relax(trace: Trace, k: int) -> Lines | Planes:
    """The default lines or planes of nonlinear step k in the boxes of its inputs."""
    step = trace.program.steps[k]
    boxes = [trace.boxes[i] for i in step.inputs]
    return step.op.relax(*boxes) if isinstance(step.op, Joint) else step.op.relax(*boxes[0])


def loose_entries(trace: Trace, value: int) -> Tensor:
    """Where a tighter box of a value could tighten the lines of a step that reads it: bool (D, *shape).

    The boxes of a joint reader's other inputs may not be there yet: all entries count then.
    """
    found = torch.zeros_like(trace.boxes[value][0], dtype=torch.bool)
    for c in trace.program.consumers[value]:
        step = trace.program.steps[c]
        if isinstance(step.op, Joint):
            if max(step.inputs) < len(trace.boxes):
                loose = step.op.loose(*(trace.boxes[i] for i in step.inputs))
                for i, part in zip(step.inputs, loose):
                    if i == value:
                        found |= part
            else:
                found |= trace.boxes[value][1] > trace.boxes[value][0]
        elif isinstance(step.op, Nonlinear):
            found |= step.op.loose(*trace.boxes[value])
    return found


@METHODS.add("crown")
class Crown:
    """Intermediate boxes of loose entries and rows over the output, all by backward passes."""

    @staticmethod
    def entries(program: Program, rows: int) -> int:
        """Entries of the largest coefficient tensor per domain, if every intermediate row is needed."""
        most = rows
        for step in program.steps[1:]:
            for i in step.inputs if isinstance(step.op, Nonlinear) else ():
                if not program.exact[i]:
                    most = max(most, 2 * size(program.shapes[i]))
        return most * max(size(s) for s in program.shapes)

    @staticmethod
    def run(program: Program, l: Tensor, u: Tensor, rows: Tensor, limit: int) -> RowBounds:
        return final_rows(trace_values(program, l, u, limit), rows, limit)


def final_rows(trace: Trace, rows: Tensor, limit: int) -> RowBounds:
    """Backward bounds of rows (D, S, p) over the output, given a trace."""
    widest = max(size(s) for s in trace.program.shapes)
    block = max(1, int(limit // max(1, trace.domains * widest * rows.element_size())))
    l, u = trace.boxes[0]
    parts = []
    for part in rows.split(block, dim=1):
        count = part.shape[1]
        flat = part.reshape(-1, part.shape[-1])
        zero = flat.new_zeros(len(flat))
        # The rows themselves were rounded once to the working precision: one more unit on every entry of y.
        start = Rows({trace.program.output: flat}, zero.clone(), zero.clone())
        _charge(trace, start, flat, trace.size_of(trace.program.output))
        plane, bias, charge = backward(trace, trace.program.output, start, count)
        bias = bias - charge
        low = concretise(plane, l, u) + bias
        parts.append(
            RowBounds(torch.where(torch.isfinite(low), low, -float("inf")), plane, bias, steepness(trace, part), charge)
        )
    return parts[0] if len(parts) == 1 else RowBounds(*(torch.cat(t, 1) for t in zip(*parts)))


def steepness(trace: Trace, rows: Tensor) -> Tensor:
    """Rows (D, S, p) pushed down with every nonlinear step at its typical slope: (D, S, m). Not a bound."""
    program, (domains, count) = trace.program, rows.shape[:2]
    live = {program.output: rows.reshape(domains * count, -1)}
    for k in range(program.output, 0, -1):
        a = live.pop(k, None)
        if a is None:
            continue
        step = program.steps[k]
        if isinstance(step.op, Affine):
            parts = step.op.adjoint(a)
        elif isinstance(step.op, Joint):
            wide = a.reshape(domains, count, *a.shape[1:])
            parts = [p.flatten(0, 1) for p in step.op.steep(wide, *(trace.boxes[i] for i in step.inputs))]
        else:
            i = step.inputs[0]
            slope = step.op.typical_slope(*trace.boxes[i]).unsqueeze(1)
            parts = ((a.reshape(domains, count, *a.shape[1:]) * slope).flatten(0, 1).reshape(-1, *program.shapes[i]),)
        for i, part in zip(step.inputs, parts):
            live[i] = live[i] + part if i in live else part
    a = live.pop(0, None)
    return rows.new_zeros((domains, count, program.n_in)) if a is None else a.reshape(domains, count, -1)
