"""Nothing under verifier/ or configs/ knows a benchmark, or one of its models, by name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
REAL = ROOT.parent / "shared" / "vnncomp"
WORDS = {"test", "model", "net", "network"}  # names that are words of the language


def texts() -> list[Path]:
    return [p for top in ("verifier", "configs") for p in (ROOT / top).rglob("*") if p.suffix in (".py", ".yaml")]


def named(names: set[str]) -> list[str]:
    """Where one of the names stands as a word of its own."""
    pattern = re.compile(r"(?<![a-z0-9])(" + "|".join(sorted(map(re.escape, names))) + r")(?![a-z0-9])")
    found = []
    for path in texts():
        found += [f"{path.relative_to(ROOT)}: {m[0]}" for m in pattern.finditer(path.read_text().lower())]
    return found


@pytest.mark.skipif(not REAL.is_dir(), reason=f"needs the real instances in {REAL}")
def test_no_benchmark_and_no_model_is_named():
    folders = [p for p in REAL.iterdir() if p.is_dir()]
    assert len(folders) > 20 and len(texts()) > 100
    models = {m.name.split(".")[0].lower() for p in folders for m in (p / "onnx").glob("*.onnx*")}
    assert len(models) > 50
    assert not named({p.name.lower() for p in folders} - WORDS)
    assert not named(models - WORDS)


def test_a_name_would_be_noticed():
    assert named({"relaxation"}) and not named({"laxatio"})
