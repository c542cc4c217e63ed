"""Functions of one number: quotients, powers and clippings by name, gates however they are spelled, einsum."""

import numpy as np
import pytest
import torch
from tiny import check, kinds, model, node

from verifier.bounds import METHODS
from verifier.bounds.program import Program
from verifier.net.load import load_network
from verifier.problem import flatten

rng = np.random.default_rng(13)
F = np.float32


def rand(*shape):
    return rng.uniform(-1, 1, shape).astype(F)


def only(net):
    (n,) = net.nodes
    return n


# --- quotients and powers


def test_division_by_a_variable():
    inputs = {"x": (2, 3), "z": (3,)}
    assert kinds(check(model(node("Div", "x z"), inputs), low=0.5)) == ["Reciprocal", "Mul"]
    assert kinds(check(model(node("Div", "k x"), {"x": (2, 3)}, k=rand(3)), low=0.5)) == ["Reciprocal", "Mul"]
    assert kinds(check(model(node("Div", "k x"), {"x": (2, 3)}, k=np.ones(3, F)), low=0.5)) == ["Reciprocal"]
    assert kinds(check(model(node("Div", "k x"), {"x": (3,)}, k=np.ones((2, 1), F)), low=0.5)) == ["Reciprocal", "Mul"]


def test_division_of_integers_stays():
    nodes = [node("Cast", f"{n}", f"{n}i", to=7) for n in "xz"] + [node("Add", "zi k", "d")]
    nodes += [node("Div", "xi d", "q"), node("Cast", "q", to=1)]
    net = check(model(nodes, {"x": (2, 3), "z": (3,)}, k=np.array(1)), low=0.0, high=9.0)
    assert kinds(net).count("Div") == 1


@pytest.mark.parametrize(
    "p, left", [(1, ["Sin"]), (0.5, ["Sqrt", "Sin"]), (-1, ["Reciprocal", "Sin"]), (3, ["Pow", "Sin"])]
)
def test_powers(p, left):
    assert kinds(check(model([node("Pow", "x p", "h"), node("Sin", "h")], {"x": (2, 3)}, p=F(p)), low=0.5)) == left


def test_powers_of_two_variables():
    ends = {"x": (2, 3), "z": (3,)}
    net = check(model([node("Exp", "x", "b"), node("Pow", "b z")], ends))
    assert kinds(net) == ["Exp", "Log", "Mul", "Exp"]
    assert kinds(check(model([node("Abs", "x", "b"), node("Pow", "b z")], ends), low=0.1)) == [
        "Abs",
        "Log",
        "Mul",
        "Exp",
    ]
    assert kinds(check(model(node("Pow", "x z"), ends), low=0.1)) == ["Pow"]  # x may be negative
    assert kinds(check(model(node("Pow", "b z"), {"z": (3,)}, b=1 + rand(2, 1) / 2))) == ["Mul", "Exp"]
    assert kinds(check(model(node("Pow", "b z"), {"z": (3,)}, b=F(2)))) == ["Pow"]


def test_squares_through_equal_reshapes():
    nodes = [node("Reshape", "x s", "a"), node("Reshape", "x s", "b"), node("Mul", "a b")]
    assert kinds(check(model(nodes, {"x": (2, 3)}, s=np.array([3, 2])))) == ["Reshape", "Pow"]


# --- clipping


def test_clippings_merge():
    clip = lambda i, o, a, b: node("Clip", i, o, min=a, max=b)
    ends = {"x": (2, 3)}
    merged = check(model([clip("x", "h", -0.5, 1.0), clip("h", "y", 0.25, 2.0)], ends, opset=7))
    assert only(merged).attrs == {"min": 0.25, "max": 1.0}
    apart = check(model([clip("x", "h", -0.5, 0.0), clip("h", "y", 0.25, 2.0)], ends, opset=7))
    assert only(apart).attrs == {"min": 0.25, "max": 0.25}
    assert only(check(model([clip("x", "h", -0.5, 1.0), node("Relu", "h")], ends, opset=7))).attrs == {
        "min": 0,
        "max": 1,
    }
    assert only(check(model([node("Relu", "x", "h"), clip("h", "y", -1.0, 0.5)], ends, opset=7))).attrs["min"] == 0
    assert only(check(model(clip("x", "y", 0.0, 3e39), ends, opset=7))).kind == "Relu"
    assert kinds(check(model([node("Relu", "x", "h"), node("Relu", "h")], ends))) == ["Relu"]


@pytest.mark.parametrize("op", ["Sigmoid", "Exp", "Abs", "Softplus"])
def test_relu_of_what_is_not_negative(op):
    nodes = [node(op, "x", "h"), node("Transpose", "h", "i", perm=[1, 0]), node("Relu", "i")]
    assert kinds(check(model(nodes, {"x": (2, 3)}))) == [op, "Transpose"]
    assert kinds(check(model([node("Sin", "x", "h"), node("Relu", "h")], {"x": (2, 3)}))) == ["Sin", "Relu"]


def test_special_slopes():
    assert kinds(check(model(node("LeakyRelu", "x", alpha=0.0), {"x": (2, 3)}))) == ["Relu"]
    assert kinds(check(model(node("ThresholdedRelu", "x", alpha=0.0), {"x": (2, 3)}))) == ["Relu"]
    net = check(model(node("PRelu", "x s"), {"x": (2, 3)}, s=np.full((3,), 0.25, F)))
    assert only(net).kind == "LeakyRelu" and only(net).attrs == {"alpha": 0.25}
    assert kinds(check(model(node("PRelu", "x s"), {"x": (2, 3)}, s=rand(3)))) == ["PRelu"]


def test_hard_sigmoid_is_a_clipped_affine_map():
    net = check(model(node("HardSigmoid", "x", alpha=0.3, beta=0.4), {"x": (2, 3)}))
    assert kinds(net) == ["Mul", "Add", "Clip"] and net.constants[net.nodes[0].inputs[1]] == F(0.3)
    after = [node("MatMul", "x w", "h"), node("HardSigmoid", "h")]
    assert kinds(check(model(after, {"x": (2, 3)}, w=rand(3, 3)))) == ["Linear", "Clip"]


# --- spelled out


@pytest.mark.parametrize("less", [False, True])
def test_softmax(less):
    nodes = [node("ReduceMax", "x", "m", axes=[1]), node("Sub", "x m", "z")] if less else []
    nodes += [node("Exp", "z" if less else "x", "e"), node("ReduceSum", "e a", "s"), node("Div", "e s")]
    net = check(model(nodes, {"x": (2, 4, 3)}, a=np.array([1])))
    assert only(net).kind == "Softmax" and only(net).attrs == {"axes": (1,)}


def test_what_is_no_softmax():
    nodes = [node("Exp", "x", "e"), node("ReduceSum", "e a", "s", keepdims=0), node("Div", "e s")]
    assert "Exp" in kinds(check(model(nodes, {"x": (3, 3)}, a=np.array([1]))))
    other = [node("Exp", "x", "e"), node("ReduceSum", "e a", "s"), node("Div", "e s", "d"), node("Add", "d e")]
    assert "Exp" in kinds(check(model(other, {"x": (2, 3)}, a=np.array([1]))))
    moved = [node("Sub", "x k", "z"), node("Exp", "z", "e"), node("ReduceSum", "e a", "s"), node("Div", "e s")]
    assert kinds(check(model(moved, {"x": (2, 3)}, a=np.array([1]), k=rand(3)))) == ["Add", "Softmax"]


def test_softplus_and_sigmoid():
    one = {"k": F(1)}
    nodes = [node("Exp", "x", "e"), node("Add", "e k", "s"), node("Log", "s")]
    assert kinds(check(model(nodes, {"x": (2, 3)}, **one))) == ["Softplus"]
    nodes = [node("Neg", "x", "n"), node("Exp", "n", "e"), node("Add", "k e", "s"), node("Div", "k s")]
    assert kinds(check(model(nodes, {"x": (2, 3)}, **one))) == ["Sigmoid"]


ROOT = F(np.sqrt(2))
GELU = {
    "product first": [
        ("Div", "x r", "d"),
        ("Erf", "d", "e"),
        ("Add", "e 1", "f"),
        ("Mul", "x f", "g"),
        ("Mul", "g h", "y"),
    ],
    "half first": [
        ("Mul", "x h", "i"),
        ("Div", "x r", "d"),
        ("Erf", "d", "e"),
        ("Add", "1 e", "f"),
        ("Mul", "i f", "y"),
    ],
    "half inside": [
        ("Mul", "x q", "d"),
        ("Erf", "d", "e"),
        ("Add", "e 1", "f"),
        ("Mul", "f h", "g"),
        ("Mul", "g x", "y"),
    ],
}


@pytest.mark.parametrize("spelling", GELU)
def test_gelu_by_erf(spelling):
    """The file's constant is not quite the root of 2: what it lacks is made up for by two factors near 1."""
    constants = {"1": F(1), "h": F(0.5), "r": ROOT, "q": F(1) / ROOT}
    net = check(model([node(*n) for n in GELU[spelling]], {"x": (2, 3)}, **constants), tolerance=2e-6)
    assert kinds(net) == ["Mul", "Gelu", "Mul"] and net.nodes[1].attrs == {"approximate": "none"}
    inner, outer = (float(net.constants[net.nodes[k].inputs[1]]) for k in (0, 2))
    scale = float(constants["q"]) if spelling == "half inside" else 1 / float(ROOT)
    assert inner == pytest.approx(scale * np.sqrt(2), rel=1e-15) and inner != 1
    assert inner * outer == pytest.approx(1, rel=1e-15)
    between = [node("MatMul", "u w", "x"), *(node(*n) for n in GELU[spelling][:-1])]
    last = GELU[spelling][-1]
    between += [node(last[0], last[1], "z"), node("MatMul", "z w")]
    net = check(model(between, {"u": (2, 3)}, w=rand(3, 3), **constants), tolerance=2e-6)
    assert kinds(net) == ["Linear", "Gelu", "Linear"]


def test_gates():
    ends = {"x": (2, 3)}
    net = check(model([node("Sigmoid", "x", "s"), node("Mul", "s x")], ends))
    assert only(net).kind == "Swish" and only(net).attrs == {"alpha": 1.0}
    net = check(model([node("Mul", "x k", "z"), node("Sigmoid", "z", "s"), node("Mul", "x s")], ends, k=F(1.702)))
    assert only(net).attrs == {"alpha": float(F(1.702))}
    nodes = [node("Mul", "x k", "z"), node("Tanh", "z", "t"), node("Add", "t o", "s"), node("Mul", "x s", "p")]
    net = check(model([*nodes, node("Mul", "p k")], ends, k=F(0.5), o=F(1)))
    assert only(net).kind == "Swish" and only(net).attrs == {"alpha": 1.0}
    net = check(model([node("Softplus", "x", "s"), node("Tanh", "s", "t"), node("Mul", "x t")], ends))
    assert only(net).kind == "Mish"
    nodes = [node("Add", "x k", "z"), node("Clip", "z o s", "t"), node("Mul", "x t", "p"), node("Div", "p s")]
    net = check(model(nodes, {"x": (2, 3)}, k=F(3), o=F(0), s=F(6)), high=5.0, low=-5.0)
    assert only(net).kind == "HardSwish"
    net = check(model([node("HardSigmoid", "x", "s", alpha=1 / 6, beta=0.5), node("Mul", "x s")], ends))
    assert set(kinds(net)) == {"Mul", "HardSwish"}


CUBES = {
    "pow": [node("Pow", "x 3", "p")],
    "square first": [node("Mul", "x x", "q"), node("Mul", "q x", "p")],
    "square last": [node("Mul", "x x", "q"), node("Mul", "x q", "p")],
}


def tanh_gelu(cube, a=0.044715, half="last"):
    nodes = [*CUBES[cube], node("Mul", "p a", "s"), node("Add", "x s", "t"), node("Mul", "t c", "z")]
    nodes += [node("Tanh", "z", "h"), node("Add", "h 1", "g")]
    nodes += [node("Mul", "x g", "m"), node("Mul", "m .5")] if half == "last" else []
    nodes += [node("Mul", "x .5", "m"), node("Mul", "m g")] if half == "first" else []
    numbers = {"a": F(a), "c": F(np.sqrt(2 / np.pi)), "1": F(1), ".5": F(0.5), "3": F(3)}
    return model(nodes, {"x": (2, 3)}, **numbers)


@pytest.mark.parametrize("half", ["first", "last"])
@pytest.mark.parametrize("cube", CUBES)
def test_gelu_by_the_tanh_of_a_cubic(cube, half):
    net = check(tanh_gelu(cube, half=half))
    (gelu,) = (n for n in net.nodes if n.kind == "Gelu")
    assert set(kinds(net)) <= {"Mul", "Gelu"} and 0 < gelu.attrs["off"] < 1e-8
    assert "Gelu" not in kinds(check(tanh_gelu(cube, a=0.05, half=half)))


def test_gelu_by_tanh_is_enclosed_with_the_constants_of_the_file():
    """In float64, on single points: the roundings of the two constants are far larger than those of the bounds."""
    net = load_network(tanh_gelu("pow"))
    program = Program(flatten(net, np.arange(6), np.zeros(6), np.zeros(0, np.int64)), torch.float64, "cpu")
    METHODS.load()
    x = torch.linspace(-6, 6, 3000, dtype=torch.float64).view(-1, 6)
    a, c = (np.longdouble(F(v)) for v in (0.044715, np.sqrt(2 / np.pi)))
    z = x.numpy().astype(np.longdouble)
    y = z * (1 + np.tanh(c * (z + a * z**3))) / 2
    rows = torch.cat([torch.eye(6), -torch.eye(6)]).double().expand(len(x), -1, -1)
    low = METHODS["crown"].run(program, x, x, rows, 1 << 24).lb.numpy()
    assert (low[:, :6] <= y).all() and (y <= -low[:, 6:]).all() and (-low[:, 6:] - low[:, :6] < 1e-7).all()


def test_what_is_no_gate():
    ends = {"x": (2, 3), "z": (2, 3)}
    assert kinds(check(model([node("Sigmoid", "z", "s"), node("Mul", "s x")], ends))) == ["Sigmoid", "Mul"]
    nodes = [node("Erf", "x", "e"), node("Add", "e k", "f"), node("Mul", "x f")]
    assert "Mul" in kinds(check(model(nodes, {"x": (2, 3)}, k=F(1.5))))
    clip = [node("Add", "x k", "z"), node("Clip", "z o s", "t"), node("Mul", "x t")]
    assert "Clip" in kinds(check(model(clip, {"x": (2, 3)}, k=F(2), o=F(0), s=F(6))))
    wide = [node("Sigmoid", "x", "s"), node("Reshape", "x r", "u"), node("Mul", "u s")]
    assert "Mul" in kinds(check(model(wide, {"x": (1, 3)}, r=np.array([3, 1]))))


# --- einsum


@pytest.mark.parametrize(
    "equation, a, b",
    [
        ("bij,bjk->bik", (2, 3, 4), (2, 4, 5)),
        ("bhqd,bhkd->bhqk", (2, 2, 3, 4), (2, 2, 5, 4)),
        ("bqhd,bkhd->bhqk", (2, 3, 2, 4), (2, 5, 2, 4)),
        ("ij,jk", (2, 3), (3, 4)),
        ("abc,cb->a", (2, 3, 4), (4, 3)),
        ("i,i->", (3,), (3,)),
        ("kb,bi->kib", (2, 3), (3, 4)),
        ("i,j->ji", (2,), (3,)),
        ("ij,ij->ij", (2, 3), (2, 3)),
        ("aib,bjc->jaci", (2, 3, 4), (4, 2, 5)),
    ],
)
def test_einsum_of_two_variables(equation, a, b):
    net = check(model(node("Einsum", "x z", equation=equation), {"x": a, "z": b}))
    assert "Einsum" not in kinds(net) and {"MatMul", "Mul"} & set(kinds(net))


@pytest.mark.parametrize("equation, a, b", [("ij,jk->k", (2, 3), (3, 4)), ("ii,ij->ij", (3, 3), (3, 2))])
def test_other_einsums_stay(equation, a, b):
    assert kinds(check(model(node("Einsum", "x z", equation=equation), {"x": a, "z": b}))) == ["Einsum"]
    assert kinds(check(model(node("Einsum", "x w", equation="ij,jk->ik"), {"x": (2, 3)}, w=rand(3, 4)))) == ["Einsum"]
