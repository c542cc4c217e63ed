"""Where answers go: whatever a shell can make of `-`, of descriptors, of closed, full and shared ones."""

import json
import os
import subprocess
from pathlib import Path

import pytest

FULL = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")


def shell(verify, line, folder, *words, **kwargs):
    """Runs `line` in bash, where "$@" is `verify` with the quick instance and -q."""
    argv = ["bash", "-c", line, "bash", *verify.argv, *verify.empty, "-q", *map(str, words)]
    return subprocess.run(argv, cwd=folder, env=verify.env, capture_output=True, text=True, timeout=100, **kwargs)


@pytest.mark.parametrize("name", ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "link"])
def test_a_record_on_standard_output_takes_the_verdicts_place(verify, tmp_path, name):
    (tmp_path / "link").symlink_to("/dev/stdout")
    done = shell(verify, '"$@" | cat', tmp_path, "--json", name)
    assert json.loads(done.stdout)["verdict"] == "unsat" and done.stderr == ""
    done = shell(verify, '"$@" > record.json', tmp_path, "--json", name)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert json.loads((tmp_path / "record.json").read_text())["verdict"] == "unsat"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link", "record.json"]


@pytest.mark.parametrize("name", ["-", "/dev/stdout", "r.txt"])
def test_a_result_on_standard_output_is_there_once(verify, tmp_path, name):
    done = shell(verify, '"$@" > r.txt', tmp_path, "--results-file", name)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "r.txt").read_text() == "unsat\n" and len(list(tmp_path.iterdir())) == 1


def test_what_went_to_standard_error_before_stays(verify, tmp_path):
    for name in ("/dev/stderr", "log"):
        done = shell(verify, 'echo before > log; "$@" 2>> log', tmp_path, "--json", name)
        assert (done.returncode, done.stdout) == (0, "unsat\n")
        first, _, rest = (tmp_path / "log").read_text().partition("\n")
        assert first == "before" and json.loads(rest)["verdict"] == "unsat"


def test_pipes_of_the_shell_are_written_to(verify, tmp_path):
    done = shell(verify, '"$@" --json >(cat > j) --results-file >(cat > r); sleep 0.5', tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "unsat\n", "")
    assert (tmp_path / "r").read_text() == "unsat\n" and json.loads((tmp_path / "j").read_text())


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--json", "x", "--results-file", "./x"], "are one place"),
        (["--json", "-", "--results-file", "/dev/stdout"], "are one place"),
        (["--json", "/dev/fd/77"], "/dev/fd/77: cannot be written: Bad file descriptor"),
        (["--json", ""], "argument --json: expected a file, found an empty argument"),
        (["--results-file", "x/"], "x/: is a folder"),
        (["--results-file", "file/x/y"], "file/x/y: cannot be written: Not a directory"),
        (["--results-file", "n" * 300], "cannot be written: File name too long"),
    ],
)
def test_places_that_are_none(verify, tmp_path, words, says):
    (tmp_path / "file").write_text("in the way")
    done = shell(verify, '"$@"', tmp_path, *words)
    assert (done.returncode, done.stdout) == (2, "") and says in done.stderr and len(done.stderr.splitlines()) == 1


def test_folders_of_outputs_are_made(verify, tmp_path):
    done = shell(verify, '"$@"', tmp_path, "--json", "a b/ü/j", "--results-file", "c/d/r")
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "c" / "d" / "r").read_text() == "unsat\n" and (tmp_path / "a b" / "ü" / "j").exists()


@pytest.mark.parametrize("how", [">&-", pytest.param("> /dev/full", marks=FULL)])
def test_standard_output_that_takes_nothing_costs_a_line_and_no_result(verify, tmp_path, how):
    done = shell(verify, f'"$@" --results-file r --json j {how}', tmp_path)
    assert done.returncode == 2 and done.stderr.startswith("verify: error: standard output: cannot be written: ")
    assert len(done.stderr.splitlines()) == 1
    assert (tmp_path / "r").read_text() == "unsat\n" and json.loads((tmp_path / "j").read_text())["verdict"] == "unsat"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["j", "r"]


@FULL
def test_all_outputs_that_failed_are_named(verify, tmp_path):
    done = shell(verify, '"$@" --results-file /dev/full --json /dev/full', tmp_path)
    assert (done.returncode, done.stdout) == (2, "unsat\n")
    assert done.stderr.count("/dev/full: cannot be written: No space left on device") == 2
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("how", ["2>&-", "<&- 2>&-", pytest.param("2> /dev/full", marks=FULL)])
def test_standard_error_that_takes_nothing_costs_nothing(verify, tmp_path, how):
    argv = [*verify.argv, *verify.empty]
    done = subprocess.run(["bash", "-c", f'"$@" {how}', "bash", *argv], env=verify.env, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "unsat\n")


@pytest.mark.parametrize("words", [["settings"], ["supports", "--onnx-operators"], ["version"], ["explain"]])
@pytest.mark.parametrize("how", [">&-", pytest.param("> /dev/full", marks=FULL)])
def test_other_commands_tell_of_it_as_well(verify, words, how):
    argv = [*verify.argv, *words, *(verify.empty if words == ["explain"] else [])]
    done = subprocess.run(["bash", "-c", f'"$@" {how}', "bash", *argv], env=verify.env, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("verify: error: standard output: cannot be written: ")
    assert len(done.stderr.splitlines()) == 1


def test_a_file_that_cannot_be_replaced_is_written_to(tmp_path, monkeypatch):
    from verifier import guard, outputs

    place = tmp_path / "r"
    place.write_text("sat\n")

    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "replace", refuse)
    monkeypatch.setattr(Path, "unlink", refuse)
    out = outputs.output(str(place))
    assert place.read_text() == "" and out.write("unsat\n") == "" and place.read_text() == "unsat\n"
    with pytest.raises(PermissionError):
        guard.write_whole(tmp_path / "new", "unsat\n")


def test_a_pipe_that_is_full_is_waited_for():
    import threading

    from verifier import outputs

    read, write = os.pipe()
    os.set_blocking(write, False)
    text, got = "ab" * 200_000, bytearray()

    def drain():
        while piece := os.read(read, 1 << 16):
            got.extend(piece)

    thread = threading.Thread(target=drain)
    thread.start()
    outputs.write_to(write, text)
    os.close(write)
    thread.join(20)
    assert got.decode() == text
    os.close(read)
