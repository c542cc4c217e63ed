"""Makes the tables of split points that come with the package: verifier/branching/tables.npz.

To be run whenever what decides their contents has changed (`verifier.branching.tables.VERSION` says so).

usage: python scripts/make_tables.py [--only NAME…]
"""

import argparse
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402

from verifier.branching.known import ALONE  # noqa: E402
from verifier.branching.store import SHIPPED, pack  # noqa: E402
from verifier.branching.tables import build, key  # noqa: E402


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--only", nargs="+", choices=list(ALONE), help="keep the other tables as they are")
    args = p.parse_args()
    held: dict[str, np.ndarray] = {}
    if args.only:
        with np.load(SHIPPED) as file:
            held = {key(c): file[key(c)] for n, c in ALONE.items() if n not in args.only and key(c) in file}
    for name in args.only or ALONE:
        start = time.monotonic()
        packed = pack(build(ALONE[name]))
        held[key(ALONE[name])] = np.frombuffer(packed, np.uint8)
        print(f"{name:12} {len(packed):7,} bytes {time.monotonic() - start:6.1f} s", flush=True)
    np.savez(SHIPPED, **dict(sorted(held.items())))
    print(f"{len(held)} tables, {SHIPPED.stat().st_size:,} bytes: {SHIPPED.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
