"""OpenVINO on tensors that share the memory of the arrays: MVN and an affine map, or a formula, which it fuses.

It computes in float32, whatever is stored: so it is told, and there is hardware that would do otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import openvino
from openvino import opset13

from ..grid.arrays import EPS, Arrays, Prepared, computed_dtype


def set_threads(_threads: int) -> None:
    """The compiled model has its own threads, see `_request`."""


def layer_norm(arrays: Arrays) -> Prepared:
    """MVN, weight and bias."""
    x = _parameter(arrays, "x")
    return _request(arrays, [x], [_layer_norm(arrays, x)])


def rms_norm(arrays: Arrays) -> Prepared:
    """The formula in the form that it makes one operation of, RMS."""
    x = _parameter(arrays, "x")
    return _request(arrays, [x], [_rms_norm(arrays, x)])


def add_layer_norm(arrays: Arrays) -> Prepared:
    """The sum, then MVN, weight and bias."""
    return _of_the_sum(arrays, _layer_norm)


def add_rms_norm(arrays: Arrays) -> Prepared:
    """The sum, then RMS."""
    return _of_the_sum(arrays, _rms_norm)


def _of_the_sum(arrays: Arrays, norm: Callable[[Arrays, openvino.Node], openvino.Node]) -> Prepared:
    inputs = [_parameter(arrays, name) for name in ("x", "residual")]
    total = opset13.add(*inputs)
    return _request(arrays, inputs, [norm(arrays, total), total])


def _layer_norm(arrays: Arrays, x: openvino.Node) -> openvino.Node:
    normalized = opset13.mvn(x, opset13.constant(np.array([-1])), True, EPS, "inside_sqrt")
    scaled = opset13.multiply(normalized, _constant(arrays, arrays.weight))
    return opset13.add(scaled, _constant(arrays, arrays.bias))


def _rms_norm(arrays: Arrays, x: openvino.Node) -> openvino.Node:
    squares = opset13.power(x, _constant(arrays, 2))
    mean_square = opset13.reduce_mean(squares, opset13.constant(np.array([-1])), keep_dims=True)
    root = opset13.sqrt(opset13.add(mean_square, _constant(arrays, EPS)))
    normalized = opset13.multiply(x, opset13.divide(_constant(arrays, 1), root))
    return opset13.multiply(_constant(arrays, arrays.weight), normalized)


def _element_type(arrays: Arrays) -> openvino.Type:
    return openvino.Type.bf16 if arrays.x.dtype.name == "bfloat16" else openvino.Type(arrays.x.dtype)


def _parameter(arrays: Arrays, name: str) -> openvino.Node:
    return opset13.parameter(arrays.x.shape, _element_type(arrays), name=name)


def _constant(arrays: Arrays, value: np.ndarray | float) -> openvino.Node:
    return opset13.constant(np.asarray(value, computed_dtype(arrays.x.dtype)), _element_type(arrays))


def _tensor(array: np.ndarray) -> openvino.Tensor:
    if array.dtype.name == "bfloat16":
        return openvino.Tensor(array.view(np.uint16), openvino.Shape(array.shape), openvino.Type.bf16)
    return openvino.Tensor(array, shared_memory=True)


def _request(arrays: Arrays, inputs: list[openvino.Node], results: list[openvino.Node]) -> Prepared:
    """An infer request with inputs and outputs set to the caller's buffers."""
    model = openvino.Model(results, inputs, arrays.operation.name)
    config = {
        "INFERENCE_NUM_THREADS": arrays.threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }
    request = openvino.Core().compile_model(model, "CPU", config).create_infer_request()
    for place, node in enumerate(inputs):
        request.set_input_tensor(place, _tensor(getattr(arrays, node.get_friendly_name())))
    outputs = (arrays.out, arrays.sum)[: len(results)]
    for place, array in enumerate(outputs):
        request.set_output_tensor(place, _tensor(array))
    call = partial(request.infer, share_outputs=True)  # without it, infer copies what it wrote
    return Prepared(call, lambda _: outputs)
