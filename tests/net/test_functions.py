"""Operators that ONNX defines by others: the model with their bodies in place computes what the model computes."""

import numpy as np
import onnx
import onnxruntime
import pytest
from contract.onnx_cases import collect
from tiny import check, kinds, model, node

from verifier.net.functions import inline_bodies
from verifier.net.load import RULES
from verifier.ops import OPS


def run(m, feeds):
    """What ONNX Runtime computes."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    return onnxruntime.InferenceSession(m.SerializeToString(), options).run(None, feeds)


KNOWN = RULES.declared | OPS.declared


def defined_by_others():
    """ONNX's own cases of one node that has a body and is not known here."""
    for case in collect():
        (n, *more), opset = case.model.graph.node, case.model.opset_import[0].version
        if not more and n.op_type not in KNOWN and n.op_type != "SequenceMap" and onnx.defs.has(n.op_type, opset):
            schema = onnx.defs.get_schema(n.op_type, opset)
            if schema.has_function or schema.has_context_dependent_function:
                yield case


def test_bodies_compute_what_the_operators_do():
    tried = set()
    for case in list(defined_by_others())[::4]:
        (inputs, _), *_ = case.data_sets
        feeds = dict(zip([i.name for i in case.model.graph.input], inputs))
        try:
            want = run(case.model, feeds)
        except Exception:
            continue  # the runtime has no such operator for these types
        inlined = inline_bodies(case.model, KNOWN)
        assert case.model.graph.node[0].op_type not in {n.op_type for n in inlined.graph.node}
        for y, z in zip(want, run(inlined, feeds)):
            finite = np.isfinite(np.asarray(y, np.float64))
            tol = 5e-3 if y.dtype == np.float16 else 1e-4
            np.testing.assert_allclose(z[finite].astype(float), y[finite].astype(float), rtol=tol, atol=tol)
        tried.add(case.model.graph.node[0].op_type)
    assert {"Attention", "RotaryEmbedding", "NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss"} <= tried


@pytest.mark.parametrize("opset", range(9, 25))
def test_the_body_is_in_the_model_s_version(opset):
    axes = {} if opset % 2 else {"axes": [0, 2]}  # the default counts, too
    net = check(model(node("MeanVarianceNormalization", "x", **axes), {"x": (2, 3, 2, 2)}, opset=opset), tolerance=1e-3)
    assert {"ReduceMean", "Sqrt"} <= set(kinds(net))


def test_inputs_left_out_and_outputs_that_nobody_reads():
    n = [
        node("Attention", "q q q - - -", "h", q_num_heads=2, kv_num_heads=2),
        node("LpPool", "q", "dead", kernel_shape=[1]),
        node("Relu", "h"),
    ]
    m = model(n, {"q": (1, 3, 4)}, opset=23)
    before = m.SerializeToString()
    assert "Softmax" in kinds(check(m))
    assert m.SerializeToString() == before, "the caller's proto is left alone"


def test_bodies_within_the_reach_of_names_already_taken():
    """Names inside a body are made distinct from the model's."""
    n = [
        node("Neg", "x", "X_squared"),
        node("MeanVarianceNormalization", "X_squared", "h"),
        node("Add", "h X_squared"),
    ]
    check(model(n, {"x": (2, 3, 2, 2)}), tolerance=1e-3)


def test_a_node_stays_where_the_runtime_computes_something_else():
    """Masked scores are -inf in the standard's definition; the runtime has the least finite number there."""
    attrs = {"is_causal": 1, "qk_matmul_output_mode": 2}
    for outputs, stays in (("y", False), ("y - - scores", True)):
        n = node("Attention", "q q q mask", outputs, **attrs)
        names = outputs.replace(" -", "")
        m = model(n, {"q": (1, 2, 3, 4)}, opset=23, outputs=names, mask=np.zeros((3, 3), np.float32))
        net = check(m)
        assert ("Opaque" in kinds(net)) == stays
