"""A suite's run: what is recorded, what ill-behaved instances cost, what survives a kill."""

import csv
import gzip
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time

import pytest
from playing import ENV, PROGRAM, ROOT, records, suite

from verifier.bench.server import Server
from verifier.bench.store import MUST_AGREE, Store
from verifier.result import FileError, UsageError

DIGITS = ROOT / "benchmarks" / "digits"
FIELDS = (
    "suite index model property timeout verdict reason seconds stages stats plan counterexample bounds started version"
)


def test_real_instances_are_answered_and_recorded(bench, tmp_path):
    out = tmp_path / "out"
    words = [DIGITS, "--jobs", "2", "--out", out, "--filter", "_(0_0.12|3_0.01).vnnlib", "--limit", "4"]
    status, said, err = bench(*words, played=False)
    assert status == 0, err
    assert "digits: 4 instances: 2 sat, 2 unsat; 0 contradicting" in said
    found = {r["index"]: r for r in records(out)}
    assert {i: r["verdict"] for i, r in found.items()} == {0: "sat", 3: "unsat", 6: "sat", 9: "unsat"}
    assert all(" ".join(r) == FIELDS for r in found.values())
    assert all(r["stages"]["model"] > 0 and r["plan"] for r in found.values())
    with open(out / "results.csv", newline="") as f:
        rows = list(csv.reader(f))
    assert [(r[0], r[1], r[2], r[4]) for r in rows] == [
        ("digits", r["model"], r["property"], r["verdict"]) for _, r in sorted(found.items())
    ]
    point = out / found[0]["counterexample"]
    assert point.name == "dense_relu_dense_relu_0_0.12.counterexample.gz"
    assert gzip.decompress(point.read_bytes()).startswith(b"((X_0 ")
    model, prop = (str(DIGITS / found[0][k]) for k in ("model", "property"))
    check = [sys.executable, "-m", "verifier", "check", model, prop, str(point)]
    assert subprocess.run(check, env=ENV, capture_output=True, text=True).stdout.startswith("valid")


def test_fresh_processes_where_there_is_a_gpu(bench, tmp_path):
    """That there is one is only said; torch finds none, and the instance is computed on the CPU."""
    words = [DIGITS, "--out", tmp_path / "out", "--limit", "2", "--jobs", "2"]
    status, said, err = bench(*words, played=False, env={**ENV, "CUDA_VISIBLE_DEVICES": "0,1"})
    assert status == 0 and "digits: 2 instances: 2 sat; 0 contradicting" in said, err
    assert all(r["stages"]["start"] > 0.1 for r in records(tmp_path / "out"))  # each has loaded torch


def test_pairs_named_by_patterns(bench, tmp_path):
    for name in ("sat.onnx", "sat_1.vnnlib", "sat_2.vnnlib"):
        (tmp_path / name).write_text("")
    status, said, err = bench("*.onnx:*.vnnlib", "--out", "out", "--timeout", "7", cwd=tmp_path)
    assert status == 0 and "2 instances: 2 sat" in said, err
    assert [(r["property"], r["timeout"]) for r in records(tmp_path / "out")] == [
        ("sat_1.vnnlib", 7.0),
        ("sat_2.vnnlib", 7.0),
    ]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--jobs", "0"], "--jobs 0: must be at least 1"),
        (["--timeout-scale", "-1"], "--timeout-scale -1"),
        (["--filter", "("], "not a regular expression"),
        (["--filter", "nothing"], "matches no instance"),
        (["--set", "bounds.method=magic"], "bounds.method must be one of"),
        (["--timout", "3"], "unrecognized argument: --timout; did you mean '--timeout'?"),
    ],
)
def test_mistakes_are_told_in_one_line(bench, tmp_path, words, says):
    folder = suite(tmp_path / "s", ["ok"])
    status, said, err = bench(folder, "--out", tmp_path / "out", *words)
    assert (status, said) == (2, "") and says in err and len(err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_two_runs_in_one_folder_are_refused(bench, tmp_path):
    folder, out = suite(tmp_path / "s", ["ok", "deaf"], 30), tmp_path / "out"
    run = bench.start(folder, "--out", out)
    until = time.time() + 30
    while not (out / "results.jsonl").exists() and time.time() < until:
        time.sleep(0.02)
    status, _, err = bench(folder, "--out", out)
    run.send_signal(signal.SIGTERM)
    assert run.wait(20) == 130
    assert status == 2 and "another run is writing there" in err


def test_the_server_forks_with_a_single_thread():
    from verifier.bench.client import Client

    client = Client()
    try:
        while not (said := client.receive(60)):
            pass
        assert said[0]["trouble"] == "" and said[0]["threads"] == 1
    finally:
        client.close()


def test_ill_behaved_instances_cost_only_themselves(bench, tmp_path):
    names = ["deaf", "ok", "hog", "segfault", "bug", "missing", "sharedhog", "ok", "sat"]
    folder, out = suite(tmp_path / "s", names, 4.0), tmp_path / "out"
    start = time.time()
    status, said, err = bench(folder, "--jobs", "3", "--out", out, "--memory", "0.6")
    assert status == 0, err
    found = {r["index"]: r for r in records(out)}
    assert [found[k]["verdict"] for k in range(9)] == [
        "timeout", "unsat", "error", "error", "error", "error", "error", "unsat", "sat",
    ]  # fmt: skip
    first = [found[k]["reason"].partition(":")[0] for k in (2, 3, 4, 5, 6)]
    assert first == ["memory", "crash", "bug", "input", "memory"]
    assert found[3]["reason"] == "crash: signal 11"
    assert all(r["seconds"] < 4.0 + 5 for r in found.values())
    assert found[0]["bounds"][0][1:] == [3, -1.5]
    assert found[1]["stats"] == {"domains": 1, "worst": None}
    assert time.time() - start < 60
    log = (out / "stderr.log").read_text()
    assert "bug.onnx" in log and "ValueError: played" in log and "Traceback" in log
    left = subprocess.run(["ps", "-ewwo", "args"], capture_output=True, text=True).stdout
    assert str(out) not in left


def test_killed_at_random_moments_nothing_is_lost_and_nothing_doubled(bench, tmp_path):
    """SIGKILL of the command, at moments spread over a whole run; its server and instances go as well."""
    names = [("sat", "ok", "segfault")[k % 3] for k in range(90)]
    folder, out, whole = suite(tmp_path / "s", names), tmp_path / "out", tmp_path / "whole"
    assert bench(folder, "--jobs", "2", "--out", whole)[0] == 0
    draw = random.Random(5)
    for _ in range(20):
        path = out / "results.jsonl"
        before = path.read_bytes().count(b"\n") if path.exists() else 0
        run = bench.start(folder, "--jobs", "2", "--out", out, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if draw.random() < 0.7:  # after some results of this round
            until, goal = time.time() + 20, before + draw.randint(1, 6)
            while time.time() < until and run.poll() is None:
                if path.exists() and path.read_bytes().count(b"\n") >= goal:
                    break
                time.sleep(0.001)
        else:
            time.sleep(draw.uniform(0.0, 0.3))
        run.kill()
        run.wait()
        if draw.random() < 0.5 and path.exists():  # a kill between two halves of a line
            with open(path, "ab") as f:
                f.write(b'{"suite": "s", "index": 3, "mod')
    status, said, err = bench(folder, "--jobs", "2", "--out", out)
    assert status == 0, err
    same = ("suite", "index", "model", "property", "timeout", "verdict", "reason", "counterexample", "stats", "plan")
    sorted_ = [sorted(([r[k] for k in same] for r in records(o)), key=lambda r: r[1]) for o in (out, whole)]
    assert len(sorted_[0]) == 90 and sorted_[0] == sorted_[1]
    for record in records(out):
        assert bool(record["counterexample"]) == (record["verdict"] == "sat")
        if record["counterexample"]:
            assert gzip.decompress((out / record["counterexample"]).read_bytes()).endswith(b"))\n")
    assert (out / "results.csv").read_text().count("\n") == 90


def test_interrupted_it_ends_at_once_says_how_to_go_on_and_goes_on(bench, tmp_path):
    folder, out = suite(tmp_path / "s", ["ok", "deaf", "ok"], 30), tmp_path / "out"
    run = bench.start(folder, "--jobs", "2", "--out", out)
    until = time.time() + 30
    while time.time() < until and not ((out / "results.jsonl").exists() and len(records(out)) == 2):
        time.sleep(0.02)
    sent = time.time()
    run.send_signal(signal.SIGINT)
    said, err = run.communicate(timeout=20)
    assert run.returncode == 130 and time.time() - sent < 3
    assert f"to go on: verify bench {folder}" in err and len(records(out)) == 2
    until = time.time() + 5
    while "played" in subprocess.run(["ps", "-ewwo", "args"], capture_output=True, text=True).stdout:
        assert time.time() < until
        time.sleep(0.1)
    status, said, err = bench(folder, "--out", out, "--limit", "1")
    assert status == 0 and "1 of 1 instances have results" in said


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--set", "search.batch=7"], "search.batch was 4096, now 7"),
        (["--timeout-scale", "2"], "timeout_scale was 1.0, now 2.0"),
        (["--seed", "3"], "seed was 0, now 3"),
    ],
)
def test_a_run_with_other_settings_is_refused(bench, once, words, says):
    folder, out = once
    before = (out / "results.jsonl").read_bytes()
    status, _, err = bench(folder, "--out", out, *words)
    assert status == 2 and says in err and "choose another --out" in err
    assert (out / "results.jsonl").read_bytes() == before


def test_a_changed_list_is_refused(bench, once):
    folder, out = once
    text = (folder / "instances.csv").read_text()
    (folder / "instances.csv").write_text(text.replace("p_0", "q_0"))
    status, _, err = bench(folder, "--out", out)
    (folder / "instances.csv").write_text(text)
    assert status == 2 and "the list has changed" in err


def store(folder, **run):
    return Store(folder, {key: run.get(key) for key in MUST_AGREE} | {"suites": {}}, [])


def record(index):
    words = {"suite": "s", "model": "m", "property": "p", "verdict": "unsat", "seconds": 1.0, "counterexample": None}
    return {"index": index, **words}


def test_a_folder_without_results_may_be_begun_anew(tmp_path):
    store(tmp_path, memory_gib=1.0).close()
    again = store(tmp_path, memory_gib=2.0)
    again.add(record(0))
    again.close()
    assert json.loads((tmp_path / "run.json").read_text())["memory_gib"] == 2.0
    with pytest.raises(UsageError, match="memory_gib was 2.0, now 3.0"):
        store(tmp_path, memory_gib=3.0)


@pytest.mark.parametrize("room", [10_000, 40])
def test_a_disk_that_takes_a_line_in_pieces_or_not_at_all(tmp_path, monkeypatch, room):
    begun = store(tmp_path)
    begun.add(record(0))
    write, left = os.write, [room]

    def slow(fd, data):
        if not left[0]:
            raise OSError(28, "No space left on device")
        count = write(fd, bytes(data[: min(7, left[0])]))
        left[0] -= count
        return count

    monkeypatch.setattr(os, "write", slow)
    if room < 100:
        with pytest.raises(FileError, match="No space left on device; all results before are kept"):
            begun.add(record(1))
    else:
        begun.add(record(1))
    begun.close()
    lines = (tmp_path / "results.jsonl").read_text().splitlines()
    assert [json.loads(line)["index"] for line in lines] == ([0] if room < 100 else [0, 1])


@pytest.mark.parametrize("how", [">&-", "> /dev/full"])
def test_results_are_kept_where_standard_output_takes_none(bench, tmp_path, how):
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    folder, out = suite(tmp_path / "s", ["ok", "sat"]), tmp_path / "out"
    words = ["bash", "-c", f'"$@" {how}', "bash", sys.executable, "-c", PROGRAM, str(folder), "--out", str(out)]
    done = subprocess.run(words, env=ENV, capture_output=True, text=True, timeout=100)
    assert done.returncode == 2 and f"results are in {out}" in done.stderr and len(done.stderr.splitlines()) == 1
    assert [r["verdict"] for r in records(out)] == ["unsat", "sat"]


def test_quiet_says_only_what_it_came_to(bench, tmp_path):
    status, said, err = bench(suite(tmp_path / "s", ["ok"]), "--out", tmp_path / "out", "-q")
    assert (status, err) == (0, "") and [line.partition(":")[0] for line in said.splitlines()] == [
        "s",
        f"results in {tmp_path}/out",
    ]


def test_a_client_that_is_gone_ends_its_server():
    near, far = socket.socketpair()
    server = Server(far)
    server.tell({"ready": 1})
    near.close()
    server.run()


@pytest.fixture(scope="module")
def once(bench, tmp_path_factory):
    """A finished run: its suite and its folder."""
    root = tmp_path_factory.mktemp("once")
    folder, out = suite(root / "s", ["ok"]), root / "out"
    assert bench(folder, "--out", out)[0] == 0
    return folder, out


def test_a_terminal_gets_a_live_display(bench, tmp_path):
    pty = pytest.importorskip("pty")
    pytest.importorskip("rich")
    folder, out = suite(tmp_path / "s", ["ok", "sat", "deaf"], 2.0), tmp_path / "out"
    near, far = pty.openpty()
    run = bench.start(folder, "--out", out, stdout=far, env={**ENV, "TERM": "xterm", "COLUMNS": "100"})
    os.close(far)
    seen = b""
    while True:
        try:
            piece = os.read(near, 65536)
        except OSError:  # the other end is closed
            break
        if not piece:
            break
        seen += piece
    os.close(near)
    assert run.wait(20) == 0
    text = seen.decode()
    assert "s[0] ok.onnx p_0.vnnlib" in text and "[cyan]" not in text and "[bold]" not in text
    assert "2 of 3" in text and "1 sat" in text and "left" in text and "search" in text
    assert "s: 3 instances: 1 unsat, 1 sat, 1 timeout" in text
