"""From arguments to rows of memory, and from rows to threads: what all operations share."""

import sys
from importlib.util import find_spec
from pathlib import Path

# Python would say that there is probably a circular import.
if find_spec("fastln._core.isa") is None:
    raise ImportError(
        f"fastln is not built in this folder for Python {sys.version_info.major}.{sys.version_info.minor}: "
        f"run `pip install -e .` in {Path(__file__).parents[2]}, or if fastln is installed, leave the folder"
    )
