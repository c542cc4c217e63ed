"""No verdict leaves without ONNX Runtime having been asked, and what the runtime shows is said."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, parser

from verifier import api
from verifier.config import AttackConfig, Config, SearchConfig, SpecConfig
from verifier.events import Deadline, silent
from verifier.evidence import gate as gates
from verifier.evidence.gate import Gate, between
from verifier.evidence.near import NearMisses
from verifier.result import Verdict


def model(body: str, ins: str, outs: str, weights: str = "", opset: int = 17) -> onnx.ModelProto:
    head = f'<ir_version: 8, opset_import: ["" : {opset}]> g ({ins}) => ({outs})'
    return parser.parse_model(f"{head} {f'<{weights}>' if weights else ''} {{ {body} }}")


def written(tmp_path, box, rows: str, p: int = 1) -> str:
    text = "".join(f"(declare-const X_{i} Real)\n" for i in range(len(box)))
    text += "".join(f"(declare-const Y_{j} Real)\n" for j in range(p))
    text += "".join(f"(assert (>= X_{i} {l}))(assert (<= X_{i} {u}))\n" for i, (l, u) in enumerate(box))
    path = tmp_path / "p.vnnlib"
    path.write_text(text + rows)
    return str(path)


def config(reading: str = "auto", attack: str = "pgd", **search) -> Config:
    return Config(
        timeout=20.0,
        threads=1,
        device="cpu",
        attack=AttackConfig(method=attack),
        search=SearchConfig(**search),
        spec=SpecConfig(reading=reading),
    )


SATURATED = model("y = Sigmoid(x)", "float[1,1] x", "float[1,1] y")


@pytest.mark.parametrize("attack", ["pgd", "none"])
@pytest.mark.parametrize("reading, verdict", [("auto", "sat"), ("float", "sat"), ("real", "unsat")])
def test_a_function_that_saturates_in_the_runtime(tmp_path, reading, verdict, attack):
    result = api.verify(SATURATED, written(tmp_path, [(-20, -17)], "(assert (<= Y_0 0.0))"), config(reading, attack))
    assert result.verdict == verdict
    if attack == "none" or reading == "real":  # else it is found before anything is proved
        assert "over the reals" in result.reason or "rounding satisfies" in result.reason  # both are told
    assert (result.witness is not None) == (verdict == "sat")


ABSORBED = {  # what is added to these numbers is lost: 1e9 in single precision, and 2048, told by its bits, in half
    "float": ("1000000000.0", "a = Add(x, c)  y = Sub(a, c)", 0),
    "float16": ("26624", "y = Add(x, c)", 2048),
}


@pytest.mark.parametrize("kind", ABSORBED)
@pytest.mark.parametrize("reading, verdict", [("auto", "sat"), ("real", "unsat")])
def test_sums_that_the_runtime_absorbs(tmp_path, kind, reading, verdict):
    large, body, limit = ABSORBED[kind]
    m = model(body, f"{kind}[1] x", f"{kind}[1] y", f"{kind}[1] c = {{{large}}}")
    path = written(tmp_path, [(0.25, 0.75)], f"(assert (<= Y_0 {limit}))")
    assert api.verify(m, path, config(reading)).verdict == verdict


def test_the_element_type_is_what_competitions_compare(tmp_path):
    m = model("y = Identity(x)", "float[1] x", "float[1] y")
    path = written(tmp_path, [(0.1, 0.1)], "(assert (<= Y_0 0.1))")  # float32(0.1) is above 0.1
    assert api.verify(m, path, config("float")).verdict == "sat"
    assert api.verify(m, path, config("auto")).verdict != "sat"


# --- every way to a verdict passes

RELUS = model(
    "a = MatMul(x, w)  b = Relu(a)  y = ReduceSum <keepdims = 1> (b)",
    "float[1,2] x",
    "float[1,1] y",
    "float[2,2] w = {1.0, -1.0, 0.5, 2.0}",
)
SUM = model(
    "h1, h2 = Split <axis = 1, num_outputs = 2> (x)  a = Sin(h1)  b = Sin(h2)  y = Add(a, b)",
    "float[1,2] x",
    "float[1,1] y",
    opset=18,
)
WAYS = {
    "input boxes": (RELUS, 2, "(assert (>= Y_0 100))", {"split": "input"}),
    "neurons": (RELUS, 2, "(assert (>= Y_0 100))", {"split": "neurons"}),
    "portfolio": (RELUS, 2, "(assert (>= Y_0 100))", {}),
    "sums": (SUM, 2, "(assert (>= Y_0 3))", {}),
    "limit of rounds": (RELUS, 2, "(assert (<= Y_0 -0.0001))", {"max_rounds": 1}),
    "contradiction": (RELUS, 2, "(assert (>= Y_0 1))(assert (<= Y_0 0))", {}),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_a_verdict_passes_the_gate(way, tmp_path, monkeypatch):
    m, n, rows, search = WAYS[way]
    asked = []

    def closed(self, verdict, reason, near, subproblems, deadline):
        asked.append(verdict)
        return Verdict.UNKNOWN, "the gate is closed", None, {}

    monkeypatch.setattr(Gate, "passed", closed)
    result = api.verify(m, written(tmp_path, [(-1, 1)] * n, rows), config(attack="none", **search))
    assert result.reason == "the gate is closed" and asked in ([Verdict.UNSAT], [Verdict.UNKNOWN])


class NoCluster:
    """As many workers as are needed to say that nothing ran."""

    ours = None

    def __init__(self, *args, **kwargs):
        pass

    def slots(self) -> int:
        return 1


@pytest.mark.parametrize("said", ["unsat", "unknown"])
def test_cubes_pass_the_gate_once_over_what_workers_return(said, tmp_path, monkeypatch):
    from verifier.bench import cubes

    monkeypatch.setattr(cubes, "Cluster", NoCluster)
    monkeypatch.setattr(cubes.Conquest, "run", lambda self, listener: (said, "what workers say", ""))
    model_path = tmp_path / "m.onnx"
    onnx.save(RELUS, model_path)
    for rows, wanted in (("(assert (<= Y_0 0.001))", "sat"), ("(assert (>= Y_0 100))", said)):
        path = written(tmp_path, [(-1, 1)] * 2, rows)
        last = cubes.conquer("nowhere", str(model_path), path, config(), silent, Deadline.after(20))
        assert last["verdict"] == wanted and last["stats"]["gate runs"] > 0
        assert last["witness"].startswith("((X_0") == (wanted == "sat")


def test_attack_only_passes_the_gate(tmp_path):
    """Without bounds and without an attack there is nothing but the gate."""
    m = model("y = Det(x)", "float[3,3] x", "float[] y")  # no bounds of a determinant of nine variables are asked for
    plain = model("y = ReduceProd <keepdims = 1> (x)", "float[1,40] x", "float[1,1] y")
    for proto, n in ((m, 9), (plain, 40)):
        result = api.verify(proto, written(tmp_path, [(0.5, 1)] * n, "(assert (<= Y_0 2))"), config(attack="none"))
        assert result.verdict == "sat"


def test_an_empty_input_set_needs_no_run(tmp_path):
    loaded = api.load(RELUS, written(tmp_path, [(1, 0), (0, 1)], "(assert (>= Y_0 0))"), {})
    result = api.decide(loaded, config(), silent, Deadline.after(20), {})
    assert result.verdict == "unsat" and "gate runs" not in result.stats


def test_a_faulty_bound_is_found_out(tmp_path, monkeypatch):
    """An engine that refutes everything says `sat` at the centre, and at corners, where it is."""
    from verifier.bounds.targets import Targets

    real = Targets.refuted

    def everything(self, picked, *args, **kwargs):
        hit = real(self, picked, *args, **kwargs)
        return hit | True

    for rows in ("(assert (<= Y_0 0.001))", "(assert (>= Y_0 2.99))"):  # the centre, a corner
        path = written(tmp_path, [(-1, 1)] * 2, rows)
        assert api.verify(RELUS, path, config(attack="none", split="input")).verdict == "sat"
        with monkeypatch.context() as patch:
            patch.setattr(Targets, "refuted", everything)
            result = api.verify(RELUS, path, config(attack="none", split="input"))
            assert result.verdict == "sat" and result.witness is not None


# --- how much is asked


def asked(loaded, subproblems: float, verdict=Verdict.UNSAT, near=None) -> dict[str, float]:
    gate = Gate(loaded.problem, loaded.replayer, 0)
    return gate.passed(verdict, "", near or NearMisses(), subproblems, Deadline.after(60))[3]


def test_the_budget_counts_and_asks_no_clock(tmp_path, monkeypatch):
    loaded = api.load(RELUS, written(tmp_path, [(-1, 1)] * 2, "(assert (>= Y_0 100))"), {})
    few, many = (asked(loaded, n)["gate runs"] for n in (1, 1e6))
    assert few == asked(loaded, 1)["gate runs"] and 4 <= few <= many <= gates.MOST
    monkeypatch.setattr(gates, "CALL", 1e12)  # a run so dear that only what is always asked is asked
    assert asked(loaded, 1)["gate runs"] <= 8


def test_the_deadline_is_no_verdict(tmp_path):
    loaded = api.load(RELUS, written(tmp_path, [(-1, 1)] * 2, "(assert (>= Y_0 100))"), {})
    gate = Gate(loaded.problem, loaded.replayer, 0)
    verdict, reason, _, _ = gate.passed(Verdict.UNSAT, "proved", NearMisses(), 1, Deadline(0.0))
    assert verdict == Verdict.TIMEOUT and "proved" in reason


def test_margins_below_the_noise_are_asked_more(tmp_path):
    loaded = api.load(SATURATED, written(tmp_path, [(0, 1)], "(assert (>= Y_0 0.7310586))"), {})
    near = NearMisses()
    near.leaves.add(np.array([[1.0]]), np.array([1e-9]))
    close = asked(loaded, 1, near=near)
    assert close["least margin"] == 1e-9 < gates.SAFETY * close["runtime noise"] < 1e-5
    near = NearMisses()
    near.leaves.add(np.array([[1.0]]), np.array([0.5]))
    clear = asked(loaded, 1, near=near)
    assert "runtime noise" not in clear and clear["gate runs"] < close["gate runs"]


def test_the_centre_needs_no_search(tmp_path):
    result = api.verify(RELUS, written(tmp_path, [(-1, 1)] * 2, "(assert (<= Y_0 0.001))"), config())
    assert result.verdict == "sat" and not result.plan and result.witness.x.tolist() == [0.0, 0.0]


# --- boxes of few inputs


def test_all_inputs_there_are_settle_it(tmp_path, monkeypatch):
    m = model("y = Mul(x, x)", "int32[2] x", "int32[2] y")
    sat, unsat = "(assert (>= Y_0 9))(assert (<= Y_1 0))", "(assert (>= Y_0 9))(assert (<= Y_1 -1))"
    for rows, wanted in ((sat, Verdict.SAT), (unsat, Verdict.UNSAT)):
        loaded = api.load(m, written(tmp_path, [(-3, 3)] * 2, rows, p=2), {})
        gate = Gate(loaded.problem, loaded.replayer, 0)
        verdict, _, witness, _ = gate.passed(Verdict.UNKNOWN, "", NearMisses(), 1, Deadline.after(60))
        assert verdict == wanted and (witness is not None) == (wanted == Verdict.SAT)
        assert len(gate.every()) == 49
    real = replace(loaded, replayer=api.judge_of(loaded, config("real")))
    assert Gate(real.problem, real.replayer, 0).passed(Verdict.UNKNOWN, "", NearMisses(), 1, Deadline.after(60))[0] == (
        Verdict.UNKNOWN
    )


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_the_values_between_are_all_that_the_type_has(kind):
    low, high = kind(0.3), kind(0.3)
    for _ in range(5):
        high = np.nextafter(high, kind(1))
    values = between(float(low), float(high), np.dtype(kind))
    assert len(values) == 6 and len({kind(v) for v in values}) == 6
    assert between(0.0, 1.0, np.dtype(kind)) is None
    inner = between(0.1, 0.1, np.dtype(kind))  # no value of the type inside, but the model receives one
    assert inner.tolist() == [0.1]


def test_whole_numbers_between():
    assert between(-1.5, 2.5, np.dtype(np.int8)).tolist() == [-1.0, 0.0, 1.0, 2.0]
    assert between(0.0, 1.0, np.dtype(bool)).tolist() == [0.0, 1.0]


def test_a_model_that_cannot_be_run_at_some_points_is_no_error(tmp_path):
    graph = helper.make_graph(
        [helper.make_node("Gather", ["t", "x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.INT64, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
        [helper.make_tensor("t", TensorProto.FLOAT, [2], [1.0, 2.0])],
    )
    m = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    result = api.verify(m, written(tmp_path, [(0, 5)], "(assert (>= Y_0 3))"), config())
    assert result.verdict in ("unsat", "unknown")
