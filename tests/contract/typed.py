"""One-node models over operator x opset x element type, made from ONNX's schemas and its own node cases.

A *combination* is an operator, an opset at which its schema changed, one of the schema's type variables, and an element
type that the schema allows for it. Its models are ONNX's smallest node cases of the operator, put into that opset (what
became an input is an attribute again) with every input of the variable cast to the type. A combination counts if the
installed runtime runs one of its models, on numbers, twice with the same finite result.

The inputs that have the first one's type variable move; the others, axes and shapes among them, are weights. Where that
is refused the first input alone moves. Integers that may be divisors are never 0: ONNX Runtime divides by them.

    python tests/contract/typed.py [--match REGEX] [--every N] [--start K]     prints what fails and what is refused
"""

from __future__ import annotations

import argparse
import re
import sys
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import onnx
from onnx import AttributeProto, defs, helper, numpy_helper

WIDTH, POINTS, CASES, ENTRIES = 1, 3, 2, 400
NAMES = {"float": "float32", "double": "float64"}
TOLERANCE = {"float16": 2e-2, "float32": 2e-4, "float64": 1e-6}
FLOATS = (np.float16, np.float32, np.float64)
Verdict = tuple[str, str]  # right, refused, wrong or exception, and why


@dataclass(frozen=True, order=True)
class Combination:
    op: str
    opset: int
    variable: str
    dtype: str

    def __str__(self) -> str:
        return f"{self.op}-{self.opset} {self.variable}={self.dtype}"


@dataclass(frozen=True)
class Model:
    """A model whose inputs are `inputs`; `outputs` is what the runtime made of them."""

    proto: onnx.ModelProto
    inputs: dict[str, np.ndarray]
    session: object

    def run(self, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        return self.session.run(None, inputs)


@cache
def cases() -> dict[str, list]:
    """Node cases of one node by operator, the smallest first: (node, opset, input arrays)."""
    from onnx.backend.test.case.node import collect_testcases

    found = defaultdict(list)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tests = sorted(collect_testcases(None), key=lambda c: c.name)
    for test in tests:
        nodes, inputs = test.model.graph.node, test.data_sets[0][0]
        if (
            len(nodes) != 1
            or nodes[0].domain
            or not all(isinstance(v, np.ndarray) and v.dtype.kind not in "OUSc" for v in inputs)
        ):
            continue
        if any(a.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS) for a in nodes[0].attribute):
            continue
        if (
            len([i for i in nodes[0].input if i]) == len(inputs)
            and all(v.size for v in inputs)
            and sum(v.size for v in inputs) <= ENTRIES
        ):
            opset = next(o.version for o in test.model.opset_import if not o.domain)
            found[nodes[0].op_type].append((nodes[0], opset, inputs))
    return {op: sorted(some, key=lambda c: sum(v.size for v in c[2])) for op, some in found.items()}


@cache
def schemas() -> dict[str, list]:
    """Of each operator with cases all its schemas."""
    found = defaultdict(list)
    for schema in defs.get_all_schemas_with_history():
        if schema.domain == "" and schema.name in cases() and not schema.deprecated and schema.since_version >= 7:
            found[schema.name].append(schema)
    for op in cases():  # those that have not changed since before 7
        old = [s for s in defs.get_all_schemas_with_history() if s.name == op and not s.domain and s.since_version < 7]
        if old and not old[-1].deprecated and not any(s.since_version == 7 for s in found[op]):
            found[op].append(max(old, key=lambda s: s.since_version))
    return found


def combinations() -> list[Combination]:
    found = set()
    for op, history in schemas().items():
        for schema in history:
            for constraint in schema.type_constraints:
                if any(i.type_str == constraint.type_param_str for i in schema.inputs):
                    types = [re.fullmatch(r"tensor\((\w+)\)", t) for t in constraint.allowed_type_strs]
                    names = {NAMES.get(t[1], t[1]) for t in types if t} - {"string", "complex64", "complex128"}
                    opset = max(schema.since_version, 7)
                    found.update(Combination(op, opset, constraint.type_param_str, n) for n in names)
    return sorted(found)


def formal(schema, k: int):
    """The schema's input of number k; the last one may stand for many."""
    if k < len(schema.inputs):
        return schema.inputs[k]
    last = schema.inputs[-1] if schema.inputs else None
    return last if last is not None and last.option == defs.OpSchema.FormalParameterOption.Variadic else None


def attribute(schema, name: str, value: np.ndarray) -> AttributeProto | None:
    """What later became an input, as the attribute of that name; None where there is none."""
    if name not in schema.attributes or not value.size:
        return None
    kind = schema.attributes[name].type
    flat = value.reshape(-1).tolist()
    single = kind in (defs.OpSchema.AttrType.INT, defs.OpSchema.AttrType.FLOAT)
    whole = kind in (defs.OpSchema.AttrType.INT, defs.OpSchema.AttrType.INTS)
    return helper.make_attribute(name, (int if whole else float)(flat[0]) if single else flat)


def cast(value: np.ndarray, dtype: str, divisor: bool) -> np.ndarray | None:
    """An array of another type, with numbers that it holds; None where numpy has no such type."""
    to = np.dtype(dtype) if dtype in np.sctypeDict else None
    if to is None:
        try:
            to = helper.tensor_dtype_to_np_dtype(getattr(onnx.TensorProto, dtype.upper()))
        except (AttributeError, KeyError):
            return None
    wide = value.astype(np.float64) if value.dtype.kind in "fiub" else value.astype(np.float32).astype(np.float64)
    if to.kind == "b":
        return wide > 0
    if to.name.startswith(("int", "uint")):
        bits = int(to.name.lstrip("uint"))
        least = 0 if to.name[0] == "u" else -(2 ** (bits - 1))
        wide = wide if value.dtype.kind != "f" else np.rint(3 * wide)
        wide = np.clip(np.abs(wide) if least == 0 else wide, least, least + 2.0**bits - 1)
        wide = np.where((wide == 0) & divisor, 1, wide)
    with np.errstate(all="ignore"):
        return wide.astype(to)


def build(c: Combination, case, only_first: bool) -> Model | None:
    """A case as a combination; None where the opset has no such node, or the runtime does not run it."""
    node, opset, arrays = case
    schema = defs.get_schema(c.op, c.opset)
    newer = defs.get_schema(c.op, opset)
    inputs, names, attrs, left = {}, [], [], iter(arrays)
    moving = formal(schema, 0).type_str
    constants = {}
    for k, given in enumerate(node.input):
        value = next(left) if given else None
        spot, was = formal(schema, k), formal(newer, k)
        if spot is None or (was is not None and spot.name != was.name and was.name in schema.attributes):
            made = None if value is None or was is None else attribute(schema, was.name, value)
            if value is not None and made is None:
                return None
            attrs += [] if made is None else [made]
            continue
        names.append(f"x{k}" if given else "")
        if given:
            if spot.type_str == c.variable:
                value = cast(value, c.dtype, k > 0 and spot.type_str == moving)
            if value is None:
                return None
            movable = k == 0 or (spot.type_str == moving and not only_first)
            (inputs if movable and value.dtype.kind in "fiub" else constants)[f"x{k}"] = value
    attrs += [a for a in node.attribute if a.name in schema.attributes and a.name not in [b.name for b in attrs]]
    made = helper.make_node(c.op, names, list(node.output))
    made.attribute.extend(attrs)
    return runnable(made, c.opset, inputs, constants)


def runnable(node, opset: int, inputs: dict, constants: dict) -> Model | None:
    import onnxruntime as ort

    if not inputs:
        return None
    graph = helper.make_graph(
        [node],
        "g",
        [
            helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
            for k, v in inputs.items()
        ],
        [onnx.ValueInfoProto(name=o) for o in node.output if o],
        [numpy_helper.from_array(v, k) for k, v in constants.items()],
    )
    ir = 8 if opset < 19 else 10 if opset < 23 else 11
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir)
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
        model = Model(proto, inputs, session)
        if any(re.search("float8|float4|int4|int2|bfloat16", o.type) for o in session.get_outputs()):
            return None  # numpy is given the bits
        first, second = model.run(inputs), model.run(inputs)
    except Exception:
        return None
    if not all(isinstance(y, np.ndarray) and y.dtype.kind in "fiub" for y in first) or not sum(y.size for y in first):
        return None
    finite = all(np.isfinite(y).all() for y in first)
    return model if finite and all(np.array_equal(a, b) for a, b in zip(first, second)) else None


def around(model: Model, seed: int) -> list[dict[str, np.ndarray]]:
    """The model's inputs and a few next to them: floats by up to 0.05, integers by 1 within their type and not to 0."""
    rng = np.random.default_rng(seed)
    found = [model.inputs]
    for _ in range(POINTS - 1):
        point = {}
        for name, v in model.inputs.items():
            if v.dtype.kind == "b":
                point[name] = v ^ (rng.random(v.shape) < 0.2)
            elif v.dtype.kind in "iu":
                step = rng.integers(0, WIDTH + 1, v.shape).astype(v.dtype)
                point[name] = np.where((v < np.iinfo(v.dtype).max - 1) & (v != -1), v + step, v)
            else:
                point[name] = (v + rng.uniform(-0.05, 0.05, v.shape)).astype(v.dtype)
        found.append(point)
    return found


def flat(values) -> np.ndarray:
    return np.concatenate([np.asarray(v, np.float64).reshape(-1) for v in values])


def allowed(y: np.ndarray, coarse: float) -> float:
    """What a result may be off by: nothing but of floats, whose sums cancel in the type of the inputs or their own."""
    return max(coarse, TOLERANCE[y.dtype.name]) * (1 + float(np.abs(y).max(initial=0))) if y.dtype in FLOATS else 0.0


def judge(model: Model) -> Verdict:
    """Whether forward and bounds agree with the runtime."""
    from verifier.result import InputError

    try:
        return compare(model)
    except InputError as e:
        return "refused", " ".join(str(e).split())
    except Exception as e:
        return "exception", f"{type(e).__name__}: {' '.join(str(e).split())[:300]}"


def compare(model: Model) -> Verdict:
    import torch

    from verifier.bounds.program import Program
    from verifier.net.load import check_supported, load_network
    from verifier.problem import flatten

    network = load_network(model.proto)
    check_supported(network)
    n = network.n_inputs
    program = Program(flatten(network, np.arange(n), np.zeros(n), np.zeros(0, np.int64)), torch.float64, "cpu")
    xs, ys, rooms = [], [], []
    for point in around(model, 0):
        try:
            outputs = model.run(point)
        except Exception:
            continue  # no place of an index, say
        if sum(o.size for o in outputs) == network.n_outputs and all(np.isfinite(o).all() for o in outputs):
            xs.append(flat(point.values()))
            ys.append(flat(outputs))
            coarse = max(TOLERANCE.get(v.dtype.name, 0.0) for v in point.values())
            rooms.append(np.concatenate([np.full(o.size, allowed(o, coarse)) for o in outputs]))
    if not xs:
        return "refused", "the shape of the output depends on the input"
    x, y, room = np.stack(xs), np.stack(ys), np.stack(rooms)
    with torch.no_grad():
        have = program.forward(torch.from_numpy(x)).double().numpy()
        program.forward(torch.from_numpy(x), guided=True)
    if (~(np.abs(have - y) <= room)).any():
        k = np.argwhere(~(np.abs(have - y) <= room))[0]
        return "wrong", f"forward {have[tuple(k)]!r} instead of {y[tuple(k)]!r}"
    return enclosed(program, x, y, room)


def enclosed(program, x: np.ndarray, y: np.ndarray, room: np.ndarray) -> Verdict:
    import torch

    from verifier.bounds import METHODS

    if program.without_bounds():
        return "right", "no bounds"
    some = np.unique(np.linspace(0, y.shape[1] - 1, 6).astype(int))
    eye = torch.eye(y.shape[1], dtype=torch.float64)[some]
    box = [torch.from_numpy(e)[None] for e in (x.min(0), x.max(0))]
    METHODS.load()
    for method in ("interval", "crown"):
        lb = METHODS[method].run(program, *box, torch.cat([eye, -eye])[None], 1 << 28).lb[0].numpy()
        least = np.concatenate([(y + room)[:, some].min(0), (-y + room)[:, some].min(0)])
        if not (lb <= least).all():
            k = int(np.argmax(lb - least))
            return "wrong", f"{method}: bound {lb[k]!r} above {least[k]!r}"
    return "right", ""


def result(c: Combination) -> Verdict | None:
    """The worst over the combination's models; None where the runtime runs none of them."""
    order = ("exception", "wrong", "refused", "right")
    found: list[Verdict] = []
    for case in cases()[c.op][:CASES]:
        model = build(c, case, False)
        if model is None:
            continue
        verdict = judge(model)
        if verdict[0] == "refused" and len(model.inputs) > 1:
            smaller = build(c, case, True)
            verdict = verdict if smaller is None else judge(smaller)
        found.append(verdict)
    return min(found, key=lambda v: order.index(v[0]), default=None)


def results(some: list[Combination]) -> Iterator[tuple[Combination, Verdict]]:
    for c in some:
        verdict = result(c)
        if verdict is not None:
            yield c, verdict


def table(refused: list[tuple[Combination, str]]) -> str:
    """Refusals by operator: opsets and types."""
    rows = defaultdict(lambda: (set(), set(), set()))
    for c, why in refused:
        opsets, types, reasons = rows[c.op]
        opsets.add(c.opset)
        types.add(c.dtype)
        reasons.add(re.sub(r".*?\bunsupported operator\(s\): ", "", why)[:100])
    return "\n".join(
        f"{op:24} {','.join(map(str, sorted(o))):20} {','.join(sorted(t))}: {min(r)}"
        for op, (o, t, r) in sorted(rows.items())
    )


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--match", default="")
    p.add_argument("--every", type=int, default=1)
    p.add_argument("--start", type=int, default=0)
    args = p.parse_args()
    some = [c for c in combinations() if re.search(args.match, str(c))][args.start :: args.every]
    counts, refused, begin = Counter(), [], time.monotonic()
    for c, (kind, why) in results(some):
        counts[kind] += 1
        if kind == "refused":
            refused.append((c, why))
        elif kind != "right":
            print(kind, c, why, flush=True)
    print(table(refused))
    print(len(some), dict(counts), f"{time.monotonic() - begin:.0f} s", file=sys.stdout)


if __name__ == "__main__":
    main()
