"""Bounding methods, one a file, all written from the facts that operators state. Each registers in `METHODS`."""

from verifier.registry import Registry

METHODS: Registry = Registry("bounding method", "verifier.bounds", "METHODS")
