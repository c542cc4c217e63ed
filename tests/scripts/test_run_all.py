"""Every suite below a folder, by the shell script."""

import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_every_suite_below_a_folder(tmp_path):
    """run_suite.sh is played: it prints its folder and writes its file, and finds a contradiction in suite b."""
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    played = 'printf "%s\\n" "$*"; echo "total of $(basename "$1")" | tee "$2"; [ "$(basename "$1")" != b ]\n'
    (tmp_path / "scripts" / "run_suite.sh").write_text(played)
    for name in ("x/a", "x/b", "y/a", "y/none"):
        (tmp_path / "suites" / name).mkdir(parents=True)
        if name != "y/none":
            (tmp_path / "suites" / name / "instances.csv").write_text("m.onnx,p.vnnlib,1\n")
    words = ["bash", str(tmp_path / "scripts" / "run_all.sh"), str(tmp_path / "out"), str(tmp_path / "suites")]
    done = subprocess.run([*words, "--", "--timeout-cap", "5"], capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.csv", "b.csv", "totals.txt", "y_a.csv"]
    assert (tmp_path / "out" / "totals.txt").read_text() == "a: total of a\nb: total of b\ny_a: total of a\n"
    assert done.stdout.count("--timeout-cap 5") == 3
    empty = subprocess.run([*words[:3], str(tmp_path / "suites" / "y" / "none")], capture_output=True, text=True)
    assert empty.returncode == 2 and "no instances.csv" in empty.stderr
