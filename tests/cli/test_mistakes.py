"""Every mistake of a user ends in one line that names the place, in exit status 2, in no verdict; and without torch."""

import gzip
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from verifier.ops import OPS

ONE = "(declare-const X_0 Real)\n(declare-const Y_0 Real)\n(assert (>= X_0 0))\n(assert (<= X_0 1))\n"


# Two operators that no verifier can take for functions.
STRANGE = [k for k in ("Bernoulli", "RandomUniformLike", "RandomNormalLike") if k not in OPS.declared][:2]


def model(kind="Relu", size=1, second=""):
    """One operator or two from (1, size) to (1, size), and a sum."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node(kind, ["x"], ["h"], name="first"),
            helper.make_node(second or "Relu", ["h"], ["k"], name="second"),
            helper.make_node("Add", ["k", "b"], ["y"]),
        ],
        "g",
        [value("x", TensorProto.FLOAT, [1, size])],
        [value("y", TensorProto.FLOAT, [1, size])],
        [numpy_helper.from_array(np.ones((1, size), np.float32), "b")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8).SerializeToString()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mistakes")
    good = model()
    contents = {
        "good.onnx": good,
        "good.vnnlib": (ONE + "(assert (>= Y_0 5))\n").encode(),
        "truncated.onnx": good[: len(good) // 2],
        "truncated.onnx.gz": gzip.compress(good)[:-20],
        "text.onnx": b"this is no model",
        "empty.onnx": b"",
        "two.onnx": model(size=2),
        "strange.onnx": model(*STRANGE[:1]),
        "syntax.vnnlib": (ONE + "(assert (>= Y_0 5)\n").encode(),
        "word.vnnlib": (ONE + "(assert (>= Y_0 five))\n").encode(),
        "undeclared.vnnlib": (ONE + "(assert (>= Y_3 5))\n").encode(),
        "loose.vnnlib": ONE.replace("(assert (<= X_0 1))\n", "").encode() + b"(assert (>= Y_0 5))\n",
        "bytes.vnnlib": b"\xff\xfe\x00\x01",
        "truncated.vnnlib.gz": gzip.compress((ONE * 50).encode())[:-20],
        "packed.onnx.gz": gzip.compress(good),
        "good.yaml": b"seed: 1\n",
        "bad.yaml": b"bounds:\n  metod: crown\n",
    }
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    (folder / "folder").mkdir()
    return folder


CASES = {
    "missing model": (["none.onnx", "good.vnnlib"], ["none.onnx"]),
    "missing property": (["good.onnx", "none.vnnlib"], ["none.vnnlib"]),
    "a folder as model": (["folder", "good.vnnlib"], ["folder"]),
    "a folder as property": (["good.onnx", "folder"], ["folder"]),
    "truncated model": (["truncated.onnx", "good.vnnlib"], ["truncated.onnx"]),
    "truncated packed model": (["truncated.onnx.gz", "good.vnnlib"], ["truncated.onnx.gz", "gzip"]),
    "no model": (["text.onnx", "good.vnnlib"], ["text.onnx", "ONNX"]),
    "empty model": (["empty.onnx", "good.vnnlib"], ["empty.onnx", "ONNX"]),
    "unsupported operator": (["strange.onnx", "good.vnnlib"], [*STRANGE[:1], "first", "opset 15", "(1, 1)"]),
    "wrong sizes": (["two.onnx", "good.vnnlib"], ["good.vnnlib", "1 inputs", "2"]),
    "syntax": (["good.onnx", "syntax.vnnlib"], ["syntax.vnnlib:", "expected"]),
    "a word for a number": (["good.onnx", "word.vnnlib"], ["word.vnnlib:5:", "five"]),
    "an undeclared variable": (["good.onnx", "undeclared.vnnlib"], ["undeclared.vnnlib:5:", "Y_3"]),
    "an unbounded input": (["good.onnx", "loose.vnnlib"], ["loose.vnnlib", "X_0", "upper"]),
    "no text": (["good.onnx", "bytes.vnnlib"], ["bytes.vnnlib"]),
    "truncated packed property": (["good.onnx", "truncated.vnnlib.gz"], ["truncated.vnnlib.gz", "gzip"]),
    "unknown setting": (["good.onnx", "good.vnnlib", "--config", "bad.yaml"], ["bad.yaml:2:", "bounds.method"]),
    "unknown preset": (["good.onnx", "good.vnnlib", "--config", "fsat"], ["fast"]),
    "unknown --set": (["good.onnx", "good.vnnlib", "--set", "sede=1"], ["--set sede=1", "seed"]),
    "bad timeout": (["good.onnx", "good.vnnlib", "--timeout", "soon"], ["--timeout soon", "number"]),
    "bad device": (["good.onnx", "good.vnnlib", "--device", "tpu"], ["--device tpu", "cuda"]),
    "bad seed": (["good.onnx", "good.vnnlib", "--seed", "-1"], ["seed"]),
    "no arguments": ([], ["MODEL"]),
    "one argument": (["good.onnx"], ["PROPERTY"]),
    "unknown option": (["good.onnx", "good.vnnlib", "--tiemout", "3"], ["--tiemout", "mean '--timeout'"]),
    "unknown option alone": (["--versio"], ["--versio", "mean '--version'"]),
    "options behind --": (["--", "good.onnx", "good.vnnlib", "-q"], ["unrecognized arguments: -q (see"]),
    "an empty argument": (["", "good.vnnlib"], ["MODEL", "empty argument"]),
    "a folder as settings": (["good.onnx", "good.vnnlib", "--config", "folder"], ["--config folder", "is a folder"]),
    "a mistyped command": (["chekc", "good.onnx", "good.vnnlib", "none"], ["chekc", "did you mean 'check'"]),
    "another": (["becnh", "folder"], ["becnh", "did you mean 'bench'"]),
    "help on no command": (["help", "chekc"], ["did you mean 'check'"]),
    "a mistyped option of a command": (["explain", "good.onnx", "good.vnnlib", "--cofnig=x"], ["mean '--config'"]),
    "both loud and quiet": (["explain", "good.onnx", "good.vnnlib", "-q", "-v"], ["not allowed with"]),
    "somebody else's end": (["good.onnx", "good.vnnlib", "--end-with", "1"], ["--end-with 1", "started by"]),
    "a folder as result": (["good.onnx", "good.vnnlib", "--json", "folder"], ["folder"]),
    "the model as result": (["good.onnx", "good.vnnlib", "--json", "good.onnx"], ["good.onnx", "another file"]),
    "the packed model as result": (["packed.onnx", "good.vnnlib", "--json", "packed.onnx.gz"], ["another file"]),
    "the settings as result": (
        ["good.onnx", "good.vnnlib", "--config", "good.yaml", "--results-file", "good.yaml"],
        ["good.yaml", "another file"],
    ),
    "missing counterexample": (["check", "good.onnx", "good.vnnlib", "none"], ["none"]),
    "no counterexample": (["check", "good.onnx", "good.vnnlib", "bad.yaml"], ["bad.yaml:1:1", "expected"]),
    "explain a missing model": (["explain", "none.onnx", "good.vnnlib"], ["none.onnx"]),
    "supports what": (["supports"], ["required"]),
}


@pytest.mark.parametrize("case", CASES)
def test_one_line_and_status_2(verify, files, case):
    words, parts = CASES[case]
    done = verify(*words, cwd=files)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith("verify: error: "), done.stderr
    for part in parts:
        assert any(p in done.stderr for p in part.split("|")), done.stderr


def test_all_unsupported_operators_are_listed_at_once(verify, files):
    (files / "both.onnx").write_bytes(model(STRANGE[0], second=STRANGE[1]))
    done = verify("both.onnx", "good.vnnlib", cwd=files)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert all(f"{kind} (opset 15)" in done.stderr for kind in STRANGE)


WATCH = """
import sys
from verifier.cli import main
from verifier import guard
def without_fork(work, until, signals):
    said = work(lambda note: None)
    return guard.Ending(said.pop("end", "answer"), said)
guard.supervise = without_fork
status = main(sys.argv[1:])
assert "torch" not in sys.modules, "torch was imported"
sys.exit(status)
"""


@pytest.mark.parametrize(
    "case", ["syntax", "wrong sizes", "unsupported operator", "truncated model", "unknown setting"]
)
def test_mistakes_are_found_without_torch(verify, files, case):
    import subprocess

    done = subprocess.run(
        [sys.executable, "-c", WATCH, *CASES[case][0]], cwd=files, env=verify.env, capture_output=True, text=True
    )
    assert done.returncode == 2, done.stderr


def test_a_bug_of_ours_is_confessed_in_one_line_without_a_verdict(verify, files, tmp_path):
    # A module that breaks stands in for a bug; the results file must stay away.
    broken = tmp_path / "torch"
    broken.mkdir()
    (broken / "__init__.py").write_text("raise ValueError('broken on purpose')\n")
    env = {**verify.env, "PYTHONPATH": f"{tmp_path}:{verify.env['PYTHONPATH']}", "TMPDIR": str(tmp_path)}
    done = verify("good.onnx", "good.vnnlib", "--results-file", tmp_path / "r", cwd=files, env=env)
    assert (done.returncode, done.stdout) == (3, "")
    last = done.stderr.splitlines()[-1]
    assert "internal error: ValueError: broken on purpose" in last and "Traceback" not in done.stderr
    assert not (tmp_path / "r").exists()
    for command in ([], ["explain"]):
        done = verify(*command, "good.onnx", "good.vnnlib", "-v", cwd=files, env=env)
        assert done.returncode == 3
        log = done.stderr.splitlines()[-1].rpartition("traceback in ")[2].rstrip(")")
        assert "broken on purpose" in Path(log).read_text()
