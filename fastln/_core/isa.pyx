"""Choice of the instruction set: the best one at import, or the one that FASTLN_ISA names."""

import os

from fastln._core.describe import describe

cdef extern from "fastln.h" nogil:
    const fln_kernels* const* fln_compiled
    int fln_cpu_supports(const char* isa)

cdef extern from *:
    """
    #if defined(__clang__)
    #define FLN_COMPILER "clang " __clang_version__
    #elif defined(__GNUC__)
    #define FLN_COMPILER "gcc " __VERSION__
    #else
    #define FLN_COMPILER "unknown"
    #endif
    """
    const char* FLN_COMPILER
    const char* FLN_BUILD_FLAGS

cdef str _reason


def compiled_isas() -> tuple[str, ...]:
    """Names of the instruction sets compiled into this build, best first."""
    cdef list names = []
    cdef int i = 0
    while fln_compiled[i] != NULL:
        names.append(fln_compiled[i].isa.decode())
        i += 1
    return tuple(names)


def available_isas() -> tuple[str, ...]:
    """Names of the instruction sets that can be chosen on this machine.

    Returns
    -------
    tuple of str
        Compiled in and supported by this CPU, best first: of "avx512", "avx2", "neon", "sse2" and "scalar".

    Examples
    --------
    >>> import fastln
    >>> fastln.available_isas()  # doctest: +SKIP
    ('avx2', 'sse2', 'scalar')
    >>> fastln.available_isas()[-1]
    'scalar'
    """
    return tuple(isa for isa in compiled_isas() if fln_cpu_supports(isa.encode()))


def get_isa() -> str:
    """Name of the instruction set whose kernels run.

    Examples
    --------
    >>> import fastln
    >>> fastln.get_isa() in fastln.available_isas()
    True
    """
    return active.isa.decode()


def set_isa(name: str) -> None:
    """Choose the instruction set for all calls that begin from now on, in every thread.

    Meant for tests and benchmarks. FASTLN_ISA in the environment does the same at import.

    Parameters
    ----------
    name : str
        One of `available_isas()`.

    Raises
    ------
    TypeError
        If name is not a string.
    ValueError
        If it is unknown, not compiled in, or not supported by this CPU.

    Examples
    --------
    >>> import fastln
    >>> best = fastln.get_isa()
    >>> fastln.set_isa("scalar")
    >>> fastln.get_isa()
    'scalar'
    >>> fastln.set_isa(best)
    """
    if not isinstance(name, str):
        raise TypeError(f"name must be a string, got {describe(name)}")
    _choose(name, "name", "set_isa")


def isa_reason() -> str:
    """Why the active instruction set was chosen."""
    return _reason


def build_info() -> dict[str, object]:
    """Compiler, its flags, and the instruction sets compiled in."""
    return {
        "compiler": FLN_COMPILER.decode(),
        "flags": FLN_BUILD_FLAGS.decode(),
        "isas": list(compiled_isas()),
    }


cdef int _choose(str name, str argument, str reason) except -1:
    global active, _reason
    available = available_isas()
    if name not in available:
        raise ValueError(f"{argument} must be one of {', '.join(available)}, got {describe(name)}")
    active = fln_compiled[compiled_isas().index(name)]
    _reason = reason
    return 0


def _choose_at_import():
    forced = os.environ.get("FASTLN_ISA", "")
    if not forced:
        _choose(available_isas()[0], "isa", "best of those that this CPU supports")
        return
    try:
        _choose(forced, "FASTLN_ISA", "FASTLN_ISA")
    except ValueError as error:
        raise ImportError(str(error)) from None


_choose_at_import()
