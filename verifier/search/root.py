"""The root of a region's trees: its box bounded as a whole, and the disjuncts that nothing refutes yet.

Rows bounded backward on a trace refute what they can (`Targets.refuted`, with the error of the precision it is in);
boxes of the values between can be had in float64, and entries before jumps be decided one by one (`search.sides`).

Sound: a disjunct leaves `open` only where a bound with its error refutes it on the whole box.

Symbols: K disjuncts of a region, S rows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator

import torch
from torch import Tensor

from verifier.bounds.crown import ALL_SECONDS, crown_trace
from verifier.bounds.final import final_rows
from verifier.bounds.program import Program
from verifier.bounds.targets import Picked, Targets
from verifier.bounds.trace import Trace, known, trace_values
from verifier.events import Deadline
from verifier.search.bab import Parts
from verifier.search.domains import Domains
from verifier.search.nearest import note
from verifier.search.sides import Sides

SHARE = 0.4  # of the time that is left, for boxes of values
FINE_COST = 4.0  # the root in float64 against the root in float32, with something to spare
FINE_SHARE = 0.2  # of the time that is left
SIDES_SHARE = 0.8  # of the time that is left, for entries before jumps: without them nothing below will do
CHECK = 10  # times longer for deciding such entries than for seeing if they suffice


class Root:
    """One region: its box as a domain, `open` (K,) disjuncts."""

    def __init__(self, parts: Parts, fine: Callable[[], tuple[Program, Targets]], deadline: Deadline, box: Domains):
        """`fine`: program and targets in float64. `box`: the region's own, whose `open` is kept up in place."""
        self.parts, self.fine, self.deadline, self.box = parts, fine, deadline, box

    @property
    def open(self) -> Tensor:
        return self.box.open[0]

    def slots(self) -> Tensor:
        """Numbers of the open disjuncts."""
        return torch.nonzero(self.open).squeeze(1)

    def reopen(self, slots: Tensor) -> None:
        """Leaves those disjuncts open that are named."""
        self.open.zero_()
        self.open[slots] = True

    def rows(self, trace: Trace) -> tuple[Picked, Tensor, Tensor]:
        """The rows of open disjuncts, their bounds (1, S) float64 on a trace, and the disjuncts (K,) that these leave
        open.
        """
        targets = self.parts.targets if trace.program is self.parts.program else self.fine()[1]
        picked = targets.pick(self.box.region, self.box.open)
        bounds = final_rows(trace, targets.coef[picked.row], self.parts.limit.rows)
        lb = bounds.lb.double() + picked.const
        open = self.open & ~targets.refuted(picked, lb)[0]
        note(self.parts.near, self.box, picked, bounds, lb, ~open.any()[None])
        return picked, lb, open

    def refute(self, trace: Trace) -> bool:
        """Closes the disjuncts that rows bounded backward on a trace refute; whether any stays open."""
        self.open.copy_(self.rows(trace)[2])
        return bool(self.open.any())

    def bounded(self) -> Trace | None:
        """Bounds the region as a whole; None where that settles it."""
        begin = time.monotonic()
        trace = self._traced(self.parts.program if self.parts.trusted else self.fine()[0])
        if not self.refute(trace):
            return None
        spent = time.monotonic() - begin
        if trace.program.dtype == torch.float32 and FINE_COST * spent < FINE_SHARE * self.deadline.left():
            trace = self._in_float64()
        return trace

    def _traced(self, program: Program) -> Trace:
        asked = self.parts.targets.coef[self.parts.targets.pick(self.box.region, self.box.open).row]
        l, u = self.box.lower.to(program.dtype), self.box.upper.to(program.dtype)
        seconds = min(ALL_SECONDS, SHARE * self.deadline.left())
        return crown_trace(program, l, u, self.parts.limit.rows, None, asked, seconds)

    def _in_float64(self) -> Trace:
        """The boxes anew in float64, where rounding costs nothing: over many layers its charge grows until it hides
        what the network does.
        """
        trace = self._traced(self.fine()[0])
        self.refute(trace)
        p, limit = self.parts.program, self.parts.limit.rows
        return trace_values(p, self.box.lower, self.box.upper, limit, known(trace), None, trace.asked)

    def decided(
        self, sides: Sides, over: Callable[[], bool], tell: Callable[[Sides], None]
    ) -> Generator[None, None, Trace | None]:
        """Decides entries before jumps on the trace of `sides`, if that may settle the region, until it is `over`; None
        where it does, else the trace that is known then. `tell` is told how far it got.
        """
        trace, begin = sides.trace, time.monotonic()
        if not sides.entries or bool(self.rows(sides.drawn(sides.narrowed(sides.entries)))[2].any()):
            return trace
        cost = time.monotonic() - begin
        tell(sides)
        checked, decided = time.monotonic(), 0
        for _ in sides.decide(self.deadline.sooner(SIDES_SHARE * self.deadline.left())):
            if sides.decided > decided and time.monotonic() - checked > CHECK * cost:
                settled = not self.refute(sides.drawn(sides.trace))
                tell(sides)
                if settled:
                    return None
                checked, decided = time.monotonic(), sides.decided
            yield
            if over():
                break
        if not sides.decided:
            return trace
        trace = sides.drawn(sides.trace)
        return trace if self.refute(trace) else None
