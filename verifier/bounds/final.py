"""Bounds of rows over the output, given what is known of every value.

A backward pass (`verifier.bounds.backward`), the interval of the output, and where products are met what they give
together (`verifier.bounds.bilinear`): the better of these for every row.

Symbols: D domains, S rows, p outputs, m input dimensions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from verifier.bounds.backward import Rows, backward, charge_for, concretise
from verifier.bounds.base import RowBounds, widest
from verifier.bounds.bilinear import pays, together
from verifier.bounds.fine import in_float32, in_float64
from verifier.bounds.interval import rows_from_box
from verifier.bounds.program import Program
from verifier.bounds.trace import Trace
from verifier.ops.base import Affine, Joint


def final_rows(trace: Trace, rows: Tensor, limit: int, fine: Program | None = None) -> RowBounds:
    """Bounds of rows (D, S, p) over the output, given a trace. With `fine`, the program in float64, the rows are
    float64 and walked in that precision, and so is `lb`.
    """
    entries = trace.domains * widest(trace.program, trace.still)
    block = max(1, int(limit // max(1, entries * rows.element_size())))
    coarse, trace = trace, trace if fine is None else in_float64(trace, fine)
    l, u = trace.boxes[0]
    parts = []
    for part in rows.split(block, dim=1):
        count = part.shape[1]
        flat = part.reshape(-1, part.shape[-1])
        zero = flat.new_zeros(len(flat))
        # The rows themselves were rounded once to the working precision: one more unit on every entry of y.
        start = Rows({trace.program.output: flat}, zero.clone(), zero.clone(), {} if pays(trace) else None)
        charge_for(trace, start, flat, trace.product_weight(trace.program.output))
        plane, bias, charge = backward(trace, trace.program.output, start, count)
        bias = bias - charge
        low = concretise(plane, l, u) + bias
        low = torch.where(torch.isfinite(low), low, -float("inf"))
        if start.products:
            low, plane, bias = together(trace, start.products, low, plane, bias, limit)
        low = torch.maximum(low, rows_from_box(part, *trace.boxes[trace.program.output]))
        if fine is not None:
            plane, bias = in_float32(plane, bias, l, u)
        slope = steepness(coarse, part.to(coarse.boxes[0][0].dtype))
        parts.append(RowBounds(low, plane, bias, slope, charge.to(slope.dtype)))
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
            if trace.moves(i):
                live[i] = live[i] + part if i in live else part
    a = live.pop(0, None)
    return rows.new_zeros((domains, count, program.n_in)) if a is None else a.reshape(domains, count, -1)
