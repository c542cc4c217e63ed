"""Planes over the input around every column's value on the whole region, computed when they are first asked for.

    L (x - c) + lc  <=  z_j  <=  U (x - c) + uc        for all x of the region's box, c its middle

Where the root's boxes were optimised, the planes that bounded them best are at hand (`Trace.planes`). For other columns
one backward pass each is made for +z_j and -z_j with the root's lines, many columns in a batch. A region's domains ask
for the same columns over and over, so what was computed is kept, as far as memory goes.

Sound: rows are pushed back by `verifier.bounds.backward` in the certifier's precision, on boxes and lines that hold on
all of the region; their rounding is charged, and `verifier.clip.centred.Middle` charges what their move to the middle
and their rounding to the working precision cost. So the planes hold in real arithmetic. Where there is no room for
planes, or they are not finite, the column's interval stands for them: L = U = 0.

Symbols: K columns, M columns asked for, n input dimensions that move.
"""

from __future__ import annotations

from threading import Lock

import torch
from torch import Tensor

from verifier.bounds.backward import backward, seed
from verifier.bounds.certify import Certifier
from verifier.bounds.factors import Factor
from verifier.bounds.relaxation import Relaxation, Site
from verifier.clip.centred import Forms, Middle
from verifier.ops.base import size

ROOM = 512 << 20  # bytes of all planes of a region


class ColumnPlanes:
    """The planes of one region, about the `middle` of its box. `of` may be called from several threads."""

    def __init__(self, relaxation: Relaxation, certifier: Certifier, chunk: int):
        """`chunk`: columns of one backward pass."""
        self.relaxation, self.certifier, self.chunk, self.lock = relaxation, certifier, max(1, chunk // 2), Lock()
        trace = relaxation.trace
        self.middle = Middle(*(t[0] for t in trace.boxes[0]))
        self.most = ROOM // (2 * max(1, len(self.middle.r)) * trace.boxes[0][0].element_size())
        self.row = torch.full(
            (relaxation.width,), -1, dtype=torch.int64, device=self.middle.r.device
        )  # -1: not asked for yet
        self.held, self.count = self._room(1), 1  # the first is nothing's: of columns for which there is no room
        for site in relaxation.readers:
            for entries, found in trace.planes.get(site.value, ()):
                self._keep(*self._columns(site, entries, found))

    def _room(self, columns: int) -> Forms:
        like = self.relaxation.lower
        wide = torch.zeros((columns, 2), dtype=torch.float64, device=like.device)
        return Forms(like.new_zeros((columns, 2, len(self.middle.r))), wide, wide.clone())

    def of(self, columns: Tensor) -> Forms:
        """Forms (M, 2) of z_j and of -z_j for columns j (M,)."""
        with self.lock:
            missing = torch.unique(columns[self.row[columns] == -1])
            if len(missing):
                self._add(missing)
            held, row = self.held, self.row[columns]
        r = self.relaxation
        interval = torch.stack([r.lower[columns], -r.upper[columns]], 1).double()
        return Forms(held.a[row], torch.where((row > 0).unsqueeze(1), held.mid[row], interval), held.reach[row])

    def _columns(self, site: Site | Factor, entries: Tensor, found: Forms) -> tuple[Tensor, Forms]:
        """The columns of a reader of entries (k,) of its value, with their forms."""
        if site.index is None:
            return entries + site.cut.start, found
        count = size(self.relaxation.program.shapes[site.value])
        place = torch.full((count,), -1, dtype=torch.int64, device=entries.device)
        place[site.index] = torch.arange(site.cut.start, site.cut.stop, device=entries.device)
        mine = place[entries] >= 0
        return place[entries][mine], found.at(mine)

    def _add(self, columns: Tensor) -> None:
        room = max(0, self.most - self.count)
        self.row[columns[room:]] = 0
        columns = columns[:room]
        for site in self.relaxation.readers:
            mine = columns[(columns >= site.cut.start) & (columns < site.cut.stop)]
            for part in mine.split(self.chunk) if len(mine) else ():
                entry = part - site.cut.start
                self._keep(part, self._rows(site.value, entry if site.index is None else site.index[entry]))

    def _keep(self, columns: Tensor, found: Forms) -> None:
        """Keeps forms (M, 2) of columns (M,), as far as there is room."""
        good = torch.isfinite(found.mid).all(1) & torch.isfinite(found.reach).all(1)
        good &= good.cumsum(0) <= self.most - self.count
        end = self.count + int(good.sum())
        if end > len(self.held.a):
            larger = self._room(min(self.most, max(2 * len(self.held.a), end)))
            for new, old in zip(larger, self.held):
                new[: self.count] = old[: self.count]
            self.held = larger
        for new, rows in zip(self.held, found):
            new[self.count : end] = rows[good]
        self.row[columns] = torch.where(good, self.count - 1 + good.cumsum(0), 0)
        self.count = end

    def _rows(self, value: int, entry: Tensor) -> Forms:
        """Forms (k, 2) of entries (k,) of a value, and of the same negated."""
        base = self.certifier.base
        rows, top = seed(base, value, entry.unsqueeze(0))
        plane, bias, charge = backward(base, top, rows, 2 * len(entry))
        found = self.middle.forms(plane[0], (bias - charge)[0])
        return Forms(*(t.unflatten(0, (2, len(entry))).transpose(0, 1) for t in found))
