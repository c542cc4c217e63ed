"""How fast properties are read: seconds, MB/s and peak memory, each file in a process of its own.

    python benchmarks/parse_speed.py [FILE ...]

Without files it writes and measures large properties of the shapes that are met: many disjuncts each with its own box
over many inputs (about 100 MB), 120,000 disjuncts over one input, an image of 3,072 inputs, and the image again in a
form only the general reader knows.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

MEASURE = """
import resource, sys, time
sys.path.insert(0, sys.argv[2])
begin = time.perf_counter()
from verifier.spec.parse import parse_property
ready = time.perf_counter()
query = parse_property(sys.argv[1])
done = time.perf_counter()
x, y = (query.lower[-1] + query.upper[-1]) / 2, [0.0] * query.n_outputs
query.holds(x, y)
held = time.perf_counter()
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)
reader = "general" if "lark" in sys.modules else "fast"
print(ready - begin, done - ready, held - done, peak, reader, query.n_inputs, query.n_regions, query.n_disjuncts)
"""


def declarations(inputs: int, outputs: int) -> Iterator[str]:
    for letter, count in (("X", inputs), ("Y", outputs)):
        yield from (f"(declare-const {letter}_{i} Real)\n" for i in range(count))


def boxes(disjuncts: int, inputs: int, rows: int, seed: int) -> Iterator[str]:
    """One disjunction; its alternatives each hold a box over all inputs and rows on one output."""
    draw = random.Random(seed)
    yield from declarations(inputs, 1)
    yield "(assert (or\n"
    for _ in range(disjuncts):
        atoms = []
        for i in range(inputs):
            low = draw.choice((0.0, 1.0, round(draw.random(), 3))) if inputs > 1 else draw.random()
            atoms.append(f"(>= X_{i} {low}) (<= X_{i} {low})")
        atoms += [f"({draw.choice(('<=', '>='))} Y_0 {draw.random():.16f})" for _ in range(rows)]
        yield f"  (and {' '.join(atoms)})\n"
    yield "))\n"


def image(inputs: int, outputs: int, seed: int, strict: bool = False) -> Iterator[str]:
    """A box around a random image, and label 0 beaten by another; `strict` takes it out of the fast shapes."""
    draw = random.Random(seed)
    yield from declarations(inputs, outputs)
    for i in range(inputs):
        value = draw.random()
        yield f"(assert (<= X_{i} {value + 0.01}))\n(assert (>= X_{i} {value - 0.01}))\n"
    yield "(assert (or\n"
    yield from (f"    (and ({'>' if strict else '>='} Y_{i} Y_0))\n" for i in range(1, outputs))
    yield "))\n"


def measure(path: Path) -> None:
    begin = time.perf_counter()
    command = [sys.executable, "-c", MEASURE, str(path), str(ROOT)]
    words = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    wall = time.perf_counter() - begin
    start, parse, hold, peak = map(float, words[:4])
    size = path.stat().st_size / 1e6
    print(
        f"{path.name}: {size:.1f} MB, {words[5]} inputs, {words[6]} regions, {words[7]} disjuncts, {words[4]} reader: "
        f"import {start:.3f} s, parse {parse:.3f} s ({size / parse:.1f} MB/s), holds {hold:.3f} s, "
        f"process {wall:.2f} s, peak {peak:.0f} MiB",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path, help="properties to measure instead of the generated ones")
    files = parser.parse_args().files
    for path in files:
        measure(path)
    if files:
        return
    suite = {
        "boxes_11080x308": boxes(11_080, 308, 1, 0),
        "boxes_120000x1": boxes(120_000, 1, 2, 1),
        "image_3072": image(3072, 10, 2),
        "image_150528": image(150_528, 2, 3),
        "image_3072_strict": image(3072, 10, 4, strict=True),
    }
    with tempfile.TemporaryDirectory() as folder:
        for name, lines in suite.items():
            path = Path(folder) / f"{name}.vnnlib"
            with path.open("w") as file:
                file.writelines(lines)
            measure(path)
            path.unlink()


if __name__ == "__main__":
    main()
