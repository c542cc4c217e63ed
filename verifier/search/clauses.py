"""Learning from refuted cases: which of its splits refute a case, and what that says about other cases.

Conflict clauses of satisfiability solvers (Marques-Silva & Sakallah, GRASP, 1999), as NeuralSAT (arXiv 2307.10266) and
BICCOS (arXiv 2501.00200) use them for networks. A case is a disjunct and splits sign (z_c - p) >= 0, its literals. A
clause is a disjunct and literals that no counterexample of this disjunct in the region satisfies all of.

`explain` tries to drop splits from cases that were refuted. A split that is dropped takes its multiplier along, and its
neuron's lines go back to its interval without the split, so that the bound changes and must be positive again,
evaluated in float64 with its error (`verifier.bounds.certify`) for the splits that are left. What is evaluated so is
the attempt that drops the most of those that plain arithmetic lets pass; attempts drop splits in the order of what they
seem to lose. With `a` the coefficient at the neuron's output and `beta` the split's multiplier, that is about

    beta max(-l, u)  +  max(-a, 0) (chord(z) - line(z)),      z: the relaxed value of the minimiser, inside [l, u].

`Clauses` keeps what was learned, the shortest where there are too many, and applies it to cases before they are
bounded. A literal (c, sign, p) holds in a case if the case has (c, sign, p') with sign p' >= sign p. A case in which
all literals of a clause hold is refuted. One in which all but (c, sign, p) hold has sign (z_c - p) < 0 wherever there
is a counterexample, hence the split -sign (z_c - p) >= 0 at no cost.

Sound: let x be a counterexample of disjunct k in the region, z its values in real arithmetic. A clause of disjunct k
has a literal that is false at x: its bound was certified for all points of the region where its literals hold,
whichever case they came from; splits that earlier clauses implied are literals like all others. So x is in no case that
`Clauses` drops, since all literals that hold in a case hold at its points; and if x is in a case that gets an implied
split, x satisfies it. By induction every counterexample stays in some open case. Literals speak of values of steps, not
of boxes: a region's clauses survive new boxes (`moved`), where literals that hold on all of a new box are left out and
clauses with one that holds nowhere are dropped.

It stops where it does not pay: explaining goes on as long as the cases dropped and the splits implied so far are worth
the cases explained. Only counts decide.

Symbols: N cases, P splits, A attempts, M clauses, L literals at most, W different ones, K columns, V in use.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from verifier.bounds.certify import Certifier
from verifier.bounds.dual import Optimised
from verifier.bounds.proved import proves_positive, strict_sum
from verifier.bounds.relaxation import Multipliers, Relaxation, Splits, Start
from verifier.bounds.walk import Pass
from verifier.search.cases import Cases

LONGEST = 40  # literals of a clause; longer ones hardly ever apply
SHARES = (4.0, 1.0, 0.4)  # of a refuted case's bound that dropped splits may seem to lose, descending
COST, GRACE = 0.3, 64  # explaining a case against bounding one; cases that may be bounded for nothing
MOST = 2000  # clauses kept
SWEEPS = 8  # implied splits that a case can get at once
CELLS = 1 << 22  # of the largest array that is compared at once
NAMES = ("cases explained", "clauses", "pruned by clauses", "implied splits")


@dataclass
class Learned:
    """Clauses: disjuncts `slot` (M,) and literals; and how many cases were `tried` to be explained."""

    slot: Tensor
    splits: Splits
    tried: int = 0

    @staticmethod
    def none(like: Tensor) -> Learned:
        return Learned(like.new_zeros(0, dtype=torch.int64), Splits.none(0, like))

    @staticmethod
    def join(parts: list[Learned]) -> Learned:
        width = max(p.splits.column.shape[1] for p in parts)
        wide = lambda t, fill=0.0: torch.nn.functional.pad(t, (0, width - t.shape[1]), value=fill)
        return Learned(
            torch.cat([p.slot for p in parts]),
            Splits(
                torch.cat([wide(p.splits.column, -1) for p in parts]),
                torch.cat([wide(p.splits.sign) for p in parts]),
                torch.cat([wide(p.splits.point) for p in parts]),
            ),
            sum(p.tried for p in parts),
        )


def losses(r: Relaxation, splits: Splits, beta: Tensor, coef: Tensor, z: Tensor) -> Tensor:
    """(N, P) about what a bound loses when a split is dropped; infinite where there is none."""
    real, at = splits.column >= 0, splits.column.clamp(min=0)
    l, u = r.lower[at], r.upper[at]
    a, z = coef.gather(1, at), torch.minimum(torch.maximum(z.gather(1, at), l), u)
    line = torch.where(splits.sign > 0, r.right[at], r.left[at]) * z
    gap = torch.where(
        r.is_curve[at] | r.is_factor[at], a.abs() * (u - l), (-a).clamp(min=0) * (r.up_a[at] * z + r.up_b[at] - line)
    )
    loss = beta * torch.maximum(-l, u) + gap.clamp(min=0)
    return torch.where(real, torch.nan_to_num(loss, nan=torch.inf), torch.inf)


def explain(
    r: Relaxation,
    certifier: Certifier,
    rows: tuple[Tensor, Tensor, Tensor],
    slot: Tensor,
    splits: Splits,
    found: Optimised,
    start: Start,
) -> Learned:
    """Clauses with fewer splits than the refuted cases (N,) that they come from. `rows`: coefficients (N, S, p) and
    constants (N, S) in float64, and which of them are strict (N, S); `start`: the same in the working precision.
    `found`: how the cases were refuted.
    """
    keep, count = candidates(r, splits, found)
    owner, attempt = torch.nonzero(count > 0, as_tuple=True)
    tried, keep = len(slot), keep[owner, attempt]
    if not len(owner):
        return Learned(slot[:0], Splits.none(0, splits.point), tried)
    fewer = only(splits.take(owner), keep)
    lines, m = r.lines(fewer), found.multipliers.take(owner)
    m.beta *= keep
    r.project(m, lines)
    hopeful = Pass(r, start.take(owner), lines, fewer).backward(m) > 0
    dropped = count[owner, attempt]
    most = dropped.new_zeros(len(slot)).scatter_reduce(0, owner[hopeful], dropped[hopeful], "amax")
    best = torch.nonzero(hopeful & (dropped == most[owner])).squeeze(1)
    if not len(best):
        return Learned(slot[:0], Splits.none(0, splits.point), tried)
    owner, fewer = owner[best], fewer.take(best)
    proved = refutes(certifier, tuple(t[owner] for t in rows), fewer, m.take(best))
    return Learned(slot[owner[proved]], fewer.take(proved), tried)


def candidates(r: Relaxation, splits: Splits, found: Optimised) -> tuple[Tensor, Tensor]:
    """Splits to be kept (N, A, P) in A attempts, and how many are dropped (N, A); 0 where an attempt drops none, or no
    more than the next one does.
    """
    loss = losses(r, splits, found.multipliers.beta, found.coef, found.z)
    order = loss.sort(dim=1)
    rank, total = order.indices.argsort(dim=1), order.values.cumsum(1)
    may = torch.stack([total <= share * found.lb.unsqueeze(1) for share in SHARES], 1)  # (N, A, P)
    count = may.sum(2)
    keep = (rank.unsqueeze(1) >= count.unsqueeze(2)) & (splits.column >= 0).unsqueeze(1)
    lower = torch.nn.functional.pad(count[:, 1:], (0, 1))
    return keep, torch.where(count > lower, count, 0)


def only(splits: Splits, keep: Tensor) -> Splits:
    """The splits (N, P) in `keep` (N, P)."""
    return Splits(torch.where(keep, splits.column, -1), splits.sign * keep, splits.point * keep)


def refutes(certifier: Certifier, rows: tuple[Tensor, Tensor, Tensor], splits: Splits, m: Multipliers) -> Tensor:
    """Whether multipliers refute the cases (N,) with these splits, in float64 with its error; `rows` as `explain`'s."""
    coef, const, strict = rows
    return proves_positive(certifier.bounds(coef, const, splits, m), strict_sum(strict, m.weights))


class Clauses:
    """The clauses of one region. `key` (M, L): 2 column + (sign > 0), `bar` (M, L): sign point; -1 and -inf where there
    are fewer literals. The W different literals are `names` (W,), keys, and `bars` (W,) in order; `place` (M, L) is
    where they are there, W where there are fewer. `columns` (V,): those in use, `at` (W,): where the literals' are.
    """

    def __init__(self, stats: dict[str, float], most: int = MOST):
        self.stats, self.most = stats, most
        self.slot = self.key = self.bar = None
        stats |= {name: stats.get(name, 0) for name in NAMES}

    def pay(self) -> bool:
        """Whether explaining has saved what it cost: a case dropped, or a split not made, saves bounding a case."""
        s = self.stats
        return COST * s["cases explained"] <= GRACE + s["pruned by clauses"] + s["implied splits"]

    def __len__(self) -> int:
        return 0 if self.slot is None else len(self.slot)

    def add(self, learned: Learned) -> None:
        """Keeps what is not known yet."""
        self.stats["cases explained"] += learned.tried
        mine = (learned.splits.column >= 0).sum(1) <= LONGEST
        if len(self) and len(mine):
            mine &= ~self.judge(learned.slot, learned.splits)[0]
        if not bool(mine.any()):
            return
        slot, (key, bar) = learned.slot[mine], literals(learned.splits.take(mine))
        key, bar = strictest_only(*(t[:, :LONGEST] for t in _real_first(key, bar)))
        self.stats["clauses"] += len(slot)
        if len(self):
            width = max(key.shape[1], self.key.shape[1])
            slot = torch.cat([self.slot, slot])
            key = torch.cat([_wide(self.key, width, -1), _wide(key, width, -1)])
            bar = torch.cat([_wide(self.bar, width, -torch.inf), _wide(bar, width, -torch.inf)])
        self.slot, self.key, self.bar = slot, key, bar
        self._tidy()

    def moved(self, old: Relaxation, new: Relaxation) -> None:
        """Takes the clauses to new boxes of the same region, whose columns are others."""
        if not len(self):
            return
        _, there, low, high = old.moved(new)  # columns that speak for others are split
        real, column, up = self.key >= 0, self.key.clamp(min=0) >> 1, (self.key & 1).bool()
        sure = torch.where(up, low[column], -high[column]) >= self.bar  # holds on all of the box
        never = torch.where(up, high[column], -low[column]) < self.bar
        lost = real & ~sure & (there[column] < 0)  # cannot be said in the new columns
        good = ~(real & (never & ~sure | lost)).any(1)
        key = torch.where(real & ~sure, 2 * there[column] + (self.key & 1), -1)
        bar = torch.where(key >= 0, self.bar, -torch.inf)
        self.slot, self.key, self.bar = self.slot[good], key[good], bar[good]
        self._tidy()

    def _tidy(self) -> None:
        """The shortest clauses, without columns that none of them needs."""
        (key, bar), length = _real_first(self.key, self.bar), (self.key >= 0).sum(1)
        order = torch.argsort(length, stable=True)[: self.most]
        longest = max(1, int(length[order].max())) if len(order) else 1
        self.slot, self.key, self.bar = self.slot[order], key[order, :longest], bar[order, :longest]
        self._name()

    def _name(self) -> None:
        """Numbers the different literals."""
        real = (self.key >= 0).flatten()
        key, bar = self.key.flatten()[real], self.bar.flatten()[real]
        order = torch.argsort(bar, stable=True)
        order = order[torch.argsort(key[order], stable=True)]
        key, bar = key[order], bar[order]
        new = torch.ones_like(key, dtype=torch.bool)
        new[1:] = (key[1:] != key[:-1]) | (bar[1:] != bar[:-1])
        self.names, self.bars = key[new], bar[new]
        self.columns, self.at = torch.unique(self.names >> 1, return_inverse=True)
        place = torch.full_like(real, len(self.names), dtype=torch.int64)
        place[torch.nonzero(real).squeeze(1)[order]] = torch.cumsum(new, 0) - 1
        self.place = place.reshape(self.key.shape)

    def reduce(self, cases: Cases) -> Cases:
        """The cases that no clause refutes, with the splits that clauses imply."""
        if not len(self) or not len(cases):
            return cases
        step = max(1, CELLS // max(len(self), len(self.names)))
        parts = [self._reduce(cases.take(slice(at, at + step))) for at in range(0, len(cases), step)]
        return Cases.join(parts)

    def _reduce(self, cases: Cases) -> Cases:
        done, left = [], cases
        for sweep in range(SWEEPS + 1):
            refuted, unit = self.judge(left.slot, left.splits)
            self.stats["pruned by clauses"] += int(refuted.sum())
            more = (unit >= 0) & ~refuted & (sweep < SWEEPS)
            done.append(left.take(~refuted & ~more))
            if not bool(more.any()):
                break
            left = self._implied(left.take(more), unit[more])
        return Cases.join(done)

    def judge(self, slot: Tensor, splits: Splits) -> tuple[Tensor, Tensor]:
        """Which cases (N,) a clause refutes; and a literal (N,), as its place in `names`, whose negation clauses imply
        and the case's splits do not; -1 for none.
        """
        strict = strictest(splits, self.columns).t()  # (2V, N)
        pair, bars = 2 * self.at + (self.names & 1), self.bars.unsqueeze(1)
        held, against = strict[pair] >= bars, strict[pair ^ 1] >= -bars  # (W, N)
        # How far a clause is from refuting the case; a literal whose negation holds already has nothing left to imply.
        lacks = torch.where(held, 0.0, torch.where(against, 2.0, 1.0))
        lacks = torch.nn.functional.pad(lacks, (0, 0, 0, 1))  # the last stands where clauses have no more
        lack = torch.nn.functional.embedding_bag(self.place, lacks, mode="sum")
        mine = self.slot.unsqueeze(1) == slot
        refuted = ((lack == 0) & mine).any(0)
        unit = (lack == 1) & mine
        clause, case = unit.to(torch.uint8).argmax(0), torch.arange(len(slot), device=slot.device)
        which = self.place[clause]
        name = which.gather(1, lacks[which, case.unsqueeze(1)].argmax(1, keepdim=True)).squeeze(1)
        return refuted, torch.where(unit.any(0), name, -1)

    def _implied(self, cases: Cases, unit: Tensor) -> Cases:
        """The cases with the negations of literals `unit` (N,), places in `names`, as further splits."""
        self.stats["implied splits"] += len(cases)
        key, bar = self.names[unit].unsqueeze(1), self.bars[unit].unsqueeze(1)
        count = (cases.column >= 0).sum(1, keepdim=True)
        wide = cases.padded(int(count.max()) + 1)
        sign = 1.0 - 2.0 * (key & 1)  # the literal's own is the opposite
        new = Cases(**wide.__dict__)
        free = (wide.column < 0).to(torch.uint8).argmax(1, keepdim=True)
        new.column = wide.column.scatter(1, free, key >> 1)
        new.sign = wide.sign.scatter(1, free, sign.to(wide.sign.dtype))
        new.point = wide.point.scatter(1, free, -sign.to(bar.dtype) * bar)
        new.beta = wide.beta.scatter(1, free, torch.zeros_like(bar).to(wide.beta.dtype))
        return new


def literals(splits: Splits) -> tuple[Tensor, Tensor]:
    """Splits (N, P) as keys 2 column + (sign > 0) and bars sign point; -1 and -inf where there are fewer."""
    real = splits.column >= 0
    key = torch.where(real, 2 * splits.column + (splits.sign > 0), -1)
    return key, torch.where(real, splits.sign * splits.point, -torch.inf)


def strictest_only(key: Tensor, bar: Tensor) -> tuple[Tensor, Tensor]:
    """Literals (M, L) without those that others of the same clause imply."""
    same = (key.unsqueeze(2) == key.unsqueeze(1)) & (key >= 0).unsqueeze(2)  # (M, L, L)
    here, there = bar.unsqueeze(2), bar.unsqueeze(1)
    earlier = torch.ones_like(same[0]).tril(-1)
    idle = (same & ((there > here) | ((there == here) & earlier))).any(2)
    return torch.where(idle, -1, key), torch.where(idle, -torch.inf, bar)


def strictest(splits: Splits, columns: Tensor) -> Tensor:
    """(N, 2V) the greatest sign point of splits at each of the sorted columns (V,), those of sign < 0 before those of
    sign > 0; -inf where there is none.
    """
    key, bar = literals(splits)
    if not len(columns):  # empty clauses only
        return bar.new_zeros((len(key), 0))
    at = torch.searchsorted(columns, key.clamp(min=0) >> 1).clamp(max=len(columns) - 1)
    bar = torch.where((columns[at] == key >> 1) & (key >= 0), bar, -torch.inf)
    strict = bar.new_full((len(key), 2 * len(columns)), -torch.inf)
    return strict.scatter_reduce(1, 2 * at + (key & 1), bar, "amax")


def _real_first(key: Tensor, bar: Tensor) -> tuple[Tensor, Tensor]:
    order = torch.argsort((key < 0).to(torch.uint8), dim=1, stable=True)
    return key.gather(1, order), bar.gather(1, order)


def _wide(t: Tensor, width: int, fill: float) -> Tensor:
    return torch.nn.functional.pad(t, (0, width - t.shape[1]), value=fill)
