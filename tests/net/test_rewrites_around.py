"""Moves that change places with functions, products with columns, normalisations in a form that bounds understand."""

import numpy as np
import pytest
from tiny import check, kinds, model, node

rng = np.random.default_rng(16)
F = np.float32


def rand(*shape):
    return rng.uniform(-1, 1, shape).astype(F)


def test_functions_between_moves():
    there, back = node("Transpose", "x", "t", perm=[0, 2, 1]), node("Transpose", "v", "w", perm=[0, 2, 1])
    functions = [node("Sin", "t", "a"), node("Add", "a k", "b"), node("Mul", "k b", "c"), node("Pow", "c p", "v")]
    m = model([there, *functions, back, node("Relu", "w")], {"x": (2, 3, 4)}, k=np.full((1, 1), 0.3, F), p=F(3))
    assert "Transpose" not in kinds(check(m))
    flat = [node("Flatten", "x", "t"), node("Tanh", "t", "v"), node("Reshape", "v s")]
    assert kinds(check(model(flat, {"x": (2, 3, 4)}, s=np.array([2, 4, 3])))) == ["Tanh", "Reshape"]
    mixed = [there, node("Tanh", "t", "v"), node("Flatten", "v")]
    assert kinds(check(model(mixed, {"x": (2, 3, 4)}))) == ["Transpose", "Tanh", "Reshape"]


def test_moves_stay_around_what_differs_between_entries_or_is_read():
    there, back = node("Transpose", "x", "t", perm=[0, 2, 1]), node("Transpose", "v", "w", perm=[0, 2, 1])
    last = node("Sin", "w")
    m = model([there, node("Mul", "t k", "v"), back, last], {"x": (2, 3, 4)}, k=rand(3))
    assert kinds(check(m)) == ["Transpose", "Mul", "Transpose", "Sin"]
    m = model([there, node("Sin", "t", "v"), back, node("Sin", "w")], {"x": (2, 3, 4)}, outputs="y v")
    assert kinds(check(m)).count("Transpose") == 2
    m = model(
        [there, node("Sin", "t", "v"), back, node("Sin", "w"), node("Cos", "t", "u")], {"x": (2, 3, 4)}, outputs="y u"
    )
    assert kinds(check(m)).count("Transpose") == 2


@pytest.mark.parametrize("x", [(4, 1), (2, 4, 1)])
def test_a_matrix_times_a_column_is_linear(x):
    net = check(model(node("MatMul", "w x"), {"x": x}, w=rand(3, 4)))
    assert [k for k in kinds(net) if k != "Reshape"] == ["Linear"]
    turn = lambda x, y: node("Transpose", x, y, perm=[1, 0])
    m = model([turn("x", "t"), node("MatMul", "w t", "u"), turn("u", "y")], {"x": (1, 4)}, w=rand(3, 4))
    assert kinds(check(m)) == ["Linear"]


def normalised(op, **attrs):
    shape, opset = (2, 4, 3), 18
    n = {"LayerNormalization": 3, "InstanceNormalization": 4, "GroupNormalization": 2}.get(op, 0)
    names = "x s b" if n else "x"
    weights = {"s": rand(n), "b": rand(n)} if n else {}
    return model(node(op, names, **attrs), {"x": shape}, opset=opset, **weights)


@pytest.mark.parametrize(
    "op, attrs",
    [
        ("LayerNormalization", {"epsilon": 1e-3}),
        ("InstanceNormalization", {"epsilon": 1e-3}),
        ("GroupNormalization", {"epsilon": 1e-3, "num_groups": 2}),
        ("LpNormalization", {"axis": 1}),
    ],
)
def test_normalisations_divide_by_the_root_of_squares(op, attrs):
    """x times the reciprocal of sqrt(mean of squares + epsilon): every step keeps its interval positive, because the
    squares are powers of one number and epsilon is added before the root."""
    net = check(normalised(op, **attrs))
    by_name = {n.name: n for n in net.nodes}
    (reciprocal,) = (n for n in net.nodes if n.kind == "Reciprocal")
    n, seen = by_name[reciprocal.inputs[0]], []
    while n.kind != "Pow":
        seen.append(n.kind)
        n = by_name[n.inputs[0]]
    assert float(net.constants[n.inputs[1]]) == 2
    if op == "LpNormalization":
        assert seen == ["Sqrt", "ReduceSum"]
    else:
        assert seen == ["Sqrt", "Add", "ReduceMean"]
        add = by_name[by_name[reciprocal.inputs[0]].inputs[0]]
        assert float(net.constants[add.inputs[1]]) == pytest.approx(1e-3)
    assert "Div" not in kinds(net) and {"Mul", "Reciprocal"} <= set(kinds(net))


def test_layer_normalisation_spelled_out():
    nodes = [node("ReduceMean", "x", "m", axes=[-1]), node("Sub", "x m", "d"), node("Mul", "d d", "q")]
    nodes += [
        node("ReduceMean", "q", "v", axes=[-1]),
        node("Add", "v e", "w"),
        node("Pow", "w h", "r"),
        node("Div", "d r"),
    ]
    net = check(model(nodes, {"x": (2, 5)}, e=F(1e-3), h=F(0.5)))
    assert kinds(net) == ["ReduceMean", "Sub", "Pow", "ReduceMean", "Add", "Sqrt", "Reciprocal", "Mul", "Clip"]
