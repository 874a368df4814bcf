"""PyTorch's own samples of arguments, for operators, functions and modules, with fastln off and on."""

from __future__ import annotations

import warnings

import pytest
from helpers import assert_same_bits
from torch_calls import FLOATS, as_array, assert_same_kind, off_and_on, torch

import fastln

pytest.importorskip("expecttest", reason="expecttest, which PyTorch's own tests need, is not installed")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from torch.testing._internal.common_methods_invocations import op_db
    from torch.testing._internal.common_modules import module_db

pytestmark = pytest.mark.filterwarnings("ignore")

OPERATORS = {
    operator.name: operator
    for operator in op_db
    if operator.name in ("native_layer_norm", "nn.functional.layer_norm", "nn.functional.rms_norm")
}
MODULES = {module.name: module for module in module_db if module.module_cls in (torch.nn.LayerNorm, torch.nn.RMSNorm)}


def differentiable(*values):
    return [each for each in values if torch.is_tensor(each) and each.requires_grad]


def bits_of_fastln(name, sample, dy):
    """What fastln's own functions make of a sample: y, mean and rstd where PyTorch returns them, and the gradients."""
    normalized_shape, *parameters = sample.args
    shape = tuple(normalized_shape)
    eps = parameters.pop() if name == "native_layer_norm" else sample.kwargs.get("eps", 1e-5)
    x, dy, weight, bias = (
        None if each is None else as_array(each) for each in (sample.input, dy, *(*parameters, None, None)[:2])
    )
    if name == "nn.functional.rms_norm":
        y, rstd = fastln.rms_norm_forward(x, shape, weight, sample.kwargs.get("eps"))
        mask = (True, weight is not None)
        gradients = fastln.rms_norm_backward(dy, x, rstd, weight, normalized_shape=shape, output_mask=mask)
        return [y, *gradients]
    y, *saved = fastln.layer_norm_forward(x, shape, weight, bias, eps)
    saved = [each.astype(x.dtype) for each in saved]
    mask = (True, weight is not None, bias is not None)
    gradients = fastln.layer_norm_backward(dy, x, *saved, weight, normalized_shape=shape, output_mask=mask)
    return [y, *(saved if name == "native_layer_norm" else ()), *gradients]


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("name", OPERATORS)
def test_samples_of_operators(name, dtype):
    operator = OPERATORS[name]
    counts = {"taken": 0, "passed on": 0}
    for sample in operator.sample_inputs("cpu", dtype, requires_grad=True):
        inputs = differentiable(sample.input, *sample.args, *sample.kwargs.values())
        dy = torch.ones_like(sample.input).cumsum(-1).detach()

        def call(sample=sample, inputs=inputs, dy=dy):
            found = operator.op(sample.input, *sample.args, **sample.kwargs)
            found = found if isinstance(found, tuple) else (found,)
            return *found, *torch.autograd.grad(found[0], inputs, dy)

        off, on, calls = off_and_on(call)
        assert_same_kind(off, on, are_near=False)
        if calls.passed_on:  # for a negative eps, or where there are no rows
            expected = [as_array(each) for each in (off[:1] if calls.taken else off)]
            counts["passed on"] += 1
        else:
            expected = [each for each in bits_of_fastln(name, sample, dy) if each is not None]
            counts["taken"] += 1
            assert len(expected) == len(on)
        for found, one in zip(on, expected, strict=False):
            assert_same_bits(as_array(found), one)
    assert counts["taken"] >= 4
    assert counts["passed on"] >= 2


@pytest.mark.parametrize("name", [name for name, operator in OPERATORS.items() if operator.error_inputs_func])
def test_samples_of_errors(name):
    operator = OPERATORS[name]
    for error in operator.error_inputs("cpu"):
        sample = error.sample_input
        off, on, _ = off_and_on(lambda sample=sample: operator.op(sample.input, *sample.args, **sample.kwargs))
        assert_same_kind(off, on)
        assert issubclass(off[0], error.error_type)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", MODULES)
def test_samples_of_modules(name, training):
    info = MODULES[name]
    for dtype in info.dtypes:
        for sample in info.module_inputs_func(info, "cpu", dtype, True, training):
            module = info.module_cls(*sample.constructor_input.args, **sample.constructor_input.kwargs)
            module.to(dtype).train(training)
            given = sample.forward_input
            inputs = [*differentiable(*given.args), *module.parameters()]

            def call(module=module, given=given, inputs=inputs):
                y = module(*given.args, **given.kwargs)
                return y, *torch.autograd.grad(y.square().sum(), inputs)

            off, on, calls = off_and_on(call)
            assert_same_kind(off, on)
            assert sum(calls.taken.values()) + sum(calls.passed_on.values()) == 2
