"""Results are read strictly, and whatever is wrong with a file is said with its line."""

import gzip
import json

import pytest
from results import record, write_competition, write_run

from verifier.report.records import Run, find, read_published, read_run, unique
from verifier.result import FileError


def test_a_run_is_read_whole(tmp_path):
    made = record(index=3, bounds=[[0.5, 4, -1.0], [1.0, 0, None]], later="an unknown field")
    (got,) = read_run(write_run(tmp_path / "mine", [made])).records
    assert (got.name, got.verdict, got.seconds, got.stages["attack"]) == ("control/3", "unsat", 1.5, 0.4)
    assert got.bounds[0] == (0.5, 4.0, -1.0) and got.bounds[1][2] != got.bounds[1][2]
    assert got.key == ("control", "net_0.onnx", "prop_3.vnnlib")
    assert read_run(tmp_path / "mine").name == read_run(tmp_path / "mine" / "results.jsonl").name == "mine"


@pytest.mark.parametrize(
    "changes, complaint",
    [
        ({"verdict": "maybe"}, "'verdict' should be one of sat, unsat, unknown, timeout, error, found \"maybe\""),
        ({"seconds": "fast"}, "'seconds' should be a number"),
        ({"seconds": -1}, "'seconds' should be a number"),
        ({"seconds": None}, "'seconds' should be a number of at least 0, found null"),
        ({"index": True}, "'index' should be a whole number"),
        ({"stages": {"search": "x"}}, "'stages' should be an object of numbers"),
        ({"bounds": [[1, 2]]}, "'bounds' should be a list of"),
        ({"bounds": [[1, None, 2]]}, "'bounds' should be a list of"),
        ({"reason": 7}, "'reason' should be a text"),
    ],
)
def test_a_wrong_value_is_told_with_its_line(tmp_path, changes, complaint):
    folder = write_run(tmp_path, [record(), {**record(index=1), **changes}])
    with pytest.raises(FileError) as e:
        read_run(folder)
    assert str(e.value).startswith(f"{folder}/results.jsonl:2: ") and complaint in str(e.value)


def test_missing_fields_and_broken_lines_are_told(tmp_path):
    short = record()
    del short["timeout"]
    with pytest.raises(FileError, match=r"results\.jsonl:1: 'timeout' is missing"):
        read_run(write_run(tmp_path, [short]))
    (tmp_path / "results.jsonl").write_text("[1]\n")
    with pytest.raises(FileError, match=r":1: expected a JSON object, found list"):
        read_run(tmp_path)
    (tmp_path / "results.jsonl").write_text('{"suite":\n' + json.dumps(record()) + "\n")
    with pytest.raises(FileError, match=r":1: not a JSON object"):
        read_run(tmp_path)
    with pytest.raises(FileError, match="no results.jsonl or results.csv"):
        read_run(tmp_path.parent)
    with pytest.raises(FileError, match="cannot be read"):
        read_run(tmp_path / "absent.csv")


def test_a_half_written_last_line_is_passed_over(tmp_path):
    folder = write_run(tmp_path, [record()])
    with open(folder / "results.jsonl", "a") as f:
        f.write(json.dumps(record(index=1))[:50])
    assert len(read_run(folder).records) == 1


def test_the_competitions_file_is_read(tmp_path):
    made = [record(index=k) for k in range(4)]
    words = ["violated", "holds", "run_instance_timeout", "error_exit_code_3"]
    path = write_competition(tmp_path / "results.csv", [(r, w, 2.5) for r, w in zip(made, words)])
    got = read_published(path).records
    assert [r.verdict for r in got] == ["sat", "unsat", "timeout", "error"]
    assert got[3].reason == "error_exit_code_3" and got[0].seconds == 2.5
    run = read_run(write_run(tmp_path / "run", made))
    assert [find(Run("", got).by_key(), r.key).verdict for r in run.records] == ["sat", "unsat", "timeout", "error"]
    path.write_text("control,a.onnx,b.vnnlib,0,unsat,soon\n")
    with pytest.raises(FileError, match=r"results\.csv:1: 'seconds' should be a number of at least 0, found 'soon'"):
        read_published(path)
    path.write_text("control,a.onnx\n")
    with pytest.raises(FileError, match=r"results\.csv:1: expected 6 columns"):
        read_published(path)


def test_suites_with_published_answers_are_read(tmp_path):
    for suite, answer in (("control", "unsat"), ("images", "disputed")):
        (tmp_path / suite).mkdir()
        head = "onnx,vnnlib,timeout_s,expected,best_s,best_tool\n"
        line = f"onnx/net_0.onnx.gz,vnnlib/prop_0.vnnlib.gz,116,{answer},1.25,other\n"
        (tmp_path / suite / "instances.csv.gz").write_bytes(gzip.compress((head + line).encode()))
    table = read_published(tmp_path).by_key()
    files = ("net_0.onnx", "prop_0.vnnlib")
    assert find(table, ("control", *files)).verdict == "unsat" and find(table, ("control", *files)).seconds == 1.25
    assert find(table, ("images", *files)).verdict == "unknown"
    assert find(table, ("another", *files)) is None  # the same names in another suite are another instance
    (tmp_path / "plain.csv").write_text("onnx,vnnlib,timeout\na,b,3\n")
    with pytest.raises(FileError, match="no column 'verdict' or 'expected'"):
        read_published(tmp_path / "plain.csv")


def test_names_tell_runs_apart():
    assert [r.name for r in unique([Run("a", ()), Run("a", ()), Run("b", ())])] == ["a", "a (2)", "b"]
