"""The set-up: instant when done, safe when two start at once, honest when it fails.

Making an environment and installing are played by a script that notes its calls.
"""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

FAKE = """#!/bin/sh
# stands in for python in a virtual environment: `-m venv DIR` and `-m pip …` are played, the rest is the real one's
if [ "$1" = -m ] && [ "$2" = venv ]; then
    mkdir -p "$3/bin" && cp "$0" "$3/bin/python"
    printf '#!/bin/sh\\necho ran "$@"\\n' >"$3/bin/verify" && chmod +x "$3/bin/verify"
    echo venv >>"$CALLS"
elif [ "$1" = -m ] && [ "$2" = pip ]; then
    sleep 0.2
    echo "pip $*" >>"$CALLS"
    [ -z "$FAIL" ]
else
    exec "{real}" "$@"
fi
"""


@pytest.fixture
def copy(tmp_path):
    """A checkout with a played Python first on the path; yields a function that runs scripts/verify."""
    root = tmp_path / "a folder with blanks"
    shutil.copytree(ROOT / "scripts", root / "scripts")
    shutil.copy(ROOT / "pyproject.toml", root)
    (tmp_path / "bin").mkdir()
    fake = tmp_path / "bin" / "python3"
    fake.write_text(FAKE.replace("{real}", sys.executable))
    fake.chmod(0o755)
    calls = tmp_path / "calls"
    calls.write_text("")
    env = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "CALLS": str(calls)}

    def run(*words, **more):
        argv = ["bash", str(root / "scripts" / "verify"), *words]
        return subprocess.Popen(argv, env={**env, **more}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    run.root, run.calls = root, lambda: calls.read_text().splitlines()
    return run


def finish(run):
    out, err = run.communicate(timeout=60)
    return run.returncode, out, err


def test_set_up_once_then_instant(copy):
    assert finish(copy("m", "p q"))[:2] == (0, "ran m p q\n")
    first = copy.calls()
    assert first[0] == "venv" and "torch==" in first[1] and len(first) == 3
    start = time.time()
    assert finish(copy("x"))[:2] == (0, "ran x\n")
    assert time.time() - start < 1.0
    assert copy.calls() == first


def test_two_at_once_set_up_once(copy):
    runs = [copy("x") for _ in range(3)]
    assert [finish(r)[0] for r in runs] == [0, 0, 0]
    assert len(copy.calls()) == 3


def test_a_failure_is_told_and_tried_again(copy):
    status, out, err = finish(copy("x", FAIL="1"))
    assert (status, out) == (2, "") and "the installation failed" in err
    assert finish(copy("x"))[0] == 0


def test_changed_requirements_are_installed(copy):
    finish(copy("x"))
    before = len(copy.calls())
    with open(copy.root / "scripts" / "constraints.txt", "a") as f:
        f.write("# changed\n")
    assert finish(copy("x"))[0] == 0
    assert len(copy.calls()) > before and copy.calls().count("venv") == 1
