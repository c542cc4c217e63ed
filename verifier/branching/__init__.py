"""Branching heuristics, one a file; each registers a function that scores the ways to split a domain."""

from verifier.registry import Registry

HEURISTICS: Registry = Registry("branching heuristic", "verifier.branching", "HEURISTICS")
