"""Rows over images as patches: a row keeps only the window of each value that it depends on.

An entry of a convolution's result sees a few pixels of its input, a few more one convolution further down, and so on.
So its row over a value (1, C, H, W) is a patch (C, h, w) and the place of its corner, until the window has grown to
a good part of the image; from there on it is an ordinary row. (Patches mode of Xu et al., arXiv 2002.12920.)

What happens to a patch at a step, row by row the same as in `verifier.bounds.backward` (`pull`):
* convolution with stride t, dilation d, pads b: a transposed convolution of the patch alone, corner c -> t c - b; tap
  by tap, since sums that are short in a known order are charged for fewer roundings (`terms_of`);
* pooling by averages: the same with a kernel of ones, channel by channel;
* a step of an axis slice: zeros between the entries, corner c -> step c + start;
* sum, entrywise scaling: the patch for each operand; patches that meet at a value mostly differ in corner and size by
  the same amount in every row, and are padded to a common window and added; others become whole rows (`together`);
* function of one number: its lines, looked up in the window.
What a window covers beyond the image is no entry: it is set to zero before anything reads it.

Symbols: one domain; K entries; both signs at once: data (2, K, C, h, w), the plain rows first; P corners.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from verifier.bounds.program import Program
from verifier.ops.arithmetic import BatchNormalization, Total
from verifier.ops.base import Joint, Nonlinear, Operator, Shape
from verifier.ops.conv import AveragePool, Conv, taps
from verifier.ops.moves import Slice

SMALL = 0.8  # share of the image from which a window is not worth its bookkeeping
LEAST_CHANNELS = 16  # of a convolution's input from which patches are multiplied tap by tap
SMALLEST = 25  # entries of a channel below which nothing is saved


@dataclass
class Patch:
    """Rows over a value (1, C, H, W): `data` (2, K, C, h, w) at P corners `top`, `left` (P,), which may lie outside;
    `at` (K,), ascending, says which of them is a row's. Neighbours at the same corner share what is looked up there.
    """

    data: Tensor
    top: Tensor
    left: Tensor
    at: Tensor

    @property
    def window(self) -> tuple[int, int]:
        return self.data.shape[-2], self.data.shape[-1]

    @cached_property
    def reach(self) -> tuple[int, int, int, int]:
        """Least and largest `top`, least and largest `left`."""
        return tuple(torch.stack([*self.top.aminmax(), *self.left.aminmax()]).tolist())

    def keep(self, index: Tensor) -> Patch:
        """Some of the rows."""
        places, at = torch.unique_consecutive(self.at[index], return_inverse=True)
        return Patch(self.data[:, index], self.top[places], self.left[places], at)

    def sticks_out(self, shape: Shape) -> bool:
        (h, w), (height, width) = self.window, shape[-2:]
        first_y, last_y, first_x, last_x = self.reach
        return first_y < 0 or first_x < 0 or last_y + h > height or last_x + w > width

    def inside(self, shape: Shape) -> Tensor:
        """1 for entries of the image, 0 beyond its border: (K, 1, h, w)."""
        rows = self.top[:, None] + torch.arange(self.window[0], device=self.top.device)
        columns = self.left[:, None] + torch.arange(self.window[1], device=self.top.device)
        rows, columns = (rows >= 0) & (rows < shape[-2]), (columns >= 0) & (columns < shape[-1])
        return (rows[:, None, :, None] & columns[:, None, None, :]).to(self.data.dtype)[self.at]

    def look_up(self, image: Tensor) -> Tensor:
        """The windows of image (C, H, W), zeros beyond its border: (K, C, h, w)."""
        (h, w), (height, width) = self.window, image.shape[-2:]
        first_y, last_y, first_x, last_x = self.reach
        # A window that lies beyond the border altogether holds zeros wherever it is.
        above, before = min(max(0, -first_y), h), min(max(0, -first_x), w)
        below, after = min(max(0, last_y + h - height), h), min(max(0, last_x + w - width), w)
        if above or before or below or after:
            image = F.pad(image, (before, after, above, below))
        views = image.unfold(1, h, 1).unfold(2, w, 1).permute(1, 2, 0, 3, 4)
        top = (self.top + above).clamp(0, views.shape[0] - 1)
        found = views[top, (self.left + before).clamp(0, views.shape[1] - 1)]
        return found if len(found) == len(self.at) else found.index_select(0, self.at)  # ascending: else the same

    def whole(self, shape: Shape) -> Tensor:
        """The same rows over all entries: (2 K, *shape)."""
        (h, w), (height, width) = self.window, shape[-2:]
        signs, k, channels = self.data.shape[:3]
        out = self.data.new_zeros((signs, k, channels, height + 2 * h, width + 2 * w))
        corners = torch.stack([self.top + h, self.left + w], 1)
        corners = torch.minimum(corners.clamp(min=0), corners.new_tensor([height + h, width + w]))
        places, counts = torch.unique_consecutive(self.at, return_counts=True)
        first = 0
        for (top, left), n in zip(corners[places].tolist(), counts.tolist()):
            out[:, first : first + n, :, top : top + h, left : left + w] = self.data[:, first : first + n]
            first += n
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
    places, at = torch.unique_consecutive(index % plane, return_inverse=True)
    return Patch(data, places // shape[3], places % shape[3], at)


def narrowed(rows: Tensor, shape: Shape) -> Patch | None:
    """Whole rows (2, K, 1, C, H, W) over a value (1, C, H, W) as patches in the least window that holds each of them;
    None where that is a good part of the image for one of them.
    """
    some = (rows != 0).any(0).flatten(1, 2).any(1)  # (K, H, W)
    ends = []
    for axis, n in ((2, shape[2]), (1, shape[3])):
        there = some.any(axis).to(torch.uint8)
        first, last = there.argmax(1), n - 1 - there.flip(1).argmax(1)
        empty = there.amax(1) == 0
        length = max(1, int(torch.where(empty, 0, last - first + 1).max()))
        ends.append((torch.where(empty, 0, first).clamp(max=n - length), length))
    (top, h), (left, w) = ends
    if h * w > SMALL * shape[2] * shape[3]:
        return None
    y = top[:, None] + torch.arange(h, device=top.device)
    x = left[:, None] + torch.arange(w, device=top.device)
    place = (y[:, :, None] * shape[3] + x[:, None, :]).flatten(1)  # (K, h w)
    flat = rows.reshape(2, len(top), shape[1], -1)
    data = flat.gather(3, place[None, :, None].expand(2, -1, shape[1], -1))
    places, at = torch.unique_consecutive(top * shape[3] + left, return_inverse=True)
    return Patch(data.unflatten(3, (h, w)), places // shape[3], places % shape[3], at)


def pull(op: Operator, patch: Patch) -> list[Patch]:
    """A patch through an affine operator: one for every operand."""
    if isinstance(op, Conv):
        return [convolved(op, patch)]
    if isinstance(op, AveragePool):
        return [pooled(op, patch)]
    if isinstance(op, Slice):
        return [sliced(op, patch)]
    if isinstance(op, Total):
        return [replace(patch, data=patch.data if s > 0 else -patch.data) for s in op.signs]
    return [replace(patch, data=patch.data * op.scale)]


def convolved(op: Conv, patch: Patch) -> Patch:
    """Through a convolution: what the patch's own windows cover of its input."""
    w, data = op.window, patch.data.flatten(0, 1)
    if by_taps(op):
        data = tap_by_tap(op, data)
    else:
        data = F.conv_transpose2d(data, op.weight, None, w.strides, 0, 0, op.groups, w.dilations)
    return moved(patch, data.view(*patch.data.shape[:2], *data.shape[1:]), w.strides, w.begins)


def by_taps(op: Conv) -> bool:
    """Whether a convolution's patches are multiplied tap by tap: where a tap's matrix is worth a product."""
    return op.groups == 1 and prod(op.window.kernel) > 1 and op.weight.shape[1] >= LEAST_CHANNELS


def terms_of(op: Conv) -> int:
    """Terms of a patch's sums, as gamma counts them. Tap by tap an entry is a sum of as many sums as taps fall on it,
    of a term per channel each, whatever their order: gamma_m of these and gamma_n for adding them up make gamma_(m +
    n). A transposed convolution may add up all products one after the other, so many times more.
    """
    w = op.window
    return op.weight.shape[0] + taps(w.kernel, w.strides, w.dilations) + op.rounded if by_taps(op) else op.terms[1]


def tap_by_tap(op: Conv, data: Tensor) -> Tensor:
    """The transposed convolution of data (n, C, h, w) as a product with a matrix for every tap."""
    w, (n, channels, *size) = op.window, data.shape
    rows = data.permute(0, 2, 3, 1).reshape(-1, channels)
    out = data.new_zeros((n, *w.covered(tuple(size)), op.weight.shape[1]))
    for tap in product(*(range(k) for k in w.kernel)):
        ends = [slice(j * d, j * d + (m - 1) * t + 1, t) for j, d, m, t in zip(tap, w.dilations, size, w.strides)]
        out[:, ends[0], ends[1]] += (rows @ op.weight[(..., *tap)]).view(n, *size, -1)
    return out.permute(0, 3, 1, 2).contiguous()


def begun(op: Conv, index: Tensor) -> Patch:
    """The entries `index` (K,) of a convolution's result, and the same negated, as rows over its input: they are the
    weights themselves, and nothing is rounded.
    """
    w, (height, width) = op.window, op.out_shape[2:]
    weight = op.weight[index // (height * width)]
    places, at = torch.unique_consecutive(index % (height * width), return_inverse=True)
    corners = Patch(torch.stack([weight, -weight]), places // width, places % width, at)
    return moved(corners, corners.data, w.strides, w.begins)


def begins(op: Operator) -> bool:
    """Whether `begun` holds for an operator."""
    return isinstance(op, Conv) and op.groups == 1 and op.window.rank == 2 and all(d == 1 for d in op.window.dilations)


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
    return Patch(data, patch.top * strides[0] - begins[0], patch.left * strides[1] - begins[1], patch.at)


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
    return Patch(data, a.top + first_y, a.left + first_x, a.at)
