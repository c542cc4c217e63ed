"""Reading settings: a YAML file and `--set key=value` words become a `Config`. Imports no torch.

The dataclasses of `verifier.config` are the only description of what may be set; the checks, the table for people and
the record of a run are all derived from their fields, so nothing here changes when a setting is added. YAML is
*composed*, not loaded: its nodes carry the line they stand on, and a mistake is answered with file, line and the
nearest setting there is.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, get_type_hints

from verifier.config import Config, Setting, setting_of
from verifier.result import FileError, UsageError


def settings() -> tuple[Setting, ...]:
    """Every setting, in the order of the dataclasses."""
    return tuple(_walk(Config))


def _walk(cls: type) -> Iterator[Setting]:
    hints = get_type_hints(cls)
    for f in fields(cls):
        if is_dataclass(hints[f.name]):
            yield from _walk(hints[f.name])
        else:
            yield setting_of(cls, f.name)


def as_dict(config: Any) -> dict[str, Any]:
    """The settings as nested plain values, for the record of a run."""
    return {
        f.name: as_dict(value) if is_dataclass(value) else value
        for f in fields(config)
        for value in [getattr(config, f.name)]
    }


def from_dict(values: Mapping[str, Any], config: Config | None = None, prefix: str = "") -> Config:
    """The reverse of `as_dict`; every value is checked."""
    config = config or Config()
    for name, value in values.items():
        if isinstance(value, Mapping):
            config = from_dict(value, config, f"{prefix}{name}.")
        else:
            config = _set(config, prefix + name, value, "settings")
    return config


def read(source: str | None = None, overrides: Iterable[str] = (), flags: Mapping[str, str] | None = None) -> Config:
    """The defaults, changed by the file or preset `source`, then by `overrides` (`key=value`), then by `flags`."""
    config = Config()
    if source is not None:
        path = find(source)
        for name, value, where in _entries(path):
            config = _set(config, name, value, where)
    for word in overrides:
        name, equals, text = word.partition("=")
        where = f"--set {word}"
        if not equals:
            raise UsageError(f"{where}: expected key=value, as in --set bounds.method=crown")
        config = _set(config, name.strip(), _scalar(text.strip(), where, name.strip()), where)
    for name, text in (flags or {}).items():
        where = f"--{name} {text}"
        config = _set(config, name, _scalar(text, where), where)
    return config


def presets() -> dict[str, Path]:
    """The presets that ship with clipbab, by name: in the package once installed, in configs/ of a source tree."""
    here = Path(__file__).resolve().parent
    for folder in (here / "_configs", here.parent / "configs"):
        if folder.is_dir():
            return {p.stem: p for p in sorted(folder.glob("*.yaml"))}
    return {}


def find(source: str) -> Path:
    """The file that `source` names: a path, or else the name of a preset."""
    path = Path(source)
    if path.is_file():
        return path
    known = presets()
    if source in known:
        return known[source]
    if path.is_dir():
        raise UsageError(f"--config {source}: is a folder; name a YAML file, or a preset: {', '.join(known)}")
    if path.suffix or len(path.parts) > 1:
        raise FileError(f"{source}: no such settings file")
    raise UsageError(f"--config {source}: no such file, and no preset of that name{_suggest(source, known)}")


def _set(config: Config, name: str, value: Any, where: str) -> Config:
    known = {s.name: s for s in settings()}
    if name not in known:
        part = any(n.startswith(name + ".") for n in known)
        hint = f"; it is a group: set {name}.… one by one" if part else _suggest(name, known)
        raise UsageError(f"{where}: unknown setting {name!r}{hint}")
    return _replaced(config, name.split("."), known[name].check(value, where))


def _replaced(config: Any, path: list[str], value: Any) -> Any:
    inner = value if len(path) == 1 else _replaced(getattr(config, path[0]), path[1:], value)
    return replace(config, **{path[0]: inner})


def _suggest(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` with the nearest of `known`, whole names first, then by last part; else all of them."""
    known = list(known)
    near = difflib.get_close_matches(name, known, 1, 0.6)
    tails = {k.rpartition(".")[2]: k for k in known}
    near = near or [tails[t] for t in difflib.get_close_matches(name.rpartition(".")[2], tails, 1, 0.6)]
    return f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(known)}"


def _entries(path: Path) -> list[tuple[str, Any, str]]:
    """(dotted name, value, file:line) for every leaf of the YAML file."""
    import yaml  # here, since most runs have no file, and every run pays for what is imported above

    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except OSError as e:
        raise FileError(f"{path}: cannot be read: {e.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path}: not a text file") from None
    except yaml.YAMLError as e:
        mark = getattr(e, "problem_mark", None)
        place = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        problem = getattr(e, "problem", None) or str(e).splitlines()[0]
        raise UsageError(f"{place}: not valid YAML: {problem}") from None
    except RecursionError:
        raise UsageError(f"{path}: not valid settings: nested too deep") from None
    if root is None:  # an empty file changes nothing
        return []
    if not isinstance(root, yaml.MappingNode):
        raise UsageError(f"{path}:{root.start_mark.line + 1}: expected settings of the form 'name: value'")
    return list(_leaves(path, root, "", {}))


def _leaves(path: Path, mapping: Any, prefix: str, seen: dict[str, int]) -> Iterator[tuple[str, Any, str]]:
    import yaml

    groups = {s.name.rpartition(".")[0] for s in settings()} - {""}
    for key, value in mapping.value:
        line = key.start_mark.line + 1
        where = f"{path}:{line}"
        if not isinstance(key, yaml.ScalarNode):
            raise UsageError(f"{where}: expected the name of a setting")
        name = prefix + key.value
        if name in seen:
            raise UsageError(f"{where}: {name!r} is set twice, first on line {seen[name]}")
        seen[name] = line
        if isinstance(value, yaml.MappingNode) and name in groups:
            yield from _leaves(path, value, name + ".", seen)
        elif isinstance(value, yaml.ScalarNode):
            if name in groups and value.tag.endswith(":null"):
                continue  # a heading with nothing below it
            read = yaml.SafeLoader("").construct_object(value)
            yield name, _number(read) if isinstance(read, str) and value.style is None else read, where
        else:
            yield name, "…", where  # a list or a group where no such thing can stand: refused by name or by type


def _scalar(text: str, where: str, name: str = "") -> Any:
    """The value that a word of the command line stands for, read as a file would read it; a name of the user's own
    (what the setting `name` may be is any word) is left as it is."""
    if not text:
        raise UsageError(f"{where}: the value is missing")
    if any(s.name == name and s.kind is str and not s.choices for s in settings()):
        return text
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return int(text)
    except ValueError:
        return _number(text)


def _number(text: str) -> Any:
    """YAML 1.1 takes 1e3 (without a point) for a word; people mean the number."""
    try:
        return float(text) if text[:1] in "+-.0123456789" and text else text
    except ValueError:
        return text


def table() -> str:
    """The settings as a Markdown table, basic ones first."""
    lines = ["| setting | default | may be | what it does |", "|---|---|---|---|"]
    for s in sorted(settings(), key=lambda s: not s.basic):
        mark = "**" if s.basic else ""
        default = f"{s.default:g}" if isinstance(s.default, float) else str(s.default)
        default = default.lower() if s.kind is bool else default
        lines.append(f"| {mark}`{s.name}`{mark} | `{default}` | {s.allowed()} | {s.help} |")
    return "\n".join(lines)
