"""An instance as a picture: what is taken for an image, and what is drawn."""

import gzip
import xml.dom.minidom
from pathlib import Path

import numpy as np
import pytest

from verifier import cli
from verifier.report import view

DIGITS = Path(__file__).resolve().parents[2] / "benchmarks" / "digits"
MODEL = str(DIGITS / "onnx" / "dense_relu.onnx")
PROPERTY = str(DIGITS / "vnnlib" / "dense_relu_3_0.01.vnnlib")


@pytest.mark.parametrize(
    "shape, expected",
    [
        ((1, 1, 28, 20), (1, 28, 20, False)),
        ((1, 3, 32, 30), (3, 32, 30, False)),
        ((3, 32, 32), (3, 32, 32, False)),
        ((1, 30, 31, 3), (3, 30, 31, True)),
        ((1, 64, 64, 1), (1, 64, 64, True)),
        ((1, 28, 28), (1, 28, 28, False)),
        ((1, 784), (1, 28, 28, False)),
        ((1, 784, 1), (1, 28, 28, False)),
        ((3072,), (3, 32, 32, False)),
        ((1, 64), (1, 8, 8, False)),
        ((1, 1, 1, 5), None),
        ((1, 9), None),
        ((1, 792), None),
        ((1, 4, 32, 32), None),
        ((), None),
    ],
)
def test_what_is_an_image(shape, expected):
    assert view.image_shape([shape]) == expected
    assert view.image_shape([shape, shape]) is None


def test_pixels_go_where_they_belong():
    flat = np.arange(18.0)
    first = view.as_image(flat, (3, 2, 3, False))
    assert first.shape == (2, 3, 3) and first[1, 2].tolist() == [5, 11, 17]
    last = view.as_image(flat, (3, 2, 3, True))
    assert last.shape == (2, 3, 3) and last[1, 2].tolist() == [15, 16, 17]
    assert view.as_image(flat, (1, 2, 9, True))[1, 0] == 9


def test_margins():
    assert view.margin(np.array([1.0, 4.0, 3.5])) == "Y_1 is greatest, 0.5 ahead of Y_2"
    assert view.margin(np.array([1.25])) == "Y_0 = 1.25"


def point(path, n=64, value=0.5):
    path.write_bytes(gzip.compress(("sat\n(" + "\n".join(f"(X_{i} {value})" for i in range(n)) + ")").encode()))
    return str(path)


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_a_picture_with_and_without_a_counterexample(tmp_path, capsys, ending):
    out = tmp_path / "new" / f"picture.{ending}"
    for words in ([], [point(tmp_path / "ce.gz")]):
        assert cli.main(["view", MODEL, PROPERTY, *words, "-o", str(out)]) == 0
        said = capsys.readouterr().out.splitlines()
        assert said[0] == "input: an image of 8x8, 1 channel(s)" and "is greatest" in said[1]
        assert said[-1] == f"written: {out}"
        assert ("no counterexample: the property does not hold at the given point" in said) == bool(words)
        if ending == "svg":
            text = xml.dom.minidom.parse(str(out)).toxml()
            assert ("difference, at most" in text) == bool(words) and ("half-width" in text) != bool(words)
        else:
            assert out.read_bytes().startswith(b"\x89PNG")


def test_curves_and_many_outputs_are_drawn(tmp_path):
    """Inputs that are no image, and more outputs than bars."""
    rng = np.random.default_rng(0)
    for n, x in ((5, None), (300, rng.normal(size=300))):
        outputs = [rng.normal(size=50)] * (1 if x is None else 2)
        view._save(view._picture("a $title$", np.zeros(n), np.ones(n), x, outputs, None), tmp_path / f"{n}.png")
        assert (tmp_path / f"{n}.png").stat().st_size > 10_000


def test_colours_are_drawn(tmp_path):
    x = np.random.default_rng(0).uniform(size=(2, 192))
    fig = view._picture("colours", x[0], np.full(192, 0.1), x[1], [np.ones(3), np.zeros(3)], (3, 8, 8, False))
    difference = fig.subfigs[0].axes[2].images[0].get_array()
    wanted = (x[1] - x[0]).reshape(3, 8, 8).transpose(1, 2, 0)
    assert np.allclose(difference, 0.5 + wanted / np.abs(wanted).max() / 2)


def test_mistakes_are_told(tmp_path, capsys):
    short = point(tmp_path / "short.gz", 63)
    for words, complaint in (
        ([PROPERTY, "-o", "x.gif"], "name a picture that ends with .png"),
        ([PROPERTY, short, "-o", str(tmp_path / "x.png")], "has 63 inputs, the model takes 64"),
        ([PROPERTY, str(tmp_path / "absent"), "-o", str(tmp_path / "x.png")], "cannot read the counterexample"),
        ([PROPERTY, "-o", PROPERTY], "name a picture that ends with .png"),
    ):
        assert cli.main(["view", MODEL, *words]) == 2
        assert complaint in capsys.readouterr().err
