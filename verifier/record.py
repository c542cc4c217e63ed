"""The record of a run that `--json` asks for."""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import time
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from verifier import __version__, settings
from verifier.config import Config


def record(said: dict[str, Any], args: argparse.Namespace, config: Config, start: float) -> str:
    """The run as JSON: what was asked, what came of it, and how; `start` on the clock of `time.monotonic`."""
    found = {
        "verdict": said["verdict"],
        "reason": said["reason"],
        "model": os.path.abspath(args.model),
        "property": os.path.abspath(args.property),
        "wall_seconds": time.monotonic() - start,
        "seconds": said.get("seconds", {}),
        "stats": said.get("stats", {}),
        "plan": said.get("plan", []),
        "device": said.get("device", config.device),
        "seed": config.seed,
        "config": settings.as_dict(config),
        "versions": versions(),
        "counterexample": said.get("witness") or None,
    }
    return json.dumps(strict(found), indent=1) + "\n"


def versions() -> dict[str, Any]:
    """Of everything that an answer depends on; reads package records, imports none of the packages."""
    found: dict[str, Any] = {"clipbab": __version__, "python": platform.python_version()}
    for package in ("torch", "numpy", "onnx", "onnxruntime"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def strict(value: Any) -> Any:
    """The value with null for numbers that JSON does not have."""
    if isinstance(value, dict):
        return {str(k): strict(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [strict(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
