"""Models cut at tensors of the user's choice: bounds, replays and runs of the command are those of the cut model."""

import numpy as np
import onnx
import pytest
from onnx import helper
from oracles import run_ort
from tiny import check, model, node

from verifier import api
from verifier.cli import main
from verifier.config import Config, ModelConfig
from verifier.net.cut import cut
from verifier.net.load import load_network
from verifier.result import ModelError, UsageError

W = np.array([[1, -2, 0.5], [3, 0.5, -1]], np.float32)
PROPERTY = """
(declare-const X_0 Real) (declare-const X_1 Real)
(declare-const Y_0 Real) (declare-const Y_1 Real) (declare-const Y_2 Real)
(assert (>= X_0 -1.0)) (assert (<= X_0 1.0)) (assert (>= X_1 -1.0)) (assert (<= X_1 1.0))
(assert (>= Y_0 {}))
"""


def classifier():
    """A softmax whose outputs are a label and, as scikit-learn's converters write it, a sequence of maps."""
    n = [node("MatMul", "x w", "19"), node("Softmax", "19", "p", axis=1), node("ArgMax", "p", "label", axis=1)]
    n.append(helper.make_node("ZipMap", ["p"], ["zipped"], domain="ai.onnx.ml", classlabels_strings=["a", "b", "c"]))
    m = model(n, {"x": (1, 2)}, outputs="label zipped", w=W)
    m.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))
    return m


def test_heads_fall_away():
    m = classifier()
    before = m.SerializeToString()
    assert [o.name for o in cut(m, "p, 19").graph.output] == ["p", "19"]
    net = check(cut(m, "19"))
    assert [t.name for t in net.outputs] == ["19"] and m.SerializeToString() == before
    assert load_network(m, config=ModelConfig(outputs="19")) is not None


def test_a_name_with_a_comma_is_a_name():
    m = model([node("Relu", "x", "a"), node("Neg", "a", "b"), node("Exp", "a")], {"x": (1, 2)})
    m.graph.node[1].output[0] = "a,y"
    assert [o.name for o in cut(m, "a,y").graph.output] == ["a,y"]


def test_what_is_no_tensor_of_the_model():
    for outputs, word in (("lable", "perhaps label"), ("x", "perhaps label"), ("p,p", "once"), (",", "expected")):
        with pytest.raises(UsageError, match=word):
            cut(classifier(), outputs)


def test_outputs_that_are_no_numbers_are_named_and_the_way_out():
    with pytest.raises(ModelError, match="output 'zipped' is no tensor of numbers; choose with --output p"):
        load_network(classifier())
    words = helper.make_node("LabelEncoder", ["i"], ["y"], domain="ai.onnx.ml", keys_int64s=[0], values_strings=["a"])
    m = model([node("ReduceSum", "x", "s"), node("Cast", "s", "i", to=7), words], {"x": (1, 2)})
    m.opset_import.append(helper.make_opsetid("ai.onnx.ml", 2))
    with pytest.raises(ModelError, match="output 'y' is no tensor of numbers; choose with --output s"):
        load_network(m)


@pytest.mark.parametrize(("least", "verdict"), [(3.5, "sat"), (4.5, "unsat")])
def test_verdicts_and_replays_are_those_of_the_cut_model(tmp_path, capsys, least, verdict):
    files = tmp_path / "m.onnx", tmp_path / "p.vnnlib"
    onnx.save(classifier(), files[0])
    files[1].write_text(PROPERTY.format(least))
    result = api.verify(*files, Config(timeout=20, device="cpu", threads=1, model=ModelConfig(outputs="19")))
    assert result.verdict == verdict
    assert main([*map(str, files), "--output", "19", "--results-file", str(tmp_path / "r"), "-q"]) == 0
    assert (tmp_path / "r").read_text().startswith(verdict)
    if verdict == "sat":
        (y,) = run_ort(cut(classifier(), "19"), [result.witness.x])
        assert y[0] >= least
        assert main(["check", *map(str, files), str(tmp_path / "r"), "--output", "19"]) == 0
        assert "valid" in capsys.readouterr().out
    assert main(["explain", *map(str, files), "--output", "19"]) == 0
    assert "output 19 [1,3]" in capsys.readouterr().out


def test_names_that_are_numbers_are_names(tmp_path):
    from verifier.settings import read

    (tmp_path / "c.yaml").write_text("model:\n  outputs: 19\n")
    assert read(str(tmp_path / "c.yaml")).model.outputs == "19"
    assert read(None, ["model.outputs=007"]).model.outputs == "007"
