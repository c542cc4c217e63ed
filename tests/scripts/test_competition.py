"""The competition's scripts, called as an organiser calls them: always a result file, always exit status 0."""

import csv
import gzip
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from onnx import TensorProto, helper

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / "benchmarks" / "digits"
SHARED = ROOT.parent / "shared"
CHECKER = SHARED / "tools" / "check_cex.py"
ENV = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def tool(tmp_path_factory):
    """A copy of the scripts whose .venv runs this checkout with the Python at hand."""
    root = tmp_path_factory.mktemp("tool")
    shutil.copytree(ROOT / "scripts", root / "scripts")
    command = root / ".venv" / "bin" / "verify"
    command.parent.mkdir(parents=True)
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m verifier "$@"\n')
    command.chmod(0o755)
    return root / "scripts" / "vnncomp"


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """The tutorial's files with .gz only, as some organisers ship them; named without it."""
    folder = tmp_path_factory.mktemp("packed")
    for path in [DIGITS / "onnx" / "dense_relu.onnx", *(DIGITS / "vnnlib").glob("dense_relu_*")]:
        (folder / (path.name + ".gz")).write_bytes(gzip.compress(path.read_bytes()))
    return folder


def call(script, *words, **kwargs):
    return subprocess.run(["bash", str(script), *map(str, words)], env=ENV, capture_output=True, text=True, **kwargs)


def instance(answer):
    with open(DIGITS / "instances.csv", newline="") as f:
        row = next(r for r in csv.DictReader(f) if r["expected"] == answer and "dense_relu" in r["onnx"])
    return DIGITS / row["onnx"], DIGITS / row["vnnlib"]


@pytest.mark.parametrize("answer", ["sat", "unsat"])
def test_an_instance_as_a_competition_runs_it(tool, packed, tmp_path, answer):
    onnx, vnnlib = instance(answer)
    for folder in (None, packed):
        model, prop = (onnx, vnnlib) if folder is None else (folder / onnx.name, folder / vnnlib.name)
        assert call(tool / "prepare_instance.sh", "v1", "digits", model, prop).returncode == 0
        results = tmp_path / "out.txt"
        done = call(tool / "run_instance.sh", "v1", "digits", model, prop, results, 60)
        assert done.returncode == 0, done.stderr
        assert results.read_text().splitlines()[0] == answer
    if answer == "sat" and CHECKER.exists():
        judged = subprocess.run(
            [sys.executable, str(CHECKER), str(onnx), str(vnnlib), str(results)], capture_output=True, text=True
        )
        assert judged.stdout.split()[0] == "valid", judged.stdout + judged.stderr


def test_counterexamples_are_judged_in_the_models_own_type(tool, tmp_path):
    """x = y = 0.1: true of float32's 0.1, which is another number than the decimal."""
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", value[:1], value[1:])
    model, prop, results = tmp_path / "m.onnx", tmp_path / "p.vnnlib", tmp_path / "r"
    opset = [helper.make_opsetid("", 15)]
    model.write_bytes(helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString())
    words = "".join(f"(assert (<= {v} 0.1))(assert (>= {v} 0.1))\n" for v in ("X_0", "Y_0"))
    prop.write_text("(declare-const X_0 Real)\n(declare-const Y_0 Real)\n" + words)
    assert call(tool / "run_instance.sh", "v1", "c", model, prop, results, 60).returncode == 0
    assert results.read_text().startswith("sat\n((X_0 0.1)")


def real_instances():
    """Three of the published instances, of different benchmarks, both answers among them."""
    found = []
    for name, answer in (("reach_prob_density", "sat"), ("rl_benchmarks", "unsat"), ("rl_benchmarks", "sat")):
        with open(SHARED / "vnncomp" / name / "instances.csv", newline="") as f:
            rows = [r for r in csv.DictReader(f) if r["expected"] == answer]
        row = min(rows, key=lambda r: float(r["best_s"] or 1e9))
        found.append((name, row, answer))
    return found


@pytest.mark.skipif(not (SHARED / "vnncomp").exists(), reason="the published instances are not here")
def test_an_organiser_runs_three_instances_and_scores_them(tool, tmp_path):
    lines = []
    for name, row, answer in real_instances():
        folder = SHARED / "vnncomp" / name
        model, prop = (str(folder / row[k]).removesuffix(".gz") for k in ("onnx", "vnnlib"))  # only the .gz is there
        assert call(tool / "prepare_instance.sh", "v1", name, model, prop, timeout=600).returncode == 0
        results, limit = tmp_path / "out.txt", min(60.0, float(row["timeout_s"]))
        start = time.time()
        done = call(tool / "run_instance.sh", "v1", name, model, prop, results, f"{limit:g}", timeout=limit + 60)
        seconds = time.time() - start
        assert done.returncode == 0 and seconds <= limit, done.stderr
        verdict, _, witness = results.read_text().partition("\n")
        assert verdict == answer, done.stderr
        if verdict == "sat":
            point = tmp_path / f"{name}.counterexample.gz"
            point.write_bytes(gzip.compress(witness.encode()))
            words = [sys.executable, str(CHECKER), f"{model}.gz", f"{prop}.gz", str(point)]
            judged = subprocess.run(words, capture_output=True, text=True)
            assert judged.stdout.split()[0] == "valid", judged.stdout + judged.stderr
        lines.append([name, row["onnx"], row["vnnlib"], "0", verdict, f"{seconds:.2f}"])
    assert [line[4] for line in lines] == ["sat", "unsat", "sat"]


@pytest.mark.parametrize(
    ("words", "verdict"),
    [
        (["v1", "c", "none.onnx", "none.vnnlib", "{r}", "10"], "error"),
        (["v2", "c", "{m}", "{p}", "{r}", "10"], "error"),
        (["v1", "c", "{m}", "{p}", "{r}", "soon"], "error"),
        (["v1", "c", "{m}", "{p}", "{r}", "0.2"], "timeout"),
    ],
)
def test_what_goes_wrong_is_said_in_the_file(tool, tmp_path, words, verdict):
    model, prop = instance("unsat")
    results = tmp_path / "r"
    results.write_text("sat\n")  # left over from another run
    done = call(tool / "run_instance.sh", *(w.format(m=model, p=prop, r=results) for w in words))
    assert done.returncode == 0
    assert results.read_text() == verdict + "\n"
    elsewhere = tmp_path / "a b" / "c" / "r"
    call(tool / "run_instance.sh", *(w.format(m=model, p=prop, r=elsewhere) for w in words))
    assert elsewhere.read_text() == verdict + "\n"


def test_preparing_speaks_of_what_is_missing_but_skips_no_category(tool):
    model, prop = instance("unsat")
    done = call(tool / "prepare_instance.sh", "v1", "c", model, "none.vnnlib")
    assert done.returncode == 0 and "none.vnnlib: no such file" in done.stderr
    assert call(tool / "prepare_instance.sh", "v1", "c", "[('f','a.onnx'),('g','b.onnx')]", prop).returncode == 0
    assert call(tool / "prepare_instance.sh", "v3", "c", model, prop).returncode == 1
    assert call(tool / "prepare_instance.sh", "v1", "c", model).returncode == 1


def working(results):
    """Processes of `verify` that work for this results file."""
    listed = subprocess.run(["ps", "-ewwo", "pid,stat,args"], capture_output=True, text=True).stdout.splitlines()
    rows = [line.split() for line in listed]
    return [row for row in rows if str(results) in row and "--results-file" in row and row[1][0] not in "ZX"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_an_instance_that_is_ended_leaves_a_result_and_nothing_running(tool, tmp_path, number):
    model, prop = instance("unsat")
    results = tmp_path / "made" / "r"
    words = ["v1", "c", str(model), str(prop), str(results), "60"]
    run = subprocess.Popen(["bash", str(tool / "run_instance.sh"), *words], env=ENV, stderr=subprocess.PIPE)
    until = time.time() + 20
    while len(working(results)) < 2 and time.time() < until:
        time.sleep(0.05)
    run.send_signal(number)
    if number == signal.SIGKILL:
        until = time.time() + 0.5
        run.wait(20)
        while working(results) and time.time() < until:
            time.sleep(0.05)
    else:
        assert run.wait(20) == 0
        assert results.read_text().splitlines()[0] in ("timeout", "unsat")
    assert working(results) == []


@pytest.mark.parametrize("head", ["onnx,vnnlib,timeout_s,expected\n", ""])
def test_a_suite(tmp_path, head):
    rows = [[*map(str, instance(a)), "60", *([a] if head else [])] for a in ("sat", "unsat")]
    rows.append(["none.onnx", "none.vnnlib", "60", *(["sat"] if head else [])])
    (tmp_path / "instances.csv").write_text(head + "".join(",".join(r) + "\n" for r in rows))
    out = tmp_path / "out.csv"
    words = [str(tmp_path), "--timeout-cap", "30", str(out)]
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "run_suite.py"), *words], env=ENV, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "1 sat, 1 unsat, 1 error; 0 contradicting" in done.stdout.splitlines()[-1]
    with open(out, newline="") as f:
        assert [r["verdict"] for r in csv.DictReader(f)] == ["sat", "unsat", "error"]


def test_a_suite_notices_a_contradiction(tmp_path):
    model, prop = instance("sat")
    (tmp_path / "instances.csv").write_text(f"onnx,vnnlib,timeout_s,expected\n{model},{prop},60,unsat\n")
    words = [sys.executable, str(ROOT / "scripts" / "run_suite.py"), str(tmp_path)]
    done = subprocess.run(words, env=ENV, capture_output=True, text=True)
    assert done.returncode == 1 and "CONTRADICTS" in done.stdout
