"""What a bounding method returns, and how it is called.

A method has `run(program, l, u, rows, limit, given) -> RowBounds`: l, u (D, m) are boxes of the input, rows (D, S, p)
are coefficients over the output, `limit` is the number of bytes one working tensor may take (row blocks are cut to it),
`given` what is known besides (`Given`). And `entries(program, rows, moving, still) -> int`, the size of its largest
working tensor per domain where so many dimensions move, from which chunks are cut before memory is taken.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from verifier.bounds.program import Program
from verifier.clip.constraints import Halfspaces
from verifier.ops.base import size

THIN = 4.0  # machine epsilons relative to its ends: as wide as outward rounding makes the box of a number

Box = tuple[Tensor, Tensor]


class Part(NamedTuple):
    """What stands still in D domains: which of the K values move, and boxes (D, *shape) of those that do not and are
    read by others that do.
    """

    moves: tuple[bool, ...]
    boxes: dict[int, Box]

    def at(self, index: Tensor | slice) -> Part:
        return Part(self.moves, {k: (l[index], u[index]) for k, (l, u) in self.boxes.items()})


class Given(NamedTuple):
    """What a method may make use of, for D domains. What it finds need hold only within the half-spaces `within`;
    `still` is what stands still in all of the domains (`verifier.bounds.still`); with `fine`, the program in float64,
    the rows are float64 and their bounds are meant to be as exact as that allows (`verifier.bounds.fine`).
    """

    within: Halfspaces | None = None
    still: Part | None = None
    fine: Program | None = None

    def at(self, index: Tensor | slice) -> Given:
        """For some of the domains."""
        within, still = (None if t is None else t.at(index) for t in (self.within, self.still))
        return Given(within, still, self.fine)


NOTHING = Given()


class RowBounds(NamedTuple):
    """Lower bounds of rows over boxes, rounding error already subtracted:

        rows[d, s] @ y(x) >= plane[d, s] @ x + bias[d, s]   and   >= lb[d, s]      for every x in box d (real
        arithmetic)

    lb is -inf where nothing is known, never NaN. The planes are as computed; `bias` includes the error, so they are
    sound as well.
    """

    lb: Tensor  # (D, S)
    plane: Tensor  # (D, S, m)
    bias: Tensor  # (D, S)
    # (D, S, m): how steep the rows are on the whole, every nonlinearity at its typical slope; guides branching, proves
    # nothing
    slope: Tensor
    # (D, S): the rounding error of the row's own pass that was subtracted; tells whether more precision could help
    charge: Tensor

    def at(self, index: Tensor) -> RowBounds:
        """Those of the domains at an index."""
        return RowBounds(*(t[index] for t in self))


def thin(l: Tensor, u: Tensor) -> Tensor:
    """Where boxes are so narrow that rounding alone may have made them: bool like l, u."""
    return u - l <= THIN * torch.finfo(l.dtype).eps * torch.maximum(l.abs(), u.abs())


def moving(l: Tensor, u: Tensor) -> int:
    """How many dimensions move in any one of the boxes l, u (D, m) at most, apart from those of thin ones."""
    return int((~thin(l, u)).sum(1).max()) if l.numel() else 0


def widest(program: Program, still: Part | None = None) -> int:
    """Entries of the largest value that moves."""
    return max(size(s) for k, s in enumerate(program.shapes) if still is None or still.moves[k])


class Method(Protocol):
    """What `METHODS` holds."""

    @staticmethod
    def entries(program: Program, rows: int, moving: int, still: Part | None = None) -> int: ...

    @staticmethod
    def run(
        program: Program,
        l: Tensor,
        u: Tensor,
        rows: Tensor,
        limit: int,
        given: Given = NOTHING,
    ) -> RowBounds: ...
