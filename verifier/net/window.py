"""The part of a network that a window of one of its images depends on.

An entry of an image deep in a convolutional network sees a window of every image before it. Cut down to these windows
the network is a small one, and what is asked of the entry can be asked of that. The walk goes up from the window asked
for, through convolutions, functions of one number, sums of images and scaling by channel, until it meets what is none
of these; that value, cut to its window, becomes the input of the small network.

It is the same function of the window in real arithmetic: weights are the same, and where a window ends at the border of
its image the small convolution pads with as many zeros as the large one reads there; inside the image nothing is
padded, since the window holds all that is read (`reads`). Whatever holds of the large network's values in the window
holds of the small one's.

Symbols: images (1, C, H, W); a window is its first row, the row after its last, and the same of columns. Per axis a
convolution with stride t, dilation d, pads (b, e) and k taps reads, for the entries [i, j) of its result, the entries
[i t - b, (j - 1) t - b + d (k - 1) + 1) of its input.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from verifier.net.graph import Network, Node, Shape, Tensor

ALONE = {"Relu", "LeakyRelu", "Sigmoid", "Tanh", "Exp", "Abs", "Neg", "Elu", "Softplus"}
PAIRED = {"Add", "Sub"}

Window = tuple[int, int, int, int]


@dataclass(frozen=True)
class Small:
    """`network`: from the flat window of the value `bottom` to the flat window asked for. `windows`: of the large
    network's values, by name; those that the small one computes have the same names there.
    """

    network: Network
    bottom: str
    windows: Mapping[str, Window]


def cut_down(network: Network, top: str, window: Window) -> Small | None:
    """The part for a window of the image `top`; None where more than one value would have to become its input."""
    by_name = {n.name: n for n in network.nodes}
    windows, bottoms = {top: window}, set()
    for n in reversed(network.nodes):
        if n.name not in windows:
            continue
        inputs = operands(n, network)
        if not inputs:
            bottoms.add(n.name)
            continue
        for i in inputs:
            if i not in by_name:  # the flat input itself
                return None
            needed = clipped(reads(n, network, windows[n.name]), by_name[i].shape)
            if needed is None:
                return None
            windows[i] = hull(windows[i], needed) if i in windows else needed
    if len(bottoms) != 1 or top in bottoms:
        return None
    (bottom,) = bottoms
    return Small(_built(network, top, bottom, windows), bottom, windows)


def operands(n: Node, network: Network) -> tuple[str, ...]:
    """The images that a node is computed from window by window; none where it is no such node."""
    variable = tuple(i for i in n.inputs if i and i not in network.constants)
    if not is_image(n.shape) or not variable:
        return ()
    if n.kind == "Conv":
        return variable if variable == n.inputs[:1] else ()
    if n.kind == "BatchNormalization":
        return variable if variable == n.inputs[:1] else ()
    if n.kind in ALONE:
        return variable if len(n.inputs) == 1 else ()
    shapes = {m.name: m.shape for m in network.nodes}
    if n.kind in PAIRED and len(variable) == len(n.inputs) and all(shapes.get(i) == n.shape for i in variable):
        return variable
    return ()


def is_image(shape: Shape) -> bool:
    return len(shape) == 4 and shape[0] == 1


def reads(n: Node, network: Network, window: Window) -> Window:
    """What a node reads of each operand for a window of its result, and what of that lies beyond the borders."""
    if n.kind != "Conv":
        return window
    ends, kernel = [], network.constants[n.inputs[1]].shape[2:]
    for axis, (first, end) in enumerate((window[:2], window[2:])):
        t, d, begin = n.attrs["strides"][axis], n.attrs["dilations"][axis], n.attrs["pads"][axis]
        ends += [first * t - begin, (end - 1) * t - begin + d * (kernel[axis] - 1) + 1]
    return tuple(ends)


def clipped(window: Window, shape: Shape) -> Window | None:
    """The part of a window that is in the image; None where there is none."""
    top, bottom, left, right = window
    inside = max(0, top), min(shape[2], bottom), max(0, left), min(shape[3], right)
    return inside if inside[0] < inside[1] and inside[2] < inside[3] else None


def hull(a: Window, b: Window) -> Window:
    return min(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), max(a[3], b[3])


def _built(network: Network, top: str, bottom: str, windows: Mapping[str, Window]) -> Network:
    by_name = {n.name: n for n in network.nodes}

    def shape(name: str, window: Window) -> Shape:
        return 1, by_name[name].shape[1], window[1] - window[0], window[3] - window[2]

    flat = lambda name: (int(np.prod(shape(name, windows[name]))),)
    dtype = by_name[bottom].dtype
    nodes = [Node(bottom, "Reshape", ("//window",), shape(bottom, windows[bottom]), dtype)]
    for n in network.nodes:
        if n.name not in windows or n.name == bottom:
            continue
        mine, asked = [], reads(n, network, windows[n.name])
        for i in operands(n, network):
            needed, there = clipped(asked, by_name[i].shape), windows[i]
            if needed == there:
                mine.append(i)
                continue
            starts, ends = (
                (needed[0] - there[0], needed[2] - there[2]),
                (needed[1] - there[0], needed[3] - there[2]),
            )
            cut = {"axes": (2, 3), "starts": starts, "ends": ends, "steps": (1, 1)}
            name = f"{i}//for:{n.name}"
            nodes.append(Node(name, "Slice", (i,), shape(i, needed), by_name[i].dtype, cut, n.origin))
            mine.append(name)
        attrs = n.attrs
        if n.kind == "Conv":
            inside = clipped(asked, by_name[operands(n, network)[0]].shape)
            beyond = tuple(abs(a - b) for a, b in zip(inside, asked))
            attrs = {**n.attrs, "pads": (beyond[0], beyond[2], beyond[1], beyond[3])}
        inputs = (*mine, *n.inputs[len(mine) :])
        nodes.append(replace(n, inputs=inputs, shape=shape(n.name, windows[n.name]), attrs=attrs))
    nodes.append(Node("//end", "Reshape", (top,), flat(top), by_name[top].dtype))
    wanted = {i for n in nodes for i in n.inputs}
    return replace(
        network,
        inputs=(Tensor("//window", flat(bottom), dtype),),
        nodes=tuple(nodes),
        constants={k: v for k, v in network.constants.items() if k in wanted},
        errors={k: v for k, v in network.errors.items() if k in wanted},
        outputs=(Tensor("//end", flat(top), by_name[top].dtype),),
    )
