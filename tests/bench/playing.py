"""`verify bench` with played instances (`played.py`), in a process of its own or in this one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
ENV = {**os.environ, "PYTHONPATH": f"{ROOT}:{HERE}", "OMP_NUM_THREADS": "1"}
PROGRAM = """
import sys
from verifier import cli
from verifier.bench import command
run = command.run
command.run = lambda args, config, argv: run(args, config, argv, "played:work")
sys.exit(cli.main(["bench", *sys.argv[1:]]))
"""


def suite(folder, models, timeout=20.0):
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"{model}.onnx,p_{k}.vnnlib,{timeout}" for k, model in enumerate(models)]
    (folder / "instances.csv").write_text("\n".join(lines) + "\n")
    return folder


class Bench:
    """Runs `verify bench`; `played` with instances that only play."""

    def start(self, *words, played=True, **kwargs):
        argv = ["-c", PROGRAM] if played else ["-m", "verifier", "bench"]
        kwargs = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": ENV, **kwargs}
        return subprocess.Popen([sys.executable, *argv, *map(str, words)], **kwargs)

    def __call__(self, *words, **kwargs):
        run = self.start(*words, **kwargs)
        out, err = run.communicate(timeout=120)
        return run.returncode, out, err


def records(folder):
    with open(folder / "results.jsonl", encoding="utf-8") as f:
        return [json.loads(line, parse_constant=lambda word: pytest.fail(f"{word} is no JSON")) for line in f]
