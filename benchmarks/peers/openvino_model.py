"""OpenVINO: MVN and an affine map, which it fuses, on tensors that share the memory of the arrays."""

from __future__ import annotations

from functools import partial

import numpy as np
import openvino
from openvino import opset13

from ..grid.arrays import EPS, Arrays, Prepared


def set_threads(_threads: int) -> None:
    """The compiled model has its own threads, see `layer_norm`."""


def layer_norm(arrays: Arrays) -> Prepared:
    """An infer request with input and output set to the caller's buffers."""
    parameter = opset13.parameter(arrays.x.shape, arrays.x.dtype, name="x")
    normalized = opset13.mvn(parameter, opset13.constant(np.array([-1])), True, EPS, "inside_sqrt")
    scaled = opset13.multiply(normalized, opset13.constant(arrays.weight))
    model = openvino.Model([opset13.add(scaled, opset13.constant(arrays.bias))], [parameter], "layer_norm")
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
