"""The page as a file: whole, in itself, and safe from whatever stands in the results."""

import subprocess
import sys
import xml.dom.minidom
from html.parser import HTMLParser
from pathlib import Path

import pytest
from results import SUITES, hundred, record, write_competition, write_run

from verifier import cli
from verifier.report import plots, write

VOID = {"meta", "link"}


class Reader(HTMLParser):
    """Holds the page to balanced elements, unique ids, and no reference to anything outside."""

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.tags, self.outside, self.text = [], [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value)
            if name in ("src", "href", "xlink:href", "srcset", "action") and not value.startswith(("#", "data:")):
                self.outside.append(value)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(page, its text) of a hundred made-up results beside another run and published answers."""
    root = tmp_path_factory.mktemp("report")
    first = write_run(root / "first & best", hundred())
    other = write_run(root / "other", hundred(seed=1))
    rows = [(r, r["verdict"] if r["index"] % 2 else "timeout", r["seconds"] * 2) for r in hundred()]
    known = write_competition(root / "known.csv", rows)
    out = root / "page.html"
    assert cli.main(["report", str(first), str(other), "--published", str(known), "-o", str(out)]) == 0
    return out, out.read_text(encoding="utf-8")


def test_the_page_is_one_whole_file(made):
    reader = Reader()
    reader.feed(made[1])
    assert not reader.open and not reader.outside
    assert len(reader.ids) == len(set(reader.ids))
    assert reader.tags.count("svg") == 5 and reader.tags.count("script") == 1
    assert "url(http" not in made[1] and "@import" not in made[1]
    assert '<meta name="viewport"' in made[1]


def test_nothing_in_the_results_becomes_markup(made):
    assert "<script>document" not in made[1] and "&lt;script&gt;document" in made[1]
    assert SUITES[3] not in made[1] and "first &amp; best" in made[1]


def test_the_plots_are_written_beside_it(made):
    folder = made[0].with_name("page_plots")
    names = {f"{n}.{e}" for n in ("cactus", "scatter_1", "scatter_2", "stages", "bounds") for e in ("svg", "png")}
    assert {p.name for p in folder.iterdir()} == names
    for path in folder.glob("*.svg"):
        xml.dom.minidom.parse(str(path))
    assert all(p.read_bytes().startswith(b"\x89PNG") for p in folder.glob("*.png"))


def test_it_prints_the_table(tmp_path, capsys):
    run = write_run(tmp_path / "run", [record(), record(index=1, verdict="sat"), record("images", verdict="timeout")])
    assert cli.main(["report", str(run)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["benchmark", "instances", "solved"]
    assert lines[3].split() == ["total", "3", "2", "1", "1", "0", "0", "123"]
    assert lines[4] == f"written: {run / 'report.html'}"


def test_chosen_bounds(tmp_path, capsys):
    traced = [record(index=k, bounds=[[0.1, 2, -1.0], [0.2, 0, 0.5]], seconds=float(k)) for k in range(9)]
    run = write_run(tmp_path, [*traced, record(index=9)])
    assert [r.index for r in drawn(write.read([run], []))] == [8, 7, 6, 5, 4, 3]
    assert [r.index for r in drawn(write.read([run], [], ["control/2"]))] == [2]
    assert cli.main(["report", str(run), "--bounds", "control/9"]) == 2
    assert "no instance of this name with bounds over time" in capsys.readouterr().err


def drawn(report):
    from verifier.report import figures

    return figures.with_bounds(report.judged, report.chosen, write.BOUNDS)


@pytest.mark.parametrize("seconds", [0.0, 1e-9, 59.0])
def test_one_result_makes_a_page(tmp_path, seconds):
    for verdict in ("unsat", "timeout"):
        run = write_run(tmp_path / verdict, [record(verdict=verdict, seconds=seconds, stages={}, bounds=[[0, 1, -1]])])
        known = write_competition(tmp_path / f"{verdict}.csv", [(record(), "timeout", 1.0)])
        assert cli.main(["report", str(run), str(run), "--published", str(known)]) == 0


def test_without_matplotlib_the_page_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(plots, "available", lambda: False)
    run = write_run(tmp_path, [record()])
    assert cli.main(["report", str(run)]) == 0
    assert "matplotlib is not installed" in capsys.readouterr().err
    assert "matplotlib is not installed" in (run / "report.html").read_text()


def test_mistakes_are_told_in_one_line(tmp_path, capsys):
    run = write_run(tmp_path / "run", [record()])
    empty = write_run(tmp_path / "empty", [])
    away = run / "results.jsonl" / "x.html"
    over = run / "results.jsonl"
    for words in ([tmp_path / "absent"], [empty], [run, "-o", away], [run, "-o", over], [run, "--published", run], []):
        assert cli.main(["report", *map(str, words)]) == 2, words
        assert capsys.readouterr().err.count("\n") == 1
    assert over.read_text().startswith("{")


def test_no_torch_is_needed(tmp_path):
    run = write_run(tmp_path, [record()])
    script = f"import sys; from verifier import cli; cli.main(['report', {str(run)!r}]); print('torch' in sys.modules)"
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "False", done.stderr
