"""Makes the tables of split points that come with the package, verifier/branching/tables.npz, on all cores.

To be run whenever what decides their contents has changed (`verifier.branching.tables.VERSION` says so).

usage: python scripts/make_tables.py [--only NAME…] [--jobs N]
"""

import argparse
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import torch  # noqa: E402

from verifier.branching.known import ALONE  # noqa: E402
from verifier.branching.store import SHIPPED, pack  # noqa: E402
from verifier.branching.tables import build, key  # noqa: E402


def made(name: str) -> tuple[str, bytes, float]:
    """A table as it is kept, and the seconds it took on one thread."""
    torch.set_num_threads(1)
    start = time.monotonic()
    return name, pack(build(ALONE[name])), time.monotonic() - start


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--only", nargs="+", choices=list(ALONE), help="keep the other tables as they are")
    p.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="tables made at once")
    args, begin = p.parse_args(), time.monotonic()
    held: dict[str, np.ndarray] = {}
    if args.only:
        with np.load(SHIPPED) as file:
            held = {key(c): file[key(c)] for n, c in ALONE.items() if n not in args.only and key(c) in file}
    with ProcessPoolExecutor(args.jobs, get_context("spawn")) as pool:
        for done in as_completed([pool.submit(made, name) for name in args.only or ALONE]):
            name, packed, seconds = done.result()
            held[key(ALONE[name])] = np.frombuffer(packed, np.uint8)
            print(f"{name:12} {len(packed):7,} bytes {seconds:6.1f} s", flush=True)
    np.savez(SHIPPED, **dict(sorted(held.items())))
    size, seconds = SHIPPED.stat().st_size, time.monotonic() - begin
    print(f"{len(held)} tables, {size:,} bytes: {SHIPPED.relative_to(ROOT)}, {seconds:.0f} s")


if __name__ == "__main__":
    main()
