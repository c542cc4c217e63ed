"""Sampling, Fourier transforms, windows put back, products of entries: the values of ONNX Runtime, and no operator
without bounds."""

from itertools import product

import numpy as np
import pytest
from tiny import check, kinds, model, node

from verifier.net.load import check_supported

F = np.float32
rng = np.random.default_rng(5)


def reads(m, **options):
    """The network, all of which has operators."""
    net = check(m, **options)
    check_supported(net)
    return net


@pytest.mark.parametrize("mode", ["bilinear", "bicubic", "nearest"])
@pytest.mark.parametrize("padding, corners", list(product(("zeros", "border", "reflection"), (0, 1))))
def test_grids(mode, padding, corners):
    grid = rng.uniform(-2, 2, (2, 3, 4, 2)).astype(F)
    grid[0, 0] = [[-1, -1], [1, 1], [0, 0.5], [-0.5, 1 / 3]]
    attrs = {"mode": mode, "padding_mode": padding, "align_corners": corners}
    net = reads(model(node("GridSample", "x g", **attrs), {"x": (2, 3, 4, 5)}, opset=16, g=grid))
    assert set(kinds(net)) <= {"Pick", "Mul", "Add", "Gather", "Reshape", "Concat", "Slice", "Place"}


@pytest.mark.parametrize("mode", ["linear", "nearest"])
def test_grids_of_volumes(mode):
    grid = rng.uniform(-1.3, 1.3, (1, 2, 2, 3, 3)).astype(F)
    reads(model(node("GridSample", "x g", mode=mode), {"x": (1, 2, 3, 4, 2)}, opset=20, g=grid))


@pytest.mark.parametrize("inverse, onesided, parts", [(0, 0, 1), (0, 0, 2), (1, 0, 2), (0, 1, 1)])
@pytest.mark.parametrize("n, length", [(6, None), (5, None), (5, 7), (7, 4)])
def test_fourier(n, length, inverse, onesided, parts):
    extra = {} if length is None else {"l": np.array(length)}
    for opset, axis in ((17, {"axis": 1}), (20, {})):
        if opset == 20:
            extra["a"] = np.array(1)
        names = "x " + ("l" if length else "-") + (" a" if opset == 20 else "")
        m = model(
            node("DFT", names, inverse=inverse, onesided=onesided, **axis), {"x": (2, n, 2, parts)}, opset, **extra
        )
        assert "Linear" in kinds(reads(m))


def test_short_time_fourier():
    window = np.hanning(6).astype(F)
    for onesided, extra in ((1, {"w": window}), (0, {"w": window}), (1, {"n": np.array(6)})):
        names = "x s " + ("w" if "w" in extra else "- n")
        m = model(node("STFT", names, onesided=onesided), {"x": (2, 16, 1)}, 17, s=np.array(3), **extra)
        assert "Linear" in kinds(reads(m))


@pytest.mark.parametrize(
    "image, block, attrs",
    [
        ((5, 4), (2, 3), {}),
        ((5, 5), (3, 2), {"strides": [2, 1], "pads": [1, 0, 1, 2]}),
        ((6, 6), (2, 2), {"dilations": [2, 3]}),
    ],
)
def test_columns_to_images(image, block, attrs):
    pads = attrs.get("pads", [0] * 4)
    windows = 1
    for i in range(2):
        span = attrs.get("dilations", [1, 1])[i] * (block[i] - 1) + 1
        windows *= (image[i] + pads[i] + pads[i + 2] - span) // attrs.get("strides", [1, 1])[i] + 1
    shape = (2, 3 * block[0] * block[1], windows)
    m = model(node("Col2Im", "x i b", **attrs), {"x": shape}, 18, i=np.array(image), b=np.array(block))
    reads(m)


def test_entries_in_place():
    at = np.array([[[[5, 7], [13, 15]]]])
    reads(model(node("MaxUnpool", "x i", kernel_shape=[2, 2], strides=[2, 2]), {"x": (1, 1, 2, 2)}, 11, i=at))
    for batch in (0, 1):
        lengths = np.array([3, 1, 2, 4] if batch == 0 else [3, 1, 4])
        m = model(
            node("ReverseSequence", "x l", batch_axis=batch, time_axis=1 - batch), {"x": (4, 3, 2)}, 10,
            l=lengths if batch else np.minimum(lengths, 3),
        )  # fmt: skip
        assert kinds(reads(m, rewrite=False)) == ["Pick"]


@pytest.mark.parametrize("exclusive, reverse", list(product((0, 1), (0, 1))))
def test_running_products(exclusive, reverse):
    m = model(node("CumProd", "x a", exclusive=exclusive, reverse=reverse), {"x": (2, 4)}, 26, a=np.array(1))
    m.ir_version = 11
    reads(m)


@pytest.mark.parametrize("rows", [1, 2, 3, 4])
def test_determinants(rows):
    reads(model(node("Det", "x"), {"x": (2, rows, rows)}, 11))
    reads(model(node("Det", "x"), {"x": (rows, rows)}, 11))


@pytest.mark.parametrize(
    "equation, shapes",
    [
        ("...ij->...ji", [(2, 3, 4)]),
        ("...ij,...jk->...ik", [(2, 3, 4), (2, 4, 5)]),
        ("...ij,...jk->...ik", [(2, 1, 3, 4), (1, 5, 4, 2)]),
        ("...ij,jk", [(2, 3, 4), (4, 2)]),
        ("i...,i...->...", [(3, 2), (3, 1)]),
        ("...,...", [(2, 3), (1, 3)]),
    ],
)
def test_ellipses(equation, shapes):
    names = "xz"[: len(shapes)]
    m = model(node("Einsum", " ".join(names), equation=equation), dict(zip(names, shapes)))
    assert not [n for n in reads(m).nodes if "..." in str(n.attrs)]
    if len(shapes) > 1:
        weights = {"z": rng.uniform(-1, 1, shapes[1]).astype(F)}
        reads(model(node("Einsum", "x z", equation=equation), {"x": shapes[0]}, **weights))


def test_long_products_are_taken_apart():
    net = reads(model(node("ReduceProd", "x", axes=[1], keepdims=0), {"x": (2, 13)}), low=0.5, high=1.5)
    assert "ReduceProd" not in kinds(net)
