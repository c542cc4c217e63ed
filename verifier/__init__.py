"""clipbab: a neural network verifier. `verifier.api.verify` is the way in from Python, `verify` from the shell."""

__version__ = "0.1.0"
