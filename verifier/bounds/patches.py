"""Rows over images as patches: a row keeps only the window of each value that it depends on.

An entry of a convolution's result sees a few pixels of its input, a few more one convolution further down, and so on.
So its row over a value (1, C, H, W) is a patch (C, h, w) and the place of its corner, until the window has grown to
a good part of the image; from there on it is an ordinary row. (Patches mode of Xu et al., arXiv 2002.12920.)

What happens to a patch at a step, row by row the same as in `verifier.bounds.backward` (`pull`):
* convolution with stride t, dilation d, pads b: a transposed convolution of the patch alone, corner c -> t c - b;
* pooling by averages: the same with a kernel of ones, channel by channel;
* a step of an axis slice: zeros between the entries, corner c -> step c + start;
* sum, entrywise scaling: the patch for each operand; patches that meet at a value mostly differ in corner and size by
  the same amount in every row, and are padded to a common window and added; others become whole rows (`together`);
* function of one number: its lines, looked up in the window.
What a window covers beyond the image is no entry: it is set to zero before anything reads it.

Symbols: one domain; K entries; both signs at once: data (2, K, C, h, w), the plain rows first; corners (K,).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from verifier.bounds.program import Program
from verifier.ops.arithmetic import BatchNormalization, Total
from verifier.ops.base import Joint, Nonlinear, Operator, Shape
from verifier.ops.conv import AveragePool, Conv
from verifier.ops.moves import Slice

SMALL = 0.8  # share of the image from which a window is not worth its bookkeeping
SMALLEST = 25  # entries of a channel below which nothing is saved


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


def starts_here(program: Program, value: int) -> bool:
    """Whether patches pay for rows of this value: entries of an image that come from a convolution of another."""
    shape, k = program.shapes[value], value
    if not is_image(shape) or shape[2] * shape[3] < SMALLEST:
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


def unit_patch(index: Tensor, shape: Shape, like: Tensor) -> Patch:
    """The entries `index` (K,) of a value (1, C, H, W), and the same negated."""
    k, plane = len(index), shape[2] * shape[3]
    data = like.new_zeros((2, k, shape[1], 1, 1))
    place = torch.arange(k, device=index.device)
    data[0, place, index // plane], data[1, place, index // plane] = 1.0, -1.0
    return Patch(data, index % plane // shape[3], index % shape[3])


def pull(op: Operator, patch: Patch) -> list[Patch]:
    """A patch through an affine operator: one for every operand."""
    if isinstance(op, Conv):
        return [convolved(op, patch)]
    if isinstance(op, AveragePool):
        return [pooled(op, patch)]
    if isinstance(op, Slice):
        return [sliced(op, patch)]
    if isinstance(op, Total):
        return [Patch(patch.data if s > 0 else -patch.data, patch.top, patch.left) for s in op.signs]
    return [Patch(patch.data * op.scale, patch.top, patch.left)]


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


def together(a: Patch, b: Patch) -> bool:
    """Whether the corners of two patches over the same value differ by the same amount in every row: not if strides
    along the ways that they came differ.
    """
    apart = torch.stack([b.top - a.top, b.left - a.left])
    return bool((apart == apart[:, :1]).all())


def meet(a: Patch, b: Patch) -> Patch:
    """The sum of two patches over the same value that go `together`, in the least window that holds both."""
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
