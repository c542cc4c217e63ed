"""clipbab: a neural network verifier. `verifier.api.verify` is the way in from Python, `verify` from the shell."""

import os

__version__ = "0.1.0"

# ONNX Runtime reads this when it is first imported; without it, it keeps a queue of events about this machine in the
# user's cache folder and sends them home. Every way into this package passes here before that import.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
