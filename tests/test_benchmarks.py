"""Benchmarks keep up with the code that they measure: each can be imported, and two are run on a small instance."""

import importlib
import importlib.util
import sys
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
SCRIPTS = sorted(p for p in FOLDER.rglob("*.py"))
DIGITS = [str(FOLDER / "digits" / p) for p in ("onnx/dense_relu.onnx", "vnnlib/dense_relu_3_0.01.vnnlib")]


@pytest.fixture(autouse=True)
def _beside_each_other(monkeypatch):
    for folder in {p.parent for p in SCRIPTS}:
        monkeypatch.syspath_prepend(str(folder))
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: str(p.relative_to(FOLDER)))
def test_benchmarks_can_be_imported(script):
    """By its path, as two of them have the same name."""
    spec = importlib.util.spec_from_file_location("_".join(script.relative_to(FOLDER).with_suffix("").parts), script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert Path(module.__file__) == script and module.__doc__


def test_the_dual_benchmark_prints_what_a_step_costs(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["dual_speed.py", *DIGITS, "--domains", "8", "--steps", "2"])
    importlib.import_module("dual_speed").main()
    out = capsys.readouterr().out
    assert "plain passes" in out and "domains/s" in out


@pytest.mark.parametrize(("name", "more"), [("splitting", ["--set", "search.split=neurons"]), ("strategy", [])])
def test_comparisons_run_every_way_and_agree(name, more, monkeypatch, capsys):
    ways = importlib.import_module(name).WAYS
    monkeypatch.setattr(sys, "argv", [f"{name}.py", str(FOLDER / "digits"), "--only", "3", "--cap", "20", *more])
    importlib.import_module("compared").compare("", ways)
    lines = capsys.readouterr().out.splitlines()
    for way in ways:
        assert any(line.strip().startswith(f"{way} ") and "1/  1" in line for line in lines)
