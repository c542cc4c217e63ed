"""Entries of normalised vectors are clipped to the range they have: however the norm is spelled, and nowhere else."""

import numpy as np
import pytest
from tiny import check, kinds, model, node

F = np.float32
I64 = np.int64


def limits(net):
    """The ends of all Clips, which lie around 0."""
    found = [(n.attrs["min"], n.attrs["max"]) for n in net.nodes if n.kind == "Clip"]
    assert all(low == -high for low, high in found)
    return [high for _, high in found]


def spelled_out(root="Sqrt", mean="ReduceMean", **attrs):
    """LayerNormalization as files spelled it before there was an operator."""
    return [
        node("ReduceMean", "x", "m", axes=[-1]),
        node("Sub", "x m", "d"),
        node("Pow", "d two", "s"),
        node(mean, "s", "v", **({"axes": [-1]} | attrs)),
        node("Add", "v eps", "e"),
        node(root, "e", "r") if root == "Sqrt" else node("Pow", "e half", "r"),
        node("Div", "d r"),
    ]


CONSTANTS = {"two": F(2), "half": F(0.5)}


@pytest.mark.parametrize("root", ["Sqrt", "Pow"])
@pytest.mark.parametrize("n", [2, 4, 7])
def test_layer_normalisation_spelled_out(root, n):
    net = check(model(spelled_out(root), {"x": (3, n)}, eps=F(1e-5), **CONSTANTS))
    (limit,) = limits(net)
    assert np.sqrt(n - 1) <= limit <= np.sqrt(n - 1) * (1 + 1e-6)


@pytest.mark.parametrize(
    "op, extra, opset, shape, most",
    [
        ("LayerNormalization", {"axis": 1}, 17, (2, 3, 4), 11),
        ("RMSNormalization", {"axis": -1}, 23, (2, 3, 4), 4),
        ("InstanceNormalization", {}, 17, (1, 2, 3, 5), 14),
        ("GroupNormalization", {"num_groups": 2}, 21, (1, 4, 3), 5),
    ],
)
def test_operators(op, extra, opset, shape, most):
    size = {"LayerNormalization": (3, 4), "RMSNormalization": (4,)}.get(op, (shape[1],))
    weights = {"g": np.linspace(0.5, 2, np.prod(size)).astype(F).reshape(size), "b": np.zeros(size, F)}
    names = "x g" if op == "RMSNormalization" else "x g b"
    weights = {k: v for k, v in weights.items() if k in names.split()}
    (limit,) = limits(check(model(node(op, names, **extra), {"x": shape}, opset=opset, **weights), tolerance=1e-4))
    assert np.sqrt(most) <= limit <= np.sqrt(most) * (1 + 1e-6)


def test_norms():
    for p in (1, 2):
        (limit,) = limits(check(model(node("LpNormalization", "x", axis=0, p=p), {"x": (3, 2)})))
        assert 1 <= limit <= 1 + 1e-6
    guarded = [
        node("ReduceL2", "x", "s", axes=[1]),
        node("Clip", "s least", "c"),
        node("Shape", "x", "h"),
        node("Expand", "c h", "e"),
        node("Div", "x e"),
    ]
    net = check(model(guarded, {"x": (3, 2)}, least=F(1e-12)))
    limit = [n.attrs["max"] for n in net.nodes if n.kind == "Clip"][-1]
    assert 1 <= limit <= 1 + 1e-6


def test_variance_as_a_difference_of_means():
    nodes = [
        node("ReduceMean", "x", "m", axes=[0, 2]),
        node("Pow", "m two", "mm"),
        node("Pow", "x two", "s"),
        node("ReduceMean", "s", "ms", axes=[0, 2]),
        node("Sub", "ms mm", "v"),
        node("Sqrt", "v", "r"),
        node("Add", "r eps", "e"),
        node("Sub", "x m", "d"),
        node("Div", "d e"),
    ]
    (limit,) = limits(check(model(nodes, {"x": (2, 3, 4)}, eps=F(1e-9), two=F(2))))
    assert np.sqrt(7) <= limit <= np.sqrt(7) * (1 + 1e-6)


def test_a_norm_along_other_axes_than_the_mean():
    (limit,) = limits(check(model(spelled_out(axes=[0]), {"x": (3, 4)}, eps=F(1e-3), **CONSTANTS)))
    assert np.sqrt(3) <= limit <= np.sqrt(3) * (1 + 1e-6)


def test_what_is_no_norm_stays():
    """Another vector, a sum that meets other entries, a constant that makes the divisor smaller."""
    other = [*spelled_out()[:2], node("Pow", "x two", "s"), *spelled_out()[3:]]
    for nodes in (other, spelled_out(keepdims=0)):
        assert "Clip" not in kinds(check(model(nodes, {"x": (3, 3)}, eps=F(1e-3), **CONSTANTS)))
    net = check(model(spelled_out(), {"x": (3, 4)}, eps=F(-1e-7), **CONSTANTS), low=1.0, high=90.0)
    assert "Clip" not in kinds(net)


def test_ends_are_reached():
    """A vector with one entry far from the others comes as near to the range's end as epsilon lets it."""
    net = check(model(spelled_out("Sqrt"), {"x": (1, 5)}, eps=F(1e-5), **CONSTANTS))
    x = np.array([1e4, 0, 0, 0, 0])
    d = x - x.mean()
    assert limits(net)[0] >= (d / np.sqrt((d**2).mean())).max() > limits(net)[0] * (1 - 1e-6)


def test_a_norm_that_may_be_zero():
    """0 / 0 is NaN: the range is only said where that would reach the outputs, or the divisor stays above 0."""
    norm = [node("ReduceL2", "x", "s", axes=[1]), node("Div", "x s", "q")]
    assert limits(check(model([*norm, node("Add", "q q", "y")], {"x": (3, 2)})))
    assert "Clip" not in kinds(check(model([*norm, node("Relu", "q", "y")], {"x": (3, 2)})))
    norm[1:] = [node("Add", "s k", "b"), node("Div", "x b", "q")]
    assert "Clip" in kinds(check(model([*norm, node("Sin", "q", "y")], {"x": (3, 2)}, k=F(1e-9))))


@pytest.mark.parametrize("inverse", ["Pow", "Reciprocal", "Div"])
def test_products_with_an_inverse_root(inverse):
    """However 1 / sqrt is spelled; and once only."""
    nodes = [node("Pow", "x two", "s"), node("ReduceMean", "s", "v", axes=[-1]), node("Add", "v eps", "e")]
    if inverse == "Pow":
        nodes.append(node("Pow", "e minus", "r"))
    else:
        nodes += [node("Sqrt", "e", "t"), node(inverse, "t" if inverse == "Reciprocal" else "one t", "r")]
    turn = lambda x, y: node("Transpose", x, y, perm=[1, 0])
    nodes += [node("Mul", "x r", "z"), node("Mul", "g z", "w"), turn("w", "u"), node("Sin", "u", "s1"), turn("s1", "y")]
    weights = {"g": np.arange(4).astype(F), "minus": F(-0.5), "one": np.ones(1, F)}
    (limit,) = limits(check(model(nodes, {"x": (3, 4)}, eps=F(1e-5), **CONSTANTS, **weights)))
    assert 2 <= limit <= 2 * (1 + 1e-6)
