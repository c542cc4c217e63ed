"""Real properties, where a folder of them stands beside the repository: all parse, and points are judged alike."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from spec_formulas import assert_same, from_text, truth

from verifier.spec import fast, general
from verifier.spec.normal import assemble
from verifier.spec.parse import parse_property

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "vnncomp"
GROUPS = sorted(p.parent for p in FOLDER.glob("*/vnnlib")) if FOLDER.is_dir() else []
EVALUATED = 2  # files of each group that are also evaluated
LARGE = 400_000  # bytes of text; evaluating more takes too long in plain Python
HUGE = 500_000  # bytes on disk; of these only one is read


def unpacked(path: Path) -> bytes:
    data = path.read_bytes()
    return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data


def some_points(query, draw, count: int):
    """Points in and around the boxes; outputs near the thresholds of the rows, so that both answers come up."""
    for _ in range(count):
        region = draw.integers(query.n_regions)
        low, high = query.lower[region], query.upper[region]
        x = draw.choice([low, high, low + (high - low) * draw.random(query.n_inputs)])
        y = draw.normal(size=query.n_outputs) * draw.choice([0.1, 1, 100])
        k = draw.choice(np.flatnonzero(query.disjunct_region == region))
        for m in range(query.row_start[k], query.row_start[k + 1]):  # push the outputs towards disjunct k
            var, coef = query.term_var[query.term_start[m]], query.term_coef[query.term_start[m]]
            if var >= query.n_inputs and draw.random() < 0.9:
                y[var - query.n_inputs] = -query.const[m] / coef - np.sign(coef) * draw.choice([0, 1e-9, 1000])
        yield np.clip(x, low, high) if draw.random() < 0.9 else x + 1e-9, y


@pytest.mark.skipif(not GROUPS, reason=f"no folder of real properties at {FOLDER}")
@pytest.mark.parametrize("group", GROUPS, ids=lambda p: p.name)
def test_real_properties(group):
    draw = np.random.default_rng(0)
    paths = sorted((group / "vnnlib").glob("*.vnnlib*"), key=lambda p: (p.stat().st_size, p.name))
    assert paths
    huge = [p for p in paths if p.stat().st_size > HUGE]
    for path in [p for p in paths if p not in huge] + huge[:1]:
        query = parse_property(path)
        assert query.n_disjuncts > 0 and not query.unbounded() and not query.empty.any()
    for path in (paths[0], paths[len(paths) // 2])[:EVALUATED]:
        data = unpacked(path)
        if len(data) > LARGE:
            continue
        query = parse_property(path)
        assert_same(query, assemble(general.read(data.decode(), "f"), "f"))
        assert_same(query, assemble(fast.read(data), "f"))
        inputs, outputs, asserts = from_text(data.decode())
        assert (query.n_inputs, query.n_outputs) == (inputs, outputs)
        for x, y in some_points(query, draw, 8):
            assert (query.holds(x, y) >= 0) == all(truth(f, x, y) for f in asserts), path
