"""Falsification: points that may satisfy a disjunct, found by gradients and by sampling. Nothing here decides; ONNX
Runtime does.
"""
