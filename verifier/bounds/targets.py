"""The property's rows on the device: what must be bounded for which domain, and what a point satisfies.

A region has disjuncts (slots 0 … K_r - 1), a disjunct has rows `coef[row] @ y + const <= 0` (< 0 where `strict`).
Tables are padded to the longest region. Symbols: R regions, S rows of a region, K slots, U distinct coefficient rows,
p outputs, D domains, N points.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from verifier.bounds.proved import proves_positive
from verifier.ops.base import gamma
from verifier.problem import Problem
from verifier.rowtables import Coefficients

MOST_DENSE = 1 << 24  # numbers of all rows, beyond which they are made dense a few at a time

TINY = 1e-300  # what a row that must be < 0 lacks at 0


@dataclass(frozen=True)
class Picked:
    """Rows chosen for D domains, padded: `row` (D, S) indices into coef (0 where padded), const float64, slot, `real`
    bool (not padding), and `strict` bool (< 0 in place of <= 0).
    """

    row: Tensor
    const: Tensor
    slot: Tensor
    real: Tensor
    strict: Tensor

    def at(self, index: Tensor) -> Picked:
        """Those of the domains at an index."""
        return Picked(*(getattr(self, f.name)[index] for f in fields(self)))


class RowTable:
    """U distinct rows of coefficients over p entries, in a precision, by their terms; `dense` (U, p) as well where that
    is not too large.
    """

    def __init__(self, rows: Coefficients, dtype: torch.dtype, device: torch.device | str):
        exact = torch.from_numpy(rows.value)
        # A coefficient that underflows stays there: rows are told apart by which entries they read.
        lost = (exact.to(dtype) == 0) & (exact != 0)
        self.value = torch.where(lost, exact.sign() * torch.finfo(dtype).tiny, exact).to(device, dtype)
        self.start, self.column = (torch.from_numpy(t).to(device) for t in (rows.start, rows.column))
        self.length = self.start.diff()
        self.owner = torch.repeat_interleave(torch.arange(len(rows), device=self.start.device), self.length)
        self.shape, self.dtype, self.dense = rows.shape, dtype, None
        if len(rows) * rows.width <= MOST_DENSE:
            self.dense = self[torch.arange(len(rows), device=self.start.device)]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Tensor) -> Tensor:
        """Rows (…, p) at an index (…)."""
        if self.dense is not None:
            return self.dense[index]
        flat = index.reshape(-1)
        length = self.length[flat]
        owner = torch.repeat_interleave(torch.arange(len(flat), device=flat.device), length)
        term = torch.arange(len(owner), device=flat.device) + (self.start[flat] - length.cumsum(0) + length)[owner]
        rows = torch.zeros((len(flat), self.shape[1]), dtype=self.dtype, device=flat.device)
        rows[owner, self.column[term]] = self.value[term]
        return rows.reshape(*index.shape, self.shape[1])

    def times(self, y: Tensor) -> Tensor:
        """All rows at points y (N, p): (N, U). Differentiable in y."""
        return y @ self.dense.T if self.dense is not None else self._sums(y[:, self.column] * self.value)

    def read(self, entries: Tensor) -> Tensor:
        """Which rows (N, U) bool read one of the entries (N, p) bool."""
        return self._sums(entries[:, self.column].to(self.dtype)) > 0

    def from_box(self, l: Tensor, u: Tensor) -> Tensor:
        """Lower bounds (N, U) of all rows over boxes l, u (N, p), rounded down, -inf where nothing is known: as
        `rows_from_box`, which says why a row that is an entry is not charged.
        """
        ends = torch.where(self.value > 0, l[:, self.column], u[:, self.column])
        low, mass = self._sums(ends * self.value), self._sums(ends.abs() * self.value.abs())
        terms = int(self.length.max()) if len(self) else 0
        charge = 2 * gamma(terms + 4, self.dtype) * mass + 4 * torch.finfo(self.dtype).tiny * (terms + 1)
        weight = self._sums(self.value.abs().unsqueeze(0))
        plain = (self.length <= 1) & ((weight == 0) | (weight == 1))
        low = torch.where(plain, low, low - charge)
        return torch.where(torch.isfinite(low), low, -torch.inf)

    def _sums(self, terms: Tensor) -> Tensor:
        """Terms (N, T) added up row by row: (N, U)."""
        return terms.new_zeros((len(terms), len(self))).index_add(1, self.owner, terms)


class Targets:
    """The tables of a `Problem` as tensors; `coef` in the working precision, constants in float64."""

    def __init__(self, problem: Problem, dtype: torch.dtype, device: torch.device | str):
        self.coef = RowTable(problem.coef, dtype, device)
        self.row = torch.from_numpy(problem.row).to(device)
        self.const = torch.from_numpy(problem.const).to(device)
        self.strict = torch.from_numpy(problem.strict).to(device)
        self.slot = torch.from_numpy(problem.slot).to(device)
        self.slots = torch.from_numpy(problem.slots).to(device)
        self.n_slots = int(problem.slots.max()) if len(problem.slots) else 0

    def start(self, region: Tensor) -> Tensor:
        """The open disjuncts (D, K) of fresh domains: all that the region has."""
        return torch.arange(self.n_slots, device=region.device) < self.slots[region].unsqueeze(1)

    def pick(self, region: Tensor, open: Tensor) -> Picked:
        """The rows of the open disjuncts (D, K) of domains in the given regions (D,)."""
        row, slot = self.row[region], self.slot[region]
        wanted = (row >= 0) & open.gather(1, slot)
        most = max(1, int(wanted.sum(1).max())) if wanted.numel() else 1
        if row.shape[1] == 0:
            pad = region.new_zeros((len(region), 1))
            return Picked(pad, pad.double(), pad, pad.bool(), pad.bool())
        index = torch.topk(
            wanted.to(torch.uint8) if wanted.device.type == "cpu" else wanted.float(), most, dim=1
        ).indices
        real = wanted.gather(1, index)
        const, strict = (t[region].gather(1, index) for t in (self.const, self.strict))
        return Picked(row.gather(1, index).clamp(min=0), const, slot.gather(1, index), real, strict)

    def refuted(self, picked: Picked, lb: Tensor) -> Tensor:
        """Disjuncts (D, K) with a row whose sound bound lb (D, S) float64 proves it positive (`proves_positive`)."""
        proved = picked.real & proves_positive(lb, picked.strict)
        hit = torch.zeros((len(lb), self.n_slots), dtype=torch.uint8, device=lb.device)
        return hit.scatter_reduce_(1, picked.slot, proved.to(torch.uint8), "amax", include_self=True).bool()

    def values(self, y: Tensor, region: Tensor) -> Tensor:
        """For points y (N, p) in regions (N,): the largest row of every disjunct (N, K), float64; a disjunct holds
        where it is <= 0. A strict row that is 0 counts as a little more.

        Slots that the region lacks are +inf; NaN counts as +inf.
        """
        worst = torch.full((len(y), self.n_slots), -float("inf"), dtype=torch.float64, device=y.device)
        if self.row.shape[1]:
            row, slot = self.row[region], self.slot[region]
            value = self.apply(y, row.clamp(min=0)).double() + self.const[region]
            value = torch.where((value == 0) & self.strict[region], TINY, value)
            value = torch.where(row >= 0, torch.nan_to_num(value, nan=float("inf")), -float("inf"))
            worst = worst.scatter_reduce(1, slot, value, "amax", include_self=True)
        return torch.where(self.start(region), worst, float("inf"))

    def apply(self, y: Tensor, row: Tensor) -> Tensor:
        """coef[row] @ y for points y (N, p) and indices row (N, S): (N, S). Differentiable in y. Entries of y that are
        not finite make NaN of the rows that read them, and of no others.
        """
        y = y.to(self.coef.dtype)  # a model may end in integers or truth values
        finite = torch.isfinite(y)
        if not bool(finite.all()):
            lost = self.coef.read(~finite).gather(1, row)
            return torch.where(lost, torch.nan, self.apply(torch.where(finite, y, 0.0), row))
        if self.coef.dense is None or len(self.coef) <= 8 * row.shape[1]:
            # One product for all distinct rows costs less than gathering a copy of the rows for every point.
            return self.coef.times(y).gather(1, row)
        return torch.einsum("np,nsp->ns", y, self.coef[row])


def best_rows(picked: Picked, lb: Tensor, open: Tensor) -> tuple[Tensor, Tensor]:
    """For domains with open disjuncts: the score (D,), least over them of the best row's bound, and the row (D,) that
    it belongs to.
    """
    lb = torch.where(picked.real & torch.isfinite(lb), lb, -float("inf"))
    best = torch.full(open.shape, -float("inf"), dtype=lb.dtype, device=lb.device)
    best = best.scatter_reduce(1, picked.slot, lb, "amax", include_self=True)
    score = torch.where(open, best, float("inf")).amin(1)
    speaks = picked.real & (lb >= best.gather(1, picked.slot)) & (best.gather(1, picked.slot) == score.unsqueeze(1))
    return score, speaks.to(torch.uint8).argmax(1)
