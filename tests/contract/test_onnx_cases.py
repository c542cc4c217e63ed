"""ONNX's own operator cases: no answer is wrong, nothing raises, and what is refused is known by name.

A seeded tenth runs always, all of them when `slow`. `onnx_refused.txt` names the cases that are refused; it may only
shrink. All of these have outputs whose shape depends on what moves.
"""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import onnx_cases
import pytest

LEFT = set(Path(__file__).with_name("onnx_refused.txt").read_text(encoding="ascii").split())
WANTED = 1250  # right in all three ways, of all
SEED = 20261130


def count(every: int, start: int) -> Counter[str]:
    """Runs the cases; how many ended how. Fails where one is wrong or raises, or is newly refused."""
    onnx_cases.warm()
    found: Counter[str] = Counter()
    bad = []
    for case in onnx_cases.used(every, start):
        how, what = onnx_cases.alone(case)
        found[how] += 1
        if how in ("wrong", "exception") or (how == "refused" and case.name not in LEFT):
            bad.append(f"{case.name}: {how}: {what}")
    assert not bad, "\n".join(bad)
    return found


@pytest.mark.timeout(600)
def test_a_tenth_of_the_cases():
    start = random.Random(SEED).randrange(10)
    assert count(10, start)["right"] >= 0.1 * WANTED * 0.95


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_all_cases():
    found = count(1, 0)
    assert found["right"] >= WANTED, found


def test_what_is_left_is_there():
    names = {case.name for case in onnx_cases.collect()}
    assert LEFT <= names
