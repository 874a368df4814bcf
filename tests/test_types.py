"""What the stubs promise: mypy checks each assert_type below (make lint), and the tests that it is so when they run.

The examples of the manual are checked by tools/type_examples.py.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, assert_type

import numpy as np
from numpy.typing import NDArray

import fastln

Float16 = NDArray[np.float16]
Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Floats = NDArray[np.floating[Any]]

X = np.linspace(-1, 1, 24).reshape(3, 8).astype(np.float32)
WIDE = X.astype(np.float64)
WEIGHT = np.ones(8, np.float32)


def dtypes(results: tuple[Any, ...]) -> list[Any]:
    """The dtype of each, None of what is not there."""
    return [None if one is None else one.dtype for one in results]


def test_results_have_the_dtype_of_x() -> None:
    y = fastln.layer_norm(X, 8, WEIGHT)
    assert_type(y, Float32)
    wide = fastln.layer_norm(WIDE, (8,), WEIGHT, out=np.empty_like(WIDE))
    assert_type(wide, Float64)
    saved = fastln.layer_norm_forward(X, 8, WEIGHT)
    assert_type(saved, tuple[Float32, Floats, Floats])
    assert dtypes((y, wide, *saved)) == [np.float32, np.float64, *[np.float32] * 3]


def test_float16_has_float32_beside_it() -> None:
    half = X.astype(np.float16)
    y, mean, rstd = fastln.layer_norm_forward(half, 8, WEIGHT, out=np.empty_like(half))
    assert_type((y, mean, rstd), tuple[Float16, Floats, Floats])
    assert_type(fastln.rms_norm(half), Float16)
    dx, dweight, dbias = fastln.layer_norm_backward(y, half, mean, rstd, WEIGHT)
    assert_type(dx, Float16)
    assert_type((dweight, dbias), tuple[Floats, Floats])  # of the weight's
    first = fastln.rms_norm_backward(y, half, rstd, output_mask=(True, False))
    assert_type(first, tuple[Float16, None])
    assert dtypes((y, mean, rstd, dx, dweight, dbias)) == [np.float16, *[np.float32] * 2, np.float16, *[np.float32] * 2]
    assert dtypes(first) == [np.float16, None]


def test_dtypes_of_other_packages_are_kept() -> None:
    def normalize(x: NDArray[np.generic]) -> NDArray[np.generic]:  # bfloat16, say
        y, saved = fastln.LayerNorm(8).forward(x, out=np.empty_like(x))
        dx: NDArray[np.generic] = fastln.LayerNorm(8).backward(y, saved).dx
        assert dx.dtype == x.dtype
        return fastln.layer_norm(x, out=np.empty_like(x))

    assert normalize(X).dtype == np.float32


def test_lists_become_float64() -> None:
    flat = fastln.layer_norm([1.0, 2.0])
    assert_type(flat, Float64)
    nested = fastln.layer_norm_forward([[[1.0, 2.0]], [[3.0, 5.0]]], (1, 2))
    assert_type(nested, tuple[Float64, Float64, Float64])
    assert dtypes((flat, *nested)) == [np.float64] * 4


def test_of_other_arrays_it_is_known_that_they_are_floats() -> None:
    def normalize(x: Floats) -> Floats:
        assert_type(fastln.layer_norm_forward(x), tuple[Floats, Floats, Floats])
        y = fastln.layer_norm(x)
        assert_type(y, Floats)
        return y

    assert normalize(X).dtype == np.float32


def test_gradients_that_are_masked_off_are_none() -> None:
    y, mean, rstd = fastln.layer_norm_forward(X, 8, WEIGHT)
    every = fastln.layer_norm_backward(y, X, mean, rstd, WEIGHT)
    assert_type(every, tuple[Float32, Floats, Floats])
    first = fastln.layer_norm_backward(y, X, mean, rstd, WEIGHT, output_mask=(True, False, False), out=y)
    assert_type(first, tuple[Float32, None, None])
    others = fastln.layer_norm_backward(y, X, mean, rstd, output_mask=(False, True, True))
    assert_type(others, tuple[None, Floats, Floats])
    none = fastln.layer_norm_backward(y, WIDE, mean, rstd, output_mask=(False, False, False))
    assert_type(none, tuple[None, None, None])
    lists = fastln.layer_norm_backward([[1.0]], [[1.0]], [[1.0]], [[1.0]])
    assert_type(lists, tuple[Float64, Float64, Float64])
    mask = [True, True, False]
    unknown = fastln.layer_norm_backward(y, X, mean, rstd, output_mask=mask)
    assert_type(unknown, tuple[Floats | None, Floats | None, Floats | None])
    f4, f8 = np.float32, np.float64
    assert [dtypes(found) for found in (every, first, others, none, lists, unknown)] == [
        [f4, f4, f4],
        [f4, None, None],
        [None, f4, f4],
        [None, None, None],
        [f8, f8, f8],
        [f4, f4, None],
    ]


def test_an_object_knows_which_parameters_it_has() -> None:
    both, no_bias = fastln.LayerNorm(8), fastln.LayerNorm(8, 1e-6, bias=False)
    neither = fastln.LayerNorm(8, elementwise_affine=False)
    assert_type(both, fastln.LayerNorm[Floats, Floats])
    assert_type(no_bias, fastln.LayerNorm[Floats, None])
    assert_type(neither, fastln.LayerNorm[None, None])
    has_bias = bool(X.any())
    assert_type(fastln.LayerNorm(8, bias=has_bias), fastln.LayerNorm[Floats | None, Floats | None])
    assert_type(both.weight, Floats)
    assert_type(no_bias.bias, None)
    assert dtypes((both.weight, both.bias)) == [np.float32] * 2
    assert dtypes((no_bias.weight, no_bias.bias)) == [np.float32, None]
    assert dtypes((neither.weight, neither.bias)) == [None] * 2
    both.weight = [2.0] * 8
    both.bias -= 1e-3 * both.weight
    assert dtypes((both.weight, both.bias)) == [np.float32] * 2


def test_passes_of_an_object_keep_the_dtype() -> None:
    norm = fastln.LayerNorm(8, bias=False, dtype=np.float64)
    assert_type(norm(X, num_threads=1), Float32)
    assert_type(norm([1.0] * 8), Float64)
    y, saved = norm.forward(X, out=np.empty_like(X))
    assert_type(y, Float32)
    assert_type(saved, fastln.LayerNormSaved[np.float32])
    gradients = norm.backward(y, saved, out=y, num_threads=1)
    assert_type(gradients, fastln.LayerNormGradients[np.float32, Floats, None])
    assert_type(gradients.dx, Float32)
    assert_type(gradients.dweight, Floats)
    assert_type(gradients.dbias, None)
    assert dtypes((norm(X), norm([1.0] * 8), *saved)) == [np.float32, np.float64, *[np.float32] * 3]
    assert dtypes(gradients) == [np.float32, np.float32, None]


def test_rms_norm_and_its_object_know_the_same() -> None:
    y, rstd = fastln.rms_norm_forward(X, 8, WEIGHT)
    assert_type((y, rstd), tuple[Float32, Floats])
    assert_type(fastln.rms_norm([1.0, 2.0]), Float64)
    both = fastln.rms_norm_backward(y, X, rstd, WEIGHT)
    assert_type(both, tuple[Float32, Floats])
    first = fastln.rms_norm_backward(y, X, rstd, output_mask=(True, False))
    assert_type(first, tuple[Float32, None])
    norm, plain = fastln.RMSNorm(8, 1e-6, weight_offset=1), fastln.RMSNorm(8, elementwise_affine=False)
    assert_type(norm, fastln.RMSNorm[Floats])
    assert_type(plain, fastln.RMSNorm[None])
    z, saved = norm.forward(X)
    gradients = norm.backward(z, saved)
    assert_type(gradients, fastln.RMSNormGradients[np.float32, Floats])
    assert dtypes((y, rstd, *both, *gradients)) == [np.float32] * 6
    assert dtypes(first) == [np.float32, None]
    assert plain.weight is None


def test_norms_of_a_sum_know_the_same() -> None:
    y, s = fastln.add_layer_norm(X, X, 8, WEIGHT, residual_out=np.empty_like(X))
    assert_type((y, s), tuple[Float32, Float32])
    assert_type(fastln.add_rms_norm([1.0, 2.0], [3.0, 4.0]), tuple[Float64, Float64])
    saved = fastln.add_layer_norm_forward(X, X)
    assert_type(saved, tuple[Float32, Float32, Floats, Floats])
    _, total, mean, rstd = saved
    some = fastln.add_layer_norm_backward(y, None, total, mean, rstd, output_mask=(True, False, True))
    assert_type(some, tuple[Float32, None, Floats])
    assert_type(fastln.add_rms_norm_forward(X, X), tuple[Float32, Float32, Floats])
    both = fastln.add_rms_norm_backward(y, s, s, rstd)
    assert_type(both, tuple[Float32, Floats])
    assert dtypes((y, s, *saved, *both)) == [np.float32] * 8
    assert dtypes(some) == [np.float32, None, np.float32]


def test_annotations_need_no_parameters() -> None:
    def train(norm: fastln.LayerNorm, saved: fastln.LayerNormSaved) -> fastln.LayerNormGradients:
        return norm.backward(saved.x, saved)

    both, no_bias = fastln.LayerNorm(8), fastln.LayerNorm(8, bias=False)
    assert train(both, both.forward(X)[1]).dbias is not None
    assert train(no_bias, no_bias.forward(X)[1]).dbias is None


def test_examples_of_a_page_are_found_where_they_are(tmp_path: Path) -> None:
    tools = Path(__file__).resolve().parents[1] / "tools"
    if not (tools / "type_examples.py").exists():
        return  # an installed package
    sys.path.insert(0, str(tools))
    import type_examples

    page = "# Page\n\n```python\nx = 1\n```\nwords\n```python\n>>> y = 'a'\n>>> x\n1\n```\n```text\nz z\n```\n"
    assert type_examples.code_of(page).splitlines() == ["", "", "", "x = 1", "", "", "", "y = 'a'", "x", *[""] * 6]


def test_sequences_have_the_dtype_of_x() -> None:
    x = np.ones((5, 2, 3), np.float32)
    matrices = np.ones((16, 3)), np.ones((16, 4))
    y, state = fastln.layer_norm_lstm(x, None, *matrices, ih_norm=(np.ones(16), None))
    assert_type(y, Float32)
    assert_type(state, tuple[Float32, Float32])
    gru = fastln.LayerNormGRU(3, 4)
    (wide, h), saved = gru.forward(np.ones((5, 2, 3)))
    assert_type((wide, h), tuple[Float64, Float64])
    gradients = gru.backward(wide, h, saved)
    assert_type(gradients.dstate, Floats)
    assert_type(gradients.dparameters, dict[str, Floats])
    lstm = fastln.LayerNormLSTM(3, 4)
    stepped = lstm.freeze().step(x[0])
    assert_type(stepped, tuple[Floats, Floats])
    assert dtypes((y, *state, wide, h, gradients.dx, *stepped)) == [
        *[np.float32] * 3,
        *[np.float64] * 3,
        *[np.float32] * 2,
    ]
