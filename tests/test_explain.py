"""What `verify explain` says of operators that cannot be run or bounded."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from verifier.config import Config
from verifier.explain import lines
from verifier.result import UnsupportedError

F = np.float32


def explained(tmp_path, nodes, opset=17, **weights):
    """The lines for a model x (2, 3) to y, and the error that ends them, if any."""
    graph = helper.make_graph(
        [helper.make_node(op, i.split(), [o], name=f"{op}_{o}", **attrs) for op, i, o, attrs in nodes],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (2, 3))],
        [onnx.ValueInfoProto(name="y")],
        [numpy_helper.from_array(np.asarray(v), n) for n, v in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    path, prop = tmp_path / "m.onnx", tmp_path / "p.vnnlib"
    path.write_bytes(model.SerializeToString())
    inputs = [f"(declare-const X_{i} Real)(assert (>= X_{i} 0.5))(assert (<= X_{i} 1))" for i in range(6)]
    outputs = [f"(declare-const Y_{i} Real)" for i in range(6)]
    prop.write_text("\n".join([*inputs, *outputs, "(assert (<= Y_0 0))"]))
    found = []
    try:
        for line in lines(path, prop, Config()):
            found.append(line)
    except UnsupportedError as error:
        return found, error
    return found, None


def test_operators_without_bounds(tmp_path):
    found, error = explained(tmp_path, [("Sin", "x", "s", {}), ("PRelu", "x s", "y", {})])
    assert error is None
    after = found[found.index("missing") :]
    assert after[1:] == [
        "  no bounds       PRelu at PRelu_y [2,3]: a slope that depends on the input, or that repeats it"
    ]


def test_nothing_is_missing(tmp_path):
    found, error = explained(tmp_path, [("Relu", "x", "y", {})])
    assert error is None and "missing" not in found


@pytest.mark.parametrize(
    ("node", "part"),
    [
        (("Foo", "x", "y", {}), "Foo (opset 17) at Foo_y: not an operator of ONNX"),
        (("Bernoulli", "x", "y", {}), "Bernoulli (opset 17) at Bernoulli_y [2,3]: no such operator"),
    ],
)
def test_operators_that_cannot_be_run(tmp_path, node, part):
    found, error = explained(tmp_path, [node])
    assert error is not None and part.split(": ")[1] in str(error)
    assert any("cannot be run" in line and part in line for line in found)


def test_attributes_that_are_not_handled(tmp_path):
    four = np.ones((1, 1, 1, 1, 1, 1), F)
    nodes = [("Reshape", "x s", "h", {}), ("Conv", "h w", "c", {}), ("Reshape", "c t", "y", {})]
    sizes = {"s": np.array([1, 1, 1, 1, 2, 3]), "t": np.array([2, 3])}
    found, error = explained(tmp_path, nodes, w=four, **sizes)
    assert error is None
    assert any("no bounds" in line and "4 spatial dimensions" in line for line in found)
