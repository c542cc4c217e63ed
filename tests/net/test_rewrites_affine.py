"""Products, windows and normalisations: the normal form has the announced kinds and attributes, and the same values."""

import numpy as np
import onnx
import pytest
from tiny import check, kinds, model, node

I64 = np.int64
rng = np.random.default_rng(3)


def rand(*shape, dtype=np.float32):
    return rng.standard_normal(shape).astype(dtype)


def ints(*v):
    return np.array(v, I64)


# --- matrix products


@pytest.mark.parametrize("trans_a", [0, 1])
@pytest.mark.parametrize("trans_b", [0, 1])
@pytest.mark.parametrize("alpha, beta", [(1.0, 1.0), (0.5, 3.0), (1.0, 0.0)])
@pytest.mark.parametrize("bias", [None, (4,), (1, 4), (1, 1), (), (2, 1), (2, 4)])
def test_gemm_is_linear(trans_a, trans_b, alpha, beta, bias):
    x = (3, 2) if trans_a else (2, 3)
    weights = {"w": rand(4, 3) if trans_b else rand(3, 4)}
    if bias is not None:
        weights["c"] = rand(*bias)
    n = node("Gemm", "x w" + (" c" if bias is not None else ""), transA=trans_a, transB=trans_b, alpha=alpha, beta=beta)
    net = check(model(n, {"x": x}, **weights))
    rows_differ = bias is not None and bias[:1] == (2,) and beta != 0
    expected = ["Transpose"] * trans_a + ["Linear"] + ["Add"] * rows_differ
    if not (rows_differ and beta != 1):
        assert kinds(net) == expected
    linear = net.nodes[trans_a]
    assert net.constants[linear.inputs[1]].shape == (3, 4)
    assert net.constants[linear.inputs[1]].dtype == (np.float32 if alpha == 1.0 else np.float64)


@pytest.mark.parametrize("trans_b", [0, 1])
def test_gemm_of_variables_is_matmul(trans_b):
    n = node("Gemm", "x z c", transB=trans_b, alpha=0.5, beta=2.0)
    net = check(model(n, {"x": (2, 3), "z": (4, 3) if trans_b else (3, 4)}, c=rand(4)))
    assert "MatMul" in kinds(net) and "Linear" not in kinds(net)


def test_gemm_with_variable_bias():
    net = check(model(node("Gemm", "x w z", beta=0.25), {"x": (1, 3), "z": (1, 4)}, w=rand(3, 4)))
    assert kinds(net) == ["Linear", "Mul", "Add"]


@pytest.mark.parametrize("x", [(3,), (1, 3), (2, 5, 3), (1, 2, 5, 3)])
@pytest.mark.parametrize("w", [(3, 4), (3,), (1, 3, 4)])
def test_matmul_by_a_constant_is_linear(x, w):
    net = check(model(node("MatMul", "x w"), {"x": x}, w=rand(*w)))
    assert kinds(net)[0] == "Linear" and set(kinds(net)) <= {"Linear", "Reshape"}


def test_matmul_otherwise_stays():
    assert kinds(check(model(node("MatMul", "w x"), {"x": (3, 4)}, w=rand(2, 3)))) == ["MatMul"]
    assert kinds(check(model(node("MatMul", "x w"), {"x": (2, 3, 4)}, w=rand(2, 4, 5)))) == ["MatMul"]
    assert kinds(check(model(node("MatMul", "x z"), {"x": (2, 3), "z": (3, 2)}))) == ["MatMul"]


@pytest.mark.parametrize("order", ["h c", "c h"])
@pytest.mark.parametrize("shape", [(4,), (1, 4), (1,), ()])
def test_bias_is_merged(order, shape):
    net = check(model([node("MatMul", "x w", "h"), node("Add", order)], {"x": (2, 3)}, w=rand(3, 4), c=rand(*shape)))
    assert kinds(net) == ["Linear"] and net.nodes[0].name == "y"
    assert net.constants[net.nodes[0].inputs[2]].shape == (4,)


def test_two_biases_are_summed_in_float64():
    m = model([node("Gemm", "x w b", "h"), node("Add", "h c")], {"x": (1, 3)}, w=rand(3, 4), b=rand(4), c=rand(4))
    net = check(m)
    assert kinds(net) == ["Linear"] and net.constants[net.nodes[0].inputs[2]].dtype == np.float64


def test_bias_is_not_merged_where_it_would_be_wrong():
    linear = node("MatMul", "x w", "h")
    per_row = check(model([linear, node("Add", "h c")], {"x": (2, 3)}, w=rand(3, 4), c=rand(2, 1)))
    assert kinds(per_row) == ["Linear", "Add"]
    wider = check(model([linear, node("Add", "h c")], {"x": (1, 3)}, w=rand(3, 4), c=rand(5, 4)))
    assert kinds(wider) == ["Linear", "Add"]
    read_twice = check(
        model([linear, node("Add", "h c", "a"), node("Mul", "a h")], {"x": (1, 3)}, w=rand(3, 4), c=rand(4))
    )
    assert kinds(read_twice) == ["Linear", "Add", "Mul"]
    kept = check(model([linear, node("Add", "h c")], {"x": (1, 3)}, outputs="h y", w=rand(3, 4), c=rand(4)))
    assert kinds(kept) == ["Linear", "Add"]


# --- windows


@pytest.mark.parametrize("auto", ["NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize("kernel, stride, dilation", [(3, 1, 1), (4, 2, 1), (2, 3, 1), (3, 1, 2)])
def test_conv_pads(auto, kernel, stride, dilation):
    if auto.startswith("SAME") and dilation > 1:
        pytest.skip("ONNX Runtime does not run it")
    pads = {"pads": [1, 0, 2, 1]} if auto == "NOTSET" else {"auto_pad": auto}
    n = node("Conv", "x w b", strides=[stride] * 2, dilations=[dilation] * 2, **pads)
    net = check(model(n, {"x": (1, 2, 8, 7)}, opset=11, w=rand(3, 2, kernel, kernel), b=rand(3)))
    assert kinds(net) == ["Conv"] and len(net.nodes[0].attrs["pads"]) == 4 and "auto_pad" not in net.nodes[0].attrs


def test_conv_in_one_dimension_with_groups_and_defaults():
    net = check(model(node("Conv", "x w", group=2), {"x": (1, 4, 9)}, w=rand(6, 2, 3)))
    expected = {"strides": (1,), "dilations": (1,), "pads": (0, 0), "group": 2}
    assert net.nodes[0].attrs == expected and net.nodes[0].inputs[2] == ""


@pytest.mark.parametrize(
    "attrs",
    [
        {},
        {"strides": [2, 2], "pads": [1, 0, 1, 1], "output_padding": [1, 0]},
        {"strides": [2, 3], "output_shape": [10, 14]},
        {"strides": [2, 2], "auto_pad": "SAME_UPPER"},
        {"strides": [2, 2], "auto_pad": "SAME_LOWER"},
        {"strides": [2, 2], "dilations": [2, 1], "auto_pad": "VALID"},
        {"strides": [3, 3], "output_shape": [13, 12], "auto_pad": "SAME_UPPER"},
    ],
)
def test_conv_transpose(attrs):
    net = check(model(node("ConvTranspose", "x w b", **attrs), {"x": (1, 2, 5, 5)}, w=rand(2, 3, 3, 3), b=rand(3)))
    assert kinds(net) == ["ConvTranspose"] and set(net.nodes[0].attrs) == {
        "strides", "dilations", "pads", "group", "output_padding",
    }  # fmt: skip


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize(
    "attrs", [{}, {"strides": [2, 2], "ceil_mode": 1}, {"auto_pad": "SAME_LOWER"}, {"pads": [1, 1, 0, 1]}]
)
def test_pools(op, attrs):
    m = model(node(op, "x", kernel_shape=[3, 2], **attrs), {"x": (1, 2, 8, 6)}, opset=11)
    net = check(m, rewrite=False)
    assert kinds(net) == [op] and net.nodes[0].attrs["ceil_mode"] == attrs.get("ceil_mode", 0)


def test_pool_with_positions_in_use_is_left_to_the_runtime():
    from verifier.net.load import load_network

    n = [node("MaxPool", "x", "h i", kernel_shape=[2, 2]), node("Cast", "i", to=1)]
    net = load_network(model(n, {"x": (1, 1, 4, 4)}, outputs="h y"))
    assert kinds(net)[:2] == ["Opaque", "Opaque"]


def test_global_pools():
    net = check(model(node("GlobalAveragePool", "x"), {"x": (1, 2, 3, 4)}))
    assert kinds(net) == ["ReduceMean"] and net.nodes[0].attrs == {"axes": (2, 3), "keepdims": 1}
    assert kinds(check(model(node("GlobalMaxPool", "x"), {"x": (1, 2, 3, 4)}))) == ["ReduceMax"]


# --- normalisations


@pytest.mark.parametrize("opset", [7, 9, 14, 15])
@pytest.mark.parametrize("shape", [(1, 3), (1, 3, 4), (1, 3, 2, 2)])
def test_batch_normalization(opset, shape):
    stats = {"g": rand(3), "b": rand(3), "m": rand(3), "v": np.abs(rand(3))}
    net = check(model(node("BatchNormalization", "x g b m v", epsilon=1e-3), {"x": shape}, opset=opset, **stats))
    assert kinds(net) == ["BatchNormalization"]
    scale, shift = (net.constants[i] for i in net.nodes[0].inputs[1:])
    exact = stats["g"].astype(float) / np.sqrt(stats["v"].astype(float) + np.float32(1e-3))
    np.testing.assert_allclose(scale, exact, rtol=1e-14)
    assert scale.dtype == shift.dtype == np.float64


@pytest.mark.parametrize("axis", [-1, 1, 2])
def test_layer_normalization(axis):
    shape = {-1: (4,), 1: (3, 4), 2: (4,)}[axis]
    m = model(
        node("LayerNormalization", "x s b", axis=axis), {"x": (2, 3, 4)}, opset=17, s=rand(*shape), b=rand(*shape)
    )
    assert "Sqrt" in kinds(check(m))
    check(model(node("LayerNormalization", "x s", axis=axis), {"x": (2, 3, 4)}, opset=17, s=rand(*shape)))


def test_other_normalisations():
    check(model(node("InstanceNormalization", "x s b"), {"x": (1, 3, 4, 2)}, s=rand(3), b=rand(3)))
    check(model(node("LpNormalization", "x", axis=1, p=2), {"x": (2, 3)}))
    check(model(node("LpNormalization", "x", axis=-1, p=1), {"x": (2, 3)}))
    check(model(node("GroupNormalization", "x s b", num_groups=2), {"x": (1, 4, 3)}, opset=18, s=rand(2), b=rand(2)))
    if onnx.defs.onnx_opset_version() >= 21:
        check(
            model(node("GroupNormalization", "x s b", num_groups=2), {"x": (1, 4, 3)}, opset=21, s=rand(4), b=rand(4))
        )


def test_statistics_as_outputs():
    net = check(model(node("LayerNormalization", "x s", "y m r", axis=1), {"x": (2, 3, 4)}, 17, "y m r", s=rand(3, 4)))
    assert [t.name for t in net.outputs] == ["y", "m", "r"]


def test_normalisations_whose_parameters_depend_on_the_input():
    check(model(node("InstanceNormalization", "x s b"), {"x": (1, 3, 4), "s": (3,), "b": (3,)}))
    check(model(node("GroupNormalization", "x s b", num_groups=2), {"x": (1, 4, 3), "s": (4,), "b": (4,)}, opset=21))
    inputs = {"x": (1, 3, 4), "g": (3,), "b": (3,), "m": (3,), "v": (3,)}
    check(model(node("BatchNormalization", "x g b m v"), inputs), low=0.5)
    del inputs["v"], inputs["g"]
    check(model(node("BatchNormalization", "x g b m v"), inputs, g=rand(3), v=np.ones(3, np.float32)))
