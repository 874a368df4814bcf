"""What docs/recurrent_networks.md makes of the weights of other libraries gives what their formulas give."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

import fastln

PAGE = Path(__file__).resolve().parents[2] / "docs" / "recurrent_networks.md"
if not PAGE.exists():
    pytest.skip("docs/ is not beside tests/: run these tests from a clone", allow_module_level=True)

INPUTS, HIDDEN = 5, 8
# Of results below 1, in eps of float32: the objects are float32, the formulas float64, over 6 steps.
MOST = 400


@pytest.fixture(scope="module")
def recipes():
    """The functions of the page by their names."""
    names = {"np": np, "fastln": fastln, "Mapping": Mapping}
    for block in re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        if re.search(r"^(def|Arrays)", block, re.MULTILINE):
            exec(block, names)
    return names


def layer_norm(a, weight=1.0, bias=0.0, eps=1e-5):
    mean, var = a.mean(axis=-1, keepdims=True), a.var(axis=-1, keepdims=True)
    return (a - mean) / np.sqrt(var + eps) * weight + bias


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def numbers(rng, **shapes):
    """Single precision, so that loading rounds nothing."""
    return {name.replace("__", "/"): rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def run(step, x):
    """Y of a formula step(x_t, h, c) -> h, c from zeros."""
    h, c = np.zeros((x.shape[1], HIDDEN)), np.zeros((x.shape[1], HIDDEN))
    outputs = []
    for x_t in x.astype(np.float64):
        h, c = step(x_t, h, c)
        outputs.append(h)
    return np.stack(outputs), h, c


def check(lstm, step):
    x = np.random.default_rng(9).standard_normal((6, 3, INPUTS)).astype(np.float32)
    y, (h, c) = lstm(x)
    expected = run(step, x)
    for found, right in zip((y, h[0], c[0]), expected, strict=True):
        assert np.abs(found - right).max() < MOST * np.finfo(np.float32).eps * max(1, np.abs(right).max())


def test_custom_lstms(recipes):
    rng = np.random.default_rng(0)
    p = numbers(rng, weight_ih=(4 * HIDDEN, INPUTS), weight_hh=(4 * HIDDEN, HIDDEN))
    for norm, size in (("layernorm_i", 4 * HIDDEN), ("layernorm_h", 4 * HIDDEN), ("layernorm_c", HIDDEN)):
        p |= {f"{norm}.{which}": rng.standard_normal(size).astype(np.float32) for which in ("weight", "bias")}

    def step(x, h, c):
        gates = layer_norm(x @ p["weight_ih"].T, p["layernorm_i.weight"], p["layernorm_i.bias"])
        gates = gates + layer_norm(h @ p["weight_hh"].T, p["layernorm_h.weight"], p["layernorm_h.bias"])
        i, f, g, o = np.split(gates, 4, axis=1)
        cell = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        cell = layer_norm(cell, p["layernorm_c.weight"], p["layernorm_c.bias"])
        return sigmoid(o) * np.tanh(cell), cell

    state = {f"layers.0.cell.{name}": value for name, value in p.items()}
    check(recipes["from_custom_lstms"](state, "layers.0.cell."), step)


def test_haste(recipes):
    p = numbers(
        np.random.default_rng(1),
        kernel=(INPUTS, 4 * HIDDEN),
        recurrent_kernel=(HIDDEN, 4 * HIDDEN),
        bias=(4 * HIDDEN,),
        gamma=(2, 4 * HIDDEN),
        gamma_h=(HIDDEN,),
        beta_h=(HIDDEN,),
    )

    def step(x, h, c):
        sums = layer_norm(x @ p["kernel"], p["gamma"][0]) + p["bias"]
        sums = sums + layer_norm(h @ p["recurrent_kernel"], p["gamma"][1])
        i, g, f, o = np.split(sums, 4, axis=1)
        cell = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        return sigmoid(o) * np.tanh(layer_norm(cell, p["gamma_h"], p["beta_h"])), cell

    check(recipes["from_haste"](p), step)


def test_tensorflow_addons(recipes):
    p = numbers(
        np.random.default_rng(2),
        kernel=(INPUTS, 4 * HIDDEN),
        recurrent_kernel=(HIDDEN, 4 * HIDDEN),
        bias=(4 * HIDDEN,),
        kernel_norm__gamma=(4 * HIDDEN,),
        kernel_norm__beta=(4 * HIDDEN,),
        recurrent_norm__gamma=(4 * HIDDEN,),
        recurrent_norm__beta=(4 * HIDDEN,),
        state_norm__gamma=(HIDDEN,),
        state_norm__beta=(HIDDEN,),
    )

    def norm(a, name):
        return layer_norm(a, p[f"{name}/gamma"], p[f"{name}/beta"], 1e-3)

    def step(x, h, c):
        z = norm(x @ p["kernel"], "kernel_norm") + norm(h @ p["recurrent_kernel"], "recurrent_norm") + p["bias"]
        i, f, g, o = np.split(z, 4, axis=1)
        cell = norm(sigmoid(f) * c + sigmoid(i) * np.tanh(g), "state_norm")
        return sigmoid(o) * np.tanh(cell), cell

    check(recipes["from_tensorflow_addons"](p), step)


def test_a_gru_of_the_paper_after_turning_its_update_gate():
    """Its z is 1 - z here, so the rows, weights and biases of z change their sign where they enter a sum."""
    rng = np.random.default_rng(3)
    gru = fastln.LayerNormGRU(INPUTS, HIDDEN, rng=0)
    for value in gru.parameters.values():
        value += 0.3 * rng.standard_normal(value.shape).astype(np.float32)
    p = gru.state_dict()
    z = slice(HIDDEN, 2 * HIDDEN)
    for name in ("ln_ih_l0.weight", "ln_ih_l0.bias", "ln_hh_l0.weight", "ln_hh_l0.bias"):
        p[name][z] *= -1
    x = rng.standard_normal((6, 3, INPUTS)).astype(np.float32)
    h = np.zeros((3, HIDDEN))
    for x_t in x:
        a, b = (
            np.concatenate(
                [
                    layer_norm(sums[:, part], p[f"{name}_l0.weight"][part], p[f"{name}_l0.bias"][part])
                    for part in (slice(0, 2 * HIDDEN), slice(2 * HIDDEN, None))
                ],
                axis=1,
            )
            for sums, name in ((x_t @ p["weight_ih_l0"].T, "ln_ih"), (h @ p["weight_hh_l0"].T, "ln_hh"))
        )
        (ar, az, an), (br, bz, bn) = np.split(a, 3, axis=1), np.split(b, 3, axis=1)
        update, n = sigmoid(az + bz), np.tanh(an + sigmoid(ar + br) * bn)
        h = (1 - update) * h + update * n
    assert np.abs(gru(x)[1][0] - h).max() < MOST * np.finfo(np.float32).eps
