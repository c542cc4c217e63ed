"""Affine maps in a row become one: what is left has the announced kinds, and computes the same."""

import numpy as np
import pytest
from tiny import check, kinds, model, node

rng = np.random.default_rng(11)


def rand(*shape, low=-1.0, dtype=np.float32):
    return rng.uniform(low, 1.0, shape).astype(dtype)


STATS = ("g", "b", "m", "v")


def stats(n):
    return dict(zip(STATS, (rand(n), rand(n), rand(n), rand(n, low=0.2))))


CONV = {"weight": (6, 2, 3, 3), "group": 2, "x": (1, 4, 6, 5)}
BACK = {"weight": (4, 3, 3, 3), "group": 2, "x": (1, 4, 6, 5)}
PLAIN = {"weight": (6, 4, 3, 3), "group": 1, "x": (2, 4, 6, 5)}


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("op, at", [("Conv", CONV), ("ConvTranspose", BACK), ("Conv", PLAIN)])
def test_normalisation_goes_into_the_convolution_above(op, at, bias):
    conv = node(op, "x w c" if bias else "x w", "h", group=at["group"], pads=[1, 1, 0, 1])
    more = {"c": rand(6)} if bias else {}
    m = model(
        [conv, node("BatchNormalization", "h g b m v")], {"x": at["x"]}, w=rand(*at["weight"]), **more, **stats(6)
    )
    net = check(m)
    assert kinds(net) == [op] and net.nodes[0].name == "y"
    assert all(net.constants[i].dtype == np.float64 for i in net.nodes[0].inputs[1:])


@pytest.mark.parametrize("op, at", [("Conv", CONV), ("Conv", PLAIN)])
def test_normalisation_goes_into_the_convolution_below(op, at):
    nodes = [node("BatchNormalization", "x g b m v", "h"), node(op, "h w", group=at["group"])]
    assert kinds(check(model(nodes, {"x": at["x"]}, w=rand(*at["weight"]), **stats(4)))) == [op]


def test_a_shift_stays_before_padding_and_a_scale_does_not():
    conv = node("Conv", "h w", pads=[1, 1, 1, 1])
    shift, scale = (node(op, "x k", "h") for op in ("Add", "Mul"))
    k, w = rand(4, 1, 1), rand(*PLAIN["weight"])
    assert kinds(check(model([shift, conv], {"x": PLAIN["x"]}, w=w, k=k))) == ["Add", "Conv"]
    assert kinds(check(model([scale, conv], {"x": PLAIN["x"]}, w=w, k=k))) == ["Conv"]
    back, v = node("ConvTranspose", "h v", group=2), rand(*BACK["weight"])
    assert kinds(check(model([scale, back], {"x": BACK["x"]}, v=v, k=k))) == ["ConvTranspose"]
    assert kinds(check(model([shift, back], {"x": BACK["x"]}, v=v, k=k))) == ["Add", "ConvTranspose"]


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div"])
@pytest.mark.parametrize("shape", [(4,), (1, 4), (1,), ()])
@pytest.mark.parametrize("first", [True, False])
def test_a_constant_goes_into_the_linear_above(op, shape, first):
    after = node(op, "h k" if first else "k h")
    m = model([node("Gemm", "x w b", "h"), after], {"x": (2, 3)}, w=rand(3, 4), b=rand(4), k=rand(*shape, low=0.3))
    if op == "Div" and not first:
        assert "Reciprocal" in kinds(check(m, tolerance=1e-3))
    else:
        assert kinds(check(m)) == ["Linear"]


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div"])
def test_a_constant_goes_into_the_linear_below(op):
    m = model([node(op, "x k", "h"), node("Gemm", "h w b")], {"x": (2, 3)}, w=rand(3, 4), b=rand(4), k=rand(3, low=0.3))
    assert kinds(check(m)) == ["Linear"]
    m = model([node(op, "x k", "h"), node("MatMul", "h w")], {"x": (2, 3)}, w=rand(3, 4), k=rand(2, 1, low=0.3))
    expected = {"Sub": ["Add", "Linear"]}.get(op, [op, "Linear"])
    assert kinds(check(m)) == expected  # differs between rows


def test_through_reshapes_and_transposes():
    """As image classifiers begin (mean, deviation, flatten) and generators do (Linear, image, normalisation)."""
    start = [node("Sub", "x k", "h"), node("Div", "h d", "i"), node("Flatten", "i", "j"), node("Gemm", "j w b")]
    net = check(model(start, {"x": (1, 2, 3, 2)}, k=rand(2, 1, 1), d=rand(2, 1, 1, low=0.3), w=rand(12, 5), b=rand(5)))
    assert kinds(net) == ["Reshape", "Linear"]
    image = [node("Gemm", "x w", "h"), node("Reshape", "h s", "i"), node("BatchNormalization", "i g b m v")]
    net = check(model(image, {"x": (1, 5)}, w=rand(5, 12), s=np.array([1, 3, 2, 2]), **stats(3)))
    assert kinds(net) == ["Linear", "Reshape"] and net.nodes[1].name == "y"
    turned = [node("MatMul", "x w", "h"), node("Transpose", "h", "i", perm=[0, 2, 1]), node("Mul", "i k")]
    net = check(model(turned, {"x": (1, 5, 3)}, w=rand(3, 4), k=rand(4, 1)))
    assert kinds(net) == ["Linear", "Transpose"]
    net = check(model(turned, {"x": (1, 5, 3)}, w=rand(3, 4), k=rand(5)))
    assert kinds(net) == ["Linear", "Transpose", "Mul"]


def test_what_others_read_stays():
    image = [node("Gemm", "x w", "h"), node("Mul", "h k", "i"), node("Add", "i h")]
    assert kinds(check(model(image, {"x": (1, 3)}, w=rand(3, 4), k=rand(4)))) == ["Linear", "Mul", "Add"]
    root = [node("Gemm", "x w", "h"), node("Mul", "h k")]
    assert kinds(check(model(root, {"x": (1, 3)}, outputs="h y", w=rand(3, 4), k=rand(4)))) == ["Linear", "Mul"]
    kept = check(model(root, {"x": (1, 3)}, w=rand(3, 4), k=rand(4)), keep=("h",))
    assert [n.name for n in kept.nodes] == ["h", "y"]


@pytest.mark.parametrize(
    "ops, left",
    [
        ("Add Add", ["Add"]),
        ("Sub Add", ["Add"]),
        ("Mul Mul", ["Mul"]),
        ("Div Div", ["Div"]),
        ("Mul Div", ["Mul"]),
        ("Div Mul", ["Mul"]),
        ("Mul Add", ["Mul", "Add"]),
        ("Sub", ["Add"]),
    ],
)
def test_constants_in_a_row(ops, left):
    names = ops.split()
    nodes = [
        node(op, f"{'x' if i == 0 else 'h'} k{i}", "h" if i + 1 < len(names) else "y") for i, op in enumerate(names)
    ]
    weights = {f"k{i}": rand(*s, low=0.3) for i, s in zip(range(len(names)), ((3,), (2, 1)))}
    assert kinds(check(model(nodes, {"x": (2, 3)}, **weights))) == left


def test_neutral_constants_vanish():
    for op, k in (("Add", 0), ("Sub", 0), ("Mul", 1), ("Div", 1)):
        net = check(model([node(op, "x k", "h"), node("Relu", "h")], {"x": (2, 3)}, k=np.full(3, k, np.float32)))
        assert kinds(net) == ["Relu"]
    net = check(model([node("Mul", "x k", "h"), node("Sin", "h")], {"x": (2, 3)}, k=np.float32(-1)))
    assert kinds(net) == ["Neg", "Sin"]
    wider = check(model(node("Add", "x k"), {"x": (1, 3)}, k=np.zeros((2, 3), np.float32)))
    assert kinds(wider) == ["Add"]


def test_linears_in_a_row():
    two = lambda a, b, c: model(
        [node("Gemm", "x v a", "h"), node("Gemm", "h w b")],
        {"x": (2, a)}, v=rand(a, b), a=rand(b), w=rand(b, c), b=rand(c),
    )  # fmt: skip
    net = check(two(3, 5, 4))
    assert kinds(net) == ["Linear"] and net.constants[net.nodes[0].inputs[1]].shape == (3, 4)
    assert kinds(check(two(8, 2, 8))) == ["Linear", "Linear"]  # 64 entries instead of 32
    sparse = np.zeros((600, 500), np.float32)
    sparse[rng.integers(0, 600, 300), rng.integers(0, 500, 300)] = 1.5
    m = model(
        [node("Gemm", "x v a", "h"), node("MatMul", "h w")], {"x": (1, 40)}, v=rand(40, 600), a=rand(600), w=sparse
    )
    assert kinds(check(m)) == ["Linear"]


def test_sums_of_linears_of_one_tensor():
    nodes = [node("MatMul", "x v", "h"), node("MatMul", "x w", "i"), node("Sin", "x", "s"), node("MatMul", "s u", "t")]
    ends = {"x": (1, 3)}
    weights = {"v": rand(3, 4), "w": rand(3, 4), "u": rand(3, 4)}
    assert kinds(check(model([*nodes, node("Add", "h i")], ends, **weights))) == ["Linear"]
    apart = [*nodes, node("Add", "h t", "r"), node("Add", "r i")]
    assert sorted(kinds(check(model(apart, ends, **weights)))) == ["Add", "Linear", "Linear", "Sin"]


def test_duplicates_are_computed_once():
    nodes = [node("Sin", "x", "a"), node("Sin", "x", "b"), node("Mul", "a b", "c"), node("Slice", "x s e", "d")]
    nodes += [node("Slice", "x s e", "f"), node("Sub", "d f", "g"), node("Add", "c g")]
    net = check(model(nodes, {"x": (3, 3)}, s=np.array([1]), e=np.array([2])))
    assert sorted(kinds(net)) == ["Add", "Pow", "Sin", "Slice", "Sub"]
    kept = check(model(nodes[:3], {"x": (3, 3)}, outputs="a b c"))
    assert sorted(kinds(kept)) == ["Mul", "Sin", "Sin"]


def test_nodes_that_differ_in_one_entry_are_two():
    """Of a long list of indices, or in the last digits of a number."""
    i = np.arange(3000)
    j = np.where(i == 1500, 7, i)
    nodes = [node("Gather", "x i", "a"), node("Gather", "x j", "b"), node("Sub", "a b")]
    net = check(model(nodes, {"x": (3000,)}, i=i, j=j))
    assert kinds(net) == ["Gather", "Gather", "Sub"]
    scale = np.array([1, 1.5], np.float32)
    half = [node("Resize", "x - s", f"v{k}", mode="linear", coordinate_transformation_mode=m)
            for k, m in enumerate(("half_pixel", "asymmetric"))]  # fmt: skip
    net = check(model([*half, node("Sub", "v0 v1")], {"x": (1, 1200)}, s=scale), tolerance=1e-3)
    assert kinds(net) == ["Resize", "Resize", "Sub"]
    slopes = [node("LeakyRelu", "x", f"v{k}", alpha=a) for k, a in enumerate((0.1, 0.1000001))]
    assert kinds(check(model([*slopes, node("Sub", "v0 v1")], {"x": (4,)}))) == ["LeakyRelu", "LeakyRelu", "Sub"]
