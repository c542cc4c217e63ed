"""What one bounding call knows of every value: boxes, lines of nonlinear steps, weights of rounding errors.

Values are walked in order; each gets its interval from its inputs' boxes, and where a nonlinear step reads it, a
`tighten` intersects that with better bounds (backward passes in `verifier.bounds.crown`, planes in
`verifier.bounds.forward`) before the step's lines are drawn.

Symbols: D domains; boxes (D, *shape) of a value.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import isfinite
from threading import get_ident
from typing import NamedTuple

import torch
from torch import Tensor

from verifier.bounds.base import Part
from verifier.bounds.interval import outward, step_interval
from verifier.bounds.program import Program
from verifier.clip.centred import Forms
from verifier.clip.constraints import Halfspaces
from verifier.ops.base import Affine, Joint, Lines, Nonlinear, Planes, size


class Cuts(NamedTuple):
    """Splits sign (z_e - p) >= 0 that hold in their domain, times multipliers b >= 0: flat places (M,) of the entries e
    in (D n,), none more than `repeats` times, amounts b sign (M,), and per domain the sums of b sign p and of their
    absolute values (D,), the latter large enough to be charged as a sum of any length.
    """

    place: Tensor
    amount: Tensor
    bias: Tensor
    mass: Tensor
    repeats: int


@dataclass
class Trace:
    """What one call knows of the values so far: boxes (D, *shape), lines of nonlinear steps, and what a backward pass
    is charged for rounding: |a| . weights[k] where a row a leaves affine step k (flat, worst over D).
    """

    program: Program
    boxes: list[tuple[Tensor, Tensor]]
    lines: dict[int, Lines | Planes] = field(default_factory=dict)
    magnitudes: dict[int, Tensor] = field(default_factory=dict)  # |M||x| + |c| of affine steps that are no moves (flat)
    weights: dict[int, Tensor] = field(default_factory=dict)
    patch_weights: dict[int, Tensor] = field(default_factory=dict)  # the same of patches (`verifier.bounds.entries`)
    offsets: dict[int, Tensor] = field(default_factory=dict)
    # Steps whose weight covers rounded sums of products; a move that repeats nothing rounds nothing, and has none.
    rounding: set[int] = field(default_factory=set)
    # (k, 1): the upper offsets of step k are all >= 0; (k, -1): its lower ones are all <= 0
    one_sided: set[tuple[int, int]] = field(default_factory=set)
    buffers: dict[tuple[int, int], Tensor] = field(default_factory=dict)
    sizes: dict[int, Tensor] = field(default_factory=dict)
    product_weights: dict[int, Tensor] = field(default_factory=dict)
    # How many loose entries of a value were left with their intervals, since bounding them would have taken too long.
    left_out: dict[int, int] = field(default_factory=dict)
    # Whether some box is infinite: passes then look where (`verifier.bounds.backward`).
    wild: bool = False
    # What products too small for the working precision may have lost, over all steps so far.
    underflow: float = 0.0
    # Multipliers of splits by the step that reads the split values, and as which of its inputs (see
    # `verifier.bounds.certify`).
    cuts: dict[tuple[int, int], Cuts] = field(default_factory=dict)
    # By value, flat entries (k,) with planes (k, 2) over the input that lie below them and below them negated.
    planes: dict[int, list[tuple[Tensor, Forms]]] = field(default_factory=dict)
    # Half-spaces of the input: what is known need hold for the points within them only.
    within: Halfspaces | None = None
    # By value which entries (flat) count (`verifier.bounds.influence`); all of them where a value is not there.
    asked: dict[int, Tensor] = field(default_factory=dict)
    # What stands still in these domains: such values have boxes where others read them, and nothing else.
    still: Part | None = None

    def moves(self, value: int) -> bool:
        """Whether a value is walked over at all."""
        return self.still is None or self.still.moves[value]

    @property
    def domains(self) -> int:
        return self.boxes[0][0].shape[0]

    def scratch(self, like: Tensor, slot: int = 0) -> Tensor:
        """A tensor of this shape whose contents last until the slot's next use on this thread: temporaries stay in the
        cache then.
        """
        key = (get_ident(), slot)
        n, held = like.numel(), self.buffers.get(key)
        if held is None or held.numel() < n:
            held = self.buffers[key] = like.new_empty(n)
        return held[:n].view(like.shape)

    def size_of(self, value: int) -> Tensor:
        """Largest absolute entry of a value over all domains, flat; as first asked for, since boxes only shrink."""
        if value not in self.sizes:
            l, u = self.boxes[value]
            self.sizes[value] = torch.maximum(u.amax(0), -l.amin(0)).reshape(-1)
        return self.sizes[value]

    def covers(self, value: int) -> bool:
        """Whether the step that made a value is charged for the product that a row over it has just been through."""
        return value in self.rounding and self.program.reads[value] == 1

    def product_weight(self, value: int) -> Tensor:
        """What |a| is multiplied with to charge a rounded product of every entry of a row over `value` (flat)."""
        if value not in self.product_weights:
            self.product_weights[value] = self.size_of(value) * self.program.product_error(1)
        return self.product_weights[value]


def count_underflow(trace: Trace, k: int) -> None:
    """Adds what step k may lose to underflow: every product is off by at most the smallest normal number.

    A coefficient sums at most `terms` products and acts on its input, |x| <= size; offsets and charges sum one product
    per entry.
    """
    program, info = trace.program, torch.finfo(trace.boxes[0][0].dtype)
    step = program.steps[k]
    terms = step.op.terms[1] if isinstance(step.op, Affine) else step.op.terms if isinstance(step.op, Joint) else 2
    reach = sum(_finite_sum(trace, i) for i in (*step.inputs, k))
    trace.underflow = trace.underflow + 4 * info.tiny * ((terms + 2) * reach + 4 * size(program.shapes[k]))


def _finite_sum(trace: Trace, value: int) -> float:
    """Sum of the sizes of a value's entries; those without bounds, which nothing is proved of, mark the trace."""
    sizes = trace.size_of(value)
    total = float(sizes.sum())
    if not isfinite(total):
        trace.wild = True
        total = float(torch.where(torch.isfinite(sizes), sizes, 0.0).sum(dtype=torch.float64))
    return total


Tighten = Callable[["Trace", int, Tensor, int], None]


def trace_values(
    program: Program,
    l: Tensor,
    u: Tensor,
    limit: int,
    tighten: Tighten,
    within: Halfspaces | None = None,
    asked: dict[int, Tensor] | None = None,
    still: Part | None = None,
) -> Trace:
    """Boxes and lines of every value over input boxes l, u (D, m); `tighten` improves the box of a value that a
    nonlinear step will read. `asked`: which entries count, by value (`verifier.bounds.influence`). Of what stands
    `still` only the boxes that others read are there, None elsewhere.
    """
    trace = Trace(program, [(l, u)], within=within, asked=asked or {}, still=still)
    done: set[int] = set()  # a value's box is final once a nonlinear step has read it
    for k in range(1, len(program.steps)):
        step = program.steps[k]
        if not trace.moves(k):
            trace.boxes.append(still.boxes.get(k))
            if k in still.boxes and not isfinite(float(sum(t.abs().sum() for t in still.boxes[k]))):
                trace.wild = True
            continue
        if isinstance(step.op, Nonlinear):
            for i in set(step.inputs) - done:
                done.add(i)
                if trace.moves(i) and not program.exact[i]:
                    tighten(trace, i, loose_entries(trace, i), limit)
        low, high, magnitude = step_interval(step, [trace.boxes[i] for i in step.inputs])
        trace.boxes.append((low, high))
        count_underflow(trace, k)
        if isinstance(step.op, Nonlinear):
            lines = trace.lines[k] = relax(trace, k)
            for offset, sign in ((lines.lo_b, -1), (lines.up_b, 1)) if isinstance(lines, Lines) else ():
                if offset is not None and bool((offset * sign >= 0).all()):
                    trace.one_sided.add((k, sign))
        elif isinstance(step.op, Affine):
            if magnitude is not None:
                trace.magnitudes[k] = magnitude.amax(0).reshape(-1)
            weigh(trace, k)
    return trace


def known(old: Trace) -> Tighten:
    """A `tighten` that takes the boxes of a trace over the same input box, possibly of another precision."""

    def tighten(trace: Trace, value: int, loose: Tensor, limit: int) -> None:
        l, u = trace.boxes[value]
        old_l, old_u = (outward(t.double(), l.dtype, sign) for t, sign in zip(old.boxes[value], (-1, 1)))
        low, high = torch.maximum(l, old_l), torch.minimum(u, old_u)
        crossed = low > high  # only rounding can make two valid boxes cross
        trace.boxes[value] = (torch.where(crossed, l, low), torch.where(crossed, u, high))
        trace.sizes.pop(value, None)

    return tighten


def weigh(trace: Trace, k: int) -> None:
    """Offset and weight of affine step k, whose magnitude is known unless it is a move."""
    op = trace.program.steps[k].op
    offset = op.offset()
    if k in trace.magnitudes or op.terms[1] > 1:  # a move's adjoint may add up repeated entries
        trace.rounding.add(k)
    if offset is not None:
        trace.offsets[k] = offset.reshape(-1).contiguous()
    weight = weight_of(trace, k, op.terms[1])
    if weight is not None:
        trace.weights[k] = weight


def weight_of(trace: Trace, k: int, terms: int) -> Tensor | None:
    """The weight of affine step k (flat), if the adjoint's sums have `terms` terms; None where nothing is rounded.

    A row a becomes a M with an error of at most gamma |a||M|, which acts on x; its product with c joins the bias. What
    M and c themselves are off by costs |a| times the step's doubt (a hundredth covers the charge's own rounding).
    """
    program, op, weight = trace.program, trace.program.steps[k].op, None
    if k in trace.rounding:
        magnitude = trace.magnitudes[k] if k in trace.magnitudes else trace.size_of(k)
        weight = magnitude * program.product_error(terms)
    if k in trace.offsets:
        constant = trace.offsets[k].abs() * program.sum_error
        weight = constant if weight is None else weight + constant
    sizes = [trace.size_of(i).view(1, *program.shapes[i]) for i in program.steps[k].inputs]
    doubt = op.doubt(*sizes)
    if doubt is not None and trace.wild:
        known = [torch.isfinite(s) for s in sizes]
        lost = op.doubt(*((~t).to(s.dtype) for t, s in zip(known, sizes))) > 0
        doubt = torch.where(lost, torch.inf, op.doubt(*(torch.where(t, s, 0.0) for t, s in zip(known, sizes))))
    if doubt is not None:
        doubt = doubt.reshape(-1) * 1.01
        weight = doubt if weight is None else weight + doubt
    return weight


def relax(trace: Trace, k: int) -> Lines | Planes:
    """The default lines or planes of nonlinear step k in the boxes of its inputs."""
    step = trace.program.steps[k]
    boxes = [trace.boxes[i] for i in step.inputs]
    return step.op.relax(*boxes) if isinstance(step.op, Joint) else step.op.relax(*boxes[0])


def loose_entries(trace: Trace, value: int) -> Tensor:
    """Where a tighter box of a value could noticeably tighten the lines of a step that reads it, and counts: bool (D,
    *shape).

    The boxes of a joint reader's other inputs may not be there yet: all entries count then.
    """
    found = torch.zeros_like(trace.boxes[value][0], dtype=torch.bool)
    for c in trace.program.consumers[value]:
        step = trace.program.steps[c]
        if not trace.moves(c):
            continue
        if isinstance(step.op, Joint):
            if max(step.inputs) < len(trace.boxes):
                loose = step.op.worth(*(trace.boxes[i] for i in step.inputs))
                for i, part in zip(step.inputs, loose):
                    if i == value:
                        found |= part
            else:
                found |= trace.boxes[value][1] > trace.boxes[value][0]
        elif isinstance(step.op, Nonlinear):
            found |= step.op.loose(*trace.boxes[value])
    if value in trace.asked:
        found &= trace.asked[value].view(found.shape[1:])
    return found
