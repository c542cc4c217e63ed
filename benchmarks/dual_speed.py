"""What one step of the dual optimiser costs on a model: in plain backward passes, and against the machine's rate.

A step is one backward pass, one forward pass, gradients and the ascent. The plain pass is the same backward pass alone,
without error terms. Domains carry eight random splits each. Useful work counts the products of linear layers and
convolutions, a multiply-add as two operations, once per pass; the reference is one product (2048, 512) (512, 512) in
float32. Everything on one thread, as the search runs its chunks.

usage: python benchmarks/dual_speed.py MODEL PROPERTY [--domains 256] [--steps 20]
"""

import argparse
import os
import time

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as the command does
import torch  # noqa: E402

from verifier.bounds.chunks import keep_freed_memory  # noqa: E402
from verifier.bounds.crown import crown_trace  # noqa: E402
from verifier.bounds.dual import Settings, optimise  # noqa: E402
from verifier.bounds.interval import outward  # noqa: E402
from verifier.bounds.program import Program  # noqa: E402
from verifier.bounds.relaxation import Multipliers, Relaxation, Splits, Start  # noqa: E402
from verifier.bounds.targets import Targets  # noqa: E402
from verifier.bounds.walk import Pass  # noqa: E402
from verifier.net.load import load_network  # noqa: E402
from verifier.ops.base import size  # noqa: E402
from verifier.problem import compile_problem  # noqa: E402
from verifier.spec.parse import parse_property  # noqa: E402

SPLITS = 8


def operations(program: Program) -> float:
    """Of one pass over one domain."""
    total = 0.0
    for step in program.steps[1:]:
        weight = getattr(step.op, "weight", None)
        if step.node.kind == "Linear":
            total += 2.0 * weight.numel() * size(step.node.shape[:-1])
        elif step.node.kind == "Conv":
            total += 2.0 * weight.numel() * size(step.node.shape[2:])
    return total


def best(f, repeats: int) -> float:
    f()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        f()
        times.append(time.perf_counter() - start)
    return min(times)


def batch(program: Program, problem, n: int):
    """A relaxation, and n domains of the first region: start, splits, multipliers."""
    l, u = (outward(torch.from_numpy(t[:1]), torch.float32, s) for t, s in ((problem.lower, -1), (problem.upper, 1)))
    r = Relaxation(crown_trace(program, l, u, 64 << 20))
    targets = Targets(problem, torch.float32, "cpu")
    rows = targets.coef[targets.row[0, :1]].expand(n, 1, -1).contiguous()
    start = Start(program.output, rows=rows, const=targets.const[:1, :1].float().expand(n, 1))
    g = torch.Generator().manual_seed(0)
    can = torch.nonzero(r.splittable).squeeze(1)
    column = torch.stack([can[torch.randperm(len(can), generator=g)[:SPLITS]] for _ in range(n)])
    sign = (torch.rand(column.shape, generator=g) > 0.5).float() * 2 - 1
    splits = Splits(column, sign, torch.zeros_like(sign))
    slopes = (t.expand(n, -1).clone() for t in (r.alpha, r.upper_slopes))
    return r, start, splits, Multipliers(*slopes, torch.zeros_like(sign), torch.ones(n, 1))


@torch.no_grad()
def main() -> None:
    ap = argparse.ArgumentParser()
    ap.add_argument("model")
    ap.add_argument("property")
    ap.add_argument("--domains", type=int, default=256)
    ap.add_argument("--steps", type=int, default=20)
    a = ap.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    problem = compile_problem(load_network(a.model), parse_property(a.property))
    program = Program(problem.network, torch.float32, "cpu")
    r, start, splits, m = batch(program, problem, a.domains)
    walk = Pass(r, start, r.lines(splits), splits)
    plain = best(lambda: walk.backward(m), 10)
    settings = Settings(steps=a.steps, patience=a.steps)
    whole = best(lambda: optimise(r, start, splits, m, settings, target=float("inf")), 5)
    step = (whole - plain) / a.steps
    x, w = torch.randn(2048, 512), torch.randn(512, 512)
    rate = 2 * 2048 * 512 * 512 / best(lambda: x @ w, 15)
    work = operations(program) * a.domains
    print(f"{r.width} unstable neurons; {work / a.domains / 1e6:.1f} MFLOP a pass and domain")
    print(f"product (2048, 512) (512, 512): {rate / 1e9:.1f} GFLOP/s")
    print(f"plain backward pass of {a.domains} domains: {plain * 1e3:.2f} ms, {work / plain / rate:.0%} of that rate")
    print(f"one step: {step * 1e3:.2f} ms, {step / plain:.2f} plain passes, {2 * work / step / rate:.0%} of that rate")
    print(f"{a.domains / whole:.0f} domains/s at {a.steps} steps")


if __name__ == "__main__":
    main()
