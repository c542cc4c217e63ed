"""What a word of the command line stands for."""

import gzip

import pytest

from verifier.bench import suites
from verifier.result import FileError, UsageError


def listed(folder, text, pack=False):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ("instances.csv.gz" if pack else "instances.csv")
    path.write_bytes(gzip.compress(text.encode()) if pack else text.encode())
    return folder


@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize(
    "text",
    [
        "onnx,vnnlib,timeout_s,expected\nm.onnx,p.vnnlib,30,sat\nn.onnx,q.vnnlib,,\n",
        "expected,vnnlib,onnx\r\nsat,p.vnnlib,m.onnx\r\n\r\n,q.vnnlib,n.onnx\r\n",
        "m.onnx,p.vnnlib,30\nn.onnx, q.vnnlib,\n",
    ],
)
def test_lists_with_and_without_a_header(tmp_path, text, pack):
    first, second = suites.read([str(listed(tmp_path / "a", text, pack))], 30.0)
    assert (first.suite, first.index, first.model, first.property, first.timeout) == ("a", 0, "m.onnx", "p.vnnlib", 30)
    assert (second.index, second.model, second.property, second.timeout) == (1, "n.onnx", "q.vnnlib", 30)
    assert first.paths == (str(tmp_path / "a" / "m.onnx"), str(tmp_path / "a" / "p.vnnlib"))
    assert first.expected == ("sat" if "sat" in text else "")


def test_counterexamples_have_names_of_their_own(tmp_path):
    text = "".join(f"onnx/{a}/m.onnx,vnnlib/{a}/p.vnnlib.gz,9\n" for a in ("medical", "robot", "robot"))
    text += "onnx/medical/n.onnx.gz,vnnlib/p.vnnlib,9\n"
    names = [i.evidence for i in suites.read([str(listed(tmp_path / "s", text))], 1.0)]
    assert names == [
        f"counterexamples/s/{n}.counterexample.gz" for n in ("medical_m_p", "robot_m_p_1", "robot_m_p_2", "n_p")
    ]


def test_two_folders_of_one_name(tmp_path):
    text = "m.onnx,p.vnnlib,30\n"
    words = [str(listed(tmp_path / year / "acas", text)) for year in ("2022", "2023")]
    assert [i.suite for i in suites.read(words, 1.0)] == ["acas", "2023_acas"]
    with pytest.raises(UsageError, match="named twice"):
        suites.read([words[0], words[0]], 1.0)


def test_pairs_by_name(tmp_path):
    for name in ("net.onnx", "net_b.onnx.gz", "net_1.vnnlib", "net_b_1.vnnlib.gz"):
        (tmp_path / name).write_text("")
    found = suites.read([f"{tmp_path}/*.onnx*:{tmp_path}/*.vnnlib*"], 7.0)
    assert [(i.model.rpartition("/")[2], i.property.rpartition("/")[2], i.timeout) for i in found] == [
        ("net.onnx", "net_1.vnnlib", 7.0),
        ("net_b.onnx.gz", "net_b_1.vnnlib.gz", 7.0),
    ]
    (tmp_path / "other.vnnlib").write_text("")
    with pytest.raises(UsageError, match="belongs to no model"):
        suites.read([f"{tmp_path}/*.onnx*:{tmp_path}/*.vnnlib*"], 7.0)
    assert len(suites.read([f"{tmp_path}/net.onnx:{tmp_path}/*.vnnlib"], 7.0)) == 2


@pytest.mark.parametrize("text", ["", "m.onnx\n", "m.onnx,p.vnnlib,soon\n", "m.onnx,p.vnnlib,-1\n", "m.onnx,,5\n"])
def test_lists_that_are_none(tmp_path, text):
    with pytest.raises(FileError, match="instances.csv"):
        suites.read([str(listed(tmp_path / "a", text))], 30.0)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("model,prop,time\nm.onnx,p.vnnlib,3\n", ":1: 'time' is not a time in seconds; if this line is a header, name"),
        ("m.onnx,p.vnnlib,3\n\nm.onnx,p.vnnlib,-1\n", ":3: '-1' is not a time in seconds"),
        ("onnx,vnnlib,timeout\nm.onnx,,3\n", ":2: expected onnx,vnnlib,timeout: a model, a property, seconds"),
        ('m.onnx,p.vnnlib,3\nm.onnx,"p.vnnlib,3\nm.onnx,p.vnnlib,3\n', ":2: not a line of a CSV file: unexpected end"),
        ('m.onnx,"p.vnnlib,3\nm.onnx",p.vnnlib,3\n', ":1: a quotation mark is not closed on its line"),
        ('m.onnx,"p.vnnlib"x,3\n', ":1: not a line of a CSV file: "),
        (f"m.onnx,{'p' * 200_000},3\n", ":1: not a line of a CSV file: field larger than field limit"),
    ],
)
def test_mistakes_in_lists_are_placed(tmp_path, text, says):
    with pytest.raises(FileError) as error:
        suites.read([str(listed(tmp_path / "a", text))], 30.0)
    where, _, message = str(error.value).partition("instances.csv")
    assert message.startswith(says) and "\n" not in str(error.value)
    assert ("header" in message) == says.startswith(":1: 'time'")


def test_a_missing_suite(tmp_path):
    with pytest.raises(FileError, match="no such file"):
        suites.read([str(tmp_path / "none")], 1.0)
