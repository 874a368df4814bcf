"""Fixtures, the guard against a stale build, and the table of largest errors at the end of a run."""

from __future__ import annotations

import importlib.util
import itertools
import os
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import numpy as np
import pytest
from regimes import DTYPES, ELEMENTS, is_narrow

ISAS = ("scalar", "sse2", "avx2", "avx512", "neon")

# What a test may ask for beside `operation`: {name of its argument: what that operation has of it, for a dtype}.
PER_OPERATION = {
    "dtype": lambda operation, dtype: [dtype],
    "case": lambda operation, dtype: operation.cases(dtype),
    "absent": lambda operation, dtype: absences_tried(operation, dtype),
    "argument": lambda operation, dtype: operation.arguments,
    "replaced": lambda operation, dtype: operation.in_place,
    "buffer": lambda operation, dtype: operation.buffers,
    "mask": lambda operation, dtype: operation.masks,
}


def absences_tried(operation, dtype):
    """Choices of optional arguments to leave out. Numbers of 16 bits have kernels for all parameters alone.

    For these, test_narrow.py sees to it that what is absent is as if it were there.
    """
    return operation.absences[:1] if is_narrow(dtype) else operation.absences


# {(quantity, isa, dtype name, regime): largest error, in eps (bounds.py)}
ERRORS = pytest.StashKey[dict]()


# Read when libgomp is loaded: idle members of a team sleep. They would spin between the many tiny calls of
# these tests, and on a busy machine that takes the time of those who work. Fresh processes do without.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def find_package():
    """The directory of the fastln that an import would find, or None."""
    spec = importlib.util.find_spec("fastln")
    return None if spec is None or spec.origin is None else Path(spec.origin).resolve().parent


def find_stale_build(root, package):
    """One line that says why the package to be tested is not what the sources in root say, or None.

    Says nothing about a package installed elsewhere: tests may be run against a wheel, from any place.
    """
    if package is None:
        return "fastln is not importable: build it (make test does), or install it"
    if package != root / "fastln":
        return None
    built = {path.name.split(".")[0]: path for suffix in EXTENSION_SUFFIXES for path in package.rglob(f"*{suffix}")}
    if not built:
        return "fastln is not built: run python setup.py build_ext --inplace"
    newest = max(built.values(), key=lambda path: path.stat().st_mtime)
    sources = [path for path in (root / "src").rglob("*") if path.is_file()]
    sources += [*package.rglob("*.pyx"), *package.rglob("*.pxd"), *package.rglob("*.h"), root / "setup.py"]
    for source in sources:
        # A .pyx is rebuilt alone; what the modules share is in all of them, or at least in the newest.
        module = built.get(source.stem, newest) if source.suffix == ".pyx" else newest
        if source.exists() and source.stat().st_mtime > module.stat().st_mtime:
            return f"stale build: {source.relative_to(root)} is newer than {module.name}; build again"
    return None


def pytest_configure(config):
    """Stop before anything imports a stale build."""
    config.addinivalue_line("markers", "once_per_kernel: not for operations that run on the kernel of another one")
    config.addinivalue_line("markers", "once_per_width: not for float16, whose loops are those of bfloat16")
    config.stash[ERRORS] = {}
    reason = find_stale_build(Path(__file__).resolve().parents[1], find_package())
    if reason:
        pytest.exit(reason, returncode=2)


def isas_here():
    """The instruction sets that this CPU runs and this build has, in the order of ISAS."""
    import fastln

    return [isa for isa in ISAS if isa in fastln.available_isas()]


def pytest_report_header():
    """Say which instruction sets are not tested, once and not by a skipped test for each."""
    here = isas_here()
    return f"instruction sets: {', '.join(here)}; not here: {', '.join(isa for isa in ISAS if isa not in here)}"


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_generate_tests(metafunc):
    """Operations and their cases vary slowest, ISAs fastest: cases are made once for all."""
    generate_for_operations(metafunc)
    result = yield
    if "isa" in metafunc.fixturenames and not _has_its_own(metafunc, "isa"):
        metafunc.parametrize("isa", isas_here(), indirect=True)
    return result


def generate_for_operations(metafunc):
    """Run a test that asks for `operation` for each of them, and for each of what else it asks for of the operation.

    It may have a dtype of x then that is only stored.
    """
    if "operation" not in metafunc.fixturenames or _has_its_own(metafunc, "operation"):
        if "dtype" in metafunc.fixturenames and not _has_its_own(metafunc, "dtype"):
            metafunc.parametrize("dtype", DTYPES, indirect=True)
        return
    from operations import OPERATIONS

    once = metafunc.definition.get_closest_marker("once_per_kernel")
    narrow_once = metafunc.definition.get_closest_marker("once_per_width")
    dtypes = [dtype for dtype in ELEMENTS if not (narrow_once and dtype == "float16")]
    names = [name for name in PER_OPERATION if name in metafunc.fixturenames and not _has_its_own(metafunc, name)]
    rows = [
        (operation, *chosen)
        for operation in OPERATIONS.values()
        if not (once and operation.kernel)
        for dtype in (dtypes if "dtype" in names else DTYPES[:1])
        for chosen in itertools.product(*(PER_OPERATION[name](operation, dtype) for name in names))
    ]
    metafunc.parametrize(("operation", *names), rows, ids=_id_of, indirect=["dtype"] if "dtype" in names else [])


def _has_its_own(metafunc, name):
    """Whether the test says itself what an argument is."""
    marks = metafunc.definition.iter_markers("parametrize")
    return any(name in (mark.args[0].split(",") if isinstance(mark.args[0], str) else mark.args[0]) for mark in marks)


def _id_of(value):
    if not isinstance(value, tuple):
        return str(value)
    if value and value[0] in (True, False):  # a mask
        return "".join("01"[wanted] for wanted in value)
    return f"no {' '.join(value)}" if value else "all"


def pytest_sessionfinish(session):
    """Hand the errors over where this process is one of several that share the tests (pytest-xdist)."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["errors"] = list(session.config.stash[ERRORS].items())


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    """Take over the errors that one of these processes has found."""
    errors = node.config.stash[ERRORS]
    for key, error in getattr(node, "workeroutput", {}).get("errors", ()):
        errors[tuple(key)] = max(errors.get(tuple(key), 0.0), error)


def pytest_terminal_summary(terminalreporter, config):
    """Print the accuracy tables, whatever the verbosity: they are a result, not a log."""
    from bounds import USUAL

    errors = config.stash[ERRORS]
    for quantity in dict.fromkeys(key[0] for key in errors):
        found = {key[1:]: error for key, error in errors.items() if key[0] == quantity}
        columns = sorted({key[:2] for key in found}, key=lambda key: (ISAS.index(key[0]), key[1]))
        regimes = list(dict.fromkeys(key[2] for key in found))
        width = max(map(len, regimes))
        terminalreporter.section(f"largest error of {quantity}, in eps (ordinary rows: at most {USUAL[quantity]})")
        for row in range(2):
            terminalreporter.write_line(" " * width + "".join(f"{column[row]:>9}" for column in columns))
        for regime in regimes:
            cells = (found.get((*column, regime)) for column in columns)
            line = "".join(f"{'-':>9}" if value is None else f"{value:9.3f}" for value in cells)
            terminalreporter.write_line(f"{regime:<{width}}{line}")


@pytest.fixture
def record_error(request):
    """record_error(quantity, isa, dtype, regime, error) puts a figure in a table; the largest one stays."""
    errors = request.config.stash[ERRORS]

    def record(quantity, isa, dtype, regime, error):
        key = (quantity, isa, np.dtype(dtype).name, regime)
        errors[key] = max(errors.get(key, 0.0), error)

    return record


@pytest.fixture
def isa(request):
    """Run the test once for each kernel set that this CPU can execute: see pytest_generate_tests."""
    import fastln

    previous = fastln.get_isa()
    fastln.set_isa(request.param)
    yield request.param
    fastln.set_isa(previous)


@pytest.fixture
def dtype(request):
    """Run the test once per dtype that the operations compute in; with `operation`, once per dtype that x may have.

    (See pytest_generate_tests.)
    """
    if request.param == "bfloat16":
        pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
    return np.dtype(request.param)


@pytest.fixture
def judged_dtype(dtype):
    """A dtype whose results long double can judge on this platform."""
    from fastln._reference import long_double_suffices

    if not long_double_suffices(dtype):
        pytest.skip(f"long double has {np.finfo(np.longdouble).nmant} bits here: too few to judge {dtype}")
    return dtype


@pytest.fixture
def openmp():
    """Skip where the package was built to run serially."""
    from internals import config

    if not config()["build"]["openmp"]:
        pytest.skip("built without OpenMP")


@pytest.fixture
def libgomp(openmp):
    """Skip where the runtime is not the one whose ways are tried."""
    from helpers import output_of

    runtimes = output_of("from internals import config; print(*config()['runtime']['openmp_library'])")
    if "libgomp.so.1" not in runtimes:
        pytest.skip("runs on another OpenMP runtime than libgomp")


@pytest.fixture
def torch():
    """PyTorch, where it is installed."""
    return pytest.importorskip("torch", reason="PyTorch is not installed")


@pytest.fixture
def always_parallel():
    """Let the team run however small the work: without this, small arrays would test one thread only."""
    from internals import min_parallel_bytes

    with min_parallel_bytes(0):
        yield
