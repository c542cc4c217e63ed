"""The answer comes before the deadline, signals are answered with a verdict, and nothing half-written stays behind."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

VERDICTS = ("sat", "unsat", "unknown", "timeout")


def whole(path):
    """A result file is absent or complete."""
    if path.exists():
        text = path.read_text()
        assert text.split("\n", 1)[0] in VERDICTS and text.endswith("\n"), text[:200]
        assert not text.startswith("sat") or text.endswith("))\n")
        return text.split("\n", 1)[0]
    return None


@pytest.mark.parametrize("timeout", [0, 0.2, 1, 4])
def test_the_answer_is_out_before_the_deadline(verify, tmp_path, timeout):
    results, record = tmp_path / "r", tmp_path / "j"
    start = time.time()
    done = verify(*verify.hard, "--timeout", timeout, "--results-file", results, "--json", record)
    wall = time.time() - start
    assert (done.returncode, done.stdout) == (0, "timeout\n"), done.stderr
    assert results.read_text() == "timeout\n"
    told = json.loads(record.read_text())
    assert told["verdict"] == "timeout" and told["config"]["timeout"] == timeout
    written = results.stat().st_mtime - start
    # Python itself needs most of the first quarter second, and longer on a busy machine.
    assert written <= max(timeout, 1.0), f"written after {written:.2f} s"
    assert wall <= max(timeout, 1.0) + 1.0


@pytest.mark.parametrize(
    "number, verdict, after",
    [(signal.SIGTERM, "timeout", a) for a in (0.2, 1.0, 3.0)]
    + [(signal.SIGINT, "unknown", a) for a in (0.2, 1.0, 3.0)]
    + [(signal.SIGHUP, "timeout", 1.0)],
)
def test_a_signal_is_answered_at_once(verify, tmp_path, number, verdict, after):
    results = tmp_path / "r"
    run = verify.start(*verify.hard, "--timeout", 60, "--results-file", results, "-q")
    time.sleep(after)
    sent = time.time()
    run.send_signal(number)
    out, err = run.communicate(timeout=20)
    assert time.time() - sent < 1.0
    assert (run.returncode, out, err) == (0, verdict + "\n", "")
    assert results.read_text() == verdict + "\n"


INTERRUPTED = """
import os, signal, sys
class Interrupting:
    def find_spec(self, name, path, target=None):
        if name == "verifier.outputs":
            os.kill(os.getpid(), signal.SIGINT)
            [None for _ in range(10**8)]
sys.meta_path.insert(0, Interrupting())
from verifier.__main__ import main
sys.exit(main())
"""


def test_an_interrupt_while_modules_are_loaded_leaves_no_traceback(verify):
    words = [sys.executable, "-c", INTERRUPTED, "explain", *verify.unsat]
    done = subprocess.run(words, env=verify.env, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


def test_a_hangup_that_is_ignored_stays_ignored(verify):
    words = ["bash", "-c", 'trap "" HUP; exec "$@"', "bash", *verify.argv, *verify.hard, "--timeout", "4", "-q"]
    run = subprocess.Popen(words, env=verify.env, stdout=subprocess.PIPE, text=True)
    time.sleep(1.5)
    run.send_signal(signal.SIGHUP)
    time.sleep(0.5)
    assert run.poll() is None
    assert run.communicate(timeout=20)[0] == "timeout\n"


def test_the_whole_group_may_get_the_signal(verify):
    run = verify.start(*verify.hard, "--timeout", 60, "-q", start_new_session=True)
    time.sleep(1.5)
    os.killpg(run.pid, signal.SIGINT)
    assert run.communicate(timeout=20) == ("unknown\n", "") and run.returncode == 0


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as f:
        return [int(word) for word in f.read().split()]


def gone(pid):
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rpartition(")")[2].split()[0] in "ZX"
    except FileNotFoundError:
        return True


def test_killed_at_any_moment_nothing_half_written_and_nothing_left_running(verify, tmp_path):
    draw = random.Random(1)
    for k in range(12):
        results, record = tmp_path / f"r{k}", tmp_path / f"j{k}"
        run = verify.start(*verify.sat, "--results-file", results, "--json", record, "-q")
        time.sleep(draw.uniform(0.0, 3.0))
        try:
            workers = children(run.pid)
        except (FileNotFoundError, ProcessLookupError):
            workers = []
        run.send_signal(draw.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM]))
        run.communicate(timeout=20)
        whole(results)
        if record.exists():
            json.loads(record.read_text())
        until = time.time() + 5
        while not all(gone(pid) for pid in workers):
            assert time.time() < until, "a working process outlived its parent"
            time.sleep(0.02)


def test_a_worker_that_the_system_kills_ends_as_unknown(verify):
    run = verify.start(*verify.hard, "--timeout", 60)
    until = time.time() + 20
    while not children(run.pid) and time.time() < until:
        time.sleep(0.02)
    time.sleep(0.5)
    os.kill(children(run.pid)[0], signal.SIGKILL)
    out, err = run.communicate(timeout=20)
    assert (run.returncode, out) == (0, "unknown\n")
    assert "memory" in err.splitlines()[-1]


def test_a_worker_that_crashes_is_our_bug(verify):
    run = verify.start(*verify.hard, "--timeout", 60)
    until = time.time() + 20
    while not children(run.pid) and time.time() < until:
        time.sleep(0.02)
    time.sleep(0.5)
    os.kill(children(run.pid)[0], signal.SIGSEGV)
    out, err = run.communicate(timeout=20)
    assert (run.returncode, out) == (3, "")
    assert "internal error" in err.splitlines()[-1]


def test_a_full_disk_costs_the_file_but_not_the_answer(verify):
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    done = verify(*verify.unsat, "--results-file", "/dev/full", "-q")
    assert (done.returncode, done.stdout) == (2, "unsat\n")
    assert "cannot be written" in done.stderr


def test_a_reader_that_leaves_is_no_error(verify):
    read, write = os.pipe()
    os.close(read)
    done = verify(*verify.sat, "-q", capture_output=False, stdout=write, stderr=-1)
    os.close(write)
    assert done.stderr == "" and done.returncode == 0
