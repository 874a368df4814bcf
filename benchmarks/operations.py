"""The registry of operations: what each reads and writes, and what is right.

A new one is an entry here, and a function of its name in each of `peers/` that has it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fastln import _reference as reference

# Arrays of the shape of x. The others are parameters, (cols,), and moments, (rows, 1).
ROWS = ("x", "residual", "dy", "ds", "y", "sum", "dx")


@dataclass(frozen=True)
class Operation:
    """A function of fastln.

    Attributes
    ----------
    name : str
        Of the function, of those of the peers, in files of results, and on the command line.
    title : str
        In tables and pictures, and on the command line too.
    reads : tuple of str
        The arrays that it is given, by their names in `Arrays`.
    writes : tuple of str
        Its results in their order: y, and the sum of x and the residual; or the gradients that it has.
    normalize : callable
        Of `fastln._reference`: the exact rows before weight and bias, from x (or that sum), eps and precision.
    """

    name: str
    title: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    normalize: Callable[..., reference.Normalized]

    @property
    def moved(self) -> int:
        """How many arrays of the shape of x it must read and write. Parameters and moments are left out."""
        return sum(name in ROWS for name in (*self.reads, *self.writes))


LAYER_NORM, LAYER_NORM_BACKWARD = "layer_norm", "layer_norm_backward"
RMS_NORM, RMS_NORM_BACKWARD = "rms_norm", "rms_norm_backward"
ADD_LAYER_NORM, ADD_LAYER_NORM_BACKWARD = "add_layer_norm", "add_layer_norm_backward"
ADD_RMS_NORM, ADD_RMS_NORM_BACKWARD = "add_rms_norm", "add_rms_norm_backward"

# {name: operation}, in the order in which they are timed and shown.
OPERATIONS = {
    operation.name: operation
    for operation in (
        Operation(
            LAYER_NORM,
            "forward",
            reads=("x", "weight", "bias"),
            writes=("y",),
            normalize=reference.normalize,
        ),
        Operation(
            LAYER_NORM_BACKWARD,
            "backward",
            reads=("dy", "x", "mean", "rstd", "weight"),
            writes=("dx", "dweight", "dbias"),
            normalize=reference.normalize,
        ),
        Operation(
            RMS_NORM,
            "RMS norm",
            reads=("x", "weight"),
            writes=("y",),
            normalize=reference.normalize_by_rms,
        ),
        Operation(
            RMS_NORM_BACKWARD,
            "RMS norm backward",
            reads=("dy", "x", "rstd", "weight"),
            writes=("dx", "dweight"),
            normalize=reference.normalize_by_rms,
        ),
        # With the residual of a transformer's block: x of the backward pass is the sum.
        Operation(
            ADD_LAYER_NORM,
            "add and norm",
            reads=("x", "residual", "weight", "bias"),
            writes=("y", "sum"),
            normalize=reference.normalize,
        ),
        Operation(
            ADD_LAYER_NORM_BACKWARD,
            "add and norm backward",
            reads=("dy", "ds", "x", "mean", "rstd", "weight"),
            writes=("dx", "dweight", "dbias"),
            normalize=reference.normalize,
        ),
        Operation(
            ADD_RMS_NORM,
            "add and RMS norm",
            reads=("x", "residual", "weight"),
            writes=("y", "sum"),
            normalize=reference.normalize_by_rms,
        ),
        Operation(
            ADD_RMS_NORM_BACKWARD,
            "add and RMS norm backward",
            reads=("dy", "ds", "x", "rstd", "weight"),
            writes=("dx", "dweight"),
            normalize=reference.normalize_by_rms,
        ),
    )
}


def find_operation(text: str) -> Operation:
    """The operation with this name or title.

    Raises
    ------
    ValueError
        If there is none.
    """
    for operation in OPERATIONS.values():
        if text in (operation.name, operation.title):
            return operation
    known = (f"{operation.name} ({operation.title})" for operation in OPERATIONS.values())
    raise ValueError(f"must be of {', '.join(known)}, got {text!r}")
