"""Tables that are shipped, cached and made are the same ones; whatever is in the cache, a right table comes out."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from verifier.bounds.program import Program
from verifier.branching import store
from verifier.branching.known import ALONE, KNOWN
from verifier.branching.points import Points
from verifier.branching.store import Store, pack, unpack
from verifier.branching.tables import Consumer, build, consumer, grid_for, key
from verifier.net.load import load_network
from verifier.ops.pointwise import Pointwise

ROOT = Path(__file__).resolve().parents[2]
QUICK = (Consumer("Pow", constants=((1, 1.5),)),)  # not shipped, and made in half a second


def alike(a: np.ndarray, b: np.ndarray) -> bool:
    """The same up to what another processor's rounding does: ties between two points may go either way."""
    return a.shape == b.shape and (np.abs(a.astype(int) - b.astype(int)) > 1).mean() < 1e-3


@pytest.mark.parametrize("name", ("softplus", "sqrt", "square"))
def test_what_is_shipped_is_what_would_be_made(name):
    shipped, source = Store().find(KNOWN[name])
    assert source == "shipped" and alike(shipped, build(KNOWN[name]))


def test_every_operator_that_stands_alone_is_shipped_and_little_else():
    assert {n for n, c in KNOWN.items() if Store().find(c)[1] == "shipped"} == set(ALONE)
    with np.load(store.SHIPPED) as held:
        assert set(held) == {key(c) for c in ALONE.values()}
    assert store.SHIPPED.stat().st_size < 300_000


ONNX = {
    **{n: (c[0].kind, {}) for n, c in ALONE.items() if not c[0].attrs and not c[0].constants},
    "gelu": ("Gelu", {}),
    "gelu-tanh": ("Gelu", {"approximate": "tanh"}),
    "elu": ("Elu", {}),
    "celu": ("Celu", {}),
    "selu": ("Selu", {}),
}


@pytest.mark.parametrize("name", ONNX)
def test_operators_as_they_come_from_a_file_have_the_shipped_table(name):
    kind, attrs = ONNX[name]
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [3]) for n in "xy")
    graph = helper.make_graph([helper.make_node(kind, ["x"], ["y"], name="n", **attrs)], "g", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.checker.check_model(model)
    program = Program(load_network(model), torch.float32, "cpu")
    ops = [s.op for s in program.steps[1:] if isinstance(s.op, Pointwise)]
    assert [consumer(op) for op in ops] == list(ALONE[name])


@pytest.mark.parametrize("seed", range(3))
def test_packing_loses_nothing(seed):
    levels = np.random.default_rng(seed).integers(0, 256, (7, 5 + seed), dtype=np.uint8)
    np.testing.assert_array_equal(unpack(pack(levels), levels.shape), levels)
    assert unpack(pack(levels), (7, 4)) is None and unpack(b"not deflated", levels.shape) is None


def counted(monkeypatch) -> list:
    """From now on a table is made at once, of numbers that mean nothing; what was made is collected."""
    calls: list = []

    def make(consumers, *_):
        calls.append(consumers)
        return np.random.default_rng(3).integers(0, 255, grid_for(consumers).shape, dtype=np.uint8)

    monkeypatch.setattr(store, "build", make)
    return calls


def test_a_table_is_made_once_and_kept(tmp_path, monkeypatch):
    calls, kept = counted(monkeypatch), Store(tmp_path / "not" / "there")
    assert kept.find(QUICK) == (None, "to be built")
    first = kept.levels(QUICK)
    again, source = kept.find(QUICK)
    assert source == "cached" and (again == first).all() and (kept.levels(QUICK) == first).all()
    assert calls == [QUICK]
    assert [p.name for p in kept.folder.iterdir()] == [f"{key(QUICK)}.table"]  # and nothing beside it
    Store().levels(QUICK)
    assert len(calls) == 2


DAMAGE = {
    "empty": lambda whole: b"",
    "cut short": lambda whole: whole[:-7],
    "one bit": lambda whole: whole[:-9] + bytes([whole[-9] ^ 4]) + whole[-8:],
    "in the head": lambda whole: whole[:40] + bytes([whole[40] ^ 1]) + whole[41:],
    "something else": lambda whole: os.urandom(5000),
    "of another": None,
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_broken_file_is_made_anew(tmp_path, monkeypatch, how):
    calls, kept = counted(monkeypatch), Store(tmp_path)
    right = kept.levels(QUICK)
    place = tmp_path / f"{key(QUICK)}.table"
    whole = place.read_bytes()
    if how == "of another":
        kept._write(key(KNOWN["square"]), "square", Store().levels(KNOWN["square"]))
        os.replace(tmp_path / f"{key(KNOWN['square'])}.table", place)
    else:
        place.write_bytes(DAMAGE[how](whole))
    assert kept.find(QUICK) == (None, "to be built")
    assert (kept.levels(QUICK) == right).all() and calls == [QUICK, QUICK]
    assert place.read_bytes() == whole


@pytest.mark.parametrize("how", ("a file in the way", "a folder in the way"))
def test_a_cache_that_cannot_be_written_to_is_no_error(tmp_path, monkeypatch, how):
    calls = counted(monkeypatch)
    if how == "a file in the way":
        folder = tmp_path / "cache"
        folder.write_text("")
    else:
        folder = tmp_path
        (tmp_path / f"{key(QUICK)}.table").mkdir()
    before = sorted(tmp_path.rglob("*"))
    assert Store(folder).levels(QUICK) is not None and calls == [QUICK]
    assert sorted(tmp_path.rglob("*")) == before


def test_a_write_that_fails_half_way_leaves_what_was_there(tmp_path, monkeypatch):
    counted(monkeypatch)
    kept = Store(tmp_path)
    kept.levels(QUICK)
    place = tmp_path / f"{key(QUICK)}.table"
    place.write_bytes(b"old")
    monkeypatch.setattr(store.os, "replace", lambda *a: (_ for _ in ()).throw(OSError("no")))
    assert kept.levels(QUICK) is not None
    assert place.read_bytes() == b"old" and list(tmp_path.iterdir()) == [place]


def test_two_processes_may_make_the_same_table(tmp_path):
    code = "from pathlib import Path; from verifier.branching.store import Store; from test_store import QUICK\n"
    code += f"assert Store(Path({str(tmp_path)!r})).levels(QUICK) is not None"
    env = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{Path(__file__).parent}", "OMP_NUM_THREADS": "1"}
    both = [subprocess.Popen([sys.executable, "-c", code], env=env) for _ in range(2)]
    assert [p.wait(timeout=120) for p in both] == [0, 0]
    assert [p.name for p in tmp_path.iterdir()] == [f"{key(QUICK)}.table"]
    assert Store(tmp_path).find(QUICK)[1] == "cached"


def test_the_user_s_cache_is_where_the_system_says(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert Store.of_user().folder == tmp_path / "clipbab" / "tables"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Store.of_user().folder == tmp_path / ".cache" / "clipbab" / "tables"


def test_what_would_take_too_long_is_not_made(tmp_path):
    kept = Store(tmp_path)
    assert kept.levels(QUICK, seconds=0.0) is None and not list(tmp_path.iterdir())
    points = Points(how="tables", store=kept, patience=lambda: 0.0)
    l, u = torch.tensor([0.5]), torch.tensor([2.5])
    assert points.points((QUICK[0].operator(),), l, u).tolist() == [1.5]
    told = []
    assert kept.levels(QUICK, seconds=1e9, told=told.append) is not None
    assert told == sorted(told) and told[-1] == 1.0


class CacheAlone(Store):
    @staticmethod
    def _shipped(*_):
        return None


NUMBERS = st.floats(allow_nan=False, width=32)
READ = (QUICK, KNOWN["gelu"], KNOWN["sin"])


@pytest.fixture(scope="module")
def cached(tmp_path_factory) -> Points:
    """Points whose tables come from files of a cache."""
    kept = CacheAlone(tmp_path_factory.mktemp("cache"))
    for consumers in READ:
        kept._write(key(consumers), "", Store().levels(consumers))
        assert kept.find(consumers)[1] == "cached"
    return Points(how="tables", store=kept, patience=lambda: 0.0)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=str)
@settings(max_examples=150, deadline=None, derandomize=True)
@given(ends=st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=20))
def test_points_by_a_cached_table_are_inside_whatever_the_interval(cached, dtype, ends):
    l, u = (torch.tensor(t, dtype=dtype) for t in zip(*((min(e), max(e)) for e in ends)))
    room = torch.nextafter(l, u) < u  # for a number in between
    for consumers in READ:
        p = cached.points((consumers[0].operator(),), l, u)
        assert p.dtype == dtype and bool(((p > l) & (p < u))[room].all())
    assert all(t is not None for t in cached.tables.values()) and len(cached.tables) == len(READ)


@pytest.mark.parametrize("held", (b"", b"not an archive", b"PK\x03\x04 and then nothing"))
def test_damaged_data_of_the_package_count_as_missing(held, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "SHIPPED", tmp_path / "tables.npz")
    store.SHIPPED.write_bytes(held)
    assert Store().find(KNOWN["sigmoid"]) == (None, "to be built")
