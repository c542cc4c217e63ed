"""Convolutions whose weight or bias is computed: the values of ONNX Runtime, and bounds throughout."""

from itertools import product

import numpy as np
import pytest
from tiny import check, model, node

from verifier.net.load import check_supported

F = np.float32
rng = np.random.default_rng(8)

WINDOWS = [
    {},
    {"strides": [2, 1], "pads": [1, 0, 0, 2]},
    {"dilations": [2, 1], "group": 2},
    {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
]


@pytest.mark.parametrize("op, attrs", list(product(("Conv", "ConvTranspose"), WINDOWS)))
@pytest.mark.parametrize("variable", ["xwb", "w", "b", "xw"])
def test_convolutions_of_variables(op, attrs, variable):
    filters = 2 // attrs.get("group", 1) if op == "Conv" else 4 // attrs.get("group", 1)
    shapes = {"x": (2, 2, 5, 4), "w": (4 if op == "Conv" else 2, filters, 3, 2), "b": (4,)}
    inputs = {k: v for k, v in shapes.items() if k in variable}
    weights = {k: rng.uniform(-1, 1, v).astype(F) for k, v in shapes.items() if k not in variable}
    net = check(model(node(op, "x w b", **attrs), inputs, **weights))
    check_supported(net)
    assert not {"Conv", "ConvTranspose"} & {n.kind for n in net.nodes}


def test_one_axis_and_no_bias():
    check(model(node("Conv", "x w"), {"x": (1, 2, 6), "w": (3, 2, 2)}))
    attrs = {"strides": [2], "output_padding": [1], "pads": [1, 0]}
    check(model(node("ConvTranspose", "x w", **attrs), {"x": (1, 2, 4), "w": (2, 3, 3)}))
