"""Whether PyTorch is there, and has what the kernels need: an ImportError says what is missing."""

from __future__ import annotations

NEEDED = "torch must be PyTorch 2.10 or newer"

try:
    import torch

    version = torch.__version__
except (ModuleNotFoundError, AttributeError) as error:  # or another package of that name, even an empty folder
    if getattr(error, "name", None) not in ("torch", "__version__"):
        raise
    raise ImportError(f"{NEEDED}, got none: pip install torch", name="torch") from None

from fastln.torch._kernels import load  # noqa: E402

missing = load() or (None if hasattr(torch.library, "get_kernel") else "torch.library.get_kernel")
if missing:
    raise ImportError(f"{NEEDED}, got {version}, which lacks {missing}", name="torch")

from fastln.torch.originals import unknown_schema  # noqa: E402

changed = unknown_schema()
if changed:
    raise ImportError(f"torch must declare aten::{changed} as PyTorch 2.10 to 2.14 do, got {version}", name="torch")
