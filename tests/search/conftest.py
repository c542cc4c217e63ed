"""Puts the shared test helpers within reach."""

import sys
from pathlib import Path

for folder in (Path(__file__).parent, Path(__file__).parent.parent, Path(__file__).parent.parent / "bounds"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
