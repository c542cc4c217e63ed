"""What one linear program costs: min a x over a box and one half-space, in a batch, against HiGHS on the same programs.

Prints the cost per program of the search's own way (sorting the bends of the dual; the certified bound included), of
closing in on the best multiplier by tangents, and of HiGHS one by one; and how far the bounds are from HiGHS' minima.

usage: python benchmarks/clip_lp.py [--batch 10000] [--dimensions 64] [--compared 500] [--threads 2]
"""

import argparse
import time

import numpy as np
import torch
from scipy.optimize import linprog

from verifier.clip.complete import best_multiplier, value
from verifier.clip.constraints import Halfspaces

STEPS = 8  # of `by_tangents`


def programs(count: int, n: int, seed: int = 0):
    """a (count, 1, n), l, u (count, n), g (count, 1, n), h (count, 1): half-spaces that cut deep and shallow."""
    rng = np.random.default_rng(seed)
    centre, radius = rng.normal(size=(count, n)), rng.random((count, n))
    a, g = rng.normal(size=(count, 1, n)), rng.normal(size=(count, 1, n))
    shift = (rng.random((count, 1)) * 1.9 - 0.95) * (np.abs(g[:, 0]) * radius).sum(1, keepdims=True)
    h = shift - (g[:, 0] * centre).sum(1, keepdims=True)
    return tuple(torch.from_numpy(t) for t in (a, centre - radius, centre + radius, g, h))


def by_tangents(a, l, u, g, h):
    """The best multipliers (D, S) by a bracket whose ends' tangents meet at the next try; g (D, n), h (D,)."""
    g3, l3, u3 = g.unsqueeze(1), l.unsqueeze(1), u.unsqueeze(1)

    def least(b):
        x = torch.where(torch.addcmul(a, b.unsqueeze(-1), g3) > 0, l3, u3)
        slope = (x @ g.unsqueeze(-1)).squeeze(-1) + h.unsqueeze(1)
        return (x * a).sum(-1) + b * slope, slope

    right = torch.where(g3 != 0, -a / g3, 0.0).amax(-1).clamp(min=0)
    left = torch.zeros_like(right)
    (d_left, s_left), (d_right, _) = least(left), least(right)
    s_right = ((g.clamp(min=0) * l).sum(-1) + (g.clamp(max=0) * u).sum(-1) + h).unsqueeze(1).expand_as(right)
    done = s_left <= 0
    for _ in range(STEPS):
        meet = (d_right - s_right * right - d_left + s_left * left) / (s_left - s_right)
        moves = (meet > left) & (meet < right) & ~done
        if not bool(moves.any()):
            break
        d, s = least(torch.where(moves, meet, left))
        up, down = moves & (s > 0), moves & (s <= 0)
        left, d_left, s_left = (torch.where(up, new, old) for new, old in ((meet, left), (d, d_left), (s, s_left)))
        right, d_right, s_right = (
            torch.where(down, new, old) for new, old in ((meet, right), (d, d_right), (s, s_right))
        )
    return torch.where(done, 0.0, torch.where(d_right >= d_left, right, left))


WAYS = {"sorting": best_multiplier, "tangents": by_tangents}


def bounds(way: str, a, l, u, g, h):
    """Certified minima (D, 1) with the multipliers that a way finds."""
    b = WAYS[way](a, l, u, g[:, 0], h[:, 0])
    return value(a, l, u, Halfspaces(g, h), b.unsqueeze(-1))


def best(f, *args, repeats: int = 7) -> float:
    f(*args)
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        f(*args)
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--batch", type=int, default=10000)
    p.add_argument("--dimensions", type=int, default=64)
    p.add_argument("--compared", type=int, default=500)
    p.add_argument("--threads", type=int, default=2)
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    a, l, u, g, h = programs(args.batch, args.dimensions)
    start = time.perf_counter()
    solved = []
    for i in range(min(args.compared, args.batch)):
        ends = np.stack([l[i].numpy(), u[i].numpy()], 1)
        solved.append(linprog(a[i, 0].numpy(), g[i].numpy(), -h[i].numpy(), bounds=ends, method="highs").fun)
    highs = (time.perf_counter() - start) / len(solved)
    print(f"HiGHS: {1e6 * highs:.0f} us a program")
    for dtype in (torch.float64, torch.float32):
        x = [t.to(dtype) for t in (a, l, u, g, h)]
        for way in WAYS:
            cost = best(bounds, way, *x) / args.batch
            off = np.array(solved) - bounds(way, *x)[: len(solved), 0].double().numpy()
            print(
                f"{way:8} {str(dtype).removeprefix('torch.')}: {1e6 * cost:6.2f} us a program, {highs / cost:.0f} "
                f"times faster; below HiGHS' minimum by {off.min():.1e} to {off.max():.1e}"
            )


if __name__ == "__main__":
    main()
