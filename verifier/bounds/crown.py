"""The method `crown`: intermediate boxes of loose entries and rows over the output, all by backward passes.

The lines of a nonlinear step need a box around its input. The entries that are loose there are bounded by backward
passes of their own (both signs), intersected with the interval. (`verifier.bounds.backward`, with the papers.)
"""

from __future__ import annotations

import time

import torch
from torch import Tensor

from verifier.bounds import METHODS
from verifier.bounds.backward import backward, concretise, seed
from verifier.bounds.base import NOTHING, Given, Part, RowBounds, widest
from verifier.bounds.entries import SECONDS, bound_entries
from verifier.bounds.final import final_rows
from verifier.bounds.forward import Walker
from verifier.bounds.influence import influence
from verifier.bounds.program import Program
from verifier.bounds.trace import Trace, loose_entries, trace_values
from verifier.clip.complete import minima
from verifier.clip.constraints import Halfspaces
from verifier.ops.base import Nonlinear, size

ALL_SECONDS = 40.0  # most that the values of one domain may take together, about
SHARE = 0.5  # of what is left of that, for the next value
LEAST_SECONDS = 0.2  # that each of them may take all the same
PLANES_PAY = 16  # loose entries per column of a plane from which carrying planes forward first saves time


def by_crown(trace: Trace, value: int, loose: Tensor, limit: int) -> None:
    """Intersects the box of `value` with backward bounds of its loose entries (bool, (D, *shape)); row blocks keep
    tensors under `limit` bytes.
    """
    l, u = (t.reshape(trace.domains, -1) for t in trace.boxes[value])
    loose = loose.reshape(trace.domains, -1)
    most = int(loose.sum(1).max())
    if not most:
        return
    # Loose entries first; domains with fewer than `most` are padded with settled ones, for which a second bound does
    # no harm.
    index = torch.topk(loose.to(torch.uint8) if loose.device.type == "cpu" else loose.float(), most, dim=1).indices
    most_entries = max(size(s) for k, s in enumerate(trace.program.shapes[: value + 1]) if trace.moves(k))
    block = max(1, int(limit // max(1, 2 * trace.domains * most_entries * l.element_size())))
    x_l, x_u = trace.boxes[0]
    new_l, new_u = l.clone(), u.clone()
    for part in index.split(block, dim=1):
        rows, start = seed(trace, value, part)
        plane, bias, charge = backward(trace, start, rows, 2 * part.shape[1])
        low = concretise(plane, x_l, x_u) + bias - charge
        low = torch.where(torch.isfinite(low), low, -float("inf"))
        if trace.within is not None:
            low = _under(trace.within, plane, x_l, x_u, bias - charge, low)
        below, above = low[:, : part.shape[1]], -low[:, part.shape[1] :]
        new_l.scatter_(1, part, torch.maximum(below, l.gather(1, part)))
        new_u.scatter_(1, part, torch.minimum(above, u.gather(1, part)))
    # Both are valid boxes of a non-empty set, so they cross only by a hair of rounding; there the interval stands.
    crossed = new_l > new_u
    shape = (-1, *trace.program.shapes[value])
    trace.boxes[value] = (torch.where(crossed, l, new_l).reshape(shape), torch.where(crossed, u, new_u).reshape(shape))


def _under(planes: Halfspaces, plane: Tensor, l: Tensor, u: Tensor, offset: Tensor, low: Tensor) -> Tensor:
    """Bounds `low` (D, 2 K) of rows and their negatives, raised to those that hold within the half-spaces. Where these
    leave an entry nothing, the old bounds stay: others decide whether the domain is empty.
    """
    some = torch.nonzero((planes.g != 0).flatten(1).any(1)).squeeze(1)  # many domains have none
    if not len(some):
        return low
    better = low.clone()
    found = minima(plane[some], l[some], u[some], planes.at(some)) + offset[some]
    better[some] = torch.maximum(low[some], torch.where(torch.isfinite(found), found, -float("inf")))
    k = low.shape[1] // 2
    crossed = (better[:, :k] > -better[:, k:]).repeat(1, 2)
    return torch.where(crossed, low, better)


def by_entries(trace: Trace, value: int, loose: Tensor, limit: int, seconds: float = SECONDS) -> None:
    """The same as `by_crown`, for a single domain: settled entries end early, images are walked in patches. The widest
    entries only, where all would take more than about `seconds`.
    """
    index = torch.nonzero(loose.flatten()).squeeze(1)
    if not len(index):
        return
    l, u = (t.flatten().clone() for t in trace.boxes[value])
    widest_first = (u - l)[index].argsort(descending=True, stable=True)  # in case that time does not allow for all
    index = index[widest_first]
    low, high = bound_entries(trace, value, index, limit, seconds)
    low, high = torch.maximum(low, l[index]), torch.minimum(high, u[index])
    crossed = low > high
    l[index], u[index] = torch.where(crossed, l[index], low), torch.where(crossed, u[index], high)
    shape = (1, *trace.program.shapes[value])
    trace.boxes[value] = (l.reshape(shape), u.reshape(shape))


class Tightener:
    """Chooses for every value how its box is made tighter: by planes carried forward first, where a handful of input
    dimensions makes them cheap, then by backward passes for what is still loose.

    One step of planes costs about 2 (k + 1) evaluations of the network, where k dimensions move, backward passes two
    for every loose entry. With a single domain all values together take about `seconds` of backward passes.
    """

    def __init__(self, program: Program, l: Tensor, u: Tensor, seconds: float = ALL_SECONDS, still: Part | None = None):
        self.walker = Walker(program, l, u)
        self.columns, self.widest = self.walker.width + 1, widest(program, still)
        self.end = time.monotonic() + seconds

    def __call__(self, trace: Trace, value: int, loose: Tensor, limit: int) -> None:
        planes = 2 * self.columns * self.widest * trace.domains * loose.new_zeros(0, dtype=trace.program.dtype).itemsize
        if planes <= limit and int(loose.reshape(trace.domains, -1).sum(1).max()) > PLANES_PAY * self.columns:
            self.walker.tighten(trace, value, loose, limit)
            loose = loose_entries(trace, value)
        if trace.domains == 1 and trace.within is None and trace.still is None and not trace.wild:
            # The boxes of early values are what all others are made of, and most values need far less than is left.
            by_entries(trace, value, loose, limit, max(LEAST_SECONDS, SHARE * (self.end - time.monotonic())))
        else:
            by_crown(trace, value, loose, limit)


def crown_trace(
    program: Program,
    l: Tensor,
    u: Tensor,
    limit: int,
    within: Halfspaces | None = None,
    rows: Tensor | None = None,
    seconds: float = ALL_SECONDS,
    still: Part | None = None,
) -> Trace:
    """Boxes and lines of every value over boxes l, u (D, m), by this method; tensors of `limit` bytes. What does not
    bear on `rows` (…, p), if they are given, keeps its interval. `seconds`: see `Tightener`; `still`: what does not
    move.
    """
    asked = None if rows is None else influence(program, rows)
    return trace_values(program, l, u, limit, Tightener(program, l, u, seconds, still), within, asked, still)


@METHODS.add("crown")
class Crown:
    """Intermediate boxes of loose entries and rows over the output, all by backward passes."""

    @staticmethod
    def entries(program: Program, rows: int, moving: int, still: Part | None = None) -> int:
        """Entries of the largest coefficient tensor per domain, if every intermediate row is needed."""
        most = rows
        for step in program.steps[1:]:
            for i in step.inputs if isinstance(step.op, Nonlinear) else ():
                if not program.exact[i] and (still is None or still.moves[i]):
                    most = max(most, 2 * size(program.shapes[i]))
        return most * widest(program, still)

    @staticmethod
    def run(
        program: Program,
        l: Tensor,
        u: Tensor,
        rows: Tensor,
        limit: int,
        given: Given = NOTHING,
    ) -> RowBounds:
        trace = crown_trace(program, l, u, limit, given.within, rows, still=given.still)
        return final_rows(trace, rows, limit, given.fine)
