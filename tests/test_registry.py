"""Registries: a name is taken once, rooms fill themselves, and what the source declares is what loading registers."""

from __future__ import annotations

import subprocess
import sys

import pytest

from verifier.bounds import METHODS
from verifier.branching import HEURISTICS
from verifier.config import BoundsConfig
from verifier.ops import OPS
from verifier.registry import Registry

ROOMS = [METHODS, HEURISTICS, OPS]


@pytest.mark.parametrize("registry", ROOMS, ids=lambda r: r.what)
def test_declared_is_what_gets_registered(registry):
    assert registry.load() is registry
    assert list(registry) == sorted(registry.declared) and len(registry.declared) > 1
    assert all(name in registry and registry[name] is not None for name in registry)


def test_a_name_is_taken_once():
    things = Registry("thing", "verifier.bounds", "THINGS")
    first = things.add("a", "b")(object())
    with pytest.raises(ValueError, match="'b' is registered twice"):
        things.add("b")(object())
    assert things["a"] is things["b"] is first and list(things) == ["a", "b"]
    assert "c" not in things
    with pytest.raises(KeyError):
        things["c"]


def test_only_decorators_of_its_own_variable_count():
    assert not Registry("thing", "verifier.bounds", "THINGS").declared
    assert Registry("thing", "verifier.bounds", "METHODS").declared == METHODS.declared


def test_names_are_known_without_torch():
    code = "import sys; from verifier.ops import OPS; assert 'Relu' in OPS.declared; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_configuration_offers_the_methods():
    choices = BoundsConfig.__dataclass_fields__["method"].metadata["choices"]
    assert sorted(set(choices) - {"auto"}) == list(METHODS.load())
