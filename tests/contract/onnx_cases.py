"""ONNX's own operator cases as verification problems whose answers are known.

`onnx.backend.test.case.node` holds one small model an operator, attribute and opset, with inputs. What the installed
runtime computes for them, y, gives three questions: at the point, `|Y_j - y_j| <= tol` for all j is `sat`; at the
point, `Y_j >= y_j + 10 tol` for some j is `unsat`; within `RADIUS` of the point the first is `sat`.

A case is *used* by this rule alone: all inputs and outputs are tensors of numbers, the runtime runs the model, and the
outputs are finite.

    python tests/contract/onnx_cases.py [--match REGEX] [--every N] [--jobs N] [--method none]

prints what fails, and counts.
"""

from __future__ import annotations

import argparse
import multiprocessing
import re
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

RADIUS = 0.05
WAYS = ("point", "beyond", "box")
WANTED = {"point": "sat", "beyond": "unsat", "box": "sat"}


@dataclass(frozen=True)
class Case:
    """One model with an input x (n,) float64 and what the runtime computes there, y (p,) float64."""

    name: str
    model: onnx.ModelProto
    x: np.ndarray
    y: np.ndarray

    @property
    def tol(self) -> np.ndarray:
        """(p,): what counts as equal."""
        return 1e-3 * np.maximum(1.0, np.abs(self.y))

    def property_text(self, way: str) -> str:
        """The question as VNN-LIB 1.0; see the file's head."""
        lines = [f"(declare-const X_{i} Real)" for i in range(len(self.x))]
        lines += [f"(declare-const Y_{j} Real)" for j in range(len(self.y))]
        spread = RADIUS if way == "box" else 0.0
        for i, v in enumerate(self.x.tolist()):
            lines += [f"(assert (>= X_{i} {decimal(v - spread)}))", f"(assert (<= X_{i} {decimal(v + spread)}))"]
        tol = self.tol
        if way == "beyond":
            parts = [f"(and (>= Y_{j} {decimal(v + 10 * t)}))" for j, (v, t) in enumerate(zip(self.y, tol))]
            lines.append(f"(assert (or {' '.join(parts)}))")
        else:
            for j, (v, t) in enumerate(zip(self.y, tol)):
                lines += [f"(assert (>= Y_{j} {decimal(v - t)}))", f"(assert (<= Y_{j} {decimal(v + t)}))"]
        return "\n".join(lines) + "\n"


def decimal(v: float) -> str:
    return repr(float(v))


def collect() -> list:
    """All of ONNX's node cases, once each."""
    import warnings

    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return sorted(collect_testcases(None), key=lambda c: c.name)


def used(every: int = 1, start: int = 0, match: str = "") -> Iterator[Case]:
    """The cases by the rule of the file's head; of those that match, each `every`-th from `start` on."""
    import onnxruntime as ort

    found = [c for c in collect() if re.search(match, c.name)]
    for test in found[start::every]:
        case = as_case(test, ort)
        if case is not None:
            yield case


def numeric(value: object) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind in "fiub"


def as_case(test, ort) -> Case | None:
    """None where the rule leaves it out."""
    inputs, _ = test.data_sets[0]
    names = [i.name for i in test.model.graph.input]
    if len(inputs) != len(names) or not inputs or not all(numeric(v) for v in inputs):
        return None
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        session = ort.InferenceSession(test.model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        outputs = session.run(None, dict(zip(names, inputs)))
    except Exception:
        return None
    x = np.concatenate([np.asarray(v, np.float64).reshape(-1) for v in inputs])
    if not all(numeric(v) for v in outputs) or not len(x):
        return None
    y = np.concatenate([np.asarray(v, np.float64).reshape(-1) for v in outputs])
    if not (np.isfinite(x).all() and np.isfinite(y).all()) or not len(y):
        return None
    return Case(test.name, test.model, x, y)


def ask(case: Case, way: str, method: str = "pgd", timeout: float = 10.0) -> tuple[str, str]:
    """(the answer, why): a verdict; 'refused' where an InputError says so; 'exception' for anything else."""
    from dataclasses import replace

    from verifier import api
    from verifier.config import Config
    from verifier.result import InputError

    config = Config(timeout=timeout, threads=1, device="cpu")
    config = replace(config, attack=replace(config.attack, method=method))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "p.vnnlib")
        path.write_text(case.property_text(way))
        try:
            result = api.verify(case.model, path, config)
        except InputError as e:
            return "refused", str(e)
        except Exception as e:
            return "exception", f"{type(e).__name__}: {e}"
    return str(result.verdict), result.reason


def judged(case: Case, method: str = "pgd") -> dict[str, tuple[str, str]]:
    """The answers to the three questions; a refusal of one stands for all."""
    answers: dict[str, tuple[str, str]] = {}
    for way in WAYS:
        answers[way] = ask(case, way, method)
        if answers[way][0] in ("refused", "exception"):
            break
    return answers


def kind(answers: dict[str, tuple[str, str]]) -> str:
    """right, wrong, exception, refused or undecided."""
    words = {way: a[0] for way, a in answers.items()}
    for bad in ("exception", "refused"):
        if bad in words.values():
            return bad
    if any({w, WANTED[way]} == {"sat", "unsat"} for way, w in words.items()):
        return "wrong"
    return "right" if words == WANTED else "undecided"


def warm() -> None:
    """Loads what every case needs, once for all the processes that are forked."""
    import torch

    torch.set_num_threads(1)
    judged(next(used(match="^test_relu$")))


def alone(case: Case, method: str = "pgd") -> tuple[str, str]:
    """(kind, what was not as wanted) of a case in a process of its own; one that dies is an exception like others."""
    context = multiprocessing.get_context("fork")
    receive, send = context.Pipe(duplex=False)
    child = context.Process(target=lambda: send.send(judged(case, method)))
    child.start()
    send.close()
    try:
        answers = receive.recv()
    except EOFError:
        child.join()
        return "exception", f"the process ended with status {child.exitcode}"
    child.join()
    what = "; ".join(f"{way} {a} ({why[:160]})" for way, (a, why) in answers.items() if a != WANTED[way])
    return kind(answers), what


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--match", default="")
    p.add_argument("--every", type=int, default=1)
    p.add_argument("--start", type=int, default=0)
    p.add_argument("--method", default="pgd")
    args = p.parse_args()
    warm()
    counts: Counter[str] = Counter()
    for case in used(args.every, args.start, args.match):
        begin = time.monotonic()
        how, what = alone(case, args.method)
        counts[how] += 1
        seconds = time.monotonic() - begin
        if how != "right" or seconds > 5:
            print(f"{how:10} {seconds:5.1f} s  {case.name}: {' '.join(what.split())}", flush=True)
    print(sum(counts.values()), dict(counts))


if __name__ == "__main__":
    main()
