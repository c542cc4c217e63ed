"""The figures of a report, by hand."""

from results import record

from verifier.report import figures
from verifier.report.records import Record, Run, read_run


def made(index, verdict, seconds=2.0, suite="control", **changes):
    given = record(suite, index, verdict=verdict, seconds=seconds, **changes)
    del given["plan"]
    return Record(**given)


PUBLISHED = Run("known", tuple(made(k, v) for k, v in enumerate(["unsat", "sat", "unsat", "unsat", "unknown", "sat"])))
MINE = Run(
    "mine",
    (
        made(0, "unsat"),
        made(1, "unsat"),  # wrong: a counterexample is published
        made(2, "sat", counterexample="2.gz"),  # refutes what is published
        made(3, "sat"),  # wrong: no counterexample
        made(4, "unsat"),  # new
        made(5, "sat", seconds=61.0),  # late
        made(6, "timeout", seconds=60.0),  # nothing is published
        made(0, "sat", suite="images"),
    ),
)


def test_the_table_by_benchmark():
    judged = figures.judge(MINE, PUBLISHED)
    control, images, total = figures.by_suite(judged)
    assert (control.suite, images.suite, total.suite) == ("control", "images", "total")
    assert (control.n, control.solved, control.sat, control.unsat) == (7, 3, 1, 2)
    assert (control.wrong, control.new, control.known) == (2, 1, 6)
    assert control.par2 == 3 * 2.0 + 4 * 120.0
    assert dict(control.other) == {"wrong": 2, "late": 1, "timeout": 1}
    assert (total.n, total.solved, total.par2) == (8, 4, control.par2 + 2.0)
    assert [j.contradicts for j in judged] == [False, True, True, True, False, False, False, False]
    assert "late" in judged[5].why and "wrong" in judged[1].why and "is published" in judged[3].why


def test_without_published_answers_nothing_is_wrong_or_new():
    total = figures.by_suite(figures.judge(MINE, None))[-1]
    assert (total.wrong, total.new, total.known, total.solved) == (0, 0, 0, 6)


def test_times():
    judged = figures.judge(MINE, PUBLISHED)
    assert figures.solved_times(judged) == [2.0] * 4
    order, spent = figures.stage_times(judged)
    assert order[0] == "other" and abs(spent["images"]["other"] - 0.6) < 1e-9 and spent["images"]["search"] == 0.9
    assert len(figures.pairs(judged, PUBLISHED)) == 6
    assert [j.record.suite for j in figures.slowest(judged, 9)].count("control") == 3


def test_a_source_without_suites_is_matched_by_its_files_alone(tmp_path):
    path = tmp_path / "evening.csv"
    path.write_text("onnx,vnnlib,timeout,verdict,seconds,note\nonnx/net_0.onnx,vnnlib/prop_0.vnnlib,60,sat,1.5,\n")
    run = read_run(path)
    (judged,) = figures.judge(run, PUBLISHED)
    assert judged.wrong and judged.record.name == "evening/0"
    assert [line.suite for line in figures.by_suite([judged])] == ["evening", "total"]
    assert len(figures.pairs(figures.judge(PUBLISHED, None), run)) == 1
