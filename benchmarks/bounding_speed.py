"""How fast CROWN with all intermediate bounds runs, as a share of the machine's own matrix product rate.

Network: 5 inputs, six hidden ReLU layers of 50, 5 outputs (the size of the ACAS Xu networks), random weights, boxes
wide enough that nearly every neuron is unstable. The reference is one product (204800, 50) (50, 50) in float32, timed
in the same run.

Useful work per box, both sides of every bound, counting a multiply-add as two operations: hidden layer k = 2 … 6: 2 *
50 rows through k - 2 products (50, 50) and one (50, 5); output: 5 rows through 5 products and one. The first product
of every row only picks rows of the weight matrix and counts nothing. Work that stable neurons spare is not counted as
done: the second figure divides by the rows that were really needed.

usage: python benchmarks/bounding_speed.py [--boxes 4096] [--width 1.0] [--threads 0] [--dtype float32]
"""

import argparse
import os
import time

import numpy as np

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as the command does
import torch  # noqa: E402

from verifier.bounds import METHODS  # noqa: E402
from verifier.bounds.chunks import bound_rows, keep_freed_memory  # noqa: E402
from verifier.bounds.crown import by_crown  # noqa: E402
from verifier.bounds.program import Program  # noqa: E402
from verifier.bounds.trace import trace_values  # noqa: E402
from verifier.net.graph import Network, Node, Tensor  # noqa: E402

SIZES = (5, 50, 50, 50, 50, 50, 50, 5)


def network(seed: int = 0) -> Network:
    """The flat network of `SIZES` with He-initialised weights."""
    rng = np.random.default_rng(seed)
    nodes, constants, source = [], {}, "t"
    for k, (n_in, n_out) in enumerate(zip(SIZES[:-1], SIZES[1:])):
        constants[f"W{k}"] = rng.normal(size=(n_in, n_out)).astype(np.float32) * np.float32(np.sqrt(2 / n_in))
        constants[f"b{k}"] = rng.normal(size=n_out).astype(np.float32) * np.float32(0.1)
        nodes.append(Node(f"z{k}", "Linear", (source, f"W{k}", f"b{k}"), (n_out,), np.dtype(np.float32)))
        source = f"z{k}"
        if k < len(SIZES) - 2:
            nodes.append(Node(f"h{k}", "Relu", (source,), (n_out,), np.dtype(np.float32)))
            source = f"h{k}"
    end = Tensor(source, (SIZES[-1],), np.dtype(np.float32))
    return Network((Tensor("t", (SIZES[0],), np.dtype(np.float32)),), tuple(nodes), constants, (end,), 13)


def useful_operations(rows_by_layer: list[float]) -> float:
    """Operations per box for the given mean number of rows (both sides) of every layer after the first."""
    total = 0.0
    for k, rows in enumerate(rows_by_layer, start=1):
        total += 2 * rows * ((k - 1) * 50 * 50 + 50 * 5)
    total += 2 * SIZES[-1] * (5 * 50 * 50 + 50 * 5)
    return total


def unstable_rows(program: Program, l: torch.Tensor, u: torch.Tensor) -> list[float]:
    """Mean number of rows (both sides) that the intermediate bounds of layers 2 … 6 really need."""
    counts = []

    def count(trace, value, loose, limit):
        counts.append(2 * loose.flatten(1).sum(1).float().mean().item())
        by_crown(trace, value, loose, limit)

    trace_values(program, l, u, 1 << 30, count)
    return counts


def best(f, repeats: int) -> float:
    f()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        f()
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    ap = argparse.ArgumentParser()
    ap.add_argument("--boxes", type=int, default=4096)
    ap.add_argument("--width", type=float, default=1.0)
    ap.add_argument("--threads", type=int, default=0)
    ap.add_argument("--dtype", default="float32")
    a = ap.parse_args()
    if a.threads:
        torch.set_num_threads(a.threads)
    keep_freed_memory()
    METHODS.load()
    dtype = getattr(torch, a.dtype)
    program = Program(network(), dtype, "cpu")
    torch.manual_seed(0)
    centre = torch.randn(a.boxes, SIZES[0], dtype=dtype)
    l, u = centre - a.width / 2, centre + a.width / 2
    x, w = torch.randn(204800, 50, dtype=dtype), torch.randn(50, 50, dtype=dtype)
    out = torch.empty_like(x)
    reference = 2 * 204800 * 50 * 50 / best(lambda: torch.mm(x, w, out=out), 15)
    row = torch.arange(SIZES[-1]).expand(a.boxes, -1)
    coef = torch.eye(SIZES[-1], dtype=dtype)
    seconds = best(lambda: bound_rows(program, l, u, coef, row, "crown"), 5)
    nominal, needed = useful_operations([100.0] * 5), useful_operations(unstable_rows(program, l[:256], u[:256]))
    print(f"product (204800, 50) (50, 50): {reference / 1e9:.1f} GFLOP/s, {torch.get_num_threads()} threads")
    print(f"{a.boxes} boxes in {seconds * 1e3:.1f} ms: {a.boxes / seconds:.0f} boxes/s")
    for what, work in (("every neuron's rows", nominal), ("unstable neurons' rows only", needed)):
        rate = work * a.boxes / seconds
        share = f"{rate / 1e9:.1f} GFLOP/s, {rate / reference:.0%} of the product's rate"
        print(f"useful work, {what}: {work / 1e6:.2f} MFLOP a box, {share}")


if __name__ == "__main__":
    main()
