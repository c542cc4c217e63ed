"""Examples of every kind that the registry knows, and of nothing else: `TABLE[kind]()`. A kind without one fails."""

from __future__ import annotations

from functools import partial
from itertools import product

import numpy as np
from onnx import TensorProto, helper
from sites import Example, F, bits, chain, comparison, graph, i64, internal, logic, one, to_float, w


def embedding(base: np.ndarray) -> Example:
    index = i64([2, 0])
    return internal(
        "Embed", {"x": (2,), "base": base}, (4,), lambda x: np.array([x[1], base[1], x[0], base[3]]), index=index
    )


def unary(op: str, opset=17, low=-3.0, high=3.0, **attrs) -> list[Example]:
    return [one(op, {"x": (2, 7)}, opset, low, high, **attrs)]


def convolutions() -> list[Example]:
    """Every mixture of stride, dilation, pads and groups in one to three dimensions that fits."""
    found = []
    for rank, t, d, (b, e), g in product((1, 2), (1, 2, 3), (1, 2), ((0, 0), (1, 1), (0, 1), (2, 1)), (1, 2)):
        size, kernel = (7, 6)[:rank], (3, 2)[:rank]
        attrs = {"strides": [t] * rank, "dilations": [d] * rank, "pads": [b] * rank + [e] * rank, "group": g}
        found.append(one("Conv", {"x": (2, 4, *size), "W": w(6, 4 // g, *kernel), "b": w(6)}, **attrs))
    found.append(one("Conv", {"x": (1, 2, 4, 3, 3), "W": w(2, 2, 2, 2, 2)}, strides=[2, 1, 1], pads=[1, 0, 1, 0, 0, 1]))
    found += [
        one("Conv", {"x": (1, 2, 6, 5), "W": w(3, 2, 3, 3)}, auto_pad=a, strides=[2, 2])
        for a in ("SAME_UPPER", "SAME_LOWER", "VALID")
    ]
    found.append(one("Conv", {"x": (1, 1, 3, 3), "W": w(2, 1, 1, 1), "b": w(2)}, pads=[2, 2, 2, 2]))
    return found


def transposed_convolutions() -> list[Example]:
    found = []
    for rank, t, d, (b, e), g in product((1, 2), (1, 2, 3), (1, 2), ((0, 0), (1, 1), (0, 1), (2, 1)), (1, 2)):
        size, kernel = (4, 3)[:rank], (3, 3)[:rank]
        attrs = {"strides": [t] * rank, "dilations": [d] * rank, "pads": [b] * rank + [e] * rank, "group": g}
        x = {"x": (2, 4, *size), "W": w(4, 6 // g, *kernel), "b": w(6)}
        found.append(one("ConvTranspose", x, **attrs))
        if t > 1 and d == 1:  # ONNX Runtime asks for an output padding below the stride
            found.append(one("ConvTranspose", x, output_padding=[1] * rank, **attrs))
    found.append(one("ConvTranspose", {"x": (1, 2, 2, 3, 2), "W": w(2, 2, 2, 2, 2)}, strides=[2, 1, 2]))
    return found


def pools(op: str) -> list[Example]:
    found = []
    for rank, t, (b, e), ceil in product((1, 2), (1, 2, 3), ((0, 0), (1, 1), (0, 1)), (0, 1)):
        size, kernel = (8, 7)[:rank], (3, 2)[:rank]
        attrs = {"kernel_shape": kernel, "strides": [t] * rank, "pads": [b] * rank + [e] * rank, "ceil_mode": ceil}
        if op == "AveragePool":
            attrs["count_include_pad"] = (t + b + e) % 2
        found.append(one(op, {"x": (1, 2, *size)}, **attrs))
    dilated = {"dilations": [2, 1], "opset": 19} if op == "AveragePool" else {"dilations": [2, 1]}
    found.append(one(op, {"x": (1, 2, 8, 7)}, kernel_shape=[3, 2], **dilated))
    found.append(one(op, {"x": (2, 2, 4, 4, 4)}, kernel_shape=[2, 2, 2], strides=[2, 2, 2]))
    return found


def broadcasts(op: str, low=-2.0, high=2.0) -> list[Example]:
    """Two variables, a constant on either side; each repeated by the other."""
    pairs = [
        ((2, 1, 3), (4, 1)),
        ((2, 3), (2, 3)),
        ((2, 4, 3), w(4, 1, low=0.5)),
        ((3,), w(2, 4, 3, low=0.5)),
        (w(2, 1, 3), (4, 1)),
    ]
    return [one(op, {"a": a, "b": b}, low=low, high=high) for a, b in pairs]


def reductions(op: str, low=-2.0, high=2.0) -> list[Example]:
    cases = [{"axes": [1]}, {"axes": [0, 2], "keepdims": 0}, {"keepdims": 0}, {}, {"axes": [-1], "keepdims": 0}]
    if op == "ReduceSum":
        axes = [i64([1]), i64([0, 2]), i64([-1])]
        return [one(op, {"x": (2, 4, 3), "axes": a}, keepdims=k) for k, a in enumerate(axes, -1) if k >= 0] + [
            one(op, {"x": (2, 3)})
        ]
    return [one(op, {"x": (2, 4, 3)}, low=low, high=high, **c) for c in cases]


def matmuls() -> list[Example]:
    constant = [
        ((2, 5, 4), w(3, 1, 4, 6)),
        (w(2, 4, 6, 3), (3, 5)),
        (w(6, 3), (3,)),
        ((3,), w(2, 3, 4)),
        (w(3), (2, 3, 4)),
        (w(4, 3), (2, 3, 5)),
    ]
    variable = [((3, 4), (4, 2)), ((2, 1, 3, 4), (5, 4, 2)), ((4,), (2, 4, 3)), ((2, 3, 4), (4,)), ((4,), (4,))]
    return [one("MatMul", {"a": a, "b": b}) for a, b in constant + variable]


def linears() -> list[Example]:
    row = [
        one("Gemm", {"x": (3, 4), "W": w(4, 5), "b": w(5)}),
        one("Gemm", {"x": (3, 4), "W": w(5, 4), "b": w(1, 5)}, transB=1, alpha=0.3, beta=1.7),
        one("MatMul", {"x": (2, 3, 4), "W": w(4, 5)}),
        one("MatMul", {"x": (4,), "W": w(4, 5)}),
        one("Gemm", {"x": (1, 1), "W": w(1, 1)}),
    ]
    wide, bias = w(40, 3), w(3)
    return row + [internal("Linear", {"x": (2, 40), "W": wide, "b": bias}, (2, 3), lambda x: x @ wide + bias)]


def slices() -> list[Example]:
    cuts = [
        ([1], [7], [1], [2]),
        ([6, 2], [-100, 0], [1, 2], [-3, -1]),
        ([-3], [100], [1], [1]),
        ([0, 1], [1, 3], [0, 2], [1, 1]),
    ]
    return [one("Slice", {"x": (2, 8, 3), "s": i64(s), "e": i64(e), "a": i64(a), "t": i64(t)}) for s, e, a, t in cuts]


def joins() -> list[Example]:
    parts = [
        {"a": (2, 3), "b": (4, 3)},
        {"a": (2, 3), "c": w(4, 3), "b": (1, 3)},
        {"c": w(2, 1), "a": (2, 3), "d": w(2, 2)},
    ]
    return [one("Concat", p, axis=k) for p, k in zip(parts, (0, 0, 1))]


def places() -> list[Example]:
    at = i64([[0, 2], [1, 0]])
    twice = i64([[0, 2], [0, 2]])
    operands = [
        ({"d": (2, 3), "i": at, "u": (2,)}),
        ({"d": w(2, 3), "i": at, "u": (2,)}),
        ({"d": (2, 3), "i": at, "u": w(2)}),
    ]
    found = [one("ScatterND", o, opset=16) for o in operands]
    found += [one("ScatterND", {**o, "i": twice}, opset=16, reduction="add") for o in operands]
    return [*found, one("ScatterElements", {"d": (3, 3), "i": i64([[1, 0, 2]]), "u": (1, 3)}, opset=16, axis=0)]


def choices() -> list[Example]:
    mask = np.array([[True, False, True], [False, False, True]])
    fixed = [
        one("Where", {"c": mask, "a": a, "b": b})
        for a, b in (((2, 3), (3,)), (w(2, 1), (2, 3)), ((1, 3), w(3)), ((1,), (2, 1)))
    ]
    greater = helper.make_node("Greater", ["x", "zero"], ["c"])
    inputs = {"x": (2, 3), "zero": np.zeros(1, F), "b": w(3)}
    return [*fixed, graph("Where", [greater, helper.make_node("Where", ["c", "x", "b"], ["y"])], inputs)]


def pads() -> list[Example]:
    found = [one("Pad", {"x": (3, 4), "p": i64([1, 2, 0, 3])}, mode=m) for m in ("constant", "reflect", "edge")]
    found.append(one("Pad", {"x": (3, 4), "p": i64([1, 2, 1, 3])}, opset=19, mode="wrap"))
    found.append(one("Pad", {"x": (3, 4), "p": i64([1, 2, 0, 3]), "v": np.array(1.5, F)}))
    return [*found, one("Pad", {"x": (3, 4), "p": i64([1, -1, 0, 3]), "v": np.array(-0.1, F)})]


def resizes() -> list[Example]:
    scales, found = np.array([1, 1, 2, 1.5], F), []
    for mode, place in product(("nearest", "linear"), ("asymmetric", "half_pixel", "align_corners")):
        x = {"x": (1, 2, 3, 4), "roi": None, "scales": scales}
        found.append(one("Resize", x, mode=mode, coordinate_transformation_mode=place))
    return [*found, one("Upsample", {"x": (1, 2, 3, 4), "scales": np.array([1, 1, 2, 2], F)}, opset=9)]


def einsums() -> list[Example]:
    constant = [
        ("bij,jk->bik", (2, 3, 4), w(4, 5)),
        ("ij,bjk->bik", w(3, 4), (2, 4, 5)),
        ("bi,i->b", (2, 4), w(4)),
        ("ij,kl->ijkl", (2, 3), w(2, 2)),
    ]
    found = [one("Einsum", {"a": a, "b": b}, equation=e) for e, a, b in constant]
    found.append(one("Einsum", {"a": (3, 3)}, equation="ii->i"))
    found.append(one("Einsum", {"a": w(2, 3), "b": (3, 4), "c": w(4, 2)}, equation="ij,jk,kl->il"))
    variable = [
        ("bij,bjk->bik", (2, 3, 4), (2, 4, 5)),
        ("ij,kj->ki", (3, 4), (2, 4)),
        ("abc,abc->b", (2, 3, 2), (2, 3, 2)),
        ("i,j->ij", (3,), (2,)),
        ("ij,k->i", (3, 4), (2,)),
    ]
    return found + [one("Einsum", {"a": a, "b": b}, equation=e) for e, a, b in variable]


def quantised(op: str) -> list[Example]:
    """Both ways through eight bits, per tensor and per channel."""
    found = []
    for scale, zero, extra in (
        (np.array(0.1, F), np.array(3, np.uint8), {}),
        (w(3, low=0.05), np.array([1, -2, 0], np.int8), {"axis": 1}),
    ):
        nodes = [helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], **extra)]
        nodes.append(helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], **extra))
        found.append(graph(op, nodes, {"x": (2, 3, 4), "s": scale, "z": zero}))
    return found


def quantised_by_range(output: int) -> list[Example]:
    """Scale and zero point from the input's own range; one of the three results."""
    names = ["q", "s", "z"]
    nodes = [helper.make_node("DynamicQuantizeLinear", ["x"], names)]
    nodes.append(helper.make_node("Cast", [names[output]], ["f"], to=TensorProto.FLOAT))
    nodes.append(helper.make_node("Mul", ["f", "c"], ["y"]))
    return [graph("DynamicQuantizeLinear", nodes, {"x": (2, 3), "c": np.array(0.01, F)}, low=low) for low in (-2, 0.5)]


def tops(largest: int) -> list[Example]:
    nodes = [helper.make_node("TopK", ["x", "k"], ["y", "i"], axis=1, largest=largest)]
    nodes.append(helper.make_node("Cast", ["i"], ["z"], to=TensorProto.FLOAT))
    return [graph("TopK", nodes, {"x": (2, 6), "k": i64([3])}, "y z")]


def gathers_by_value() -> list[Example]:
    return [
        chain("Gather", {"x": (4, 3), "i": (2, 2)}, "i", low=0, high=3, axis=0),
        chain("Gather", {"x": w(2, 5), "i": (3,)}, "i", low=-4, high=4, axis=-1),
        chain("Gather", {"x": (4, 3), "i": ()}, "i", low=-4, high=3.9, axis=0),
    ]


def slices_by_value() -> list[Example]:
    """x[i : i + 2], where i is computed."""
    nodes = [
        helper.make_node("Clip", ["i", "least", "most"], ["c"]),
        helper.make_node("Cast", ["c"], ["s"], to=TensorProto.INT64),
        helper.make_node("Add", ["s", "two"], ["e"]),
        helper.make_node("Slice", ["x", "s", "e", "a"], ["y"]),
    ]
    ends = {"least": np.array(0, F), "most": np.array(4.5, F)}
    return [graph("Slice", nodes, {"x": (2, 6), "i": (1,), "two": i64([2]), "a": i64([1]), **ends}, high=7)]


def shapes_of_cuts(op: str) -> list[Example]:
    """The shape or size of x[i : i + 2], where i is computed: only a run can tell it."""
    nodes = [
        helper.make_node("Clip", ["i", "least", "most"], ["c"]),
        helper.make_node("Cast", ["c"], ["s"], to=TensorProto.INT64),
        helper.make_node("Add", ["s", "two"], ["e"]),
        helper.make_node("Slice", ["x", "s", "e", "a"], ["p"]),
        helper.make_node(op, ["p"], ["n"]),
        helper.make_node("Cast", ["n"], ["y"], to=TensorProto.FLOAT),
    ]
    ends = {"least": np.array(0, F), "most": np.array(4, F)}
    return [graph(op, nodes, {"x": (2, 6), "i": (1,), "two": i64([2]), "a": i64([1]), **ends}, high=7)]


def shapes_by_value(op: str) -> list[Example]:
    """A target computed from x that always comes out the same: 0 * int(x) + constant."""
    nodes = [
        helper.make_node("Cast", ["i"], ["k"], to=TensorProto.INT64),
        helper.make_node("Mul", ["k", "zero"], ["z"]),
        helper.make_node("Add", ["z", "target"], ["s"]),
    ]
    inputs: dict = {"i": (2,), "zero": i64([0]), "target": i64([3, 4])}
    if op == "ConstantOfShape":
        value = helper.make_tensor("v", TensorProto.FLOAT, [1], [1.5])
        nodes += [helper.make_node(op, ["s"], ["c"], value=value), helper.make_node("Mul", ["c", "x"], ["y"])]
    else:
        nodes.append(helper.make_node(op, ["x", "s"], ["y"]))
    inputs["x"] = (2, 6) if op == "Reshape" else (3, 1)
    return [graph(op, nodes, inputs)]


def ranges() -> list[Example]:
    nodes = [helper.make_node("Add", ["x", "five"], ["e"]), helper.make_node("Range", ["x", "e", "d"], ["y"])]
    return [graph("Range", nodes, {"x": (), "five": np.array(4.5, F), "d": np.array(1, F)})]


def scatter_by_value(op: str, **attrs) -> list[Example]:
    opset = attrs.pop("opset", 16)
    return [chain(op, {"x": (4, 3), "i": (1, 3), "u": (1, 3)}, "i", opset, 0, 3.99, axis=0, **attrs)]


def halves() -> list[Example]:
    """Multiples of one half."""
    nodes = [
        helper.make_node("Floor", ["x"], ["f"]),
        helper.make_node("Mul", ["f", "half"], ["h"]),
        helper.make_node("Round", ["h"], ["y"]),
    ]
    return [graph("Round", nodes, {"x": (2, 7), "half": np.array(0.5, F)}, low=-9, high=9)]


POINTS = (-1.5, -0.25, 0.0, 0.7, 2.0)


def tables() -> list[Example]:
    """A bumpy one, and one that is constant on both sides."""
    found = []
    for slopes, value in (((0.5, -1.0, 2.0, 0.0, 1.0, -0.3), 0.25), ((0.0, 1.0, -1 / 3, 0.5, 2.0, 0.0), -1.0)):
        formula = partial(piecewise, slopes=slopes, value=value)
        attrs = {"points": POINTS, "slopes": slopes, "value": value}
        found.append(internal("Table", {"x": (2, 7)}, (2, 7), formula, -3.0, 3.0, **attrs))
    return found


def piecewise(x: np.ndarray, slopes: tuple, value: float) -> np.ndarray:
    """value at the first point, and slopes times the stretches of the pieces between it and x."""
    ends = np.array([-np.inf, *POINTS, np.inf])
    x = np.asarray(x, np.float64)
    lengths = [np.clip(x, a, b) - np.clip(POINTS[0], a, b) for a, b in zip(ends[:-1], ends[1:])]
    return value + sum(s * d for s, d in zip(slopes, lengths))


def two_joined(kind: str) -> list[Example]:
    """The sum, whatever the third input is: broadcasting on every side."""
    sign = 1 if kind == "MaxJoin" else -1
    shapes = [((2, 3), (2, 3), (2, 3)), ((3,), (2, 3), (2, 1)), ((2, 1, 3), (2, 4, 3), (4, 1))]
    return [
        internal(kind, {"a": a, "r": r, "b": b}, np.broadcast_shapes(a, r, b), lambda x, r, _: x + sign * r)
        for a, r, b in shapes
    ]


def shares() -> list[Example]:
    """Of parts and wholes of any size and sign."""
    shapes = [((2, 3), (2, 3)), ((3,), (2, 3)), ((2, 1, 3), (4, 1))]
    f = lambda i, u: np.where(i > 0, i / np.where(i > 0, np.maximum(i, u), 1), 0)
    return [internal("Share", {"i": i, "u": u}, np.broadcast_shapes(i, u), f) for i, u in shapes]


def pasted() -> list[Example]:
    """A strip of zeros over the columns i .. i + 1 of ones, which are fewer at the end and none beyond it."""
    nodes = [
        helper.make_node("Cast", ["i"], ["s"], to=TensorProto.INT64),
        helper.make_node("Add", ["s", "two"], ["e"]),
        helper.make_node("Slice", ["columns", "s", "e"], ["at"]),
        helper.make_node("Unsqueeze", ["at", "last"], ["index"]),
        helper.make_node("Shape", ["at"], ["n"]),
        helper.make_node("ConstantOfShape", ["n"], ["strip"]),
        helper.make_node("ScatterND", ["ones", "index", "strip"], ["mask"]),
        helper.make_node("Mul", ["x", "mask"], ["y"]),
    ]
    fixed = {"two": i64([2]), "columns": i64(list(range(6))), "last": i64([1]), "ones": np.full(6, 0.5, F)}
    return [graph("Lookup", nodes, {"x": (2, 6), "i": (1,), **fixed}, low=0, high=8)]


def unknown() -> list[Example]:
    """What is counted where, of which only ONNX Runtime knows how many there are; and an operator of its own."""
    nodes = [
        helper.make_node("NonZero", ["x"], ["places"]),
        helper.make_node("Cast", ["places"], ["p"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["p"], ["s"], keepdims=1),
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Add", ["h", "s"], ["y"]),
    ]
    return [graph("Opaque", nodes, {"x": (2, 3), "w": np.ones((3, 2), F)})]


def ensembles() -> list[Example]:
    """Two trees that share a cut, and a leaf alone; both kinds of cuts."""
    found = []
    for together in ("SUM", "MIN", "MAX"):
        attrs = {
            "feature": i64([0, 2, 0, 1]),
            "cut": np.array([0.5, -0.25, 0.5, 1.0]),
            "closed": np.array([True, False, True, False]),
            "yes": i64([1, -1, -4, -5]),
            "no": i64([-2, -3, 3, -6]),
            "roots": i64([0, 2, -7]),
            "weights": np.stack([w(7), 3 * w(7, seed=1)], 1).astype(np.float64),
            "aggregate": together,
        }
        found.append(internal("Trees", {"x": (2, 3)}, (2, 2), partial(grown, attrs=attrs), **attrs))
    return found


def grown(x: np.ndarray, attrs: dict) -> np.ndarray:
    """Every row down every tree."""
    rows = []
    for row in x:
        leaves = []
        for at in attrs["roots"]:
            while at >= 0:
                v, c = row[attrs["feature"][at]], attrs["cut"][at]
                at = attrs["yes" if (v <= c if attrs["closed"][at] else v < c) else "no"][at]
            leaves.append(attrs["weights"][-1 - at])
        rows.append({"SUM": np.sum, "MIN": np.min, "MAX": np.max}[attrs["aggregate"]](leaves, axis=0))
    return np.array(rows)


def powers() -> list[Example]:
    """One exponent, one base, several of either, both variable."""
    single = ((2, -2), (3, -2), (0.5, 0.1), (-1, 0.3), (4, -2), (-2, 0.3), (-3, 0.3))
    single += ((1.7, 0.1), (-0.5, 0.3), (0.3, 0.1))
    found = [one("Pow", {"x": (2, 3), "p": np.array(p, F)}, low=low) for p, low in single]
    found += [one("Pow", {"b": np.array(b, F), "x": (2, 3)}) for b in (2, 0.3)]
    found.append(one("Pow", {"x": (2, 3), "p": np.array([2, 1, 3], F)}))
    found.append(one("Pow", {"b": np.array([[2], [0.5]], F), "x": (2, 3)}))
    return [*found, one("Pow", {"a": (2, 3), "b": (3,)}, low=0.2), one("Pow", {"a": (2, 1), "b": w(3)}, low=0.2)]


SMOOTH = ("Sin", "Cos", "Atan", "Sinh", "Cosh", "Asinh", "Exp", "Erf", "Softplus", "Softsign", "Sigmoid", "Tanh")
STEPS = ("Sign", "Floor", "Ceil", "Relu", "Abs", "Neg")

TABLE = {
    **{op: (lambda op=op: unary(op)) for op in (*SMOOTH, *STEPS)},
    "Round": lambda: unary("Round") + halves(),
    "Tan": lambda: unary("Tan", low=-1.4, high=1.4),
    **{op: (lambda op=op: unary(op, low=-0.99, high=0.99)) for op in ("Asin", "Acos", "Atanh")},
    "Acosh": lambda: unary("Acosh", low=1.01, high=5),
    "Log": lambda: unary("Log", low=0.01, high=5),
    "Sqrt": lambda: unary("Sqrt", low=0.01, high=5),
    "Reciprocal": lambda: unary("Reciprocal", low=0.1) + unary("Reciprocal", high=-0.1),
    "HardSwish": lambda: unary("HardSwish", low=-4, high=4),
    "Mish": lambda: unary("Mish", opset=18),
    "Elu": lambda: unary("Elu", alpha=0.7) + unary("Elu", alpha=1.6) + unary("Elu", alpha=-0.5),
    "Celu": lambda: unary("Celu", alpha=0.7),
    "Selu": lambda: unary("Selu"),
    "LeakyRelu": lambda: unary("LeakyRelu") + unary("LeakyRelu", alpha=0.3) + unary("LeakyRelu", alpha=-0.2),
    "ThresholdedRelu": lambda: [e for a in (0.5, -0.5) for e in unary("ThresholdedRelu", alpha=a)],
    "HardSigmoid": lambda: unary("HardSigmoid", alpha=0.3, beta=0.4) + unary("HardSigmoid", alpha=-0.3, beta=0.4),
    "Swish": lambda: [
        internal("Swish", {"x": (2, 3)}, (2, 3), lambda x, a=a: x / (1 + np.exp(-a * x)), alpha=a)
        for a in (0.8, 1.702, -0.8)
    ],
    "Shrink": lambda: [e for b, a in ((0.2, 0.7), (0.0, 0.5), (0.9, 0.3)) for e in unary("Shrink", bias=b, lambd=a)],
    "Gelu": lambda: unary("Gelu", opset=20) + unary("Gelu", opset=20, approximate="tanh"),
    "Clip": lambda: [
        one("Clip", {"x": (2, 7), "lo": np.array(-0.5, F), "hi": np.array(0.7, F)}),
        one("Clip", {"x": (2, 7), "lo": np.array(0.0, F)}),
        one("Clip", {"x": (2, 7), "lo": None, "hi": np.array(0.3, F)}),
        one("Clip", {"x": (2, 7), "lo": np.array(1, F), "hi": np.array(-1, F)}),
    ],
    "IsNaN": lambda: [to_float("IsNaN", {"x": (2, 3)})],
    "IsInf": lambda: [to_float("IsInf", {"x": (2, 3)}, detect_negative=0)],
    "Not": lambda: [
        graph(
            "Not",
            [
                helper.make_node("Greater", ["x", "z"], ["b"]),
                helper.make_node("Not", ["b"], ["c"]),
                helper.make_node("Cast", ["c"], ["y"], to=TensorProto.FLOAT),
            ],
            {"x": (2, 3), "z": np.zeros(1, F)},
        )
    ],
    **{op: (lambda op=op: comparison(op)) for op in ("Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual")},
    **{op: (lambda op=op: logic(op)) for op in ("And", "Or", "Xor")},
    **{op: (lambda op=op: bits(op, TensorProto.INT32)) for op in ("BitwiseAnd", "BitwiseOr", "BitwiseXor")},
    "BitShift": lambda: [
        e
        for d in ("LEFT", "RIGHT")
        for e in bits("BitShift", TensorProto.UINT8, opset=11, low=0, high=4, direction=d)
    ],
    "Add": lambda: broadcasts("Add"),
    "Sub": lambda: broadcasts("Sub"),
    "Mul": lambda: broadcasts("Mul"),
    "Div": lambda: broadcasts("Div", low=0.5),
    "Pow": powers,
    "Max": lambda: broadcasts("Max"),
    "Min": lambda: broadcasts("Min"),
    "Mod": lambda: [one("Mod", {"a": (2, 3), "b": (3,)}, fmod=1)],
    "MaxJoin": lambda: two_joined("MaxJoin"),
    "MinJoin": lambda: two_joined("MinJoin"),
    "Share": shares,
    "Table": tables,
    "PRelu": lambda: (
        [one("PRelu", {"x": s, "s": a}) for s, a in (((2, 3), np.array([0.3], F)), ((2, 3), np.array([1.4], F)))]
        + [one("PRelu", {"x": (2, 3, 4), "s": 2 * w(3, 1)}), one("PRelu", {"x": (2, 3), "s": (3,)})]
    ),
    "Linear": linears,
    "MatMul": matmuls,
    "Einsum": einsums,
    "Conv": convolutions,
    "ConvTranspose": transposed_convolutions,
    "AveragePool": lambda: pools("AveragePool"),
    "MaxPool": lambda: pools("MaxPool"),
    "BatchNormalization": lambda: [
        one("BatchNormalization", {"x": s, "g": w(3), "b": w(3), "m": w(3), "v": w(3, low=0.1)}, epsilon=1e-3)
        for s in ((2, 3), (2, 3, 4), (1, 3, 2, 2))
    ],
    "ReduceSum": lambda: reductions("ReduceSum"),
    **{
        op: (lambda op=op: reductions(op))
        for op in ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceLogSumExp")
    },
    **{
        op: (lambda op=op: [one(op, {"x": (2, 4, 3)}, axis=1), one(op, {"x": (2, 4, 3)}, opset=11, axis=1)])
        for op in ("Softmax", "LogSoftmax", "Hardmax")
    },
    **{
        op: (
            lambda op=op: [
                to_float(op, {"x": (2, 4, 3)}, axis=1, keepdims=0),
                to_float(op, {"x": (2, 4)}, axis=-1, select_last_index=1),
            ]
        )
        for op in ("ArgMax", "ArgMin")
    },
    "TopK": lambda: tops(1) + tops(0),
    "TopK:1": lambda: tops(1) + tops(0),
    "OneHot": lambda: [
        chain("OneHot", {"x": (2, 3), "d": np.array([4]), "v": np.array([-1, 2], F)}, "x", low=-5, high=5, axis=a)
        for a in (-1, 1)
    ],
    "CumSum": lambda: [
        one("CumSum", {"x": (2, 5), "a": np.array(1)}, exclusive=e, reverse=r) for e, r in product((0, 1), (0, 1))
    ],
    "Reshape": lambda: [one("Reshape", {"x": (2, 6), "s": i64([3, -1])}), one("Flatten", {"x": (2, 3, 2)}, axis=1)],
    "Transpose": lambda: [one("Transpose", {"x": (2, 3, 4)}, perm=[2, 0, 1])],
    "Slice": slices,
    "Concat": joins,
    "Gather": lambda: [
        one("Gather", {"x": (2, 3, 4), "i": i64([[0, 1], [-1, 1]])}, axis=1),
        one("Gather", {"x": (5,), "i": np.array(2)}),
    ],
    "Pick": lambda: [
        one("GatherElements", {"x": (3, 3), "i": i64([[0, 2, 0], [1, 1, 2]])}, axis=0),
        one("GatherND", {"x": (2, 3, 2), "i": i64([[0, 1], [1, 2], [0, 1]])}),
    ],
    "Place": places,
    "Where": choices,
    "Expand": lambda: [one("Expand", {"x": (3, 1), "s": i64([2, 3, 4])})],
    "Tile": lambda: [one("Tile", {"x": (3, 2), "r": i64([2, 3])})],
    "Pad": pads,
    "Resize": resizes,
    "Embed": lambda: [embedding(w(4)), embedding(w(4).astype(np.float64) / 3)],
    "Cast": lambda: [
        to_float("Cast", {"x": (2, 3)}, low=-5, high=5, to=t)
        for t in (TensorProto.INT64, TensorProto.DOUBLE, TensorProto.BOOL)
    ],
    "QuantizeLinear": lambda: quantised("QuantizeLinear"),
    "DynamicQuantizeLinear": lambda: quantised_by_range(0),
    "DynamicQuantizeLinear:1": lambda: quantised_by_range(1),
    "DynamicQuantizeLinear:2": lambda: quantised_by_range(2),
    "DequantizeLinear": lambda: quantised("DequantizeLinear"),
    "GatherDynamic": gathers_by_value,
    "SliceDynamic": slices_by_value,
    "ReshapeDynamic": lambda: shapes_by_value("Reshape"),
    "ExpandDynamic": lambda: shapes_by_value("Expand"),
    "ConstantOfShapeDynamic": lambda: shapes_by_value("ConstantOfShape"),
    "Lookup": pasted,
    "Opaque": unknown,
    "Trees": ensembles,
    "ShapeDynamic": lambda: shapes_of_cuts("Shape"),
    "SizeDynamic": lambda: shapes_of_cuts("Size"),
    "RangeDynamic": ranges,
    "GatherElementsDynamic": lambda: [
        chain("GatherElements", {"x": (4, 3), "i": (2, 3)}, "i", low=0, high=3.99, axis=0)
    ],
    "GatherNDDynamic": lambda: [
        chain("GatherND", {"x": (4, 3, 2), "i": (2, 2)}, "i", low=0, high=2.99),
        chain("GatherND", {"x": (2, 3, 2), "i": (2, 1)}, "i", low=0, high=2.99, batch_dims=1),
    ],
    "ScatterElementsDynamic": lambda: [
        e for r in ("none", "add", "mul") for e in scatter_by_value("ScatterElements", reduction=r)
    ],
    "ScatterDynamic": lambda: scatter_by_value("Scatter", opset=10),
    "ScatterNDDynamic": lambda: (
        [
            chain("ScatterND", {"x": (4, 3), "i": (1, 2), "u": (1,)}, "i", 16, 0, 2.99, reduction=r)
            for r in ("none", "add")
        ]
        + [chain("ScatterND", {"x": (4, 3), "i": (1, 1), "u": (1, 3)}, "i", 16, 0, 2.99)]
        + [chain("ScatterND", {"x": (4, 3), "i": (1,), "u": (3,)}, "i", 16, 0, 2.99)]
    ),
}
