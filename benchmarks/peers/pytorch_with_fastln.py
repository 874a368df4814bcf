"""PyTorch as in `pytorch.py`, with fastln as the kernel of its norms (`fastln.torch.enable`)."""

from __future__ import annotations

import fastln.torch

from ..grid.arrays import Arrays, Prepared
from . import pytorch

set_threads = pytorch.set_threads


def any_operation(arrays: Arrays) -> Prepared:
    """What PyTorch does, made and called while fastln is on."""
    with fastln.torch.enabled():
        prepared: Prepared = getattr(pytorch, arrays.operation.name)(arrays)
    return prepared._replace(within=fastln.torch.enabled)
