"""The one registry of contenders: who they are, what they need, how they are called, and whether they are right."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import pkgutil
from collections.abc import Sequence
from dataclasses import dataclass, field

from .cells import BACKWARD, DTYPES, FORWARD, NUMPY_OFFSET, OFFSETS, OPERATIONS, Arrays, Prepared
from .errors import Exact, OutputsError, largest_error

SUBJECT, VARIANT, PEER, FLOOR = "subject", "variant", "peer", "floor"
# A library that is called from C++ alone: shown beside the floor, and no peer, for no Python user reaches it.
NATIVE = "native"

# Generous: ten bits worse than a perfect result. What computes in fewer bits than it was given is beyond.
LARGEST_ERROR = 1000.0

NO_BACKWARD = "has no backward pass"
FLOAT32_ONLY = "computes in float32 only"
# Of those who are slow to prepare, or are never the fastest: cells with arrays on cache lines are a second look.
NUMPY_OFFSET_ONLY = "is timed on arrays as NumPy places them only"


class RefusedError(Exception):
    """Why a contender is not timed, in one line. `error` is the largest one, where the result was wrong."""

    def __init__(self, reason: str, error: float | None = None):
        super().__init__(reason)
        self.error = error


@dataclass(frozen=True)
class Contender:
    """A way to compute layer norm.

    Attributes
    ----------
    name : str
        As shown.
    kind : str
        The subject (fastln with `out=`), a variant of it, a peer, the floor, or native.
    module : str
        Of `benchmarks.peers`, or any module in full: has `set_threads` and the functions below. That of a native
        contender has `missing` and `versions` too, and can be imported even where the library is not installed.
    functions : dict
        Operation -> name of a function that makes a `Prepared` of `Arrays`.
    needs : tuple of str
        Distributions to install, which are also the modules to import.
    refuses : dict
        Operation or dtype -> why it cannot be done.
    offsets : tuple of int
        Where the arrays begin, of cells in which it is timed.
    """

    name: str
    kind: str
    module: str
    functions: dict[str, str] = field(default_factory=lambda: {FORWARD: "forward", BACKWARD: "backward"})
    needs: tuple[str, ...] = ()
    refuses: dict[str, str] = field(default_factory=dict)
    offsets: tuple[int, ...] = OFFSETS

    @property
    def key(self) -> str:
        """The name as one types it: pytorch-compiled."""
        return self.name.lower().replace(" ", "-")

    def missing(self) -> str | None:
        """What has to be installed before this can run, or None."""
        if self.kind == NATIVE:
            return self._resolve("missing")()
        names = [name for name in self.needs if importlib.util.find_spec(name) is None]
        return f"not installed: pip install {' '.join(names)}" if names else None

    def versions(self) -> dict[str, str]:
        """The versions of what it needs."""
        if self.kind == NATIVE:
            return self._resolve("versions")()
        return {name: importlib.metadata.version(name) for name in self.needs}

    def set_threads(self, threads: int) -> None:
        """Set the library's number of threads, where it is a setting of the library."""
        self._resolve("set_threads")(threads)

    def prepare(self, operation: str, arrays: Arrays) -> Prepared:
        """Make the call for these arrays; RefusedError if it cannot be made."""
        for word in (operation, arrays.x.dtype.name):
            if word in self.refuses:
                raise RefusedError(self.refuses[word])
        if reason := self.missing():
            raise RefusedError(reason)
        if arrays.offset not in self.offsets:
            raise RefusedError(NUMPY_OFFSET_ONLY)
        return self._resolve(self.functions[operation])(arrays)

    def prepare_checked(self, operation: str, arrays: Arrays, exact: Exact) -> tuple[Prepared, float | None]:
        """A call whose result has been found right, and its largest error (None for the floor).

        Raises
        ------
        RefusedError
            If it is missing, cannot do it, fails, or gives a wrong result.
        """
        try:
            prepared = self.prepare(operation, arrays)
            outputs = prepared.outputs(prepared.call())
            error = None if self.kind == FLOOR else largest_error(outputs, exact)
        except (RefusedError, KeyboardInterrupt):
            raise
        except OutputsError as failure:
            raise RefusedError(f"wrong result: {failure}") from None
        except Exception as failure:  # whatever a library raises is the reason why it is absent
            raise RefusedError(one_line(failure)) from failure
        if error is not None and not error <= LARGEST_ERROR:
            raise RefusedError(f"wrong result: largest error {error:.3g} eps, allowed {LARGEST_ERROR:g}", error)
        return prepared, error

    def _resolve(self, function: str):
        module = self.module if "." in self.module else f"{__package__}.peers.{self.module}"
        return pkgutil.resolve_name(f"{module}:{function}")


def one_line(failure: BaseException) -> str:
    """The type and the first line of an exception."""
    lines = str(failure).strip().splitlines()
    return f"{type(failure).__name__}: {lines[0][:160]}" if lines else type(failure).__name__


CONTENDERS = (
    Contender("copy", FLOOR, "memory_copy"),
    Contender("fastln", SUBJECT, "fastln_calls"),
    Contender(
        "fastln allocating",
        VARIANT,
        "fastln_calls",
        functions={operation: f"{operation}_allocating" for operation in OPERATIONS},
        offsets=(NUMPY_OFFSET,),
    ),
    Contender(
        "NumPy",
        PEER,
        "numpy_formulas",
        functions={operation: f"{operation}_as_written" for operation in OPERATIONS},
        needs=("numpy",),
        offsets=(NUMPY_OFFSET,),
    ),
    Contender(
        "NumPy at best",
        PEER,
        "numpy_formulas",
        functions={operation: f"{operation}_at_best" for operation in OPERATIONS},
        needs=("numpy",),
        offsets=(NUMPY_OFFSET,),
    ),
    Contender("PyTorch", PEER, "pytorch", needs=("torch",)),
    Contender(
        "PyTorch compiled",
        PEER,
        "pytorch",
        functions={operation: f"{operation}_compiled" for operation in OPERATIONS},
        needs=("torch",),
        offsets=(NUMPY_OFFSET,),
    ),
    Contender(
        "ONNX Runtime",
        PEER,
        "onnx_runtime",
        needs=("onnxruntime", "onnx"),
        refuses={BACKWARD: NO_BACKWARD},
        offsets=(NUMPY_OFFSET,),
    ),
    Contender(
        "OpenVINO",
        PEER,
        "openvino_model",
        needs=("openvino",),
        refuses={BACKWARD: NO_BACKWARD},
        offsets=(NUMPY_OFFSET,),
    ),
    Contender("JAX", PEER, "jax_jit", needs=("jax",), offsets=(NUMPY_OFFSET,)),
    Contender("numba", PEER, "numba_loops", needs=("numba",)),
    Contender("oneDNN", NATIVE, "onednn", refuses={dtype: FLOAT32_ONLY for dtype in DTYPES if dtype != "float32"}),
)


def select(keys: Sequence[str] | None, contenders: Sequence[Contender] = CONTENDERS) -> list[Contender]:
    """All contenders, or fastln, the copy and the libraries with these keys.

    Raises
    ------
    ValueError
        If a key is of no library.
    """
    if keys is None:
        return list(contenders)
    chosen = [contender.key for contender in contenders if contender.kind in (PEER, NATIVE)]
    for key in keys:
        if key not in chosen:
            raise ValueError(f"must be of {', '.join(chosen)}, got {key!r}")
    return [contender for contender in contenders if contender.key not in chosen or contender.key in keys]
