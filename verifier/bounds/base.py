"""What a bounding method returns, and how it is called.

A method has `run(program, l, u, rows, limit, within) -> RowBounds`: l, u (D, m) are boxes of the input, rows (D, S, p)
are coefficients over the output, `limit` is the number of bytes one working tensor may take (row blocks are cut to it);
what it finds need hold only within the half-spaces `within`, which it may make use of; and `entries(program, rows,
moving) -> int`, the size of its largest working tensor per domain where so many dimensions move, from which chunks are
cut before memory is taken.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor

from verifier.bounds.program import Program
from verifier.clip.constraints import Halfspaces


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


def moving(l: Tensor, u: Tensor) -> int:
    """How many dimensions move in any one of the boxes l, u (D, m) at most."""
    return int((u > l).sum(1).max()) if l.numel() else 0


class Method(Protocol):
    """What `METHODS` holds."""

    @staticmethod
    def entries(program: Program, rows: int, moving: int) -> int: ...

    @staticmethod
    def run(
        program: Program, l: Tensor, u: Tensor, rows: Tensor, limit: int, within: Halfspaces | None = None
    ) -> RowBounds: ...
