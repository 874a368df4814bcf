"""The one registry of contenders: who they are, what they need, how they are called, and whether they are right."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

from .grid.arrays import Arrays, Prepared
from .grid.cells import DTYPES, NUMPY_OFFSET, OFFSETS
from .grid.errors import Exact, OutputsError, largest_error

SUBJECT, VARIANT, PEER, FLOOR = "subject", "variant", "peer", "floor"
# A library that is called from C++ alone: shown beside the floor, and no peer, for no Python user reaches it.
NATIVE = "native"

# Generous: ten bits worse than a perfect result. What computes in fewer bits than it was given is beyond.
LARGEST_ERROR = 1000.0


class RefusedError(Exception):
    """Why a contender is not timed, in one line. `error` is the largest one, where the result was wrong."""

    def __init__(self, reason: str, error: float | None = None):
        super().__init__(reason)
        self.error = error


@dataclass(frozen=True)
class Contender:
    """A way to compute what fastln computes.

    Attributes
    ----------
    name : str
        As shown.
    kind : str
        The subject (fastln with `out=`), a variant of it (whose kernels are fastln's), a peer, the floor, or native.
    module : str
        Of `benchmarks.peers`, or any module in full. It has `set_threads`, and for each operation that the library has
        a function of its name that makes a `Prepared` of `Arrays`; or one function `any_operation` for all of them.
        That of a native contender has `missing` and `versions` too, and can be imported even where the library is not
        installed.
    way : str
        Of several ways in which a module calls its library: what the names of the functions end with.
    needs : tuple of str
        Distributions to install, which are also the modules to import.
    dtypes : tuple of str
        In which it computes.
    offsets : tuple of int
        Where the arrays begin, of cells in which it is timed.
    """

    name: str
    kind: str
    module: str
    way: str = ""
    needs: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = DTYPES
    offsets: tuple[int, ...] = OFFSETS

    @property
    def key(self) -> str:
        """The name as one types it: pytorch-compiled."""
        return self.name.lower().replace(" ", "-")

    def missing(self) -> str | None:
        """What has to be installed before this can run, or None."""
        if self.kind == NATIVE:
            return self._module().missing()
        names = [name for name in self.needs if importlib.util.find_spec(name) is None]
        return f"not installed: pip install {' '.join(names)}" if names else None

    def versions(self) -> dict[str, str]:
        """The versions of what it needs."""
        if self.kind == NATIVE:
            return self._module().versions()
        return {name: importlib.metadata.version(name) for name in self.needs}

    def set_threads(self, threads: int) -> None:
        """Set the library's number of threads, where it is a setting of the library."""
        self._module().set_threads(threads)

    def prepare(self, arrays: Arrays) -> Prepared:
        """Make the call for these arrays; RefusedError if it cannot be made."""
        if arrays.x.dtype.name not in self.dtypes:
            raise RefusedError(f"computes in {' and '.join(self.dtypes)} only")
        if reason := self.missing():
            raise RefusedError(reason)
        if arrays.offset not in self.offsets:
            raise RefusedError("is timed on arrays as NumPy places them only")
        for name in (arrays.operation.name, "any_operation"):
            if function := getattr(self._module(), f"{name}_{self.way}".rstrip("_"), None):
                return function(arrays)
        raise RefusedError(f"has no {arrays.operation.name}")

    def prepare_checked(self, arrays: Arrays, exact: Exact) -> tuple[Prepared, float | None]:
        """A call whose result has been found right, and its largest error (None for the floor).

        Raises
        ------
        RefusedError
            If it is missing, cannot do it, fails, or gives a wrong result.
        """
        try:
            prepared = self.prepare(arrays)
            with prepared.within():
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

    def _module(self) -> ModuleType:
        return importlib.import_module(self.module if "." in self.module else f"{__package__}.peers.{self.module}")


def one_line(failure: BaseException) -> str:
    """The type and the first line of an exception."""
    lines = str(failure).strip().splitlines()
    return f"{type(failure).__name__}: {lines[0][:160]}" if lines else type(failure).__name__


# Of those who are slow to prepare, or are never the fastest: cells with arrays on cache lines are a second look.
FIRST_LOOK = (NUMPY_OFFSET,)

CONTENDERS = (
    Contender("copy", FLOOR, "memory_copy"),
    Contender("fastln", SUBJECT, "fastln_calls"),
    Contender("fastln allocating", VARIANT, "fastln_calls", "allocating", offsets=FIRST_LOOK),
    Contender("NumPy", PEER, "numpy_formulas", needs=("numpy",), offsets=FIRST_LOOK),
    Contender("NumPy at best", PEER, "numpy_formulas", "at_best", needs=("numpy",), offsets=FIRST_LOOK),
    Contender("PyTorch", PEER, "pytorch", needs=("torch",)),
    Contender("PyTorch with fastln", VARIANT, "pytorch_with_fastln", needs=("torch",)),
    Contender("PyTorch compiled", PEER, "pytorch", "compiled", needs=("torch",), offsets=FIRST_LOOK),
    Contender("ONNX Runtime", PEER, "onnx_runtime", needs=("onnxruntime", "onnx"), offsets=FIRST_LOOK),
    Contender("OpenVINO", PEER, "openvino_model", needs=("openvino",), offsets=FIRST_LOOK),
    Contender("JAX", PEER, "jax_jit", needs=("jax",), offsets=FIRST_LOOK),
    Contender("numba", PEER, "numba_loops", needs=("numba",), dtypes=("float32", "float64")),
    Contender("oneDNN", NATIVE, "onednn", dtypes=("float32",)),
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
    chosen = [contender.key for contender in contenders if contender.kind in (PEER, NATIVE) or contender.needs]
    for key in keys:
        if key not in chosen:
            raise ValueError(f"must be of {', '.join(chosen)}, got {key!r}")
    return [contender for contender in contenders if contender.key not in chosen or contender.key in keys]
