"""Operators as facts, pure mathematics on torch tensors. `base` says which facts there are; every other file holds one
family.

A new operator is one class in one file, registered under its ONNX name; importing the room's modules is the registry's
work (`OPS.load`).
"""

from verifier.registry import Registry

OPS: Registry = Registry("operator", "verifier.ops", "OPS")
