"""Backward passes for entries of images: a row keeps only the window of each value that it depends on.

An entry of a convolution's result sees a few pixels of its input, a few more one convolution further down, and so on.
So its row over a value (1, C, H, W) is a patch (C, h, w) and the place of its corner, until the window has grown to
a good part of the image; from there on it is an ordinary row. (Patches mode of Xu et al., arXiv 2002.12920.)

What happens to a patch at a step, row by row the same as in `verifier.bounds.backward`:
* convolution with stride t, dilation d, pads b: a transposed convolution of the patch alone, corner c -> t c - b;
* pooling by averages: the same with a kernel of ones, channel by channel;
* a step of an axis slice: zeros between the entries, corner c -> step c + start;
* sum, entrywise scaling: the patch for each operand; patches that meet at a value differ in corner and size by the
  same amount in every row, so they are padded to a common window and added;
* function of one number: its lines, looked up in the window.
What a window covers beyond the image is no entry: it is set to zero before anything reads it.

Rounding is charged as in `verifier.bounds.backward`, with the largest weight of each channel standing for all its
pixels: that charges more, never less. The sums of a patch's adjoint have as many terms as those of the whole one.

Symbols: one domain; K entries; both signs at once: data (2, K, C, h, w), the plain rows first; corners (K,).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from verifier.bounds.backward import Rows, backward, block_sum, concretise, dot
from verifier.bounds.trace import Trace
from verifier.ops.arithmetic import BatchNormalization, Total
from verifier.ops.base import Affine, Joint, Lines, Nonlinear, Operator, Shape, size
from verifier.ops.conv import AveragePool, Conv
from verifier.ops.moves import Slice

SMALL = 0.5  # share of the image from which a window is not worth its bookkeeping


@dataclass
class Patch:
    """Rows over a value (1, C, H, W): `data` (2, K, C, h, w) at corners `top`, `left` (K,), which may lie outside."""

    data: Tensor
    top: Tensor
    left: Tensor

    @property
    def window(self) -> tuple[int, int]:
        return self.data.shape[-2], self.data.shape[-1]

    def sticks_out(self, shape: Shape) -> bool:
        (h, w), (height, width) = self.window, shape[-2:]
        least, most = torch.stack([self.top.min(), self.left.min()]), torch.stack([self.top.max(), self.left.max()])
        return bool((least < 0).any()) or bool((most > torch.tensor([height - h, width - w], device=most.device)).any())

    def inside(self, shape: Shape) -> Tensor:
        """1 for entries of the image, 0 beyond its border: (K, 1, h, w)."""
        rows = self.top[:, None] + torch.arange(self.window[0], device=self.top.device)
        columns = self.left[:, None] + torch.arange(self.window[1], device=self.top.device)
        rows, columns = (rows >= 0) & (rows < shape[-2]), (columns >= 0) & (columns < shape[-1])
        return (rows[:, None, :, None] & columns[:, None, None, :]).to(self.data.dtype)

    def look_up(self, image: Tensor) -> Tensor:
        """The windows of image (C, H, W), zeros beyond its border: (K, C, h, w)."""
        h, w = self.window
        padded = F.pad(image, (w, w, h, h))
        views = padded.unfold(1, h, 1).unfold(2, w, 1)
        top = (self.top + h).clamp(0, views.shape[1] - 1)
        left = (self.left + w).clamp(0, views.shape[2] - 1)
        return views[:, top, left].transpose(0, 1)

    def whole(self, shape: Shape) -> Tensor:
        """The same rows over all entries: (2 K, *shape)."""
        (h, w), (height, width) = self.window, shape[-2:]
        signs, k, channels = self.data.shape[:3]
        out = self.data.new_zeros((signs, k, channels, height + 2 * h, width + 2 * w))
        corners = torch.stack([self.top + h, self.left + w], 1)
        corners = torch.minimum(corners.clamp(min=0), corners.new_tensor([height + h, width + w]))
        places, counts = torch.unique_consecutive(corners, dim=0, return_counts=True)
        at = 0
        for (top, left), n in zip(places.tolist(), counts.tolist()):
            out[:, at : at + n, :, top : top + h, left : left + w] = self.data[:, at : at + n]
            at += n
        return out[..., h : h + height, w : w + width].reshape(2 * k, *shape)


def is_image(shape: Shape) -> bool:
    return len(shape) == 4 and shape[0] == 1


def patchable(op: Operator) -> bool:
    """Whether a patch can be pulled through the operator as a patch."""
    if not all(is_image(s) for s in (*op.in_shapes, op.out_shape)):
        return False
    if isinstance(op, (Conv, AveragePool)):
        return op.window.rank == 2
    if isinstance(op, Total):
        return all(s == op.out_shape for s in op.in_shapes)
    if isinstance(op, Slice):
        return not op.flips and op.cuts[1] == slice(None)
    return isinstance(op, BatchNormalization) or (isinstance(op, Nonlinear) and not isinstance(op, Joint))


def starts_here(trace: Trace, value: int) -> bool:
    """Whether patches pay for rows of this value: entries of an image that come from a convolution of another."""
    program = trace.program
    shape, k = program.shapes[value], value
    if trace.domains != 1 or not is_image(shape) or shape[2] * shape[3] < 25:
        return False
    while not isinstance(program.steps[k].op, Conv):
        step = program.steps[k]
        if step.op is None or not patchable(step.op) or isinstance(step.op, Nonlinear) or not step.inputs:
            return False
        k = step.inputs[-1]
        if k == 0:
            return False
    (h, w), inner = program.steps[k].op.window.span(), program.steps[k].op.in_shapes[0]
    return patchable(program.steps[k].op) and h * w <= SMALL * inner[2] * inner[3]


class Pass:
    """One backward pass of K entries of a value, as patches while that pays; see the head of the file."""

    def __init__(self, trace: Trace, value: int, index: Tensor):
        self.trace, self.value = trace, value
        shape = trace.program.shapes[value]
        k, plane = len(index), shape[2] * shape[3]
        like = trace.boxes[0][0]
        data = like.new_zeros((2, k, shape[1], 1, 1))
        place = torch.arange(k, device=index.device)
        data[0, place, index // plane], data[1, place, index // plane] = 1.0, -1.0
        self.live = {value: Patch(data, index % plane // shape[3], index % shape[3])}
        self.bias, self.mass = like.new_zeros((2, k)), like.new_zeros((2, k))
        self.largest = 1

    def run(self) -> tuple[Tensor, Tensor, Tensor]:
        """Plane (1, 2 K, m), bias and charge (1, 2 K), as `backward` returns them."""
        program = self.trace.program
        for k in range(self.value, 0, -1):
            if k not in self.live:
                continue
            step, patch = program.steps[k], self.live[k]
            if not patchable(step.op) or patch.data[0, 0, 0].numel() > SMALL * size(program.shapes[k][2:]):
                return self._whole(k)
            del self.live[k]
            if patch.sticks_out(program.shapes[k]):
                patch = Patch(patch.data * patch.inside(program.shapes[k]), patch.top, patch.left)
            self.largest = max(self.largest, patch.data[:, 0].numel())
            if program.reads[k] > 1:
                self._charge(patch.data, self.trace.size_of(k))
            for i, part in zip(step.inputs, self._pull(k, step.op, patch)):
                self.live[i] = meet(self.live[i], part) if i in self.live else part
        return self._whole(0)

    def _whole(self, k: int) -> tuple[Tensor, Tensor, Tensor]:
        """Goes on with ordinary rows from value k down."""
        shapes = self.trace.program.shapes
        rows = Rows({i: p.whole(shapes[i]) for i, p in self.live.items()}, self.bias.view(-1), self.mass.view(-1))
        return backward(self.trace, k, rows, self.bias.numel())

    def _charge(self, data: Tensor, weight: Tensor) -> None:
        """Adds |data| . the largest weight of each channel; weight is flat."""
        largest = weight.view(data.shape[2], -1).amax(1)
        self.mass += data.abs().sum((-2, -1)) @ largest

    def _pull(self, k: int, op: Operator, patch: Patch) -> list[Patch]:
        if isinstance(op, Affine):
            self._collect(k, patch)
        if isinstance(op, Conv):
            return [convolved(op, patch)]
        if isinstance(op, AveragePool):
            return [pooled(op, patch)]
        if isinstance(op, Slice):
            return [sliced(op, patch)]
        if isinstance(op, Total):
            return [Patch(patch.data if s > 0 else -patch.data, patch.top, patch.left) for s in op.signs]
        if isinstance(op, BatchNormalization):
            return [Patch(patch.data * op.scale, patch.top, patch.left)]
        return [self._relaxed(k, patch)]

    def _collect(self, k: int, patch: Patch) -> None:
        offset = self.trace.offsets.get(k)
        if offset is not None:
            image = offset.view(self.trace.program.shapes[k][1:])
            flat = image[:, 0, 0]
            if bool((image == flat[:, None, None]).all()):
                self.bias += dot(block_sum(patch.data.flatten(3)), flat.contiguous())
            else:
                self.bias += block_sum((patch.data * patch.look_up(image)).flatten(2))
        if k in self.trace.weights:
            self._charge(patch.data, self.trace.weights[k])

    def _relaxed(self, k: int, patch: Patch) -> Patch:
        lines: Lines = self.trace.lines[k]
        pos, neg = patch.data.clamp(min=0), patch.data.clamp(max=0)
        for part, offset in ((pos, lines.lo_b), (neg, lines.up_b)):
            if offset is not None:
                terms = (part * patch.look_up(offset[0, 0])).flatten(2)
                self.bias += block_sum(terms)
                self.mass += terms.abs_().sum(-1)
        out = pos.mul_(patch.look_up(lines.lo_a[0, 0])).add_(neg.mul_(patch.look_up(lines.up_a[0, 0])))
        i = self.trace.program.steps[k].inputs[0]
        if i not in self.trace.weights:
            self._charge(out, self.trace.size_of(i))
        return Patch(out, patch.top, patch.left)


def convolved(op: Conv, patch: Patch) -> Patch:
    """Through a convolution: what the patch's own windows cover of its input."""
    w = op.window
    data = F.conv_transpose2d(patch.data.flatten(0, 1), op.weight, None, w.strides, 0, 0, op.groups, w.dilations)
    return moved(patch, data.view(*patch.data.shape[:2], *data.shape[1:]), w.strides, w.begins)


def pooled(op: AveragePool, patch: Patch) -> Patch:
    """Through an average pool."""
    w = op.window
    counts = op.count if op.count.shape[-2:] == op.out_shape[-2:] else op.count.expand(1, 1, *op.out_shape[-2:])
    count = patch.look_up(counts[0])
    scaled = patch.data / torch.where(count == 0, 1.0, count)
    height, width = ((n - 1) * t + s for n, t, s in zip(patch.window, w.strides, w.span()))
    data = scaled.new_zeros((*scaled.shape[:3], height, width))
    for tap in product(*(range(k) for k in w.kernel)):
        ends = [
            slice(j * d, j * d + (n - 1) * t + 1, t) for j, d, n, t in zip(tap, w.dilations, patch.window, w.strides)
        ]
        data[..., ends[0], ends[1]] += scaled
    return moved(patch, data, w.strides, w.begins)


def sliced(op: Slice, patch: Patch) -> Patch:
    """Through a slice of the image's axes, or of its channels."""
    channels, rows, columns = op.cuts[2], op.cuts[3], op.cuts[4]
    steps = tuple(c.step or 1 for c in (rows, columns))
    height, width = ((n - 1) * t + 1 for n, t in zip(patch.window, steps))
    data = patch.data.new_zeros((*patch.data.shape[:2], op.in_shapes[0][1], height, width))
    data[:, :, channels, :: steps[0], :: steps[1]] = patch.data
    return moved(patch, data, steps, (-(rows.start or 0), -(columns.start or 0)))


def moved(patch: Patch, data: Tensor, strides: tuple[int, ...], begins: tuple[int, ...]) -> Patch:
    return Patch(data, patch.top * strides[0] - begins[0], patch.left * strides[1] - begins[1])


def meet(a: Patch, b: Patch) -> Patch:
    """The sum of two patches over the same value, in the least window that holds both."""
    ends = []
    for corner_a, corner_b, n, m in zip((a.top, a.left), (b.top, b.left), a.window, b.window):
        shift = int((corner_b[0] - corner_a[0]).item())  # the same for all rows
        first = min(0, shift)
        ends.append((first, max(n, shift + m) - first, -first, shift - first))
    (first_y, height, ay, by), (first_x, width, ax, bx) = ends
    data = a.data.new_zeros((*a.data.shape[:3], height, width))
    data[..., ay : ay + a.window[0], ax : ax + a.window[1]] += a.data
    data[..., by : by + b.window[0], bx : bx + b.window[1]] += b.data
    return Patch(data, a.top + first_y, a.left + first_x)


def bound_entries(trace: Trace, value: int, index: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    """Lower and upper bounds (K,) of the entries `index` (K,) of a value of one domain; `limit`: bytes of a tensor."""
    shape = trace.program.shapes[value]
    order = torch.argsort(index % (shape[2] * shape[3]), stable=True)  # entries at the same place go together
    index = index[order]
    low = trace.boxes[0][0].new_empty((2, len(index)))
    at, block = 0, 16
    while at < len(index):
        part = Pass(trace, value, index[at : at + block])
        plane, bias, charge = part.run()
        low[:, at : at + block] = (concretise(plane, *trace.boxes[0]) + bias - charge).view(2, -1)
        at += block
        block = max(1, int(limit // (max(part.largest, 2 * plane.shape[-1]) * low.element_size())))
    low = torch.where(torch.isfinite(low), low, -float("inf"))
    found = torch.empty_like(low)
    found[:, order] = low
    return found[0], -found[1]
