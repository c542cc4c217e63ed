"""Planes over the input around every column's value on the whole region, computed when they are first asked for.

    L x + lc <= z_j <= U x + uc        for all x of the region's box, in plain arithmetic: hints for branching

One backward pass each for +z_j and -z_j with the root's lines (as the intermediate boxes were found), many columns in a
batch. A region's domains ask for the same few columns over and over, so what was computed is kept.

Symbols: K columns, M columns asked for, m input dimensions.
"""

from __future__ import annotations

from threading import Lock

import torch
from torch import Tensor

from verifier.bounds.relaxation import Multipliers, Relaxation, Splits, Start
from verifier.bounds.walk import Pass
from verifier.ops.base import size


class RootPlanes:
    """The planes of one region. `of` may be called from several threads."""

    def __init__(self, relaxation: Relaxation, chunk: int):
        """`chunk`: rows of one backward pass."""
        self.r, self.chunk, self.lock = relaxation, max(2, chunk // 2), Lock()
        self.row = torch.full((relaxation.width,), -1, dtype=torch.int64, device=relaxation.alpha.device)
        self.plane = relaxation.alpha.new_zeros((2, 0, relaxation.program.n_in))  # lower, upper
        self.const = relaxation.alpha.new_zeros((2, 0))

    def of(self, columns: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """L (M, m), lc (M,), U (M, m), uc (M,) of columns (M,)."""
        with self.lock:
            missing = torch.unique(columns[self.row[columns] < 0])
            if len(missing):
                self._add(missing)
            at = self.row[columns]
            (low, high), (low_c, high_c) = self.plane[:, at], self.const[:, at]
        return low, low_c, high, high_c

    def _add(self, columns: Tensor) -> None:
        planes, consts, done = [self.plane], [self.const], self.plane.shape[1]
        for site in self.r.sites.values():
            mine = columns[(columns >= site.cut.start) & (columns < site.cut.stop)]
            for part in mine.split(self.chunk) if len(mine) else ():
                entry = part - site.cut.start
                entry = entry if site.index is None else site.index[entry]
                plane, const = self._rows(site.value, entry)
                planes.append(plane)
                consts.append(const)
                self.row[part] = torch.arange(done, done + len(part), device=part.device)
                done += len(part)
        self.plane, self.const = torch.cat(planes, 1), torch.cat(consts, 1)

    def _rows(self, value: int, entry: Tensor) -> tuple[Tensor, Tensor]:
        """Planes (2, k, m) and constants (2, k) of entries (k,) of a value."""
        r, k = self.r, len(entry)
        shape = r.program.shapes[value]
        unit = r.alpha.new_zeros((2 * k, size(shape)))
        rows = torch.arange(k, device=entry.device)
        unit[rows, entry], unit[rows + k, entry] = 1.0, -1.0
        start = Start(value, live={value: unit.reshape(-1, *shape)}, bias=unit.new_zeros(2 * k))
        none = Splits.none(2 * k, r.alpha)
        m = Multipliers(r.alpha.expand(2 * k, -1), r.upper_slopes.expand(2 * k, -1), none.sign, none.sign)
        walk = Pass(r, start, r.lines(none), none)
        walk.backward(m)
        sign = torch.tensor([1.0, -1.0], dtype=unit.dtype, device=unit.device)
        return walk.plane.reshape(2, k, -1) * sign[:, None, None], walk.bias.reshape(2, k) * sign[:, None]
