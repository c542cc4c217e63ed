"""Damaged files: only PropertyError and FileError come out; a fast reader never reads what the general one refuses."""

import gzip
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from spec_formulas import assert_same

from verifier.result import FileError, PropertyError
from verifier.spec import fast, general
from verifier.spec.normal import assemble
from verifier.spec.parse import parse_bytes, parse_property

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = [p.read_bytes() for p in sorted((ROOT / "vnnlib" / "valid").glob("*.vnnlib"))]
BITS = [b"(", b")", b" ", b";", b"X_0", b"Y_9", b"<=", b"1", b"-", b"e", b".", b"\n", b"\xff", b"\0", b'"', b"|", b"\r"]


def check(data: bytes) -> None:
    """Reads data by both ways; nothing but the two errors may come out, and the ways agree."""
    try:
        query = parse_bytes(data, "f")
    except PropertyError as error:
        assert re.match(r"f:\d+:\d+: expected .*, found ", str(error)), str(error)
        assert "\n" not in str(error)
        if data.isascii():
            assert fast.read(data) is None
        return
    assert_same(query, assemble(general.read(data.decode("utf-8-sig"), "f"), "f"))
    query.describe(), query.unbounded()
    query.holds([0.5] * query.n_inputs, [0.0] * query.n_outputs)


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_damaged_samples(data):
    source = bytearray(data.draw(st.sampled_from(SAMPLES)))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(source)))
        kind = data.draw(st.sampled_from(["cut", "flip", "insert", "delete"]))
        if kind == "cut":
            del source[at:]
        elif kind == "flip" and at < len(source):
            source[at] ^= 1 << data.draw(st.integers(0, 7))
        elif kind == "insert":
            source[at:at] = data.draw(st.sampled_from(BITS))
        else:
            del source[at : at + data.draw(st.integers(1, 4))]
    check(bytes(source))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_tokens_dropped_doubled_and_swapped(data):
    tokens = re.findall(rb";[^\n]*\n|[()]|[^\s();]+|\s+", data.draw(st.sampled_from(SAMPLES)))
    for _ in range(data.draw(st.integers(1, 2))):
        i, j = (data.draw(st.integers(0, len(tokens) - 1)) for _ in "ij")
        kind = data.draw(st.sampled_from(["drop", "double", "swap", "copy"]))
        if kind == "drop" and len(tokens) > 1:
            del tokens[i]
        elif kind == "double":
            tokens.insert(i, tokens[i])
        elif kind == "swap":
            tokens[i], tokens[j] = tokens[j], tokens[i]
        else:
            tokens[i] = tokens[j]
    check(b"".join(tokens))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200) | st.lists(st.sampled_from(BITS), max_size=60).map(b"".join))
def test_any_bytes(data):
    check(data)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(SAMPLES), st.data())
def test_damaged_gzip(tmp_path_factory, source, data):
    packed = bytearray(gzip.compress(source))
    at = data.draw(st.integers(0, len(packed) - 1))
    if data.draw(st.booleans()):
        del packed[at:]
    else:
        packed[at] ^= 1 << data.draw(st.integers(0, 7))
    path = tmp_path_factory.mktemp("gzip") / "p.vnnlib.gz"
    path.write_bytes(bytes(packed))
    try:
        parse_property(path)
    except (PropertyError, FileError) as error:
        assert str(error).startswith(str(path))


@pytest.mark.parametrize("sample", range(len(SAMPLES)))
def test_every_truncation(sample):
    source = SAMPLES[sample]
    for end in range(0, len(source), 7):
        check(source[:end])
