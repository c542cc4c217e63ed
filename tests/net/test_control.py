"""Control flow that does not depend on the input: what is left computes what ONNX Runtime computes with it in place."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tiny import check, kinds, model, node

from verifier.net import control
from verifier.net.inputs import input_places, samples
from verifier.net.load import load_network
from verifier.net.trace import trace

W = np.array([[1, -2], [3, 0.5]], np.float32)
CONTROL = {"If", "Loop", "Scan", "SequenceMap"}
INT, TRUTH = TensorProto.INT64, TensorProto.BOOL


def graph(nodes, inputs="", outputs="", types=(), **weights):
    """A body; inputs and outputs as names separated by blanks; `types` of the first inputs, the others are floats."""
    kinds_ = (*types, *[TensorProto.FLOAT] * 9)
    named = lambda names: names.split()
    return helper.make_graph(
        nodes,
        "body",
        [helper.make_tensor_value_info(n, t, () if t in (INT, TRUTH) else None) for n, t in zip(named(inputs), kinds_)],
        [onnx.ValueInfoProto(name=n) for n in named(outputs)],
        [numpy_helper.from_array(np.asarray(v), n) for n, v in weights.items()],
    )


def look(m):
    """One run, on ones."""
    places = input_places(m.graph)
    return trace(m, places, samples(places, {}, None))


def flat(m):
    """The model's operators once it is one graph."""
    return [n.op_type for n in control.flatten(m, look).graph.node]


def test_a_condition_on_a_shape_picks_a_branch():
    for axis, chosen in ((0, "Neg"), (1, "Mul")):
        n = [
            node("Shape", "x", "s"),
            node("Gather", "s at", "d"),
            node("Equal", "d one", "c"),
            node(
                "If",
                "c",
                "h",
                then_branch=graph([node("Neg", "x", "t")], outputs="t"),
                else_branch=graph([node("Mul", "x w", "e")], outputs="e"),
            ),
            node("Exp", "h"),
        ]
        m = model(n, {"x": (1, 2)}, at=np.array(axis), one=np.array(1), w=W)
        assert kinds(check(m)) == [chosen, "Exp"]


def test_branches_read_what_is_around_them_and_may_hold_others():
    inner = helper.make_node(
        "If",
        ["no"],
        ["t"],
        then_branch=graph([node("Sin", "x", "f")], outputs="f"),
        else_branch=graph([node("Add", "h u", "g")], outputs="g", u=W),
    )
    n = [
        node("Relu", "x", "h"),
        helper.make_node(
            "If",
            ["yes"],
            ["y", "z"],
            then_branch=graph([node("Identity", "x", "x2"), inner], outputs="t x2"),
            else_branch=graph([node("Exp", "x", "a"), node("Exp", "x", "b")], outputs="a b"),
        ),
    ]
    m = model(n, {"x": (2, 2)}, outputs="y z", yes=np.array(True), no=np.array(False))
    assert not CONTROL & set(kinds(check(m)))


def counted(condition="k", trips=4, outputs="a_out row"):
    """A loop that adds rows of w to a, and yields a Relu of each sum; `condition`: k goes on, m stops after two."""
    body = graph(
        [
            node("Gather", "w i2", "r"),
            node("Mod", "i two", "i2"),
            node("Add", "a r", "a_out"),
            node("Relu", "a_out", "row"),
            node("Identity", "c", "k"),
            node("Less", "i one", "m"),
        ],
        "i c a",
        f"{condition} {outputs}",
        (INT, TRUTH),
        two=np.array(2),
        one=np.array(1),
    )
    body.node.sort(key=lambda n: n.op_type != "Mod")
    return helper.make_node("Loop", ["trips", "yes", "x"], ["h", "rows"], body=body)


@pytest.mark.parametrize(("condition", "rows"), [("k", 4), ("m", 2)])
def test_loops_are_unrolled_and_their_rows_stacked(condition, rows):
    m = model([counted(condition)], {"x": (1, 2)}, outputs="h rows", w=W, trips=np.array(4), yes=np.array(True))
    net = check(m)
    assert net.outputs[1].shape == (rows, 1, 2)
    assert not CONTROL & set(kinds(net))


def test_loops_that_never_run():
    for trips, yes in ((0, True), (3, False)):
        m = model([counted()], {"x": (1, 2)}, outputs="h", w=W, trips=np.array(trips), yes=np.array(yes))
        assert kinds(check(m)) == ["Reshape"]


def test_a_loop_until_its_condition_fails_without_a_count():
    body = graph(
        [node("Mul", "a w", "b"), node("Add", "n one", "m"), node("Less", "m five", "go")],
        "i c a n",
        "go b m",
        (INT, TRUTH, TensorProto.FLOAT, INT),
        one=np.array(1),
        five=np.array(5),
    )
    m = model(
        [helper.make_node("Loop", ["", "", "x", "zero"], ["y", "n"], body=body)],
        {"x": (1, 2)},
        zero=np.array(0),
        w=W[0],
    )
    assert flat(m).count("Mul") == 5
    check(m, tolerance=1e-4)


def test_loops_in_loops_and_branches_that_ask_for_the_iteration():
    branch = helper.make_node(
        "If",
        ["odd"],
        ["v"],
        then_branch=graph([node("Neg", "a", "t")], outputs="t"),
        else_branch=graph([node("Mul", "a half", "e")], outputs="e", half=np.float32(0.5)),
    )
    inner = graph(
        [node("Add", "i j", "s"), node("Mod", "s two", "o"), node("Cast", "o", "odd", to=TRUTH), branch]
        + [node("Add", "v x", "a2"), node("Identity", "c2", "k2")],
        "j c2 a",
        "k2 a2",
        (INT, TRUTH),
        two=np.array(2),
    )
    outer = graph(
        [helper.make_node("Loop", ["three", "", "b"], ["b2"], body=inner), node("Identity", "c", "k")],
        "i c b",
        "k b2 b2",
        (INT, TRUTH),
        three=np.array(3),
    )
    loop = helper.make_node("Loop", ["trips", "", "x"], ["y", "z"], body=outer)
    m = model([loop], {"x": (1, 3)}, outputs="y z", trips=np.array(2))
    net = check(m, tolerance=1e-4)
    assert not CONTROL & set(kinds(net)) and net.outputs[1].shape == (2, 1, 3)


@pytest.mark.parametrize("opset", [9, 11, 13, 21])
@pytest.mark.parametrize("backward", [0, 1])
def test_scans_along_any_axis_in_either_direction(opset, backward):
    body = graph(
        [node("MatMul", "h w", "a"), node("Add", "a p", "b"), node("Tanh", "b", "h2"), node("Sub", "h2 q", "o")],
        "h p q",
        "h2 o",
    )
    scan = helper.make_node(
        "Scan",
        ["h0", "x", "z"],
        ["last", "y"],
        body=body,
        num_scan_inputs=2,
        scan_input_axes=[1, 0],
        scan_input_directions=[backward, 0],
        scan_output_axes=[1],
        scan_output_directions=[1 - backward],
    )
    inputs, weights = {"x": (1, 4, 2), "z": (4, 1, 2)}, {"h0": np.ones((1, 2), np.float32), "w": W}
    m = model([scan], inputs, opset=opset, outputs="y last", **weights)
    net = check(m)
    assert not CONTROL & set(kinds(net)) and net.outputs[0].shape == (1, 4, 2)


def test_sequences_of_a_loop_and_of_splits():
    steps = [node("Mul", "x w", "v"), node("SequenceInsert", "s v", "t"), node("Identity", "c", "k")]
    body = graph(steps, "i c s", "k t", (INT, TRUTH))
    body.input[2].type.CopyFrom(helper.make_sequence_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, None)))
    n = [
        node("SequenceEmpty", "", "s0"),
        helper.make_node("Loop", ["three", "", "s0"], ["s"], body=body),
        node("SplitToSequence", "x two", "parts", axis=1),
        node("SequenceAt", "parts minus", "part"),
        node("SequenceInsert", "s x one", "s1"),
        node("SequenceErase", "s1 minus", "s2"),
        node("SequenceLength", "s2", "l"),
        node("Cast", "l", "lf", to=1),
        node("ConcatFromSequence", "s2", "all", axis=1, new_axis=1),
        node("ReduceSum", "all axes", "sum", keepdims=0),
        node("Add", "sum lf", "h"),
        node("Add", "h part"),
    ]
    numbers = {"one": 1, "two": 3, "three": 3, "minus": -1}
    weights = {k: np.array(v) for k, v in numbers.items()} | {"w": W.reshape(1, 4), "axes": np.array([0, 1])}
    m = model(n, {"x": (1, 4)}, **weights)
    net = check(m)
    assert net.outputs[0].shape == (1, 4) and not [k for k in kinds(net) if "Sequence" in k]


def test_optional_values():
    n = [
        node("Optional", "x", "o"),
        node("OptionalHasElement", "o", "has"),
        helper.make_node(
            "If",
            ["has"],
            ["h"],
            then_branch=graph([node("OptionalGetElement", "o", "t")], outputs="t"),
            else_branch=graph([node("Neg", "x", "e")], outputs="e"),
        ),
        node("Relu", "h"),
    ]
    assert kinds(check(model(n, {"x": (1, 4)}, opset=18))) == ["Relu"]


def test_what_depends_on_the_input_stays():
    n = [
        node("ReduceSum", "x", "s", keepdims=0),
        node("Greater", "s zero", "c"),
        node(
            "If",
            "c",
            then_branch=graph([node("Neg", "x", "t")], outputs="t"),
            else_branch=graph([node("Mul", "x x", "e")], outputs="e"),
        ),
    ]
    m = model(n, {"x": (1, 2)}, zero=np.float32(0))
    assert control.flatten(m, look) is m


def test_a_loop_that_would_become_too_large_stays(monkeypatch):
    monkeypatch.setattr(control, "MOST_NODES", 20)
    weights = {"w": W, "yes": np.array(True)}
    for trips, stays in ((3, False), (30, True)):
        m = model(
            [node("Relu", "x", "z"), counted()], {"x": (1, 2)}, outputs="h rows z", trips=np.array(trips), **weights
        )
        assert ("Loop" in flat(m)) == stays


def test_the_file_s_proto_is_left_alone():
    m = model([counted()], {"x": (1, 2)}, outputs="h rows", w=W, trips=np.array(4), yes=np.array(True))
    before = m.SerializeToString()
    load_network(m)
    assert m.SerializeToString() == before


class Programs:
    """Random programs on tensors (1, 3): branches on constants and on shapes, loops, scans, one inside the other."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)
        self.count = 0
        self.weights = {"yes": np.array(True), "no": np.array(False), "none": np.array([0]), "w": W.ravel()[None, :3]}
        self.weights |= {f"n{k}": np.array(k) for k in range(4)}

    def name(self):
        self.count += 1
        return f"t{self.count}"

    def block(self, seen, depth):
        """Nodes that read `seen` and what they make, and the names that are seen after them."""
        nodes, seen = [], list(seen)
        for _ in range(int(self.rng.integers(2, 5))):
            step = self.rng.choice([self.plain, self.branch, self.loop, self.scan]) if depth else self.plain
            made, name = step(seen, depth)
            nodes += made
            seen.append(name)
        return nodes, seen

    def some(self, seen):
        return str(self.rng.choice(seen[-4:]))

    def plain(self, seen, depth):
        op, y = str(self.rng.choice(["Add", "Mul", "Sub", "Tanh", "Relu"])), self.name()
        inputs = [self.some(seen)] + [self.some(seen)] * (op in ("Add", "Mul", "Sub"))
        h = self.name()
        return [helper.make_node(op, inputs, [h]), helper.make_node("Tanh", [h], [y])], y

    def branch(self, seen, depth):
        """On a constant, or on whether x has one row."""
        bodies = []
        for _ in range(2):
            nodes, after = self.block(seen, depth - 1)
            bodies.append(graph(nodes, outputs=after[-1]))
        y, c, s, d = (self.name() for _ in range(4))
        nodes = [helper.make_node("Shape", [self.some(seen)], [s]), helper.make_node("Gather", [s, "none"], [d])]
        nodes.append(helper.make_node("Equal", [d, f"n{self.rng.integers(2)}"], [c]))
        condition = str(self.rng.choice(["yes", "no", c]))
        nodes.append(helper.make_node("If", [condition], [y], then_branch=bodies[0], else_branch=bodies[1]))
        return nodes, y

    def loop(self, seen, depth):
        """A few rounds; the last value and the sum of all that are yielded are added."""
        i, c, a, k, row = (self.name() for _ in range(5))
        nodes, after = self.block([*seen, a], depth - 1)
        nodes += [helper.make_node("Less", [i, "n1"], [k]), helper.make_node("Neg", [after[-1]], [row])]
        body = graph(nodes, f"{i} {c} {a}", f"{k} {after[-1]} {row}", (INT, TRUTH))
        last, rows, total, y = (self.name() for _ in range(4))
        trips = f"n{self.rng.integers(1, 4)}"
        return [
            helper.make_node(
                "Loop", [trips, str(self.rng.choice(["yes", ""])), self.some(seen)], [last, rows], body=body
            ),
            helper.make_node("ReduceSum", [rows, "none"], [total], keepdims=0),
            helper.make_node("Add", [last, total], [y]),
        ], y

    def scan(self, seen, depth):
        """Over the three columns."""
        h, p, yields = self.name(), self.name(), self.name()
        nodes, after = self.block([*seen, h], depth - 1)
        wide = [helper.make_node("Add", [after[-1], p], [after[-1] + "p"]), helper.make_node("Tanh", [p], [yields])]
        places = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in ((h, (1, 3)), (p, (1,)))]
        ends = [(after[-1] + "p", (1, 3)), (yields, (1,))]
        results = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in ends]
        body = helper.make_graph([*nodes, *wide], "body", places, results)
        last, columns, y = self.name(), self.name(), self.name()
        directions = {"scan_input_directions": [int(self.rng.integers(2))], "scan_output_directions": [1]}
        axes = {"scan_input_axes": [1], "scan_output_axes": [-1], "num_scan_inputs": 1}
        inputs = [self.some(seen), self.some(seen)]
        return [
            helper.make_node("Scan", inputs, [last, columns], body=body, **axes, **directions),
            helper.make_node("Add", [last, columns], [y]),
        ], y


@pytest.mark.parametrize("seed", range(4, 28))  # of 3 the runtime says that its own optimised graph is invalid
def test_random_programs(seed):
    programs = Programs(seed)
    nodes, seen = programs.block(["x", "w"], 2)
    m = model(nodes, {"x": (1, 3)}, outputs=seen[-1], **programs.weights)
    assert not CONTROL & set(kinds(check(m, tolerance=1e-4)))
