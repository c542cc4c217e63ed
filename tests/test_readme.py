"""The README tells the truth: its commands are run, their output held to what it shows; its tables are generated.

`python tests/test_readme.py` writes the tables anew.
"""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
NOT_RUN = {"scripts/test"}  # it is what runs this
NUMBER = re.compile(r" *-?\d+(\.\d+)?(e-?\d+)?")  # with the blanks that fill a column up


def commands() -> list[tuple[str, list[str]]]:
    """(command, the lines shown below it) for every `$` line of a console block, in order."""
    found: list[tuple[str, list[str]]] = []
    for block in re.findall(r"```console\n(.*?)```", README.read_text(encoding="utf-8"), re.S):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((line[2:], []))
            else:
                found[-1][1].append(line)
    return found


def run(command: str, folder: Path) -> str:
    """Standard output of the command, run in `folder` with the Python at hand in place of an installed one."""
    words = shlex.split(command)
    if words[0] in ("verify", "scripts/verify"):
        words[:1] = [sys.executable, "-m", "verifier"]
    elif words[0] == "scripts/run_suite.sh":
        words[:1] = [sys.executable, "scripts/run_suite.py"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "80"}
    done = subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    return done.stdout


def shows(shown: list[str], said: list[str]) -> bool:
    """Whether the lines shown are those said, numbers apart; a line of `…` stands for any number of lines."""
    if not shown:
        return not said
    if shown[0] == "…":
        return any(shows(shown[1:], said[k:]) for k in range(len(said) + 1))
    return bool(said) and plain(shown[0]) == plain(said[0]) and shows(shown[1:], said[1:])


def plain(line: str) -> str:
    return NUMBER.sub("#", line).rstrip()


@pytest.mark.timeout(290)
def test_every_command_says_what_is_shown(tmp_path):
    for name in ("benchmarks", "configs", "scripts"):
        (tmp_path / name).symlink_to(ROOT / name)
    listed = [(c, shown) for c, shown in commands() if c not in NOT_RUN]
    assert len(listed) >= 6
    for command, shown in listed:
        said = run(command, tmp_path).splitlines()
        assert shows(shown, said), f"{command}\nshown: {shown}\nsaid: {said[:20]}"


def test_the_two_commands_come_first_and_exist():
    first = [c.split()[0] for c, _ in commands()[:2]]
    assert first == ["scripts/verify", "scripts/test"]
    assert all(os.access(ROOT / c, os.X_OK) for c in first)


def operator_table() -> str:
    from verifier.explain import support

    rows = [f"| {word} | {', '.join(f'`{op}`' for op in ops)} |" for word, ops in support().items() if ops]
    return "\n".join(["| | operators |", "|---|---|", *rows])


def with_tables(text: str) -> str:
    from verifier import settings

    for name, table in (("settings", settings.table()), ("operators", operator_table())):
        parts = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.S)
        assert parts.search(text), name
        text = parts.sub(lambda m, table=table: m[1] + table + "\n" + m[2], text)
    return text


def test_the_tables_are_up_to_date():
    text = README.read_text(encoding="utf-8")
    assert with_tables(text) == text, "run `python tests/test_readme.py` to write the tables anew"


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    README.write_text(with_tables(README.read_text(encoding="utf-8")), encoding="utf-8")
