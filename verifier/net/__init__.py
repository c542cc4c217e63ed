"""The model as data: `graph` (what a network is), `load` (ONNX to Network), `simplify` (rewrites). Imports no torch."""
