"""What `python -m fastln` checks of an installed package, with nothing but NumPy and in seconds.

Each check is a generator: it yields a line for each promise that it finds broken. The tests of the repository check far
more; this is for a machine that has the package alone.
"""

from __future__ import annotations

import hashlib
import itertools
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import fastln
from fastln import LayerNormGRU, LayerNormLSTM, LayerNormRNN
from fastln import _reference as reference
from fastln import _reference_recurrent as reference_recurrent
from fastln._core.effort import set_min_parallel_bytes

Floats = NDArray[np.floating[Any]]
Results = dict[str, Floats]

DTYPES = ("float32", "float64")
# Around registers, steps, blocks and segments, and models' sizes.
COLS = (1, 7, 16, 64, 65, 100, 768, 1000, 4096)
# Mean of rows with standard deviation 1: the size of the mean is what other layer norms lose digits to.
MEANS = (0.0, 1e3, 1e4)
EPS = 1e-5
# What ordinary rows keep, in eps of the dtype: see docs/accuracy.md.
USUAL = {"y": 2, "dx": 4, "dweight": 2, "dbias": 2}
# Of outputs below 1 after 5 steps of ordinary numbers, in eps. Measured: up to 10.
SEQUENCE_ERROR = 50
# Instruction sets that promise the same bits, and a checksum of them.
FUSED = ("avx512", "avx2", "neon")
CHECKSUMS = {"float32": "4c2784ecf06851ca", "float64": "05df763d74919d14"}


class Rows(NamedTuple):
    """The arguments of a call forward and backward."""

    x: Floats
    weight: Floats
    bias: Floats
    dy: Floats


def make_rows(rows: int, cols: int, dtype: str, mean: float = 0.0) -> Rows:
    """Rows of standard deviation 1 around a mean: the same numbers for the same arguments.

    They come from the raw output of a bit generator, which NumPy never changes, and are added in a fixed order: the
    bits of the results can be stored.
    """

    def normal(what: str, *shape: int) -> Floats:
        seed = zlib.crc32(f"{what} {rows}x{cols}".encode())
        raw = np.random.PCG64(seed).random_raw(4 * int(np.prod(shape)))
        uniform = ((raw >> np.uint64(11)) * 2.0**-53).reshape(4, *shape)
        nearly: Floats = (((uniform[0] + uniform[1]) + (uniform[2] + uniform[3])) - 2.0) * 1.75
        return nearly

    x, dy = (normal(what, rows, cols) for what in ("x", "dy"))
    weight, bias = (normal(what, cols) for what in ("weight", "bias"))
    return Rows(*(array.astype(dtype) for array in (x + mean, weight, bias, dy)))


def results_of(given: Rows, num_threads: int | None = None) -> Results:
    """Everything that the forward and the backward pass give."""
    cols = given.x.shape[-1]
    y, mean, rstd = fastln.layer_norm_forward(given.x, cols, given.weight, given.bias, num_threads=num_threads)
    gradients = fastln.layer_norm_backward(given.dy, given.x, mean, rstd, given.weight, num_threads=num_threads)
    named = zip(("dx", "dweight", "dbias"), gradients, strict=True)
    return {"y": y, "mean": mean, "rstd": rstd, **{name: found for name, found in named if found is not None}}


@contextmanager
def running(isa: str) -> Iterator[None]:
    """Within: the kernels of this instruction set."""
    chosen = fastln.get_isa()
    fastln.set_isa(isa)
    try:
        yield
    finally:
        fastln.set_isa(chosen)


@contextmanager
def always_threads() -> Iterator[None]:
    """Within: calls of any size get the threads that they ask for."""
    previous = set_min_parallel_bytes(0)
    try:
        yield
    finally:
        set_min_parallel_bytes(previous)


def on_each_isa() -> Iterator[tuple[str, str]]:
    """Each available instruction set, active while its turn lasts, with each dtype."""
    for isa in fastln.available_isas():
        with running(isa):
            for dtype in DTYPES:
                yield isa, dtype


def forward_errors() -> dict[str, dict[str, float]]:
    """The largest error of any norm's y for each available instruction set and dtype, in eps times its size.

    Without the dtypes that the reference cannot judge on this platform.
    """
    errors: dict[str, dict[str, float]] = {}
    for isa, dtype in on_each_isa():
        if not reference.long_double_suffices(dtype):
            continue
        largest = 0.0
        for cols, mean in itertools.product(COLS, MEANS):
            given = make_rows(6, cols, dtype, mean)
            x, weight = given.x, given.weight
            for y, normalized, bias in (
                (fastln.layer_norm(x, cols, weight, given.bias, EPS), reference.normalize(x, EPS), given.bias),
                (fastln.rms_norm(x, cols, weight, EPS), reference.normalize_by_rms(x, EPS), None),
            ):
                exact = reference.scale_and_shift(normalized.x_hat, weight, bias)
                size = reference.output_size(normalized.x_hat, weight, bias)
                largest = max(largest, _in_eps(y - exact, size, dtype))
        errors.setdefault(isa, {})[dtype] = largest
    return errors


def check_gradients() -> Iterator[str]:
    """dx, dweight and dbias of ordinary rows keep their bounds."""
    for isa, dtype in on_each_isa():
        if not reference.long_double_suffices(dtype):
            continue
        for cols, mean in itertools.product(COLS[1:], MEANS):
            given = make_rows(20, cols, dtype, mean)
            normalized = reference.normalize(given.x)
            exact = reference.gradients(given.dy, normalized, given.weight)
            # Of dweight, each row by its largest x_hat.
            largest = np.broadcast_to(np.abs(normalized.x_hat).max(axis=-1, keepdims=True), normalized.x_hat.shape)
            sizes = reference.gradient_sizes(given.dy, normalized, given.weight)
            sizes = sizes._replace(dweight=reference.sum_rows(np.abs(given.dy) * largest))
            found = results_of(given)
            for name in ("dx", "dweight", "dbias"):
                error = _in_eps(found[name] - getattr(exact, name), getattr(sizes, name), dtype)
                if not error <= USUAL[name]:
                    yield f"{isa} {dtype}: {name} of 20x{cols}, mean {mean:g}, is off by {error:.3g} eps"


def _in_eps(error: Floats, size: Floats, dtype: str) -> float:
    return float((np.abs(error) / size).max()) / float(np.finfo(dtype).eps)


def check_isas() -> Iterator[str]:
    """The same bits with AVX2, AVX-512 and NEON: those whose checksums are stored."""
    for isa, dtype in on_each_isa():
        if isa not in FUSED:
            continue
        digest = hashlib.sha256()
        for cols in (*COLS, 20_000):
            for result in results_of(make_rows(11, cols, dtype)).values():
                digest.update(result.tobytes())
        found = digest.hexdigest()[:16]
        if found != CHECKSUMS[dtype]:
            yield f"{isa} {dtype}: the results have the checksum {found}, not {CHECKSUMS[dtype]}"


def check_threads() -> Iterator[str]:
    """The same bits on any number of threads: many rows, a few long ones, one that is shared."""
    with always_threads():
        for isa, dtype in on_each_isa():
            for rows, cols in ((300, 100), (37, 768), (3, 40_000), (1, 100_000)):
                given = make_rows(rows, cols, dtype)
                alone = results_of(given, num_threads=1)
                for threads in (2, 3):
                    together = results_of(given, num_threads=threads)
                    for name in _differing(alone, together):
                        yield f"{isa} {dtype}: {name} of {rows}x{cols} has other bits on {threads} threads"


def check_batches() -> Iterator[str]:
    """The same bits for a row alone, in wider rows, into given buffers and in place."""
    for isa, dtype in on_each_isa():
        for cols in COLS:
            given = make_rows(9, cols, dtype)
            usual = results_of(given)
            by_row = ("y", "mean", "rstd", "dx")
            alone = [results_of(given._replace(x=given.x[i : i + 1], dy=given.dy[i : i + 1])) for i in range(9)]
            ways = {"row by row": {name: np.concatenate([row[name] for row in alone]) for name in by_row}}
            wider = np.zeros((2, 9, cols + 3), dtype)[:, :, 1 : cols + 1]
            wider[:] = given.x, given.dy
            ways["in wider rows"] = results_of(given._replace(x=wider[0], dy=wider[1]))
            ways["into buffers"] = _written(given, usual, np.full_like(given.x, np.nan), np.full_like(given.x, np.nan))
            own = given._replace(x=given.x.copy(), dy=given.dy.copy())
            ways["in place"] = _written(own, usual, own.x, own.dy)
            for way, found in ways.items():
                for name in _differing({name: usual[name] for name in found}, found):
                    yield f"{isa} {dtype}: {name} of 9x{cols} has other bits {way}"


def _written(given: Rows, saved: Results, y: Floats, dx: Floats) -> Results:
    """Write y and dx to these buffers, which may be x and dy themselves."""
    x, weight, bias, dy = given
    # First the gradients: in place, y replaces the x that they need.
    found = fastln.layer_norm_backward(dy, x, saved["mean"], saved["rstd"], weight, out=dx)[0]
    if found is not dx or fastln.layer_norm(x, x.shape[-1], weight, bias, out=y) is not y:
        raise AssertionError("out is not returned")
    return {"y": y, "dx": dx}


def _differing(first: Results, second: Results) -> list[str]:
    return [name for name in first if first[name].tobytes() != second[name].tobytes()]


def check_residuals() -> Iterator[str]:
    """A norm of a sum has the bits of the two calls, in place too; what reaches the sum beside it is added to dx."""
    with always_threads():
        for isa, dtype in on_each_isa():
            for rows, cols in ((1, 7), (9, 64), (37, 768), (3, 40_000)):
                x, weight, bias, residual = make_rows(rows, cols, dtype)
                s: Floats = x + residual
                y, mean, rstd = fastln.layer_norm_forward(s, cols, weight, bias)
                dx: Floats = fastln.layer_norm_backward(x, s, mean, rstd, weight)[0] + residual
                usual: Results = {"y": y, "s": s, "dx": dx}
                for threads in (1, 3):
                    stream = residual.copy()
                    y, s, mean, rstd = fastln.add_layer_norm_forward(
                        x, stream, cols, weight, bias, residual_out=stream, num_threads=threads
                    )
                    dx, _, _ = fastln.add_layer_norm_backward(x, residual, s, mean, rstd, weight, num_threads=threads)
                    for name in _differing(usual, {"y": y, "s": s, "dx": dx}):
                        yield f"{isa} {dtype}: {name} of {rows}x{cols} with a residual has other bits"
                if not np.array_equal(
                    fastln.add_rms_norm(x, residual, cols, weight)[0], fastln.rms_norm(x + residual, cols, weight)
                ):
                    yield f"{isa} {dtype}: y of {rows}x{cols} with a residual and RMS norm has other bits"
                x, residual = x.astype(np.float16), residual.astype(np.float16)
                y, s = fastln.add_layer_norm(x, residual, cols, weight, bias)
                usual = {"y": fastln.layer_norm(x + residual, cols, weight, bias), "s": x + residual}
                for name in _differing(usual, {"y": y, "s": s}):
                    yield f"{isa} float16: {name} of {rows}x{cols} with a residual has other bits"


def check_halves() -> Iterator[str]:
    """Results for float16 are those of float32, rounded once."""
    for isa in fastln.available_isas():
        with running(isa):
            for cols in (*COLS, 20_000):
                given = Rows(*(array.astype(np.float16) for array in make_rows(11, cols, "float32")))
                wide = results_of(Rows(*(array.astype(np.float32) for array in given)))
                found = results_of(given)
                for name in _differing(found, {name: wide[name].astype(one.dtype) for name, one in found.items()}):
                    yield f"{isa} float16: {name} of 11x{cols} is not that of float32, rounded"


def check_sequences() -> Iterator[str]:
    """Recurrence is the paper's, and its bits those of each sequence alone, of any threads and of step after step."""
    with always_threads():
        for isa, dtype in on_each_isa():
            x = np.random.default_rng(0).standard_normal((5, 9, 40)).astype(dtype)
            for kind in (LayerNormRNN, LayerNormLSTM, LayerNormGRU):
                network = kind(40, 70, dtype=dtype, rng=0)
                y, _ = network(x, num_threads=1)
                if reference.long_double_suffices(dtype):
                    error = _in_eps(y - _exact_outputs(network, x), np.ones(()), dtype)
                    if not error <= SEQUENCE_ERROR:
                        yield f"{isa} {dtype}: y of {kind.__name__} is off by {error:.3g} eps"
                ways = {
                    "on 3 threads": network(x, num_threads=3)[0],
                    "alone": np.concatenate([network(x[:, row : row + 1])[0] for row in range(9)], axis=1),
                    "step by step": np.stack(_outputs_of_steps(network, x)),
                }
                for way, found in ways.items():
                    if not np.array_equal(found, y):
                        yield f"{isa} {dtype}: y of {kind.__name__} has other bits {way}"


def _outputs_of_steps(network: Any, x: Floats) -> list[Floats]:
    frozen, state, outputs = network.freeze(), None, []
    for x_t in x:
        state = frozen.step(x_t, state)
        outputs.append((state[0] if isinstance(state, tuple) else state)[-1])
    return outputs


def _exact_outputs(network: Any, x: Floats) -> Floats:
    """Those of one layer from a state of zeros, in long double."""
    kind = {LayerNormRNN: "rnn", LayerNormLSTM: "lstm", LayerNormGRU: "gru"}[type(network)]
    parameters = {name.replace("_l0", ""): value for name, value in network.parameters.items()}
    zeros = np.zeros((x.shape[1], network.hidden_size), x.dtype)
    state = (zeros,) * reference_recurrent.CELLS[kind].states
    return reference_recurrent.forward(kind, x, state, parameters, reference_recurrent.Options(network.eps))[0]


def check_special_rows() -> Iterator[str]:
    """NaN and Inf stay in their row, and a constant row gives exactly bias."""
    for isa, dtype in on_each_isa():
        for cols in COLS[1:]:
            given = make_rows(9, cols, dtype)
            usual = results_of(given)["y"]
            x = given.x.copy()
            x[2, 0], x[5, -1], x[7] = np.nan, np.inf, 1.1
            y = fastln.layer_norm(x, cols, given.weight, given.bias)
            if not np.isnan(y[[2, 5]]).all():
                yield f"{isa} {dtype}: NaN or Inf in a row of {cols} does not make it NaN"
            if not np.array_equal(y[7], given.bias):
                yield f"{isa} {dtype}: a constant row of {cols} does not give bias"
            if not np.array_equal(y[[0, 1, 3, 4, 6, 8]], usual[[0, 1, 3, 4, 6, 8]]):
                yield f"{isa} {dtype}: NaN, Inf or a constant row changes another row of {cols}"


def check_errors() -> Iterator[str]:
    """Wrong calls raise what they should, name the argument and write nothing."""
    x, weight, bias, dy = make_rows(3, 8, "float32")
    out = np.full_like(x, 7)
    read_only = x.copy()
    read_only.flags.writeable = False
    _, mean, rstd = fastln.layer_norm_forward(x)
    calls: list[tuple[str, type[Exception], Callable[[], Any]]] = [
        ("x", TypeError, lambda: fastln.layer_norm(np.ones((3, 8), np.int64))),
        ("x", ValueError, lambda: fastln.layer_norm(np.float32(1), out=out)),
        ("normalized_shape", ValueError, lambda: fastln.layer_norm(x, 7, out=out)),
        ("weight", ValueError, lambda: fastln.layer_norm(x, 8, weight[1:], bias, out=out)),
        ("bias", ValueError, lambda: fastln.layer_norm(x, 8, weight, bias[1:], out=out)),
        ("eps", ValueError, lambda: fastln.layer_norm(x, 8, weight, bias, -1.0, out=out)),
        ("out", ValueError, lambda: fastln.layer_norm(x, 8, out=out[1:])),
        ("out", ValueError, lambda: fastln.layer_norm(x, 8, out=read_only)),
        ("out", TypeError, lambda: fastln.layer_norm(x.astype(np.float64), 8, out=out)),
        ("num_threads", ValueError, lambda: fastln.layer_norm(x, 8, out=out, num_threads=0)),
        ("dy", ValueError, lambda: fastln.layer_norm_backward(dy[1:], x, mean, rstd, out=out)),
        ("mean", ValueError, lambda: fastln.layer_norm_backward(dy, x, mean[1:], rstd, out=out)),
    ]
    for argument, kind, call in calls:
        try:
            call()
        except kind as error:
            if argument not in str(error):
                yield f"the error of a wrong {argument} does not name it: {error}"
        except Exception as error:
            yield f"a wrong {argument} raises {type(error).__name__}, not {kind.__name__}"
        else:
            yield f"a wrong {argument} is accepted"
        if not (out == 7).all():
            yield f"a call with a wrong {argument} has written to out"
            out[:] = 7


CHECKS: dict[str, Callable[[], Iterator[str]]] = {
    "gradients are accurate": check_gradients,
    "instruction sets give the stored bits": check_isas,
    "threads change no bit": check_threads,
    "batches, layouts and buffers change no bit": check_batches,
    "sums with a residual have the bits of two calls": check_residuals,
    "float16 is computed in float32 and rounded once": check_halves,
    "sequences are the paper's, and step after step": check_sequences,
    "NaN, Inf and constant rows": check_special_rows,
    "wrong calls are refused": check_errors,
}


def broken_promises(check: Callable[[], Iterator[str]]) -> list[str]:
    """What a check finds broken; an exception in it is one more."""
    found: list[str] = []
    try:
        found.extend(check())
    except Exception as error:
        found.append(f"{type(error).__name__}: {error}")
    return found
