"""Decides on which side of a jump the entries of a value lie, each by a search of its own.

Where a network counts (pixels that keep their class, detections above a threshold), the output is a sum of steps of a
value v. Lines through a jump are all but flat, so no slope leads from the output to the neurons below, and one entry of
v that stays open costs as much as all of them would: what helps is to decide entries. An entry v_e depends on a window
of the network alone (`verifier.net.window`), so it gets a small branch and bound over the neurons there, with the
bounds that the root found for them. Those nearest to their side come first; those that a few domains do not decide
wait, and get more domains when all others have had their turn. No more is decided than the property needs: now and then
the rows are bounded anew, and before anything is tried, as if all entries were decided.

Why it is sound. For all inputs of the region the values in the window lie in the root's boxes, and so does the small
network's input. The row side (v_e - t) - margin, t where the jump is, is pushed back through the affine steps down to
the output of the last nonlinear one in float64, with its rounding charged (`verifier.bounds.backward`); over that
output it is a row of the small network. Its search splits at z_j <= 0 and z_j >= 0, which cover all, and drops a case
when its bound, evaluated in float64 with its error, is positive. With none left the row is positive throughout: v_e is
beyond t by the margin, and its box ends there, rounded outward. What a small search leaves open changes nothing.

Symbols: v (1, *shape) of one region; e a flat entry of it; p entries of the small network's output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from verifier.bounds.backward import rows_at, step_back
from verifier.bounds.dual import Settings
from verifier.bounds.fine import in_float64, usable
from verifier.bounds.interval import outward
from verifier.bounds.program import Program
from verifier.bounds.trace import Tighten, Trace, known, trace_values
from verifier.events import Deadline
from verifier.net.window import Small, Window, cut_down, is_image
from verifier.ops.base import Joint, Nonlinear
from verifier.search.bounder import Bounder
from verifier.search.cases import Cases, roots, split

BUDGETS = (40, 256, 2048)  # domains that an entry may cost, turn after turn
MARGIN = 1e-6  # of an entry's size, by which it is to be beyond the jump
ROUNDING = 1e-12  # relative: what adding up a constant of a few float64 numbers may lose
STRANGE = 4  # entries for which there is no small network, from which there is none for the others either
BATCH = 32  # cases of an entry that are split together
CLIPPING = 256  # domains from which clipping is worth the trials that it takes to see if it pays
LEVELS = 4  # of splits at once, while cases are few
PREFERRED = 6
FIRST = Settings(steps=8, alpha_rate=0.5, decay=0.92, patience=6)
LATER = Settings(steps=8, alpha_rate=0.2, beta_rate=0.4, decay=0.9, patience=10)

Make = Callable[[Trace, tuple[Tensor, Tensor, Tensor, Tensor], Program, bool], Bounder]


@dataclass
class Entry:
    """A flat entry, the side of the jump to show (1 or -1), and how far its row was from it when last bounded."""

    at: int
    side: int
    gap: float


class Sides:
    """The open entries before the jumps of one region's network. `trace`: of the region, its box of the value `value`
    narrowed with every entry that is decided.
    """

    def __init__(self, trace: Trace, fine: Program, make: Make, limit: int):
        """`fine`: the program in float64. `make`: a bounder of a small network's trace, rows, program in float64, and
        whether it may clip.
        """
        self.trace, self.fine, self.make, self.limit = trace, fine, make, limit
        self.program = trace.program
        self.value, self.places = _jump(trace)
        self.entries: list[Entry] = []  # in the next turn
        self.waiting: list[Entry] = []  # in this one, the last one next
        self.decided = self.domains = self.strange = 0  # strange: those for which there is no small network
        self.small: dict[tuple, tuple[Program, Program]] = {}
        if self.value is None or not (usable(trace.program) or trace.program.dtype == torch.float64):
            return
        l, u = (t.reshape(-1).double() for t in trace.boxes[self.value])
        place = self.places.reshape(-1).double()
        open = (l <= place) & (u >= place) & (l < u) & torch.isfinite(l) & torch.isfinite(u)
        if self.value in trace.asked:
            open &= trace.asked[self.value]
        beyond = (_middle(trace, self.value).double() > place).tolist()  # the only side that could be shown
        below, above = (place - l).tolist(), (u - place).tolist()
        for e in torch.nonzero(open).flatten().tolist():
            self.entries.append(Entry(e, 1, below[e]) if beyond[e] else Entry(e, -1, above[e]))

    def __len__(self) -> int:
        """How many entries are open."""
        return len(self.entries) + len(self.waiting)

    def narrowed(self, entries: list[Entry]) -> Trace:
        """The trace with the value's box as it were, had all these entries been decided; later values are not yet drawn
        from that.
        """
        l, u = (t.clone().reshape(-1) for t in self.trace.boxes[self.value])
        for n in entries:
            end = outward(self._end(n), l.dtype, -n.side)
            if n.side > 0:
                l[n.at] = torch.maximum(l[n.at], end)
            else:
                u[n.at] = torch.minimum(u[n.at], end)
        boxes, shape = list(self.trace.boxes), self.trace.boxes[self.value][0].shape
        boxes[self.value] = (l.reshape(shape), u.reshape(shape))
        return replace(self.trace, boxes=boxes)

    def drawn(self, trace: Trace) -> Trace:
        """The trace of the region with all later values drawn from what is known."""
        return trace_values(self.program, *trace.boxes[0], self.limit, known(trace), None, trace.asked)

    def decide(self, until: Deadline) -> Iterator[None]:
        """Decides one entry after the other; whoever drives it may pause it between two, or leave it."""
        self.deep, self.until = in_float64(self.trace, self.fine), until
        for budget in BUDGETS:
            self.entries.sort(key=lambda n: n.gap)
            self.waiting, self.entries = self.entries[::-1], []
            while self.waiting:
                if until.passed() or self.strange >= STRANGE:
                    return
                n = self.waiting.pop()
                if self._proved(n, budget):
                    self.trace = self.narrowed([n])
                    self.decided += 1
                elif n.gap < float("inf"):
                    self.entries.append(n)
                yield

    def _size(self, n: Entry) -> float:
        l, u = (float(t.reshape(-1)[n.at]) for t in self.trace.boxes[self.value])
        return max(abs(l), abs(u))

    def _end(self, n: Entry) -> Tensor:
        """Where the entry's box ends once it is decided: beyond the jump by the margin."""
        place = self.places.reshape(-1)[n.at].double()
        return place + n.side * MARGIN * self._size(n)

    # --- one entry

    @torch.no_grad()
    def _proved(self, n: Entry, budget: int) -> bool:
        """Whether the entry is beyond the jump, on its side, by the margin; at most about `budget` domains are bounded.
        If not, its gap tells how far the worst of them is from that, infinite if there is no use in trying again.
        """
        bounder = self._bounder(n, budget >= CLIPPING)
        if bounder is None:
            n.gap = float("inf")
            self.strange += 1
            return False
        cases, spent, settings = _first(bounder), 0, FIRST
        waiting = None
        while True:
            bounded = bounder.bound(cases, settings, PREFERRED)
            spent += len(cases)
            self.domains += len(cases)
            left = [c for c in (bounded.kept, waiting) if c is not None and len(c)]
            if not left:
                return True
            waiting = Cases.join(left)
            n.gap = -float(waiting.score.min())
            if bool((waiting.prefer[:, 0] < 0).any()):  # a case that no split helps
                n.gap = float("inf")
                return False
            if spent >= budget or self.until.passed():
                return False
            order = waiting.score.argsort()
            parents, waiting = waiting.take(order[:BATCH]), waiting.take(order[BATCH:])
            cases, settings = split(parents, LEVELS if len(parents) == 1 else 1), LATER

    def _bounder(self, n: Entry, clip: bool) -> Bounder | None:
        """The small network that the entry depends on, bound and ready; None where there is none."""
        deep = self.deep
        at = torch.tensor([n.at], device=self.places.device)
        rows, k = rows_at(deep, self.value, at, torch.full_like(at, n.side, dtype=deep.boxes[0][0].dtype))
        while k and not (k in rows.live and isinstance(self.program.steps[k].op, Nonlinear)):
            if k in rows.live:
                step_back(deep, k, rows, 1)
            k -= 1
        step = self.program.steps[k]
        if not k or len(rows.live) != 1 or isinstance(step.op, Joint) or not is_image(self.program.shapes[k]):
            return None
        a = rows.live[k][0, 0]  # (C, H, W)
        some = torch.nonzero((a != 0).any(0))
        if not len(some):
            return None
        (top, left), (bottom, right) = some.amin(0).tolist(), some.amax(0).tolist()
        window = (top, bottom + 1, left, right + 1)
        small = cut_down(self.program.network, step.node.name, window)
        if small is None:
            return None
        program, fine = self._bound(small)
        trace = self._traced(small, program)
        row = a[:, top : bottom + 1, left : right + 1].reshape(1, 1, -1)
        parts = rows.bias[0], n.side * self._end(n)
        charge = 1.01 * rows.charge[0] + deep.underflow + ROUNDING * sum(t.abs() for t in parts)
        const = (parts[0] - parts[1] - charge).view(1, 1)
        return self.make(
            trace, (row.to(program.dtype), row, const, torch.zeros_like(const, dtype=torch.bool)), fine, clip
        )

    def _bound(self, small: Small) -> tuple[Program, Program]:
        """The small network's programs; most windows have the same."""
        nodes = small.network.nodes
        key = tuple((n.name, n.inputs, n.shape, str(n.attrs.get("pads")), str(n.attrs.get("starts"))) for n in nodes)
        if key not in self.small:
            p = self.program
            self.small[key] = Program(small.network, p.dtype, p.device), Program(small.network, torch.float64, p.device)
        return self.small[key]

    def _traced(self, small: Small, program: Program) -> Trace:
        """The small network's trace over the box of its input, within the boxes that its values have in the large
        one's.
        """
        place = {s.node.name: k for k, s in enumerate(self.program.steps) if k}
        windows = {k: window for k, window in small.windows.items() if k in place}
        boxes = {k: [_part(t, w) for t in self.trace.boxes[place[k]]] for k, w in windows.items()}
        l, u = (t.reshape(1, -1) for t in boxes[small.bottom])
        return trace_values(program, l, u, self.limit, _within(boxes))


def _first(bounder: Bounder) -> Cases:
    """The case without splits of a bounder with one row."""
    alpha = bounder.relaxation.alpha
    slot = torch.zeros(1, dtype=torch.int64, device=alpha.device)
    return roots(bounder.relaxation, slot, alpha.new_ones((1, 1)), PREFERRED)


def _jump(trace: Trace) -> tuple[int | None, Tensor | None]:
    """The last value that is read by a step with one jump, and where that is; None where there is no such value."""
    for step in reversed(trace.program.steps[1:]):
        if isinstance(step.op, Nonlinear) and len(step.inputs) == 1 and not trace.program.exact[step.inputs[0]]:
            places = step.op.jump()
            if places is not None:
                return step.inputs[0], places
    return None, None


def _middle(trace: Trace, value: int) -> Tensor:
    """A value (flat) at the middle of the region."""
    l, u = trace.boxes[0]
    found, steps = {0: l + (u - l) / 2}, trace.program.steps
    for k in range(1, value + 1):
        found[k] = steps[k].run(*(found[i] for i in steps[k].inputs))
    return found[value].to(l.dtype).reshape(-1)


def _part(box: Tensor, window: Window) -> Tensor:
    """The window of an image's ends (1, 1, C, H, W)."""
    return box[..., window[0] : window[1], window[2] : window[3]].contiguous()


def _within(boxes: dict[str, list[Tensor]]) -> Tighten:
    """A `tighten` that takes boxes of values by their names."""

    def tighten(trace: Trace, value: int, loose: Tensor, limit: int) -> None:
        mine = boxes.get(trace.program.steps[value].node.name)
        if mine is None:
            return
        (l, u), (old_l, old_u) = trace.boxes[value], mine
        low, high = torch.maximum(l, old_l), torch.minimum(u, old_u)
        crossed = low > high  # only rounding can make two valid boxes cross
        trace.boxes[value] = (torch.where(crossed, l, low), torch.where(crossed, u, high))
        trace.sizes.pop(value, None)

    return tighten
