"""Branching heuristics, one a file; each registers a function that scores the ways to split a domain: `HEURISTICS`
those that halve a box along a dimension, `NEURONS` those that split a neuron at its kink.
"""

from verifier.registry import Registry

HEURISTICS: Registry = Registry("branching heuristic", "verifier.branching", "HEURISTICS")
NEURONS: Registry = Registry("neuron heuristic", "verifier.branching", "NEURONS")
