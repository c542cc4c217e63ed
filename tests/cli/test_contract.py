"""What callers may rely on: where the verdict stands, what the files hold, the exit status."""

import argparse
import gzip
import json
import math
import os
import stat
import subprocess
from pathlib import Path

import numpy as np
import pytest

from verifier.cli import COMMANDS
from verifier.config import Config
from verifier.evidence import witness
from verifier.record import record


def test_unsat_is_said_on_line_one_and_nothing_else(verify):
    done = verify(*verify.unsat, "--timeout", 60)
    assert (done.returncode, done.stdout) == (0, "unsat\n")
    assert "unsat" in done.stderr.splitlines()[-1]


def test_sat_comes_with_its_counterexample_in_every_form(verify, tmp_path):
    results, record = tmp_path / "r.txt", tmp_path / "r.json"
    done = verify(*verify.sat, "--timeout", 60, "--results-file", results, "--json", record, "--seed", 5)
    assert done.returncode == 0
    verdict, text = done.stdout.split("\n", 1)
    assert verdict == "sat"
    assert results.read_text() == done.stdout
    point = witness.parse(text)
    assert len(point.x) == 64 and len(point.y) == 10
    told = json.loads(record.read_text())
    assert told["verdict"] == "sat" and told["seed"] == 5 and told["reason"]
    assert told["config"]["timeout"] == 60.0 and told["config"]["bounds"]["method"] == "auto"
    assert {"clipbab", "torch", "numpy", "onnx", "onnxruntime", "python"} <= set(told["versions"])
    assert told["versions"]["torch"] and told["device"] in ("cpu", "cuda")
    assert {"model", "property", "start"} <= set(told["seconds"]) and "domains" in told["stats"] and told["plan"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["r.json", "r.txt"]
    checked = verify("check", *verify.sat, results)
    assert (checked.returncode, checked.stdout.split(":")[0]) == (0, "valid")
    assert verify("check", *verify.sat, "-", "-q", input=done.stdout).stdout == checked.stdout
    point.x[:] = 0.5
    results.write_text(witness.render(point))
    checked = verify("check", *verify.sat, results)
    assert (checked.returncode, checked.stdout.split(":")[0]) == (1, "invalid")


def test_quiet_says_only_the_answer(verify):
    done = verify(*verify.unsat, "-q")
    assert (done.returncode, done.stdout, done.stderr) == (0, "unsat\n", "")


def test_compressed_files_are_read(verify, tmp_path):
    packed = []
    for path in verify.unsat:
        packed.append(tmp_path / (Path(path).name + ".gz"))
        packed[-1].write_bytes(gzip.compress(Path(path).read_bytes()))
    assert verify(*packed).stdout == "unsat\n"
    assert verify(*(p.with_suffix("") for p in packed)).stdout == "unsat\n"  # named without .gz


def test_pipes_are_read(verify):
    line = '"${@:3}" <(cat "$1") <(cat "$2") -q'
    done = subprocess.run(["bash", "-c", line, "bash", *verify.sat, *verify.argv], env=verify.env, capture_output=True)
    assert done.stdout[:4] == b"sat\n" and done.stderr == b""


def test_an_empty_box_is_unsat_and_says_so(verify, tmp_path):
    prop = tmp_path / "empty.vnnlib"
    text = Path(verify.unsat[1]).read_text() + "(assert (>= X_0 2.0))\n"
    prop.write_text(text)
    done = verify(verify.unsat[0], prop)
    assert (done.returncode, done.stdout) == (0, "unsat\n")
    assert "empty: X_0 is to be at least 2 and at most" in done.stderr and "says nothing of the model" in done.stderr


def test_records_are_json_whatever_the_figures():
    said = {"verdict": "unknown", "reason": "", "stats": {"worst bound": -math.inf, "more": [math.nan, 1.5]}}
    args = argparse.Namespace(model="m", property="p")
    text = record(said, args, Config(), 0.0)
    told = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert told["stats"] == {"worst bound": None, "more": [None, 1.5]}


def test_the_same_seed_gives_the_same_answer(verify):
    assert verify(*verify.sat, "--seed", 3).stdout == verify(*verify.sat, "--seed", 3).stdout


def test_an_older_answer_does_not_survive_an_error(verify, tmp_path):
    results = tmp_path / "r.txt"
    results.write_text("unsat\n")
    assert verify(tmp_path / "none.onnx", verify.unsat[1], "--results-file", results).returncode == 2
    assert not results.exists()


def test_results_may_go_to_what_is_no_file(verify, tmp_path):
    device = tmp_path / "fifo"
    os.mkfifo(device)
    reader = os.open(device, os.O_RDONLY | os.O_NONBLOCK)
    assert verify(*verify.unsat, "--results-file", device).returncode == 0
    assert os.read(reader, 100) == b"unsat\n"
    assert stat.S_ISFIFO(os.stat(device).st_mode)
    os.close(reader)


def test_a_link_is_followed(verify, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "target")
    assert verify(*verify.unsat, "--results-file", tmp_path / "link").returncode == 0
    assert (tmp_path / "target").read_text() == "unsat\n" and (tmp_path / "link").is_symlink()


def test_limits_end_as_unknown_with_a_reason(verify):
    done = verify(*verify.hard, "--set", "search.max_rounds=2", "--timeout", 60)
    assert (done.returncode, done.stdout) == (0, "unknown\n")
    assert "max_rounds" in done.stderr.splitlines()[-1]


def test_explain_says_what_it_is_and_what_would_be_done(verify):
    done = verify("explain", *verify.unsat, "--timeout", "7", "--seed", "3")  # as for verify itself
    assert done.returncode == 0
    for part in ("opset 13", "Relu", "64 of 64 inputs move", "9 disjuncts", "plan", "crown"):
        assert part in done.stdout


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--version"], "clipbab 0."),
        (["version"], "clipbab 0."),
        (["--help"], "--results-file"),
        (["help"], "--results-file"),
        (["help", "check"], "WITNESS"),
        *(([command, "--help"], "-v, --verbose") for command in COMMANDS if command != "help"),
        (["supports", "--name"], "clipbab"),
        (["supports", "--onnx-operators"], "\nRelu "),
        (["settings"], "`bounds.method`"),
        (["check", "--help"], "WITNESS"),
    ],
)
def test_questions_about_the_program(verify, words, part):
    done = verify(*words)
    assert done.returncode == 0 and part in done.stdout and done.stderr == ""


def test_python_gets_the_same_answer(verify):
    from verifier.api import verify as decide

    seen = []
    assert str(decide(*verify.unsat, on_event=seen.append).verdict) == "unsat" and seen
    result = decide(Path(verify.sat[0]).read_bytes(), verify.sat[1])
    assert str(result.verdict) == "sat" and np.isfinite(result.witness.x).all()


def test_onnx_runtime_sends_and_keeps_nothing(verify, tmp_path):
    """A counterexample is replayed in ONNX Runtime, in a fresh home and in one that cannot be written to."""
    plain = {k: v for k, v in verify.env.items() if k not in ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")}
    for home in (tmp_path, Path(os.devnull) / "home"):
        done = verify(*verify.sat, "-q", env={**plain, "HOME": str(home)})
        assert (done.returncode, done.stdout[:4], done.stderr) == (0, "sat\n", "")
    assert not list(tmp_path.rglob("*Microsoft*"))
