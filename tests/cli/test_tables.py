"""`verify tables`: what is listed, made, kept and drawn."""

import pytest

from verifier import settings
from verifier.cli import main


@pytest.fixture
def tables(tmp_path, monkeypatch, capsys):
    """Runs the command with a cache of its own: (exit status, where each table comes from, all that was said)."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def run(*words):
        status = main(["tables", *map(str, words)])
        out, err = capsys.readouterr()
        rows = [line.rsplit("  ", 1) for line in out.splitlines()[1:] if "  " in line]
        return status, {row[0].split()[0]: row[1].strip() for row in rows}, out, err

    return run


def test_all_are_listed_and_one_is_made_kept_and_drawn(tables, tmp_path):
    status, listed, _, _ = tables()
    assert status == 0 and len(listed) > 30
    assert listed["sigmoid"] == "shipped" and listed["square+mul"] == "to be built"
    assert not (tmp_path / "cache").exists()
    status, made, out, err = tables("square+mul", "sin", "--build", "--plot", tmp_path / "p", "--device", "cpu")
    assert status == 0 and made == {"square+mul": "cached", "sin": "shipped"}
    assert "square+mul: 100%" in err and "sin" not in err and "(1 tables" in out
    assert sorted(p.name for p in (tmp_path / "p").iterdir()) == ["sin.png", "square+mul.png"]
    assert all(p.read_bytes().startswith(b"\x89PNG") for p in (tmp_path / "p").iterdir())
    assert tables("square+mul")[1] == {"square+mul": "cached"}
    assert tables("square+mul", "--no-cache")[1] == {"square+mul": "to be built"}


@pytest.mark.parametrize(
    ("words", "said"),
    (
        (["sigmod"], "did you mean 'sigmoid'"),
        (["--build", "--no-cache"], "nowhere to keep"),
        (["--device", "abacus"], "device must be one of"),
        (["sin", "--plot", "/dev/null/p"], "cannot be written"),
    ),
)
def test_mistakes_are_told_in_a_line(tables, words, said):
    status, _, out, err = tables(*words)
    assert status == 2 and said in err and len(err.splitlines()) == 1


def test_a_cache_that_cannot_be_written_to_is_told(tables, tmp_path):
    (tmp_path / "cache").write_text("in the way")
    status, made, _, err = tables("square+mul", "--build")
    assert status == 0 and made == {"square+mul": "to be built"} and "cannot be written to" in err


def test_the_word_is_the_setting(monkeypatch):
    seen, read = [], settings.read
    monkeypatch.setattr(settings, "read", lambda *a: (seen.append(read(*a)), exit(0)))
    for words, cache in ((["--no-cache"], False), ([], True)):
        with pytest.raises(SystemExit):
            main(["explain", "model.onnx", "property.vnnlib", *words])
        assert seen[-1].branching.cache == cache
