"""Whether PyTorch is there, and has what the kernels need: an ImportError says what is missing."""

from __future__ import annotations

NEEDED = "torch must be PyTorch 2.10 or newer"


def version_of_torch() -> str:
    """Its version; an ImportError if it is not there, or if a package or a mere folder of that name is."""
    try:
        import torch

        return str(torch.__version__)
    except (ModuleNotFoundError, AttributeError) as error:
        if error.name not in ("torch", "__version__"):
            raise
        raise ImportError(f"{NEEDED}, got none: pip install torch", name="torch") from None


def check(version: str) -> None:
    """Find what the kernels call, and see whether the operators are those that they know."""
    import torch

    from fastln.torch._kernels import load

    missing = load() or (None if hasattr(torch.library, "get_kernel") else "torch.library.get_kernel")
    if missing:
        raise ImportError(f"{NEEDED}, got {version}, which lacks {missing}", name="torch")
    from fastln.torch.originals import unknown_schema

    changed = unknown_schema()
    if changed:
        message = f"torch must declare aten::{changed} as PyTorch 2.10 to 2.14 do, got {version}"
        raise ImportError(message, name="torch")


check(version_of_torch())
