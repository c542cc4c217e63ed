"""Every rewrite: the normal form has the announced kinds and attributes, and computes what the model computes."""

import numpy as np
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
    read_twice = check(model([linear, node("Add", "h c", "a"), node("Mul", "a h")], {"x": (1, 3)}, w=rand(3, 4), c=rand(4)))
    assert kinds(read_twice) == ["Linear", "Add", "Mul"]
    kept = check(model([linear, node("Add", "h c")], {"x": (1, 3)}, outputs="h y", w=rand(3, 4), c=rand(4)))
    assert kinds(kept) == ["Linear", "Add"]
    sub = check(model([linear, node("Sub", "h c")], {"x": (1, 3)}, w=rand(3, 4), c=rand(4)))
    assert kinds(sub) == ["Linear", "Sub"]


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
@pytest.mark.parametrize("attrs", [{}, {"strides": [2, 2], "ceil_mode": 1}, {"auto_pad": "SAME_LOWER"}, {"pads": [1, 1, 0, 1]}])
def test_pools(op, attrs):
    net = check(model(node(op, "x", kernel_shape=[3, 2], **attrs), {"x": (1, 2, 8, 6)}, opset=11))
    assert kinds(net) == [op] and net.nodes[0].attrs["ceil_mode"] == attrs.get("ceil_mode", 0)


def test_pool_with_positions_in_use_is_another_kind():
    from verifier.net.load import load_network

    n = [node("MaxPool", "x", "h i", kernel_shape=[2, 2]), node("Cast", "i", to=1)]
    net = load_network(model(n, {"x": (1, 1, 4, 4)}, outputs="h y"))
    assert kinds(net)[:2] == ["MaxPoolDynamic", "MaxPoolDynamic:1"]


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
    m = model(node("LayerNormalization", "x s b", axis=axis), {"x": (2, 3, 4)}, opset=17, s=rand(*shape), b=rand(*shape))
    assert "Sqrt" in kinds(check(m))
    check(model(node("LayerNormalization", "x s", axis=axis), {"x": (2, 3, 4)}, opset=17, s=rand(*shape)))


def test_other_normalisations():
    check(model(node("InstanceNormalization", "x s b"), {"x": (1, 3, 4, 2)}, s=rand(3), b=rand(3)))
    check(model(node("LpNormalization", "x", axis=1, p=2), {"x": (2, 3)}))
    check(model(node("LpNormalization", "x", axis=-1, p=1), {"x": (2, 3)}))
    check(model(node("GroupNormalization", "x s b", num_groups=2), {"x": (1, 4, 3)}, opset=18, s=rand(2), b=rand(2)))
    check(model(node("GroupNormalization", "x s b", num_groups=2), {"x": (1, 4, 3)}, opset=21, s=rand(4), b=rand(4)))


# --- moves


def test_dropout_identity_and_same_cast_vanish():
    for opset in (7, 10, 12, 13):
        n = [node("Identity", "x", "a"), node("Relu", "a", "b"), node("Dropout", "b", "c"), node("Cast", "c", to=1)]
        net = check(model(n, {"x": (1, 3)}, opset=opset))
        assert kinds(net) == ["Relu"] and net.nodes[0].name == "y"


def test_mask_of_dropout_is_constant():
    n = [node("Dropout", "x", "h m"), node("Cast", "m", "f", to=1), node("Add", "h f")]
    assert kinds(check(model(n, {"x": (1, 3)}))) == ["Add"]


def test_cast_keeps_its_target():
    net = check(model([node("Cast", "x", "h", to=7), node("Cast", "h", to=1)], {"x": (1, 3)}))
    assert [n.attrs["to"] for n in net.nodes] == ["int64", "float32"]


def test_reshapes_are_merged():
    n = [node("Flatten", "x", "a"), node("Reshape", "a s", "b"), node("Unsqueeze", "b", "c", axes=[0]), node("Relu", "c")]
    net = check(model(n, {"x": (1, 2, 3)}, opset=11, s=ints(3, -1)))
    assert kinds(net) == ["Reshape", "Relu"] and net.nodes[0].inputs == ("x",) and net.nodes[0].shape == (1, 3, 2)


@pytest.mark.parametrize("opset", [11, 13])
def test_squeeze_and_unsqueeze(opset):
    axes, more = ({"axes": [1]}, "") if opset < 13 else ({}, " a")
    n = [node("Squeeze", "x" + more, "h", **axes), node("Unsqueeze", "h" + more, **axes)]
    weights = {} if opset < 13 else {"a": ints(1)}
    net = check(model(n, {"x": (2, 1, 3)}, opset=opset, **weights))
    assert kinds(net) == ["Reshape"], "an output is a node even where nothing happens"


def test_transposes_are_merged():
    n = [node("Transpose", "x", "a", perm=[0, 2, 3, 1]), node("Transpose", "a", "b", perm=[0, 3, 1, 2]), node("Relu", "b")]
    assert kinds(check(model(n, {"x": (1, 2, 3, 4)}))) == ["Relu"]
    n = [node("Transpose", "x", "a"), node("Transpose", "a", perm=[1, 0, 2])]
    net = check(model(n, {"x": (2, 3, 4)}))
    assert kinds(net) == ["Transpose"] and net.nodes[0].attrs["perm"] == (1, 2, 0)


def test_transpose_of_ones_is_reshape():
    assert kinds(check(model(node("Transpose", "x", perm=[0, 2, 1]), {"x": (1, 1, 5)}))) == ["Reshape"]


@pytest.mark.parametrize(
    "start, end, axis, step, taken",
    [
        (1, 3, 0, 1, range(1, 3)),
        (-3, 1000, 1, 2, range(2, 5, 2)),
        (4, -1000, 1, -2, range(4, -1, -2)),
        (-1, -4, -1, -1, range(4, 1, -1)),
        (0, 2**63 - 1, 1, 1, None),
    ],
)
def test_slice(start, end, axis, step, taken):
    m = model(node("Slice", "x s e a t"), {"x": (4, 5)}, s=ints(start), e=ints(end), a=ints(axis), t=ints(step))
    n = check(m).nodes[0]
    if taken is None:
        assert n.kind == "Reshape"
    else:
        assert n.attrs["axes"] == (axis % 2,)
        assert list(range(n.attrs["starts"][0], n.attrs["ends"][0], n.attrs["steps"][0])) == list(taken)


def test_slice_by_attributes():
    net = check(model(node("Slice", "x", starts=[1, 0], ends=[3, -1]), {"x": (4, 5)}, opset=9))
    assert net.nodes[0].attrs == {"axes": (0, 1), "starts": (1, 0), "ends": (3, 4), "steps": (1, 1)}


@pytest.mark.parametrize("opset, attrs, weights", [(11, {"split": [1, 4]}, {}), (13, {}, {"s": ints(1, 4)}), (18, {"num_outputs": 2}, {})])
def test_split_becomes_slices(opset, attrs, weights):
    n = [node("Split", "x" + (" s" if weights else ""), "a b", axis=1, **attrs), node("Concat", "b a", axis=-1)]
    net = check(model(n, {"x": (2, 5)}, opset=opset, **weights))
    assert kinds(net) == ["Slice", "Slice", "Concat"] and net.nodes[2].attrs["axis"] == 1


@pytest.mark.parametrize("indices", [np.array(-1), ints(0, 2), ints(0, -1).reshape(1, 2)])
@pytest.mark.parametrize("axis", [0, -1])
def test_gather(indices, axis):
    net = check(model(node("Gather", "x i", axis=axis), {"x": (3, 4)}, i=indices.astype(I64)))
    assert kinds(net) == ["Gather"] and net.nodes[0].attrs["indices"].min() >= 0


def test_picks():
    net = check(model(node("GatherElements", "x i", axis=1), {"x": (3, 4)}, i=ints(0, -1, 2, 1).reshape(2, 2)))
    assert kinds(net) == ["Pick"]
    check(model(node("GatherND", "x i"), {"x": (3, 4)}, i=ints(0, 1, -1, 2).reshape(2, 2)))
    check(model(node("GatherND", "x i"), {"x": (3, 4)}, i=ints(0, 2).reshape(2, 1)))
    check(model(node("GatherND", "x i", batch_dims=1), {"x": (2, 3, 4)}, i=ints(0, 2).reshape(2, 1)))


def test_places():
    net = check(model(node("ScatterND", "x i u"), {"x": (3, 4), "u": (2, 4)}, i=ints(2, 0).reshape(2, 1)))
    assert kinds(net) == ["Place"]
    check(model(node("ScatterElements", "x i u", axis=1), {"x": (3, 4)}, i=ints(1, -1).reshape(1, 2), u=rand(1, 2)))
    net = check(model(node("ScatterND", "x i u", reduction="add"), {"x": (4,)}, opset=16, i=ints(1, 1).reshape(2, 1), u=rand(2)))
    assert kinds(net) == ["Place"] and net.nodes[0].attrs["reduction"] == "add"


def test_expand_and_tile():
    net = check(model([node("Expand", "x s", "h"), node("Tile", "h r")], {"x": (2, 1)}, s=ints(3, 2, 4), r=ints(1, 2, 1)))
    assert kinds(net) == ["Expand", "Tile"] and net.nodes[1].attrs == {"repeats": (1, 2, 1)}
    assert kinds(check(model([node("Expand", "x s", "h"), node("Tile", "h r")], {"x": (2, 1)}, s=ints(1, 1), r=ints(1, 1)))) == ["Reshape"]


@pytest.mark.parametrize("opset", [9, 11, 18])
def test_pad(opset):
    if opset == 9:
        m = model(node("Pad", "x", pads=[0, 1, -1, 2], value=0.5), {"x": (3, 4)}, opset=opset)
    elif opset == 11:
        m = model(node("Pad", "x p v"), {"x": (3, 4)}, opset=opset, p=ints(0, 1, -1, 2), v=np.float32(0.5))
    else:
        m = model(node("Pad", "x p v a"), {"x": (3, 4)}, opset=opset, p=ints(1, 0, 2, -1), v=np.float32(0.5), a=ints(-1, 0))
    net = check(m)
    assert kinds(net) == ["Slice", "Pad"] and net.nodes[1].attrs == {"pads": (0, 1, 0, 2), "mode": "constant", "value": 0.5}


def test_pad_modes():
    for mode in ("reflect", "edge"):
        check(model(node("Pad", "x p", mode=mode), {"x": (3, 4)}, p=ints(0, 2, 1, 1)))
    assert kinds(check(model([node("Pad", "x p", "h"), node("Relu", "h")], {"x": (3, 4)}, p=ints(0, 0, 0, 0)))) == ["Relu"]
    assert kinds(check(model(node("Pad", "x p"), {"x": (3, 4)}, p=ints(0, -1, 0, -1)))) == ["Slice"]


def test_depth_space_and_trilu():
    for mode in ("DCR", "CRD"):
        check(model(node("DepthToSpace", "x", blocksize=2, mode=mode), {"x": (1, 8, 2, 3)}))
    check(model(node("SpaceToDepth", "x", blocksize=2), {"x": (1, 2, 4, 6)}))
    check(model(node("Trilu", "x k", upper=0), {"x": (3, 4)}, opset=14, k=ints(1).reshape(())))
    check(model(node("Trilu", "x"), {"x": (3, 4)}, opset=14))


def test_one_hot_cumsum_top_k():
    n = [node("ArgMax", "x", "i", axis=1, keepdims=0), node("OneHot", "i d v", axis=1)]
    assert kinds(check(model(n, {"x": (2, 4)}, d=ints(5), v=rand(2)))) == ["ArgMax", "OneHot"]
    for exclusive, reverse in ((0, 0), (1, 0), (0, 1), (1, 1)):
        check(model(node("CumSum", "x a", exclusive=exclusive, reverse=reverse), {"x": (2, 4)}, a=np.array(-1, I64)))
    n = [node("TopK", "x k", "v i", axis=-1), node("Cast", "i", to=1)]
    net = check(model(n, {"x": (2, 4)}, outputs="v y", k=ints(2)))
    assert kinds(net) == ["TopK", "TopK:1", "Cast"] and net.nodes[1].attrs["k"] == 2


# --- resizing


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("convention", ["half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel"])
@pytest.mark.parametrize("by", ["scales", "sizes"])
def test_resize(mode, convention, by):
    weights = {"r": rand(0), "s": np.array([1, 1, 2, 1.5], np.float32)} if by == "scales" else {"z": ints(1, 2, 7, 3)}
    names = "x r s" if by == "scales" else "x - - z"
    n = node("Resize", names, mode=mode, coordinate_transformation_mode=convention)
    net = check(model(n, {"x": (1, 2, 3, 4)}, **weights))
    assert kinds(net) == ["Resize"] and net.nodes[0].attrs["axes"] == (2, 3)
    assert net.nodes[0].attrs["mode"] == ("nearest" if mode == "nearest" else "linear")


def test_resize_of_other_opsets():
    scales = np.array([1, 1, 2, 2], np.float32)
    check(model(node("Upsample", "x", scales=[1.0, 1.0, 2.0, 3.0], mode="nearest"), {"x": (1, 2, 3, 4)}, opset=7))
    check(model(node("Upsample", "x s", mode="linear"), {"x": (1, 2, 3, 4)}, opset=9, s=scales))
    check(model(node("Resize", "x s", mode="nearest"), {"x": (1, 2, 3, 4)}, opset=10, s=scales))
    check(model(node("Resize", "x r s", mode="nearest"), {"x": (1, 2, 3, 4)}, opset=11, r=rand(0), s=scales))
    n = node("Resize", "x - s", mode="linear", axes=[3, 2], antialias=1)
    check(model(n, {"x": (1, 2, 8, 6)}, opset=18, s=np.array([0.5, 0.5], np.float32)))


def test_resize_to_the_same_size():
    n = [node("Resize", "x - - z", "h", mode="nearest"), node("Relu", "h")]
    assert kinds(check(model(n, {"x": (1, 2, 3, 4)}, z=ints(1, 2, 3, 4)))) == ["Relu"]


# --- many operands, clipping, reductions


def test_many_operands():
    inputs = {"x": (1, 3), "z": (2, 3), "w": (3,)}
    for op, kind in (("Sum", "Add"), ("Max", "Max"), ("Min", "Min")):
        assert kinds(check(model(node(op, "x z w"), inputs))) == [kind, kind]
        assert kinds(check(model([node(op, "x", "h"), node("Relu", "h")], {"x": (1, 3)}))) == ["Relu"]
    assert kinds(check(model(node("Mean", "x z w"), inputs))) == ["Add", "Add", "Div"]


def test_square_is_a_power():
    net = check(model(node("Mul", "x x"), {"x": (1, 3)}))
    assert kinds(net) == ["Pow"] and net.constants[net.nodes[0].inputs[1]] == 2


def test_clip():
    assert check(model(node("Clip", "x", min=-1.0), {"x": (1, 3)}, opset=7)).nodes[0].attrs == {"min": -1.0, "max": np.inf}
    net = check(model(node("Clip", "x - hi"), {"x": (1, 3)}, hi=np.float32(0.5)))
    assert net.nodes[0].attrs == {"min": -np.inf, "max": 0.5}
    assert kinds(check(model([node("Clip", "x", "h"), node("Relu", "h")], {"x": (1, 3)}))) == ["Relu"]
    n = [node("ReduceSum", "x", "s", keepdims=0), node("Clip", "x lo s")]
    assert kinds(check(model(n, {"x": (1, 3)}, lo=np.float32(-1)))) == ["ReduceSum", "Max", "Min"]


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax"])
@pytest.mark.parametrize("opset, axis, axes", [(11, 1, (1, 2)), (11, 2, (2,)), (11, None, (1, 2)), (13, 1, (1,)), (13, None, (2,))])
def test_softmax(op, opset, axis, axes):
    attrs = {} if axis is None else {"axis": axis}
    assert check(model(node(op, "x", **attrs), {"x": (2, 3, 4)}, opset=opset)).nodes[0].attrs == {"axes": axes}


@pytest.mark.parametrize("op", ["ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceLogSumExp"])
@pytest.mark.parametrize("opset", [11, 13, 18])
@pytest.mark.parametrize("keepdims", [0, 1])
def test_reductions(op, opset, keepdims):
    by_input = opset >= (13 if op == "ReduceSum" else 18)
    n = node(op, "x a" if by_input else "x", keepdims=keepdims, **({} if by_input else {"axes": [-1, 0]}))
    net = check(model(n, {"x": (2, 3, 4)}, opset=opset, **({"a": ints(-1, 0)} if by_input else {})))
    assert kinds(net) == [op] and net.nodes[0].attrs["axes"] == (0, 2)
    assert check(model(node(op, "x"), {"x": (2, 3)}, opset=opset)).nodes[0].attrs["axes"] == (0, 1)


def test_functions_of_reductions():
    for op in ("ReduceL1", "ReduceL2", "ReduceSumSquare"):
        check(model(node(op, "x", axes=[1], keepdims=0), {"x": (2, 3)}))
    check(model(node("ReduceLogSum", "x", axes=[1]), {"x": (2, 3)}), low=0.5)


def test_noop_reduction():
    n = [node("ReduceSum", "x", "h", noop_with_empty_axes=1), node("Relu", "h")]
    assert kinds(check(model(n, {"x": (2, 3)}))) == ["Relu"]


def test_einsum():
    assert check(model(node("Einsum", "x z", equation="ij, jk -> ik"), {"x": (2, 3), "z": (3, 4)})).nodes[0].attrs == {"equation": "ij,jk->ik"}
