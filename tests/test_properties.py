"""Properties that hold for all arrays, tried on the shapes, strides and values Hypothesis thinks of."""

from __future__ import annotations

import numpy as np
import pytest
from bounds import PROMISED, output_error
from helpers import assert_all_same_bits, assert_same_bits
from operations import Kind
from regimes import DTYPES, NARROW

import fastln
from fastln._reference import long_double_suffices, normalize

hypothesis = pytest.importorskip("hypothesis", reason="Hypothesis is not installed")
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from hypothesis.extra import numpy as hnp  # noqa: E402

# The same examples in every run, and no judgement of their speed.
settings.register_profile(
    "fastln",
    derandomize=True,
    deadline=None,
    max_examples=150,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture, hypothesis.HealthCheck.too_slow],
)
settings.load_profile("fastln")

pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")

dtypes = st.sampled_from(DTYPES).map(np.dtype)
EPS = st.sampled_from([1e-12, 1e-6, 1e-5, 1e-3, 1.0])


def floats(dtype, **bounds):
    """Every finite number of a dtype, with a taste for the extremes."""
    width = dtype.itemsize * 8
    return st.floats(width=width, allow_nan=False, allow_infinity=False, **bounds)


def moderate(dtype):
    """Numbers of a size that parameters have."""
    return floats(dtype, min_value=-1024, max_value=1024, allow_subnormal=False)


@st.composite
def rows(draw, max_rows=4, max_cols=80):
    """A 2-d array of any finite values."""
    dtype = draw(dtypes)
    shape = draw(st.tuples(st.integers(1, max_rows), st.integers(1, max_cols)))
    elements = draw(st.sampled_from([floats(dtype), moderate(dtype)]))
    return draw(hnp.arrays(dtype, shape, elements=elements))


@st.composite
def arguments(draw):
    """x, normalized_shape, weight, bias of any rank that fit each other."""
    dtype = draw(dtypes)
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=9))
    rank = draw(st.integers(1, len(shape)))
    x = draw(hnp.arrays(dtype, shape, elements=moderate(dtype)))
    normalized = shape[len(shape) - rank :]
    parameter = st.none() | hnp.arrays(dtype, normalized, elements=moderate(dtype))
    return x, normalized, draw(parameter), draw(parameter)


def flat(parameter):
    """A parameter as one row."""
    return None if parameter is None else parameter.reshape(-1)


@given(x=rows(), eps=EPS)
def test_any_finite_values_are_within_the_bound(x, eps, isa):
    if not long_double_suffices(x.dtype):
        return
    assert output_error(fastln.layer_norm(x, eps=eps), normalize(x, eps)) <= PROMISED[x.dtype.name]["y"]


@given(call=arguments(), eps=EPS)
def test_any_shapes_are_within_the_bound(call, eps, isa):
    x, normalized, weight, bias = call
    if not long_double_suffices(x.dtype):
        return
    y, mean, rstd = fastln.layer_norm_forward(x, normalized, weight, bias, eps)
    leading = x.shape[: x.ndim - len(normalized)]
    assert y.shape == x.shape
    assert mean.shape == rstd.shape == leading + (1,) * len(normalized)
    matrix = (-1, int(np.prod(normalized)))
    exact = normalize(x.reshape(matrix), eps)
    assert output_error(y.reshape(matrix), exact, flat(weight), flat(bias)) <= PROMISED[x.dtype.name]["y"]


@st.composite
def views(draw):
    """A view with any steps, order and offset, of an array of moderate values."""
    dtype = draw(dtypes)
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=12))
    base = draw(hnp.arrays(dtype, shape, elements=moderate(dtype)))
    index = tuple(
        slice(draw(st.integers(0, side - 1)), None, step)
        if (step := draw(st.sampled_from([1, 1, 2, 3]))) > 0 and draw(st.booleans())
        else slice(None, None, draw(st.sampled_from([1, -1, -2])))
        for side in shape
    )
    view = base[index]
    return view.transpose(draw(st.permutations(range(view.ndim))))


def strided_copy(view):
    """The same values at the same strides in a buffer of their own."""
    low, high = np.lib.array_utils.byte_bounds(view)
    buffer = np.zeros(high - low, np.uint8)
    start = view.__array_interface__["data"][0] - low
    copy = np.ndarray(view.shape, view.dtype, buffer, start, view.strides)
    copy[...] = view
    return copy


@pytest.mark.once_per_kernel
@given(view=views(), threads=st.integers(1, 4))
def test_any_strides_give_the_bits_of_a_copy(operation, view, threads, always_parallel):
    leading, cols = view.shape[:-1], view.shape[-1]
    arguments = operation.make("mean 10", int(np.prod(leading)), cols, view.dtype)
    arguments = operation.reshaped(arguments, leading, (cols,))
    for name in operation.in_place:
        expected = operation(**{**arguments, name: np.ascontiguousarray(view)})
        given_view = {**arguments, name: strided_copy(view)}
        assert_all_same_bits(operation(**given_view, num_threads=threads), expected)
        found = operation.in_the_place_of(name, given_view, num_threads=threads)
        assert_all_same_bits(found | {operation.result: np.ascontiguousarray(found[operation.result])}, expected)


@st.composite
def narrow_rows(draw, max_rows=9, max_cols=80):
    """A 2-d array of any finite patterns of 16 bits, and a weight that is as wide or of float32."""
    dtype = np.dtype(draw(st.sampled_from(NARROW)))
    shape = draw(st.tuples(st.integers(1, max_rows), st.integers(1, max_cols)))
    patterns = draw(hnp.arrays(np.uint16, shape)).view(dtype)
    weight = draw(hnp.arrays(np.float32, shape[1], elements=moderate(np.dtype(np.float32))))
    with np.errstate(invalid="ignore"):  # of signaling NaN
        x = np.where(np.isfinite(patterns), patterns, dtype.type(0))
    return x, weight.astype(dtype) if draw(st.booleans()) else weight


@given(call=narrow_rows(), eps=EPS, threads=st.integers(1, 3))
def test_any_numbers_of_16_bits_are_computed_with_in_float32(call, eps, threads, isa, always_parallel):
    x, weight = call
    wide = x.astype(np.float32), x.shape[1], weight.astype(np.float32)
    for norm in (fastln.layer_norm, fastln.rms_norm):
        found = norm(x, x.shape[1], weight, eps=eps, num_threads=threads)
        assert_same_bits(found, norm(*wide, eps=eps).astype(x.dtype))


@given(x=rows(max_rows=9), eps=EPS, threads=st.integers(1, 7))
def test_rows_are_independent(x, eps, threads, isa, always_parallel):
    alone = np.stack([fastln.layer_norm(row, eps=eps) for row in x])
    assert_same_bits(fastln.layer_norm(x, eps=eps, num_threads=threads), alone)


@pytest.mark.once_per_kernel
@given(cols=st.integers(1, 60), rows=st.integers(1, 4), data=st.data())
def test_any_overlap_gives_the_result_without_it(operation, cols, rows, data, dtype):
    length = 2 * rows * cols + 2 * cols
    buffer = np.random.default_rng(cols).standard_normal(length).astype(dtype)

    def take(kind):
        shape = kind.shape((rows,), (cols,))
        count = int(np.prod(shape))
        start = data.draw(st.integers(0, length - count))
        return buffer[start : start + count].reshape(shape)

    arguments = {name: take(kind) for name, kind in operation.arguments.items()}
    expected = operation(**{name: value.copy() for name, value in arguments.items()})
    option = data.draw(st.sampled_from(list(operation.buffers)))
    assert_all_same_bits(operation(**arguments, **{option: take(Kind.ROWS)}), expected)


@given(x=rows(), power=st.integers(-30, 30))
def test_powers_of_two_pass_through(x, power, isa):
    # Scaled rows with eps scaled to match have the same result, wherever scaling itself is exact.
    with np.errstate(over="ignore", under="ignore"):
        scaled = np.ldexp(x, power)
    if not np.isfinite(scaled).all() or not (np.ldexp(scaled, -power) == x).all() or not long_double_suffices(x.dtype):
        return
    y = fastln.layer_norm(scaled, eps=2.0 ** (2 * power))
    assert output_error(y, normalize(x, 1.0)) <= PROMISED[x.dtype.name]["y"]


@given(
    x=hnp.arrays(np.float64, st.tuples(st.integers(1, 4), st.integers(1, 40)), elements=st.floats(allow_nan=True)),
    wanted=dtypes,
)
def test_nan_and_inf_stay_in_their_rows(x, wanted, isa):
    with np.errstate(over="ignore"):
        x = x.astype(wanted)
    y = fastln.layer_norm(x)
    bad = ~np.isfinite(x).all(axis=1)
    assert np.isnan(y[bad]).all()
    assert np.isfinite(y[~bad]).all()
