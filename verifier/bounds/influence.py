"""Which entries of every value the asked rows depend on; nothing else need be bounded well.

A row over a few entries of the output of a convolutional network reads a few windows of the last layers, and only from
the first layers most of their images. Entries outside have coefficient zero in every backward pass of these rows, and
so do they in the passes of any entry that counts.

Symbols: p outputs; masks (n,) bool over the entries of a value, True where the entry counts.

Backwards: an entry of an affine step's input counts where |M|^T applied to the mask is not zero; a function of one
number hands the mask on; all inputs of a joint step count if any of its outputs does.

Sound: an entry that is left out keeps the valid interval that it has, and its lines are drawn from that. Dual bounds
(`verifier.bounds.relaxation`) rest on more, namely that rows over the asked outputs have coefficient zero there: so the
masks may hold too much, never too little.
"""

from __future__ import annotations

import torch
from torch import Tensor

from verifier.bounds.program import Program
from verifier.ops.base import Affine, Joint, Operator, pull_back, size

MOST_BYTES = 64 << 20  # of masks that are kept with a program


def influence(program: Program, rows: Tensor) -> dict[int, Tensor]:
    """By value the entries that rows (…, p) over the output depend on, flat; values that count as a whole are left
    out.
    """
    asked = (rows != 0).reshape(-1, rows.shape[-1]).any(0)
    key = asked.cpu().numpy().tobytes()
    if key not in program.influences:
        if (len(program.influences) + 1) * sum(size(s) for s in program.shapes) > MOST_BYTES:
            program.influences.clear()
        program.influences[key] = _spread(program, asked)
    return program.influences[key]


def _spread(program: Program, asked: Tensor) -> dict[int, Tensor]:
    none = lambda k: torch.zeros(size(program.shapes[k]), dtype=torch.bool, device=asked.device)
    masks = {k: none(k) for k in range(program.output)} | {program.output: asked}
    for k in range(program.output, 0, -1):
        if bool(masks[k].any()):
            step = program.steps[k]
            for i, part in zip(step.inputs, _through(step.op, masks[k])):
                masks[i] = masks[i] | part
    return {k: mask for k, mask in masks.items() if not bool(mask.all())}


def _through(op: Operator, mask: Tensor) -> tuple[Tensor, ...]:
    """Masks over every variable input of the entries on which the outputs in `mask` depend."""
    if isinstance(op, Joint):
        return tuple(torch.ones(size(s), dtype=torch.bool, device=mask.device) for s in op.in_shapes)
    if not isinstance(op, Affine):
        return (mask,)
    a = mask.to(op.site.dtype).view(1, *op.out_shape)
    pulled = pull_back(op.absolute, [a.new_ones((1, *s)) for s in op.in_shapes], a)
    return tuple(~(p.reshape(-1) == 0) for p in pulled)  # what is not a number counts
