"""Functions of several operands or of whole axes in extended precision: the reference that planes are held against.

`JOINT[kind](op)` gives f: longdouble arrays (M, *in_shape_i), one per variable input, to (M, *out_shape), with a
relative error of a few units of longdouble per operation. A kind that has none is held against its forward in float64.
`RANGES[kind]` says where its inputs are drawn from, slot by slot of the node, if not from everywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

Array = np.ndarray
Reference = Callable[..., Array]


class Range(NamedTuple):
    """Numbers from low to high; only whole ones if `whole` (truth values are whole numbers from 0 to 1)."""

    low: float = -np.inf
    high: float = np.inf
    whole: bool = False


def lift(x: Array, rank: int) -> Array:
    return x.reshape(x.shape[0], *(1,) * (rank + 1 - x.ndim), *x.shape[1:])


def entrywise(f: Callable[[Array, Array], Array]) -> Callable[..., Reference]:
    return lambda op: lambda a, b: f(lift(a, len(op.out_shape)), lift(b, len(op.out_shape)))


JOINT: dict[str, Callable[..., Reference]] = {
    "Mul": entrywise(lambda a, b: a * b),
}

TRUTH = Range(0, 1, True)
RANGES: dict[str, tuple[Range, ...]] = {
    **dict.fromkeys(("And", "Or", "Xor"), (TRUTH, TRUTH)),
    "OneHot": (Range(-6, 6, True),),
    "Lookup": (Range(-3, 9, True),),
    **dict.fromkeys(("GatherDynamic", "GatherElementsDynamic", "GatherNDDynamic"), (Range(), Range(-6, 6, True))),
    **dict.fromkeys(
        ("ScatterElementsDynamic", "ScatterDynamic", "ScatterNDDynamic"), (Range(), Range(-6, 6, True), Range())
    ),
}
