"""Damaged models and properties end in one InputError or an honest verdict: no other exception, no hang, no wrong
answer.

Run in one process, where 200 of them take a minute; what the command makes of an InputError is tested elsewhere. A
verdict on a damaged file is honest when the damage left a readable pair: `sat` then replays by construction, and
`unsat` is held against random points in ONNX Runtime.
"""

import random
from pathlib import Path

import numpy as np
import pytest

from verifier.api import verify as decide
from verifier.config import AttackConfig, Config, SearchConfig
from verifier.events import Deadline
from verifier.evidence.replay import Replayer
from verifier.net.load import load_network
from verifier.result import InputError
from verifier.spec.parse import parse_property

DIGITS = Path(__file__).resolve().parents[2] / "benchmarks" / "digits"
QUICK = Config(device="cpu", attack=AttackConfig(restarts=16, steps=5), search=SearchConfig(max_rounds=2, batch=64))
SECONDS = 20.0  # no run may take longer, load of the machine included


def damaged(data: bytes, draw: random.Random) -> bytes:
    """Truncated, bytes flipped, a piece dropped, doubled or moved."""
    data = bytearray(data)
    at = draw.randrange(len(data))
    kind = draw.randrange(5)
    if kind == 0:
        return bytes(data[:at])
    if kind == 1:
        for _ in range(draw.choice([1, 1, 2, 8])):
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        return bytes(data)
    length = draw.choice([1, 2, 5, 40])
    piece = data[at : at + length]
    if kind in (2, 4):
        del data[at : at + length]
    if kind in (3, 4):
        there = draw.randrange(len(data) + 1)
        data[there:there] = piece
    return bytes(data)


def without_tokens(data: bytes, draw: random.Random) -> bytes:
    words = data.replace(b"(", b" ( ").replace(b")", b" ) ").split(b" ")
    for _ in range(draw.choice([1, 1, 3])):
        del words[draw.randrange(len(words))]
    return b" ".join(words)


def is_honest(model: Path, prop: Path) -> None:
    try:
        result = decide(model, prop, QUICK, deadline=Deadline.after(SECONDS))
    except InputError as e:
        assert str(e) and "\n" not in str(e).strip()
        return
    assert str(result.verdict) in ("sat", "unsat", "unknown", "timeout") and result.reason
    if str(result.verdict) == "unsat":
        query, network = parse_property(prop), load_network(model)
        replayer = Replayer(model.read_bytes(), network, query)
        draw = np.random.default_rng(0)
        for k in np.flatnonzero(~query.empty)[:20]:
            for _ in range(10):
                x = draw.uniform(query.lower[k], query.upper[k])
                assert replayer(x) is None, "unsat, but there is a counterexample"


@pytest.mark.parametrize("batch", range(10))
def test_damaged_properties(tmp_path, batch):
    draw = random.Random(batch)
    names = sorted((DIGITS / "vnnlib").glob("*.vnnlib"))
    for k in range(12):
        source = draw.choice(names)
        change = draw.choice([damaged, without_tokens])
        prop = tmp_path / f"{k}.vnnlib"
        prop.write_bytes(change(source.read_bytes(), draw))
        is_honest(DIGITS / "onnx" / (source.name.rsplit("_", 2)[0] + ".onnx"), prop)


@pytest.mark.parametrize("batch", range(10))
def test_damaged_models(tmp_path, batch):
    draw = random.Random(100 + batch)
    for k in range(10):
        name = draw.choice(["dense_relu", "conv_relu", "dense_smooth"])
        data = (DIGITS / "onnx" / f"{name}.onnx").read_bytes()
        if draw.random() < 0.6:  # most bytes are weights: aim at the structure as well
            head = data[:600] if draw.random() < 0.5 else data[-600:]
            hurt = damaged(head, draw)
            data = data.replace(head, hurt)
        else:
            data = damaged(data, draw)
        model = tmp_path / f"{k}.onnx"
        model.write_bytes(data)
        is_honest(model, DIGITS / "vnnlib" / draw.choice(sorted(p.name for p in (DIGITS / "vnnlib").glob(f"{name}_*"))))
