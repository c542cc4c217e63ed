"""Registries: name -> thing, filled by decorators where the thing is written.

A room (a package such as `verifier.ops`) owns one registry. Its modules register with `@OPS.add("Relu")`; `load()`
imports every module of the room, so that no list is edited when a file is added. `declared()` reads the registered
names from the source text without importing anything: that is how the command says within a fraction of a second that
a model's operator is unknown, before torch is up.
"""

from __future__ import annotations

import ast
import importlib
import pkgutil
from collections.abc import Callable, Iterator
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Generic, TypeVar

T = TypeVar("T")


class Registry(Generic[T]):
    """Things of one kind by name. `variable` is the name the registry is bound to in the room's source (for
    `declared`).
    """

    def __init__(self, what: str, room: str, variable: str):
        self.what, self.room, self.variable = what, room, variable
        self._things: dict[str, T] = {}

    def add(self, *names: str) -> Callable[[T], T]:
        """Decorator that registers a thing under one or more names; a name taken twice is our bug: ValueError."""

        def register(thing: T) -> T:
            for name in names:
                if name in self._things:
                    raise ValueError(f"{self.what} {name!r} is registered twice: {self._things[name]} and {thing}")
                self._things[name] = thing
            return thing

        return register

    def load(self) -> Registry[T]:
        """Imports every module of the room once and returns the registry."""
        package = importlib.import_module(self.room)
        for module in pkgutil.iter_modules(package.__path__, self.room + "."):
            importlib.import_module(module.name)
        return self

    @cached_property
    def declared(self) -> frozenset[str]:
        """The names that the room's source registers, read from the decorators of what its modules define at the top;
        imports nothing.
        """
        origin = find_spec(self.room).submodule_search_locations[0]
        names: set[str] = set()
        for path in Path(origin).glob("*.py"):
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                names.update(self._names_in(node))
        return frozenset(names)

    def _names_in(self, node: ast.AST) -> Iterator[str]:
        for call in getattr(node, "decorator_list", []):
            f = getattr(call, "func", None)
            if isinstance(f, ast.Attribute) and f.attr == "add" and getattr(f.value, "id", None) == self.variable:
                yield from (a.value for a in call.args if isinstance(a, ast.Constant))

    def __getitem__(self, name: str) -> T:
        return self._things[name]

    def __contains__(self, name: str) -> bool:
        return name in self._things

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._things))
