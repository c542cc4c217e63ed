"""Settings are read strictly: what is not understood is answered with file, line and the nearest setting there is."""

import re
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import get_type_hints

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from verifier import settings
from verifier.config import AttackConfig, Config, Group, SearchConfig
from verifier.result import FileError, InputError, UsageError

NAMES = [s.name for s in settings.settings()]


def write(folder: Path, text: str) -> str:
    path = folder / "c.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_no_words_give_the_defaults():
    assert settings.read() == Config()


def test_a_file_changes_what_it_names_and_nothing_else(tmp_path):
    config = settings.read(write(tmp_path, "timeout: 12\nbounds:\n  method: interval\n"))
    assert config.timeout == 12.0 and isinstance(config.timeout, float)
    assert config.bounds.method == "interval"
    assert config.search == Config().search


def test_later_words_win(tmp_path):
    path = write(tmp_path, "timeout: 12\nseed: 3\n")
    config = settings.read(path, ["timeout=13", "seed=4"], {"timeout": "14"})
    assert (config.timeout, config.seed) == (14.0, 4)


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        (
            "timeout: 1\nbounds:\n  metod: crown\n",
            3,
            ["unknown setting 'bounds.metod'", "did you mean 'bounds.method'"],
        ),
        ("tiemout: 1\n", 1, ["did you mean 'timeout'"]),
        ("batch: 5\n", 1, ["did you mean 'search.batch'"]),
        (
            "bounds.method: crown\nsearch.batch: many\n",
            2,
            ["search.batch must be a whole number of at least 1", "'many'"],
        ),
        ("timeout: soon\n", 1, ["timeout must be a number", "'soon'"]),
        ("timeout: true\n", 1, ["must be a number"]),
        ("timeout: -1\n", 1, ["at least 0"]),
        ("timeout: .nan\n", 1, ["must be a number"]),
        ("timeout: .inf\n", 1, ["must be a number"]),
        (f"timeout: {'9' * 400}\n", 1, ["must be a number"]),
        ("search:\n  batch: 0\n", 2, ["at least 1"]),
        ("search:\n  batch: 1.5\n", 2, ["whole number"]),
        ("bounds:\n  method: clown\n", 2, ["one of auto, crown, forward, interval", "'clown'"]),
        ("bounds: crown\n", 1, ["'bounds'", "group"]),
        ("seed: [1]\n", 1, ["must be a whole number"]),
        ("seed:\n  a: 1\n", 1, ["must be a whole number"]),
        ("seed:\n", 1, ["must be a whole number"]),
        ("seed: 1\nseed: 2\n", 2, ["set twice", "line 1"]),
        ("- seed\n", 1, ["expected settings"]),
        ("seed: 1\n  x: [\n", 2, ["YAML"]),
        ("? [a]\n: 1\n", 1, ["expected the name"]),
    ],
)
def test_mistakes_in_a_file_are_placed(tmp_path, text, line, words):
    path = write(tmp_path, text)
    with pytest.raises(UsageError) as error:
        settings.read(path)
    message = str(error.value)
    assert message.startswith(f"{path}:{line}:"), message
    assert all(w in message for w in words), message
    assert "\n" not in message


@pytest.mark.parametrize("text", ["", "# nothing\n", "bounds:\n", "search: {batch: 1e3}\n", "search.batch: 1000\n"])
def test_what_is_odd_but_clear_is_read(tmp_path, text):
    assert settings.read(write(tmp_path, text)).search.batch in (1000, Config().search.batch)


@pytest.mark.parametrize(
    ("word", "part"),
    [
        ("seed", "key=value"),
        ("sed=1", "'seed'"),
        ("seed=", "missing"),
        ("seed=x", "whole number"),
        ("bounds=1", "group"),
        *((f"timeout={text}", "must be a number") for text in ("inf", ".inf", "+inf", "1e999", "nan")),
    ],
)
def test_mistakes_in_set(word, part):
    with pytest.raises(UsageError, match=re.escape(part)) as error:
        settings.read(None, [word])
    assert f"--set {word}" in str(error.value)


@pytest.mark.parametrize(
    ("group", "values", "words"),
    [
        (Config, {"device": "cuda:0"}, ["device must be one of auto, cpu, cuda", "'cuda:0'"]),
        (Config, {"device": "gpu"}, ["device must be one of", "'gpu'"]),
        (Config, {"timeout": "10"}, ["timeout must be a number", "'10'"]),
        (Config, {"timeout": float("inf")}, ["timeout must be a number", "inf"]),
        (Config, {"timeout": None}, ["timeout must be a number"]),
        (Config, {"seed": -1}, ["seed must be a whole number from 0 to"]),
        (Config, {"seed": 10**20}, ["seed must be a whole number from 0 to 1e+18"]),
        (Config, {"threads": 10**6}, ["threads must be a whole number from 0 to 1024"]),
        (Config, {"seed": True}, ["seed must be a whole number"]),
        (Config, {"attack": "none"}, ["attack must be of class AttackConfig", "'none'"]),
        (AttackConfig, {"share": 1.5}, ["attack.share must be a number from 0 to 1"]),
        (SearchConfig, {"batch": 0}, ["search.batch must be a whole number of at least 1"]),
    ],
)
def test_mistakes_in_python_are_told_as_those_in_files_are(group, values, words):
    for make in (group, lambda **values: replace(group(), **values)):
        with pytest.raises(UsageError) as error:
            make(**values)
        assert all(w in str(error.value) for w in words), str(error.value)


def test_numbers_of_python_become_those_of_the_setting():
    config = Config(
        timeout=10, seed=np.int64(3), search=SearchConfig(batch=1e3), attack=AttackConfig(share=np.float32(0.5))
    )
    values = [config.timeout, config.seed, config.search.batch, config.attack.share]
    assert values == [10.0, 3, 1000, 0.5] and [type(v) for v in values] == [float, int, int, float]


def test_every_group_is_checked_and_named_as_its_field():
    for f in fields(Config):
        if is_dataclass(kind := get_type_hints(Config)[f.name]):
            assert issubclass(kind, Group) and kind.__name__ == f.name.capitalize() + "Config"


def test_missing_files_and_presets(tmp_path):
    with pytest.raises(FileError, match="no such settings file"):
        settings.read(str(tmp_path / "none.yaml"))
    with pytest.raises(UsageError, match="did you mean 'thorough'"):
        settings.read("thorogh")
    binary = tmp_path / "b.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError):
        settings.read(str(binary))


@given(st.sampled_from(NAMES), st.data())
def test_one_slip_of_the_pen_is_recognised(name, data):
    at = data.draw(st.integers(0, len(name) - 1))
    slip = data.draw(
        st.sampled_from([name[:at] + name[at + 1 :], name[:at] + "z" + name[at:], name[:at] + name[at] * 2])
    )
    if slip in NAMES or len(name.rpartition(".")[2]) < 4:
        return
    with pytest.raises(UsageError) as error:
        settings.read(None, [f"{slip}=1"])
    assert (
        "did you mean" in str(error.value) or name.rpartition(".")[2] in str(error.value) or "group" in str(error.value)
    )


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("c") / "c.yaml"
    path.write_text(text, encoding="utf-8", errors="surrogatepass") if text.isprintable() else path.write_bytes(
        text.encode()
    )
    try:
        settings.read(str(path))
    except InputError as e:
        assert "\n" not in str(e)


def test_every_preset_reads_and_differs_little():
    presets = settings.presets()
    assert {"default", "fast", "thorough", "cpu", "attack"} <= set(presets)
    flat = {s.name: s.default for s in settings.settings()}
    for name in presets:
        config = settings.read(name)
        changed = [n for n, default in flat.items() if _get(config, n) != default]
        assert len(changed) <= 5
        assert bool(changed) == (name != "default"), f"{name} changes {changed}"


def test_the_default_preset_names_every_basic_setting():
    path = settings.presets()["default"]
    named = {name for name, _, _ in settings._entries(path)}
    assert named == {s.name for s in settings.settings() if s.basic}


def test_there_are_few_settings():
    every = settings.settings()
    assert len(every) <= 35
    assert 8 <= sum(s.basic for s in every) <= 12
    assert all(s.help for s in every)


def test_defaults_pass_their_own_checks_and_the_record_reads_back():
    for s in settings.settings():
        assert s.check(s.default, "x") == s.default
    record = settings.as_dict(Config(seed=7))
    assert record["seed"] == 7 and record["bounds"]["method"] == Config().bounds.method


def _get(config, name):
    for part in name.split("."):
        config = getattr(config, part)
    return config
