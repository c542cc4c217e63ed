"""A trace of float32 continued in float64: the last backward pass of a domain without most of its rounding.

Of what float32 costs a bound, nearly all is charged to the rows over the output, whose sums are long; the boxes and
lines below them are wider by a few roundings of their own. Where margins are small that charge is what keeps domains
open. The rows alone, walked in float64 over the lines found in float32, cost a small part of what bounding a domain
again in float64 costs.

Why it is sound. Boxes, and the numbers that lines consist of, are float32 and hold in real arithmetic as they are; as
float64 they are the same numbers. Weights of rounding errors are formed anew with float64's error, from magnitudes that
float32 computed: those are sums of at most as many products as fit into the error terms of a finite bound, all >= 0, so
that `MARGIN` covers what they are off by (`usable`). What was lost to underflow stays charged.

At the end planes are given back in float32: |a - a'| |x| of what a coefficient a lost is subtracted, and the offset is
rounded down.
"""

from __future__ import annotations

import torch
from torch import Tensor

from verifier.bounds.interval import outward
from verifier.bounds.program import Program
from verifier.bounds.trace import Trace, weigh
from verifier.ops.base import Affine, Lines

MARGIN = 1.25  # of magnitudes that were computed in float32


def usable(program: Program) -> bool:
    """Whether sums of the program are short enough for `MARGIN`."""
    longest = max((s.op.terms[0] for s in program.steps[1:] if isinstance(s.op, Affine)), default=1)
    return program.dtype == torch.float32 and program.product_error(longest) < 0.1


def in_float64(trace: Trace, fine: Program) -> Trace:
    """The trace for passes in float64; `fine`: its program in that precision."""
    boxes = [None if box is None else tuple(t.double() for t in box) for box in trace.boxes]
    out = Trace(fine, boxes, within=trace.within, still=trace.still)
    for k, lines in trace.lines.items():
        if isinstance(lines, Lines):
            out.lines[k] = Lines(*(None if t is None else t.double() for t in lines))
        else:
            out.lines[k] = lines.double()
    out.one_sided, out.underflow, out.wild = trace.one_sided, trace.underflow, trace.wild
    out.magnitudes = {k: t.double() * MARGIN for k, t in trace.magnitudes.items()}
    for k, step in enumerate(fine.steps):
        if k and trace.moves(k) and isinstance(step.op, Affine):
            weigh(out, k)
    return out


def in_float32(plane: Tensor, bias: Tensor, l: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """A lower plane (D, S, m) x + bias (D, S) in float32, for x in boxes l, u (D, m); a little lower."""
    coarse = plane.float()
    lost = ((plane - coarse.double()).abs() * torch.maximum(l.abs(), u.abs()).unsqueeze(1)).sum(-1)
    return coarse, outward(bias - lost * (1 + 1e-9) - 1e-300, torch.float32, -1)
