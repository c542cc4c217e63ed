"""Files: packing, encodings, what is missing or damaged, extremes of depth and size, and what is imported when."""

import gzip
import subprocess
import sys
from pathlib import Path

import pytest
from spec_formulas import assert_same, declarations

from verifier.result import FileError, PropertyError
from verifier.spec.parse import parse_bytes, parse_property

SIMPLE = declarations(1, 1) + "(assert (<= X_0 1))\n(assert (>= X_0 0))\n(assert (<= Y_0 2))\n"


def test_plain_and_gzip_by_content(tmp_path):
    plain, packed = tmp_path / "a.gz", tmp_path / "b.vnnlib"
    plain.write_text(SIMPLE)
    packed.write_bytes(gzip.compress(SIMPLE.encode()))
    assert_same(parse_property(plain), parse_property(str(packed)))
    assert parse_property(plain).source == str(plain)


def test_gz_beside_a_missing_path(tmp_path):
    (tmp_path / "p.vnnlib.gz").write_bytes(gzip.compress(SIMPLE.encode()))
    assert parse_property(tmp_path / "p.vnnlib").source == str(tmp_path / "p.vnnlib.gz")


def test_several_gzip_members_and_padding(tmp_path):
    path = tmp_path / "p"
    half = len(SIMPLE) // 2
    path.write_bytes(gzip.compress(SIMPLE[:half].encode()) + gzip.compress(SIMPLE[half:].encode()) + b"\0" * 7)
    assert_same(parse_property(path), parse_bytes(SIMPLE.encode()))


@pytest.mark.parametrize(
    "content, message",
    [
        (gzip.compress(SIMPLE.encode(), mtime=0)[:-9], "truncated gzip file"),
        (gzip.compress(SIMPLE.encode(), mtime=0)[:5], "truncated gzip file"),
        (b"\x1f\x8b", "truncated gzip file"),
        (b"\x1f\x8bxxxxxxxxxxxxxxxx", "damaged gzip file"),
        (gzip.compress(SIMPLE.encode(), mtime=0) + b"more", "damaged gzip file"),
    ],
)
def test_damaged_gzip(tmp_path, content, message):
    path = tmp_path / "p.gz"
    path.write_bytes(content)
    with pytest.raises(FileError, match=message):
        parse_property(path)


def test_files_that_cannot_be_read(tmp_path):
    for path in (tmp_path / "none.vnnlib", tmp_path, "a\0b"):
        with pytest.raises(FileError, match="cannot read the property"):
            parse_property(path)


def test_encodings():
    assert_same(parse_bytes(b"\xef\xbb\xbf" + SIMPLE.encode()), parse_bytes(SIMPLE.encode()))
    assert_same(parse_bytes(SIMPLE.encode() + "; größer".encode()), parse_bytes(SIMPLE.encode()))
    with pytest.raises(PropertyError) as caught:
        parse_bytes(b"; fine\n; gr\xc3\xb6\xdfer\n" + SIMPLE.encode(), "f")
    assert str(caught.value) == "f:2:6: expected text in UTF-8, found byte 0xdf"
    with pytest.raises(PropertyError):
        parse_bytes((SIMPLE + "(assert (<= X_0 \u0661))").encode())  # a digit, but not one of ours


def test_number_forms():
    forms = {"1": 1, "-1": -1, "+1": 1, ".5": 0.5, "5.": 5, "1e-3": 1e-3, "-1.5E+07": -1.5e7, "-.5e2": -50, "1e-400": 0}
    for form, value in forms.items():
        for shape in ("(assert (<= X_0 {}))", "(assert (<= X_0 (+ {})))"):
            assert parse_bytes((declarations(1, 1) + shape.format(form)).encode()).upper[0, 0] == value


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_line_ends(line_end):
    assert parse_bytes(("; comment\n" + SIMPLE).replace("\n", line_end).encode()).n_rows == 1


DEPTH = 30_000


@pytest.mark.parametrize(
    "inner",
    [
        "(and " * DEPTH + "(<= Y_0 1)" + ")" * DEPTH,
        "(and (or " * DEPTH + "(<= Y_0 1)" + "))" * DEPTH,
        "(<= Y_0 " + "(- " * DEPTH + "1" + ")" * (DEPTH + 1),
        "(and (<= X_0 1) (or (<= Y_0 1) " * 300 + "(>= Y_0 2)" + "))" * 300,
    ],
)
def test_depth_is_no_obstacle(inner):
    assert parse_bytes((declarations(1, 1) + f"(assert {inner})").encode()).n_inputs == 1


@pytest.mark.parametrize(
    "inner, message",
    [
        ("(and " * DEPTH, "found the end of the file"),
        ("(or " + "(and (or (<= Y_0 1) (<= Y_0 2)) " * DEPTH, "found the end of the file"),
        ("(and (<= X_0 1) (or (<= Y_0 1) " * DEPTH + "(>= Y_0 2)" + "))" * DEPTH, "expected a property whose"),
        ("(and" + " (or (<= Y_0 1) (<= Y_0 2))" * 64 + ")", "at most 2,000,000 disjuncts"),
        ("(or " + "(and (or (<= Y_0 1) (<= X_0 2)) " * 3 + "x", "found 'x'"),
        ("(<= (*" + " 1e300" * 2000 + " Y_0) 1)", "range of float64"),
        ("(<= (* 1e300 1e300 Y_0) 1)", "range of float64"),
        ("(<= (* 1e-300 1e-300 Y_0) 1)", "range of float64"),
        ("(<= (* 1e-300 X_0) 1e300)", "range of float64"),
        ("(<= X_0 " + "9" * 5000 + ")", "range of float64"),
        ("(<= X_" + "9" * 5000 + " 1)", "found 'X_9999"),
    ],
)
def test_extremes_are_property_errors(inner, message):
    with pytest.raises(PropertyError, match=message) as caught:
        parse_bytes((declarations(1, 1) + f"(assert {inner}" + ")" * (inner[-1] == ")")).encode())
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_product_of_asserts_is_refused():
    alternatives = "(assert (or (and (<= Y_0 1)) (and (>= Y_0 2))))\n"
    with pytest.raises(PropertyError, match="at most 2,000,000 disjuncts"):
        parse_bytes((declarations(1, 1) + alternatives * 40).encode())
    assert parse_bytes((declarations(1, 1) + alternatives * 10).encode()).n_disjuncts == 1024


def test_light_imports(tmp_path):
    path = tmp_path / "p.vnnlib"
    path.write_text(SIMPLE)
    code = (
        "import sys; from verifier.spec.parse import parse_property; parse_property(sys.argv[1]); "
        "print(sorted({'lark', 'torch', 'gzip', 'onnx', 'hypothesis'} & set(sys.modules)))"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code, str(path)], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
