"""Operators that move entries: the normal form has the announced kinds and attributes, and the same values."""

import numpy as np
import pytest
from tiny import check, kinds, model, node

I64 = np.int64
rng = np.random.default_rng(3)


def rand(*shape, dtype=np.float32):
    return rng.standard_normal(shape).astype(dtype)


def ints(*v):
    return np.array(v, I64)


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
    n = [
        node("Flatten", "x", "a"),
        node("Reshape", "a s", "b"),
        node("Unsqueeze", "b", "c", axes=[0]),
        node("Relu", "c"),
    ]
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
    n = [
        node("Transpose", "x", "a", perm=[0, 2, 3, 1]),
        node("Transpose", "a", "b", perm=[0, 3, 1, 2]),
        node("Relu", "b"),
    ]
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


@pytest.mark.parametrize(
    "opset, attrs, weights", [(11, {"split": [1, 4]}, {}), (13, {}, {"s": ints(1, 4)}), (18, {"num_outputs": 2}, {})]
)
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
    net = check(
        model(node("ScatterND", "x i u", reduction="add"), {"x": (4,)}, opset=16, i=ints(1, 1).reshape(2, 1), u=rand(2))
    )
    assert kinds(net) == ["Place"] and net.nodes[0].attrs["reduction"] == "add"


def test_expand_and_tile():
    net = check(
        model([node("Expand", "x s", "h"), node("Tile", "h r")], {"x": (2, 1)}, s=ints(3, 2, 4), r=ints(1, 2, 1))
    )
    assert kinds(net) == ["Expand", "Tile"] and net.nodes[1].attrs == {"repeats": (1, 2, 1)}
    assert kinds(
        check(model([node("Expand", "x s", "h"), node("Tile", "h r")], {"x": (2, 1)}, s=ints(1, 1), r=ints(1, 1)))
    ) == ["Reshape"]


@pytest.mark.parametrize("opset", [9, 11, 18])
def test_pad(opset):
    if opset == 9:
        m = model(node("Pad", "x", pads=[0, 1, -1, 2], value=0.5), {"x": (3, 4)}, opset=opset)
    elif opset == 11:
        m = model(node("Pad", "x p v"), {"x": (3, 4)}, opset=opset, p=ints(0, 1, -1, 2), v=np.float32(0.5))
    else:
        m = model(
            node("Pad", "x p v a"), {"x": (3, 4)}, opset=opset, p=ints(1, 0, 2, -1), v=np.float32(0.5), a=ints(-1, 0)
        )
    net = check(m)
    assert kinds(net) == ["Slice", "Pad"] and net.nodes[1].attrs == {
        "pads": (0, 1, 0, 2),
        "mode": "constant",
        "value": 0.5,
    }


def test_pad_modes():
    for mode in ("reflect", "edge"):
        check(model(node("Pad", "x p", mode=mode), {"x": (3, 4)}, p=ints(0, 2, 1, 1)))
    assert kinds(check(model([node("Pad", "x p", "h"), node("Relu", "h")], {"x": (3, 4)}, p=ints(0, 0, 0, 0)))) == [
        "Relu"
    ]
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
