"""Element types of a model's inputs: which numbers each of them can be, and how a box of real numbers becomes one of
those that a run receives.

A run receives every input rounded to its element type. Of floating-point types that is the nearest number, so a number
in [l, u] is received as one between those nearest to l and to u, and [l, u] rounded outward holds both the number and
what is received. Of integers and truth values only whole numbers within the type's range are inputs at all: [l, u]
holds those from ceil(l) to floor(u).

Symbols: n inputs of the model, R boxes; arrays are float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from verifier.net.graph import Tensor


def element_types(inputs: Sequence[Tensor]) -> tuple[tuple[np.dtype, ...], np.ndarray]:
    """The different element types of inputs, and which of them every entry has (n,), in the inputs' flat order."""
    kinds = tuple(dict.fromkeys(np.dtype(t.dtype) for t in inputs)) or (np.dtype(np.float32),)
    each = [kinds.index(np.dtype(t.dtype)) for t in inputs]
    return kinds, np.repeat(np.array(each, np.int64), [t.size for t in inputs])


def is_whole(element: np.dtype) -> bool:
    """Whether the numbers of a type are whole."""
    return element.kind in "iub"


def nearest(x: np.ndarray, element: np.dtype) -> np.ndarray:
    """Numbers as the model receives them. Whole ones are taken to be of their type already."""
    if is_whole(element):
        return x
    with np.errstate(over="ignore"):
        return x.astype(element).astype(np.float64)


def outward(x: np.ndarray, element: np.dtype, direction: int) -> np.ndarray:
    """The nearest numbers of a type that are not above (direction -1) or not below (+1); whole ones as they are."""
    if is_whole(element) or element == np.float64:
        return x
    with np.errstate(over="ignore"):
        y = x.astype(element)
        wrong = y.astype(np.float64) > x if direction < 0 else y.astype(np.float64) < x
        y = np.where(wrong, np.nextafter(y, np.array(direction * np.inf).astype(element)), y)
        return y.astype(np.float64)


def inward(
    lower: np.ndarray, upper: np.ndarray, kinds: tuple[np.dtype, ...], kind: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (R, n) whose ends are whole numbers of its type wherever `kinds[kind]` (n,) is one of whole numbers; lower
    is above upper where there are none.
    """
    lower, upper = lower.copy(), upper.copy()
    for k, element in enumerate(kinds):
        at = np.flatnonzero(kind == k)
        if is_whole(element) and len(at):
            least, most = (0, 1) if element.kind == "b" else (np.iinfo(element).min, np.iinfo(element).max)
            end = float(most) if int(float(most)) <= most else np.nextafter(float(most), 0.0)
            lower[:, at] = np.maximum(np.ceil(lower[:, at]), float(least)) + 0.0  # -0.0 and 0.0 are one number
            upper[:, at] = np.minimum(np.floor(upper[:, at]), end) + 0.0
    return lower, upper
