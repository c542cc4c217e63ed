"""The same jobs on a Dask cluster: same results, and a lost worker loses none."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from playing import ENV, records, suite

from verifier import api
from verifier.bench import cubes
from verifier.config import Config

distributed = pytest.importorskip("distributed")


@pytest.fixture(scope="module")
def cluster():
    """Four workers of one thread."""
    before = dict(os.environ)
    os.environ.update({k: ENV[k] for k in ("PYTHONPATH", "OMP_NUM_THREADS")})
    kind = {"n_workers": 4, "threads_per_worker": 1, "dashboard_address": None}
    with distributed.LocalCluster(**kind) as made, distributed.Client(made) as client:
        made.pids = lambda: list(client.run(os.getpid).values())
        yield made
    os.environ.clear()
    os.environ.update(before)


def hard(folder, above: float) -> tuple[str, str]:
    """A network of 6 inputs and a property that asks for more than the greatest value of many samples, by `above`."""
    rng = np.random.default_rng(7)
    sizes = [6, 64, 64, 1]
    weights = [rng.normal(size=s).astype("f") / np.float32(s[0] ** 0.5) for s in zip(sizes, sizes[1:])]
    nodes, name = [], "x"
    for k in range(3):
        nodes.append(helper.make_node("MatMul", [name, f"w{k}"], [f"h{k}" if k < 2 else "y"]))
        if k < 2:
            nodes.append(helper.make_node("Relu", [f"h{k}"], [f"r{k}"]))
        name = f"r{k}"
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", TensorProto.FLOAT, [1, 6])],
        [value("y", TensorProto.FLOAT, [1, 1])],
        [numpy_helper.from_array(w, f"w{k}") for k, w in enumerate(weights)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), folder / "m.onnx")
    x = rng.uniform(-1, 1, size=(200_000, 6)).astype("f")
    x[:64] = np.array(np.meshgrid(*[[-1, 1]] * 6)).reshape(6, -1).T
    y = np.maximum(np.maximum(x @ weights[0], 0) @ weights[1], 0) @ weights[2]
    lines = [f"(declare-const X_{i} Real)" for i in range(6)] + ["(declare-const Y_0 Real)"]
    lines += [f"(assert (>= X_{i} -1))(assert (<= X_{i} 1))" for i in range(6)]
    lines.append(f"(assert (>= Y_0 {float(y.max()) + above!r}))")
    (folder / "p.vnnlib").write_text("\n".join(lines))
    return str(folder / "m.onnx"), str(folder / "p.vnnlib")


def test_a_lost_worker_loses_no_result(bench, cluster, tmp_path):
    names = [("slow", "sat", "segfault")[k % 3] if k % 2 else "slow" for k in range(30)]
    folder, out = suite(tmp_path / "s", names), tmp_path / "out"
    run = bench.start(folder, "--out", out, "--cluster", cluster.scheduler_address)
    until = time.time() + 60
    while not ((out / "results.jsonl").exists() and (out / "results.jsonl").read_bytes().count(b"\n") >= 4):
        assert time.time() < until and run.poll() is None, run.stderr.read()
        time.sleep(0.02)
    os.kill(cluster.pids()[1], signal.SIGKILL)
    said, err = run.communicate(timeout=60)
    assert run.returncode == 0, err
    verdicts = {"slow": "unsat", "sat": "sat", "segfault": "error"}
    assert {r["index"]: r["verdict"] for r in records(out)} == {k: verdicts[n] for k, n in enumerate(names)}
    assert len(records(out)) == 30
    status, said, _ = bench(folder, "--out", out, "--cluster", cluster.scheduler_address)
    assert status == 0 and "0 to run" in said


def test_pieces_cover_a_cube(tmp_path):
    problem = api.load(*hard(tmp_path, 0.1), {}).problem
    whole = cubes.Cube(0, 1)
    pieces = cubes.cut(whole, problem, Config(), 8)
    pieces = pieces[1:] + cubes.cut(pieces[0], problem, Config(), 4)
    parts = [cubes.restricted(problem, **p.values()) for p in pieces]
    sides = np.array([(p.upper - p.lower)[0] for p in parts])
    assert sides.prod(1).sum() == (problem.upper - problem.lower).prod()  # halves of powers of two: exact
    points = np.random.default_rng(0).uniform(problem.lower[0], problem.upper[0], size=(2000, 6))
    points[:500, 1] = parts[0].upper[0, 1]  # on a common face
    inside = sum(((p.lower[0] <= points) & (points <= p.upper[0])).all(1) for p in parts)
    assert (inside >= 1).all()


@pytest.mark.parametrize("above, verdict", [pytest.param(0.3, "unsat", marks=pytest.mark.slow), (-0.02, "sat")])
def test_one_instance_in_cubes_ends_as_alone(cluster, tmp_path, above, verdict):
    model, prop = hard(tmp_path, above)
    assert str(api.verify(model, prop, Config(threads=1)).verdict) == verdict
    words = [model, prop, "--cluster", cluster.scheduler_address, "--timeout", "100", "--set", "attack.method=none"]
    run = subprocess.Popen(
        [sys.executable, "-m", "verifier", *words], env=ENV, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    if verdict == "unsat":
        until = time.time() + 60
        for line in run.stderr:
            if "cubes: at work" in line or time.time() > until:
                break
        os.kill(cluster.pids()[0], signal.SIGKILL)
    out, err = run.communicate(timeout=110)
    assert run.returncode == 0 and out.splitlines()[0] == verdict, err
    assert "cubes on" in err


def test_no_cluster_is_told_in_one_line(bench, tmp_path):
    folder = suite(tmp_path / "s", ["ok"])
    for address in ("nonsense://here", "local:0", "local:two"):
        status, _, err = bench(folder, "--out", tmp_path / "out", "--cluster", address)
        assert status == 2 and f"--cluster {address}: " in err and len(err.splitlines()) == 1
