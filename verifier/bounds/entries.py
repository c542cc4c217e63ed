"""Both bounds of chosen entries of one value, over a single box: backward passes that end as soon as they may.

On the way down a row can be minimised over the boxes of the values that it stands on, which are known already. Where
that settles an entry (no step that reads it could draw tighter lines from a better bound) its rows are dropped. Most
entries of wide layers are settled a few steps down, where interval bounds were not enough but nothing near a whole
pass is needed. (Early termination: Muller et al., "Scaling Polyhedral Neural Network Verification on GPUs", arXiv
2007.10868.) Sound, since the row over those values is a lower bound whatever they are, and they are in their boxes.

Rows over images are patches as long as that pays (`verifier.bounds.patches`). Their rounding is charged as in
`verifier.bounds.backward`, with the weights looked up in the windows.

Symbols: K entries, both signs: rows (2 K, *shape), all plain ones first; bias, charge (2 K,).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from verifier.bounds.backward import Rows, block_sum, concretise, finish, seed, step_back
from verifier.bounds.chunks import alone, side_by_side
from verifier.bounds.patches import (
    SMALL,
    Patch,
    begins,
    begun,
    meet,
    narrowed,
    patchable,
    pull,
    starts_here,
    terms_of,
    together,
    unit_patch,
)
from verifier.bounds.trace import Trace, weight_of
from verifier.ops.base import Affine, Nonlinear, size
from verifier.ops.conv import Conv
from verifier.ops.piecewise import PiecewiseLinear

BLOCK_BYTES = 16 << 20  # of a tensor on a CPU: beyond, threads wait for memory (measured: four times slower at 64 MiB)
SECONDS = 8.0  # most that the entries of one value may take, as far as the first blocks tell
GAIN = 0.01  # share of its width that some entry of the first block must lose for the others to be worth a pass
FIRST_BLOCK = 64  # entries of the first block, which shows how large tensors get
PLAIN = 1 << 16  # terms of a charge that are summed at once
WORTHWHILE = 0.05  # share of entries that must be settled at a value for minimising there to pay


class Usefulness:
    """What share of the entries has been settled at each value so far, over all blocks of a call."""

    def __init__(self):
        self.seen: dict[int, int] = {}
        self.settled: dict[int, int] = {}

    def count(self, value: int, seen: int, settled: int) -> None:
        self.seen[value] = self.seen.get(value, 0) + seen
        self.settled[value] = self.settled.get(value, 0) + settled

    def pays(self, value: int) -> bool:
        return self.settled.get(value, 0) >= WORTHWHILE * self.seen.get(value, 0)


class EntryPass:
    """One backward pass of the entries `index` (K,) of a value; see the head of the file."""

    def __init__(self, trace: Trace, value: int, index: Tensor, useful: Usefulness):
        self.useful = useful
        self.trace, self.program, self.value = trace, trace.program, value
        like = trace.boxes[0][0]
        self.best = like.new_full((2, len(index)), -float("inf"))
        self.kept = torch.arange(len(index), device=index.device)
        self.patches: dict[int, Patch] = {}
        op = self.program.steps[value].op if value else None
        if starts_here(self.program, value) and begins(op):
            self.at = self.program.steps[value].inputs[0]
            self.patches[self.at] = begun(op, index)
            self.rows = Rows({}, self._twice(trace.offsets, index, -1.0), self._twice(trace.weights, index, 1.0))
        elif starts_here(self.program, value):
            self.patches[value] = unit_patch(index, self.program.shapes[value], like)
            self.rows, self.at = Rows({}, like.new_zeros(2 * len(index)), like.new_zeros(2 * len(index))), value
        else:
            self.rows, self.at = seed(trace, value, index.unsqueeze(0))
        readers = [self.program.steps[c].op for c in self.program.consumers[value]]
        self.readers = [op for op in readers if isinstance(op, Nonlinear)]
        self.settles = all(isinstance(op, PiecewiseLinear) for op in self.readers)
        self.narrows = not self.patches  # whether patches may still be made of whole rows
        self.largest = 1  # entries per row of the largest tensor met

    def _twice(self, table: dict[int, Tensor], index: Tensor, sign: float) -> Tensor:
        """The value's table at the entries, and the same times a sign: (2 K,), zeros where there is no table."""
        if self.value not in table:
            return self.trace.boxes[0][0].new_zeros(2 * len(index))
        return torch.cat([table[self.value][index], sign * table[self.value][index]])

    def run(self) -> Tensor:
        """Lower bounds (2, K): of the entries, and of the entries negated."""
        for k in range(self.at, 0, -1):
            if k not in self.patches and k not in self.rows.live:
                continue
            if self.settles and k < self.value and isinstance(self.program.steps[k].op, Nonlinear):
                if self.useful.pays(k):
                    before = len(self.kept)
                    self._drop_settled()
                    self.useful.count(k, before, before - len(self.kept))
                if not len(self.kept):
                    return self.best
            if k in self.patches and len(self.patches) + len(self.rows.live) == 1 and self.program.distinct[k]:
                self._improve(self._over_boxes())
                return self.best
            if k in self.patches and (k in self.rows.live or not self._fits(k)):
                self._widen()
            elif k not in self.patches and self._may_narrow(k):
                self._narrow(k)
            if k in self.patches:
                self._step(k, self.patches.pop(k))
            else:
                self.largest = max(self.largest, self.rows.live[k][0].numel())
                step_back(self.trace, k, self.rows, 2 * len(self.kept))
        self._widen()
        plane, bias, charge = finish(self.trace, self.rows, 2 * len(self.kept))
        self.largest = max(self.largest, plane.shape[-1])
        self._improve((concretise(plane, *self.trace.boxes[0]) + bias - charge).view(2, -1))
        return self.best

    def _improve(self, low: Tensor) -> None:
        low = torch.where(torch.isfinite(low), low, -float("inf"))
        self.best[:, self.kept] = torch.maximum(self.best[:, self.kept], low)

    def _over_boxes(self) -> Tensor:
        """The least (2, K) that what the rows stand on allows, over its boxes."""
        trace, error = self.trace, self.program.sum_error
        low = (self.rows.bias - 1.01 * self.rows.charge - trace.underflow).view(2, -1).clone()
        for k, a in self.rows.live.items():
            l, u = (t.reshape(1, -1) for t in trace.boxes[k])
            wide = a.reshape(1, len(a), -1)
            low += concretise(wide, l, u).view(2, -1)
            low -= block_sum(wide.abs() * (trace.size_of(k) * error)).view(2, -1)
        for k, patch in self.patches.items():
            l, u = (patch.look_up(t[0, 0]) for t in trace.boxes[k])
            low += block_sum((patch.data.clamp(min=0) * l + patch.data.clamp(max=0) * u).flatten(2))
            low -= self._weighed(k, patch, trace.size_of(k) * error)
        return low

    def _drop_settled(self) -> None:
        """Drops the entries that are settled by what the rows stand on, over its boxes."""
        self._improve(self._over_boxes())
        low, high = self.best[0, self.kept], -self.best[1, self.kept]
        loose = torch.zeros_like(low, dtype=torch.bool)
        for op in self.readers:
            loose |= op.loose(low, high)
        if not bool(loose.all()):
            self._keep(torch.nonzero(loose).squeeze(1))

    def _keep(self, index: Tensor) -> None:
        """Goes on with some of the entries."""
        count = len(self.kept)
        both = torch.cat([index, index + count])
        rows = self.rows
        self.rows = Rows({k: a[both] for k, a in rows.live.items()}, rows.bias[both], rows.charge[both])
        self.patches = {k: p.keep(index) for k, p in self.patches.items()}
        self.kept = self.kept[index]

    def _may_narrow(self, k: int) -> bool:
        """Whether to look if whole rows over value k read small windows: where a convolution is about to widen them,
        once in a pass, and alone there (patches that meet must have grown from the same corner).
        """
        alone = len(self.rows.live) == 1 and not self.patches
        return alone and self.narrows and isinstance(self.program.steps[k].op, Conv) and starts_here(self.program, k)

    def _narrow(self, k: int) -> None:
        self.narrows = False
        patch = narrowed(self.rows.live[k].unflatten(0, (2, -1)), self.program.shapes[k])
        if patch is not None:
            self.patches[k] = patch
            del self.rows.live[k]

    def _fits(self, k: int) -> bool:
        patch, shape = self.patches[k], self.program.shapes[k]
        return patchable(self.program.steps[k].op) and patch.data[0, 0, 0].numel() <= SMALL * size(shape[2:])

    def _widen(self) -> None:
        """Makes ordinary rows of all patches."""
        for k, patch in self.patches.items():
            whole = patch.whole(self.program.shapes[k])
            self.rows.live[k] = self.rows.live[k] + whole if k in self.rows.live else whole
        self.patches = {}

    # --- a step of a patch, as in `verifier.bounds.backward.step_back`

    def _step(self, k: int, patch: Patch) -> None:
        trace, program, op = self.trace, self.program, self.program.steps[k].op
        if patch.sticks_out(program.shapes[k]):
            patch = replace(patch, data=patch.data * patch.inside(program.shapes[k]))
        self.largest = max(self.largest, patch.data[0, 0].numel())
        if isinstance(op, Affine):
            if k in trace.offsets:
                self._add_offset(k, patch)
            if k in trace.weights:
                self._charge(k, patch, self._weight(k))
            parts = pull(op, patch)
        else:
            parts = [self._relaxed(k, patch)]
        for i, part in zip(program.steps[k].inputs, parts):
            if program.reads[i] > 1 and isinstance(op, Affine) and k not in trace.rounding:
                self._charge(i, part, trace.product_weight(i))
            self._put(i, part)

    def _weight(self, k: int) -> Tensor:
        """What a patch over affine step k is charged with for rounding (flat)."""
        op, trace = self.program.steps[k].op, self.trace
        if not isinstance(op, Conv) or terms_of(op) >= op.terms[1]:
            return trace.weights[k]
        if k not in trace.patch_weights:
            trace.patch_weights[k] = weight_of(trace, k, terms_of(op))
        return trace.patch_weights[k]

    def _put(self, i: int, part: Patch) -> None:
        """Adds a patch to what stands on value i: as whole rows from where patches do not go together."""
        if i in self.patches and not together(self.patches[i], part):
            self._widen()
        if self.rows.live:
            whole = part.whole(self.program.shapes[i])
            self.rows.live[i] = self.rows.live[i] + whole if i in self.rows.live else whole
        else:
            self.patches[i] = meet(self.patches[i], part) if i in self.patches else part

    def _add_offset(self, k: int, patch: Patch) -> None:
        image = self.trace.offsets[k].view(self.program.shapes[k][1:])
        flat = image[:, 0, 0]
        if bool((image == flat[:, None, None]).all()):
            terms = block_sum(patch.data.flatten(3)) * flat
        else:
            terms = (patch.data * patch.look_up(image)).flatten(2)
        self.rows.bias += block_sum(terms).view(-1)

    def _weighed(self, k: int, patch: Patch, weight: Tensor) -> Tensor:
        """|patch| . weight (2, K), weight flat over value k. Of up to `PLAIN` terms a plain sum, whatever its order, is
        off by less than half of the percent that is added to every charge.
        """
        terms = torch.abs(patch.data, out=self.trace.scratch(patch.data))
        terms = terms.mul_(patch.look_up(weight.view(self.program.shapes[k][1:]))).flatten(2)
        return terms.sum(2) if terms.shape[2] <= PLAIN else block_sum(terms)

    def _charge(self, k: int, patch: Patch, weight: Tensor) -> None:
        self.rows.charge += self._weighed(k, patch, weight).view(-1)

    def _relaxed(self, k: int, patch: Patch) -> Patch:
        lines, data, trace = self.trace.lines[k], patch.data, self.trace
        out = data.clamp(max=0)
        pos = torch.clamp(data, min=0, out=trace.scratch(data, 1))
        for part, offset, sign in ((pos, lines.lo_b, -1), (out, lines.up_b, 1)):
            if offset is not None:
                terms = torch.mul(part, patch.look_up(offset[0, 0]), out=trace.scratch(data))
                total = block_sum(terms.flatten(2)).view(-1)
                self.rows.bias += total
                # Where all offsets have the sign that makes every product <= 0, the sum of absolute values is at hand.
                absolute = -total if (k, sign) in trace.one_sided else block_sum(terms.abs_().flatten(2)).view(-1)
                self.rows.charge.add_(absolute, alpha=self.program.sum_error)
        out.mul_(patch.look_up(lines.up_a[0, 0])).addcmul_(pos, patch.look_up(lines.lo_a[0, 0]))
        out, i = replace(patch, data=out), self.program.steps[k].inputs[0]
        if not trace.covers(i):
            self._charge(i, out, trace.product_weight(i))
        return out


def bound_entries(
    trace: Trace, value: int, index: Tensor, limit: int, seconds: float = SECONDS
) -> tuple[Tensor, Tensor]:
    """Lower and upper bounds (K,) of the entries `index` (K,) of a value of one domain, -inf and inf where nothing is
    known. `limit`: bytes of a tensor.

    If all would take more than `seconds`, as far as the first blocks tell, only the first ones get bounds; and only
    those of the first block, if it gains nothing on the box that there is. `trace.left_out` says how many do not.
    """
    useful = Usefulness()
    one = lambda part: EntryPass(trace, value, index[part], useful)
    found = trace.boxes[0][0].new_full((2, len(index)), -float("inf"))
    begin = time.monotonic()
    rest = torch.arange(len(index), device=index.device)
    first, rest = rest[:FIRST_BLOCK], rest[FIRST_BLOCK:]
    probe = one(first)
    found[:, first] = alone(probe.run, index.device)
    if not gains(trace, value, index[first], found[:, first]):
        trace.left_out[value] = len(rest)
        return found[0], -found[1]
    cpu = index.device.type == "cpu"
    block = max(1, int((min(limit, BLOCK_BYTES) if cpu else limit) // (2 * probe.largest * found.element_size())))
    threads = torch.get_num_threads() if cpu else 1
    rest, spent = neighbours(trace, value, index, rest), time.monotonic() - begin
    parts = [part for part in rest.split(block) if len(part)]
    if len(rest) * spent / len(first) > threads * (seconds - spent):
        # Small blocks are slower by far than the others: one of the usual size a thread tells how long it will take.
        middle = time.monotonic()
        run_blocks(one, parts[:threads], found)
        trial = sum(map(len, parts[:threads]))
        each = max(time.monotonic() - middle, 1e-6) / max(1, trial)
        most = max(0, int((seconds - (time.monotonic() - begin)) / each))
        rest = rest[trial:].sort().values
        trace.left_out[value] = len(rest[most:])
        parts = [part for part in neighbours(trace, value, index, rest[:most]).split(block) if len(part)]
    run_blocks(one, parts, found)
    return found[0], -found[1]


def run_blocks(one: Callable[[Tensor], EntryPass], parts: list[Tensor], found: Tensor) -> None:
    """Bounds of blocks of entries, put into `found` (2, K)."""
    work = [lambda part=part: one(part).run() for part in parts]
    bounds = side_by_side(work, found.device) if len(work) > 1 else [alone(w, found.device) for w in work]
    for part, low in zip(parts, bounds):
        found[:, part] = low


def neighbours(trace: Trace, value: int, index: Tensor, part: Tensor) -> Tensor:
    """Some of the entries in an order in which those at the same place of an image are neighbours."""
    shape = trace.program.shapes[value]
    if not starts_here(trace.program, value):
        return part
    return part[torch.argsort(index[part] % (shape[2] * shape[3]), stable=True)]


def gains(trace: Trace, value: int, index: Tensor, low: Tensor) -> bool:
    """Whether bounds `low` (2, K) of entries and of their negatives narrow the box of any by a noticeable share."""
    l, u = (t.flatten()[index] for t in trace.boxes[value])
    width = torch.minimum(u, -low[1]) - torch.maximum(l, low[0])
    return not bool((width > (1 - GAIN) * (u - l)).all())
