"""`verify` as a person runs it: in a process of its own."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / "benchmarks" / "digits"
ENV = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


class Command:
    """Runs `verify`; `sat` and `unsat` are quick instances, `empty` is quicker (its box is empty), `hard` is one that
    splitting inputs does not decide in a minute.
    """

    argv = (sys.executable, "-m", "verifier")
    env = ENV

    def __init__(self, folder: Path):
        model = DIGITS / "onnx" / "dense_relu.onnx"
        self.sat = (str(model), str(DIGITS / "vnnlib" / "dense_relu_2_0.3.vnnlib"))
        self.unsat = (str(model), str(DIGITS / "vnnlib" / "dense_relu_3_0.01.vnnlib"))
        self.empty = (str(model), str(folder / "empty.vnnlib"))
        Path(self.empty[1]).write_text(Path(self.unsat[1]).read_text() + "(assert (>= X_0 2.0))\n")
        self.hard = (str(model), str(folder / "hard.vnnlib"), "--set", "search.split=input")
        Path(self.hard[1]).write_text(widened((DIGITS / "vnnlib" / "dense_relu_5_0.04.vnnlib").read_text(), 0.08))

    def __call__(self, *words, **kwargs):
        kwargs = {"capture_output": True, "text": True, "timeout": 120, "env": self.env, **kwargs}
        return subprocess.run([*self.argv, *map(str, words)], **kwargs)

    def start(self, *words, **kwargs):
        kwargs = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": self.env, **kwargs}
        return subprocess.Popen([*self.argv, *map(str, words)], **kwargs)


def widened(text: str, by: float) -> str:
    """The property with every input bound moved outward."""
    text = re.sub(r"\(>= (X_\d+) ([-\d.e]+)\)", lambda m: f"(>= {m[1]} {float(m[2]) - by!r})", text)
    return re.sub(r"\(<= (X_\d+) ([-\d.e]+)\)", lambda m: f"(<= {m[1]} {float(m[2]) + by!r})", text)


@pytest.fixture(scope="session")
def verify(tmp_path_factory):
    return Command(tmp_path_factory.mktemp("verify"))
