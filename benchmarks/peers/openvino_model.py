"""OpenVINO on tensors that share the memory of the arrays: MVN and an affine map, or a formula, which it fuses."""

from __future__ import annotations

from functools import partial

import numpy as np
import openvino
from openvino import opset13

from ..grid.arrays import EPS, Arrays, Prepared


def set_threads(_threads: int) -> None:
    """The compiled model has its own threads, see `_request`."""


def layer_norm(arrays: Arrays) -> Prepared:
    """MVN, weight and bias."""
    parameter = opset13.parameter(arrays.x.shape, arrays.x.dtype, name="x")
    normalized = opset13.mvn(parameter, opset13.constant(np.array([-1])), True, EPS, "inside_sqrt")
    scaled = opset13.multiply(normalized, opset13.constant(arrays.weight))
    return _request(arrays, parameter, opset13.add(scaled, opset13.constant(arrays.bias)))


def rms_norm(arrays: Arrays) -> Prepared:
    """The formula in the form that it makes one operation of, RMS."""
    number = arrays.x.dtype.type
    x = opset13.parameter(arrays.x.shape, arrays.x.dtype, name="x")
    squares = opset13.power(x, opset13.constant(number(2)))
    mean_square = opset13.reduce_mean(squares, opset13.constant(np.array([-1])), keep_dims=True)
    root = opset13.sqrt(opset13.add(mean_square, opset13.constant(number(EPS))))
    normalized = opset13.multiply(x, opset13.divide(opset13.constant(number(1)), root))
    return _request(arrays, x, opset13.multiply(opset13.constant(arrays.weight), normalized))


def _request(arrays: Arrays, parameter: openvino.Node, result: openvino.Node) -> Prepared:
    """An infer request with input and output set to the caller's buffers."""
    model = openvino.Model([result], [parameter], arrays.operation.name)
    config = {
        "INFERENCE_NUM_THREADS": arrays.threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }
    request = openvino.Core().compile_model(model, "CPU", config).create_infer_request()
    request.set_input_tensor(0, openvino.Tensor(arrays.x, shared_memory=True))
    request.set_output_tensor(0, openvino.Tensor(arrays.out, shared_memory=True))
    call = partial(request.infer, share_outputs=True)  # without it, infer copies what it wrote
    return Prepared(call, lambda _: (arrays.out,))
