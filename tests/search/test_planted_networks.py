"""Random small networks with counterexamples planted on corners, on faces and inside of boxes, or with none by
construction: no answer is wrong, and nearly all questions are answered.

Answers come from how a question was made, with ONNX Runtime and plain intervals in numpy, and from nothing of the
engine: a planted point satisfies its rows because they were drawn through what the runtime computes there; rows beyond
the range that intervals leave have no solution.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from verifier import api
from verifier.events import Deadline

TYPES = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "float64": TensorProto.DOUBLE}
TYPES["int8"] = TensorProto.INT8
ACTIVATIONS = {
    "Relu": lambda v: np.maximum(v, 0),
    "Sigmoid": lambda v: 1 / (1 + np.exp(-v)),
    "Tanh": np.tanh,
    "LeakyRelu": lambda v: np.maximum(v, 0.01 * v),
}
SECONDS = 5.0


class Planted:
    """One question with its answer."""

    def __init__(self, seed: int):
        self.rng = rng = np.random.default_rng(seed)
        self.type = str(rng.choice(list(TYPES)))
        self.work = np.dtype("float32" if self.type == "int8" else self.type)
        self.n, hidden, self.p = (int(rng.integers(*e)) for e in ((1, 5), (2, 9), (1, 4)))
        sizes = [self.n, *[hidden] * int(rng.integers(1, 3)), self.p]
        self.layers = [
            (rng.normal(size=(a, b)) / np.sqrt(a), rng.normal(size=b) * 0.3, str(rng.choice(list(ACTIVATIONS))))
            for a, b in zip(sizes, sizes[1:])
        ]
        self.layers = [(w.astype(self.work), b.astype(self.work), f) for w, b, f in self.layers]
        self.model = self._model()
        self.session = onnxruntime.InferenceSession(self.model.SerializeToString(), providers=["CPUExecutionProvider"])
        self.lower, self.upper = self._box()

    def _model(self) -> onnx.ModelProto:
        work, nodes, inits, name = TYPES[str(self.work)], [], [], "x"
        if self.type == "int8":
            nodes.append(helper.make_node("Cast", ["x"], ["c"], to=work))
            name = "c"
        for k, (w, b, f) in enumerate(self.layers):
            inits += [numpy_helper.from_array(w, f"w{k}"), numpy_helper.from_array(b, f"b{k}")]
            last = k == len(self.layers) - 1
            nodes.append(helper.make_node("Gemm", [name, f"w{k}", f"b{k}"], ["y" if last else f"g{k}"]))
            if not last:
                nodes.append(helper.make_node(f, [f"g{k}"], [f"a{k}"]))
            name = f"a{k}"
        info = helper.make_tensor_value_info
        ends = [info("x", TYPES[self.type], [1, self.n])], [info("y", work, [1, self.p])]
        graph = helper.make_graph(nodes, "planted", *ends, inits)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)

    def _box(self) -> tuple[np.ndarray, np.ndarray]:
        """Ends that are numbers of the input's type."""
        if self.type == "int8":
            lower = self.rng.integers(-4, 2, self.n)
            return lower.astype(float), (lower + self.rng.integers(0, 5, self.n)).astype(float)
        element = np.dtype(self.type)
        middle, radius = self.rng.normal(size=self.n), self.rng.uniform(0.05, 0.6, self.n)
        return tuple((middle + s * radius).astype(element).astype(float) for s in (-1, 1))

    def point(self) -> np.ndarray:
        """A corner, a point of a face, or one inside, of the input's type."""
        share = self.rng.random(self.n)
        ends = {"corner": 1.0, "face": 0.5, "inside": 0.0}[str(self.rng.choice(["corner", "face", "inside"]))]
        share = np.where(self.rng.random(self.n) < ends, np.round(share), share)
        x = self.lower + (self.upper - self.lower) * share
        x = np.round(x) if self.type == "int8" else x.astype(self.type).astype(float)
        return np.clip(x, self.lower, self.upper)

    def run(self, x: np.ndarray) -> np.ndarray:
        return self.session.run(None, {"x": x.astype(self.type)[None]})[0][0].astype(float)

    def range(self) -> tuple[np.ndarray, np.ndarray]:
        """An interval of every output, with room for the runtime's own rounding."""
        l, u = self.lower, self.upper
        for k, (w, b, f) in enumerate(self.layers):
            w, b = w.astype(float), b.astype(float)
            up, down = np.maximum(w, 0), np.minimum(w, 0)
            l, u = l @ up + u @ down + b, u @ up + l @ down + b
            if k < len(self.layers) - 1:
                l, u = ACTIVATIONS[f](l), ACTIVATIONS[f](u)
        room = (0.1 if self.work == np.float16 else 1e-3) * (1 + np.maximum(abs(l), abs(u)))
        return l - room, u + room

    def question(self) -> tuple[str, str]:
        """Assertions on outputs, and the answer."""
        j, x = int(self.rng.integers(self.p)), self.point()
        y, (low, high) = self.run(x), self.range()
        margin = (0.02 if self.work == np.float16 else 1e-3) * (1 + abs(y[j]))
        number = lambda v: np.format_float_positional(v, trim="0")
        least, most = number(y[j] - margin), number(y[j] + margin)
        asked = {
            "closed": (f"(assert (>= Y_{j} {least}))", "sat"),
            "strict": (f"(assert (> Y_{j} {least}))", "sat"),
            "band": (f"(assert (>= Y_{j} {least})) (assert (<= Y_{j} {most}))", "sat"),
            "either": (f"(assert (or (and (>= Y_{j} {number(high[j])})) (and (< Y_{j} {most}))))", "sat"),
            "beyond": (f"(assert (>= Y_{j} {number(high[j])}))", "unsat"),
            "below": (f"(assert (< Y_{j} {number(low[j])}))", "unsat"),
            "equal and not": (f"(assert (>= Y_{j} {least})) (assert (< Y_{j} {least}))", "unsat"),
        }
        return asked[str(self.rng.choice(list(asked)))]


def answer(seed: int, folder) -> tuple[str, str]:
    """What the verifier says and what is right; a wrong `sat` cannot be, since the runtime has replayed it."""
    q = Planted(seed)
    text, right = q.question()
    number = lambda v: np.format_float_positional(v, trim="0")
    lines = [f"(declare-const X_{i} Real)" for i in range(q.n)] + [f"(declare-const Y_{j} Real)" for j in range(q.p)]
    for i, (l, u) in enumerate(zip(q.lower, q.upper)):
        lines += [f"(assert (>= X_{i} {number(l)}))", f"(assert (<= X_{i} {number(u)}))"]
    path = folder / "p.vnnlib"
    path.write_text("\n".join([*lines, text]) + "\n")
    return str(api.verify(q.model, path, deadline=Deadline.after(SECONDS)).verdict), right


def check(seeds: range, folder) -> None:
    undecided = []
    for seed in seeds:
        said, right = answer(seed, folder)
        assert said in (right, "unknown", "timeout"), f"seed {seed}: {said}, but {right} is right"
        undecided += [seed] if said != right else []
    assert len(undecided) <= 0.02 * len(seeds), undecided


def test_a_hundred_planted_networks(tmp_path):
    check(range(100), tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_ten_thousand_planted_networks(tmp_path):
    check(range(100, 10000), tmp_path)
