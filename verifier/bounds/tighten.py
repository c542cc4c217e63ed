"""Tighter boxes of intermediate values at the root: the rows of unstable neurons, optimised for their own bounds.

The same optimiser that bounds the property's rows (`verifier.bounds.dual`) raises the lower bounds of +z_e and -z_e for
every entry e that a nonlinear step reads where it is loose. Values are taken in order, so later rows see the tighter
lines of earlier ones. A row whose bound passes 0 has made its neuron stable and is left alone. What is found is
evaluated with its rounding error (`verifier.bounds.certify`) before a box takes it, and the planes over the input that
bound it are kept for clipping (`verifier.bounds.columnplanes`).

Within a budget of time: entries whose relaxation has the largest area, -l u / (u - l), come first.
"""

from __future__ import annotations

import time

import torch
from torch import Tensor

from verifier.bounds.backward import Rows, seed
from verifier.bounds.certify import Certifier
from verifier.bounds.chunks import workers
from verifier.bounds.dual import Settings, optimise
from verifier.bounds.relaxation import Multipliers, Relaxation, Splits, Start
from verifier.bounds.trace import Trace, known, loose_entries, trace_values
from verifier.clip.centred import Forms, Middle
from verifier.ops.base import Nonlinear, size

ROOM = 512 << 20  # bytes of planes that are kept
Found = tuple[Tensor, Tensor, Tensor, Forms]
SETTINGS = Settings(steps=15, alpha_rate=0.5, decay=0.85, patience=5)


class Tightener:
    """Carries the budget through the values of one trace."""

    def __init__(self, old: Trace, seconds: float, chunk_bytes: int):
        self.old, self.program, self.chunk_bytes = old, old.program, chunk_bytes
        self.end = time.monotonic() + seconds
        self.middle, self.room = Middle(*(t[0] for t in old.boxes[0])), ROOM
        self.values = sorted(
            {
                i
                for s in self.program.steps[1:]
                if isinstance(s.op, Nonlinear)
                for i in s.inputs
                if not self.program.exact[i]
            }
        )

    def __call__(self, trace: Trace, value: int, loose: Tensor, limit: int) -> None:
        """`tighten` of `trace_values`: first what the old trace knew, then what optimisation adds."""
        known(self.old)(trace, value, loose, limit)
        later = [v for v in self.values if v >= value]
        left = self.end - time.monotonic()
        if left > 0 and later:
            self.improve(trace, value, time.monotonic() + 2 * left / (len(later) + 1))

    def improve(self, trace: Trace, value: int, end: float) -> None:
        """Tightens the box of a value until `end`, a time."""
        l, u = (t.reshape(-1) for t in trace.boxes[value])
        entries, relaxation = loosest(trace, value), Relaxation(trace)
        if not len(entries) or not relaxation.width:
            return
        certifier = Certifier(relaxation, self.program)
        widest = max(size(s) for s in self.program.shapes[: value + 1])
        chunk = max(4, self.chunk_bytes // (2 * widest * l.element_size()))
        threads = torch.get_num_threads() if l.device.type == "cpu" else 1
        if threads > 1:
            chunk = min(chunk, max(4, -(-len(entries) // threads)))

        def one(part: Tensor) -> Found | None:
            return None if time.monotonic() > end else self._rows(trace, relaxation, certifier, value, part)

        parts = entries.split(chunk)
        found = workers(threads).map(one, parts) if threads > 1 and len(parts) > 1 else map(one, parts)
        new_l, new_u = l.clone(), u.clone()
        for result in found:
            if result is not None:
                part, below, above, planes = result
                if self.room > 0:
                    trace.planes.setdefault(value, []).append((part, planes))
                    self.room -= planes.a.numel() * planes.a.element_size()
                new_l[part], new_u[part] = torch.maximum(new_l[part], below), torch.minimum(new_u[part], above)
        crossed = new_l > new_u
        shape = trace.boxes[value][0].shape
        trace.boxes[value] = (
            torch.where(crossed, l, new_l).reshape(shape),
            torch.where(crossed, u, new_u).reshape(shape),
        )
        trace.sizes.pop(value, None)

    @torch.no_grad()
    def _rows(self, trace: Trace, relaxation: Relaxation, certifier: Certifier, value: int, part: Tensor) -> Found:
        """Entries (k,), lower and upper bounds (k,) of them, and the planes below them and below them negated."""
        rows, top = seed(trace, value, part.unsqueeze(0))
        n = 2 * len(part)
        start = Start(top, dict(rows.live), rows.bias.clone())
        none = Splits.none(n, relaxation.alpha)
        m = Multipliers(relaxation.alpha.expand(n, -1), relaxation.upper_slopes.expand(n, -1), none.sign, none.sign)
        found = optimise(relaxation, start, none, m, SETTINGS)
        begin = Rows(dict(rows.live), rows.bias.clone(), rows.charge.clone())
        plane, offset = certifier.seeded(begin, top, none, found.multipliers)
        low = certifier.least(plane, offset)
        planes = self.middle.forms(plane, offset)
        both = Forms(*(t.unflatten(0, (2, len(part))).transpose(0, 1) for t in planes))
        return part, low[: len(part)], -low[len(part) :], both


def loosest(trace: Trace, value: int) -> Tensor:
    """The flat entries (k,) of a value that a nonlinear step reads where it is loose, those whose relaxation has the
    largest area first.
    """
    l, u = (t.reshape(-1) for t in trace.boxes[value])
    loose = loose_entries(trace, value).reshape(-1) & torch.isfinite(l) & torch.isfinite(u)
    entries = torch.nonzero(loose).squeeze(1)
    le, ue = l[entries], u[entries]
    area = torch.where((le < 0) & (ue > 0), -le * ue / (ue - le).clamp(min=1e-30), ue - le)
    return entries[area.argsort(descending=True)]


def tightened(old: Trace, limit: int, seconds: float, chunk_bytes: int = 2 << 20) -> Trace:
    """A trace over the same box whose intermediate boxes were optimised for about `seconds`."""
    return trace_values(old.program, *old.boxes[0], limit, Tightener(old, seconds, chunk_bytes), None, old.asked)
