"""Bounds at the root, benchmark by benchmark: does every model load, agree with ONNX Runtime, and get finite bounds?

For every instance of a folder's instances.csv, in a process of its own per folder (so that peak memory is the folder's
own): the model is run in ONNX Runtime and by our operators at a few points of the input set; every distinct row of the
property (64 at most) is bounded from both sides over up to `--regions` of its regions, by intervals and by CROWN; 1,000
points of the input set are run in float64 and must lie inside.

Columns: models and properties; the largest difference of the forwards, relative to the largest output; how many bounds
of rows are finite; median over properties of the rows' mean width, interval and CROWN; seconds of the CROWN bounds of
one region, median and longest; peak memory; most loose entries left with their intervals because all would have taken
too long ("left": 0 means that intervals alone are used nowhere). Below a folder's line stands what went wrong, if
anything did.

A folder without an instances.csv stands for those inside that have one. `--limit`: properties of each; `--patience`:
seconds for one property, after which it counts as failed.

usage: python benchmarks/root_bounds.py FOLDER... [--dtype float32] [--regions 4] [--limit N] [--patience 600]
       [--threads 2] [--verbose]
"""

from __future__ import annotations

import argparse
import csv
import multiprocessing
import os
import resource
import statistics
import sys
import time
import traceback
from glob import glob
from queue import Empty

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as the command does

import numpy as np  # noqa: E402

HEAD = ("benchmark", "models", "props", "forward diff", "finite rows", "interval", "CROWN")
HEAD += ("s median", "s max", "GiB", "left")
FORMAT = "{:<20} {:>6} {:>5} {:>12} {:>13} {:>10} {:>10} {:>8} {:>7} {:>5} {:>7}"
POINTS = 1000


def instances(folder: str, limit: int) -> list[tuple[str, str]]:
    """Pairs of model and property, in order."""
    with open(os.path.join(folder, "instances.csv"), newline="") as f:
        rows = [r for r in csv.reader(f) if r]
    if rows and rows[0][0] == "onnx":
        rows = rows[1:]
    return [(os.path.join(folder, r[0]), os.path.join(folder, r[1])) for r in rows][:limit]


def forward_difference(model: str, network, problem, dtype, points: np.ndarray) -> float:
    """Largest difference between ONNX Runtime and our operators, relative to the largest output; on the whole network,
    whatever the property lets the problem leave out of it.
    """
    import onnxruntime as ort
    import torch

    from verifier.bounds.program import Program
    from verifier.net.load import read_model_bytes
    from verifier.problem import flatten

    program = Program(flatten(network, problem.moving, problem.base, np.zeros(0, np.int64)), dtype, "cpu")

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    session = ort.InferenceSession(read_model_bytes(model), options, providers=["CPUExecutionProvider"])
    worst = 0.0
    for t in points:
        x, feeds, at = problem.lift(t[None])[0], {}, 0
        for place, have in zip(network.inputs, session.get_inputs()):
            feeds[have.name] = x[at : at + place.size].reshape(place.shape).astype(place.dtype)
            at += place.size
        y = np.concatenate([np.ravel(o).astype(np.float64) for o in session.run(None, feeds)])
        ours = program.forward(torch.from_numpy(t[None]).to(program.dtype))[0].double().numpy()[: len(y)]
        worst = max(worst, float(np.abs(y - ours).max() / max(1.0, np.abs(y).max())))
    return worst


def one(model: str, prop: str, dtype, regions: int, seen: dict) -> dict:
    """What one instance shows; `seen` keeps networks by path."""
    import torch

    from verifier.bounds import METHODS
    from verifier.bounds.chunks import limits
    from verifier.bounds.crown import crown_trace
    from verifier.bounds.final import final_rows
    from verifier.bounds.interval import outward
    from verifier.bounds.program import Program
    from verifier.net.load import load_network
    from verifier.problem import compile_problem
    from verifier.spec.parse import parse_property

    if model not in seen:
        seen[model] = load_network(model)
    problem = compile_problem(seen[model], parse_property(prop))
    program = Program(problem.network, dtype, "cpu")
    unbounded = sorted({s.node.kind for s in program.without_bounds()})
    if unbounded:
        raise ValueError(f"no bounds for {', '.join(unbounded)}")
    exact = Program(problem.network, torch.float64, "cpu")
    coef = torch.from_numpy(problem.coef[:64]).to(dtype)
    rows = torch.cat([coef, -coef])[None]
    chosen = np.unique(np.linspace(0, len(problem.lower) - 1, regions).astype(int)) if len(problem.lower) else []
    rng = np.random.default_rng(0)
    found: dict = {"widths": {}, "seconds": [], "finite": 0, "rows": 0, "outside": 0, "difference": 0.0, "left out": 0}
    for r in chosen:
        ends = [
            outward(torch.from_numpy(e[r : r + 1]), torch.float32, s)
            for e, s in ((problem.lower, -1), (problem.upper, 1))
        ]
        l, u = (e.to(dtype) for e in ends)
        x = problem.lower[r] + (problem.upper[r] - problem.lower[r]) * rng.random((POINTS // len(chosen), l.shape[1]))
        y = torch.cat([exact.forward(part) for part in torch.from_numpy(x).split(20)]).double()
        value = y @ rows[0].double().T
        if r == chosen[0]:
            found["difference"] = forward_difference(
                model, seen[model], problem, dtype, x[:3].astype(np.float32).astype(float)
            )
        limit = limits(l.device).rows
        for name in ("interval", "crown"):
            start = time.perf_counter()
            if name == "crown":
                trace = crown_trace(program, l, u, limit, rows=rows)
                lb = final_rows(trace, rows, limit).lb[0].double()
                found["left out"] = max(found["left out"], sum(trace.left_out.values()))
            else:
                lb = METHODS[name].run(program, l, u, rows, limit).lb[0].double()
            if name == "crown":
                found["seconds"].append(time.perf_counter() - start)
                found["finite"] += int(torch.isfinite(lb).sum())
                found["rows"] += len(lb)
            found["outside"] += int((value < lb - 1e-9 * (1 + value.abs())).sum())
            width = -(lb[: len(coef)] + lb[len(coef) :])
            found["widths"].setdefault(name, []).append(float(width.mean()))
    return found


def child(pairs: list[tuple[str, str]], a: argparse.Namespace, queue) -> None:
    """Puts (what `one` found, or words on what went wrong, and the peak memory in GiB so far) for every instance."""
    import torch

    from verifier.bounds import METHODS
    from verifier.bounds.chunks import keep_freed_memory

    if a.threads:
        torch.set_num_threads(a.threads)
    torch.backends.nnpack.set_flags(False)
    keep_freed_memory()
    METHODS.load()
    seen: dict = {}
    for model, prop in pairs:
        try:
            with torch.no_grad():
                result = one(model, prop, getattr(torch, a.dtype), a.regions, seen)
        except Exception as e:
            result = f"{type(e).__name__}: {str(e)[:200]}"
            if a.verbose:
                traceback.print_exc()
        queue.put((result, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20))


def folder(path: str, a: argparse.Namespace) -> tuple[str, list[str]]:
    """A folder's row of the table, and what went wrong. An instance on which the process dies, or that takes longer
    than `--patience`, is left out, and a new process goes on with the next.
    """
    pairs = instances(path, a.limit)
    context, results, wrong, peak, at = multiprocessing.get_context("spawn"), [], [], 0.0, 0
    while at < len(pairs):
        queue = context.Queue()
        process = context.Process(target=child, args=(pairs[at:], a, queue))
        process.start()
        while at < len(pairs):
            found = patiently(process, queue, a.patience)
            result, memory = ("the process died, or took too long", 0.0) if found is None else found
            peak = max(peak, memory)
            name = " ".join(os.path.basename(f) for f in pairs[at])
            if isinstance(result, str):
                wrong.append(f"{name}: {result}")
            else:
                results.append(result)
                if result["outside"]:
                    wrong.append(f"{name}: {result['outside']} values OUTSIDE the bounds")
            if a.verbose:
                print(name, result, file=sys.stderr, flush=True)
            at += 1
            if found is None:
                break
        process.terminate()
        process.join()
    return row(path, len({m for m, _ in pairs}), results, peak), wrong


def patiently(process, queue, seconds: float):
    """The next thing in the queue; None if the process ends without one, or after some seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            return queue.get(timeout=0.2)
        except Empty:
            if not process.is_alive() and queue.empty():
                return None
    return None


def row(path: str, models: int, results: list[dict], peak: float) -> str:
    of = lambda key: [v for r in results for v in r[key]] or [float("nan")]
    widths = lambda key: [v for r in results for v in r["widths"].get(key, [])] or [float("nan")]
    return FORMAT.format(
        os.path.basename(os.path.abspath(path)),
        models,
        len(results),
        f"{max((r['difference'] for r in results), default=float('nan')):.1e}",
        f"{sum(r['finite'] for r in results)}/{sum(r['rows'] for r in results)}",
        f"{statistics.median(widths('interval')):.4g}",
        f"{statistics.median(widths('crown')):.4g}",
        f"{statistics.median(of('seconds')):.2f}",
        f"{max(of('seconds')):.2f}",
        f"{peak:.2f}",
        max((r["left out"] for r in results), default=0),
    )


def benchmarks(paths: list[str]) -> list[str]:
    """Folders with an instances.csv: those named, and for others all those inside."""
    found = []
    for path in paths:
        inside = sorted(os.path.dirname(f) for f in glob(os.path.join(path, "*", "instances.csv")))
        found += [path] if os.path.exists(os.path.join(path, "instances.csv")) or not inside else inside
    return found


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("folders", nargs="+")
    ap.add_argument("--dtype", default="float32", choices=("float32", "float64"))
    ap.add_argument("--regions", type=int, default=4)
    ap.add_argument("--limit", type=int, default=10**9)
    ap.add_argument("--patience", type=float, default=600.0)
    ap.add_argument("--threads", type=int, default=0)
    ap.add_argument("--verbose", action="store_true")
    a = ap.parse_args()
    print(FORMAT.format(*HEAD))
    failed, begin = 0, time.monotonic()
    for path in benchmarks(a.folders):
        line, wrong = folder(path, a)
        print(line, flush=True)
        failed += len(wrong)
        for text in wrong[:5]:
            print(f"    {text}", flush=True)
        if len(wrong) > 5:
            print(f"    and {len(wrong) - 5} more")
    print(f"{failed} of the properties went wrong; {time.monotonic() - begin:.0f} s in all")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
