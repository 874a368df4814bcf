"""ONNX Runtime: one node, with inputs and outputs bound to the arrays, parameters as initializers.

LayerNormalization-17, and for RMS norm SimplifiedLayerNormalization, which is what exported models have; with a
residual the nodes that its optimizer makes of them, SkipLayerNormalization and SkipSimplifiedLayerNormalization.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import onnxruntime
from onnx import helper, numpy_helper

from ..grid.arrays import EPS, Arrays, Prepared

OPSET, IR_VERSION = 17, 10
CONTRIBUTED = "com.microsoft"  # the domain of the nodes with a residual

INPUTS, OUTPUTS = ("x", "residual"), {"y": "out", "sum": "sum"}  # of a node; the array of each output


def set_threads(_threads: int) -> None:
    """The session has its own threads, see `_bound`."""


def _model(arrays: Arrays, node_type: str) -> bytes:
    element_type = helper.np_dtype_to_tensor_dtype(arrays.x.dtype)
    operation = arrays.operation
    names = [name for name in ("weight", "bias") if name in operation.reads]
    if arrays.residual is None:
        node = helper.make_node(node_type, ["x", *names], ["y"], epsilon=EPS, axis=-1)
    else:  # in between are the moments, which are not asked for
        node = helper.make_node(node_type, [*INPUTS, *names], ["y", "", "", "sum"], epsilon=EPS, domain=CONTRIBUTED)

    def values(*of: str) -> list[Any]:
        return [helper.make_tensor_value_info(name, element_type, arrays.x.shape) for name in of]

    parameters = [numpy_helper.from_array(getattr(arrays, name), name) for name in names]
    inputs = values(*(name for name in INPUTS if name in operation.reads))
    graph = helper.make_graph([node], operation.name, inputs, values(*operation.writes), parameters)
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(CONTRIBUTED, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION).SerializeToString()


def layer_norm(arrays: Arrays) -> Prepared:
    """LayerNormalization."""
    return _bound(arrays, "LayerNormalization")


def rms_norm(arrays: Arrays) -> Prepared:
    """SimplifiedLayerNormalization."""
    return _bound(arrays, "SimplifiedLayerNormalization")


def add_layer_norm(arrays: Arrays) -> Prepared:
    """SkipLayerNormalization."""
    return _bound(arrays, "SkipLayerNormalization")


def add_rms_norm(arrays: Arrays) -> Prepared:
    """SkipSimplifiedLayerNormalization."""
    return _bound(arrays, "SkipSimplifiedLayerNormalization")


def _bound(arrays: Arrays, node_type: str) -> Prepared:
    """run_with_iobinding into the caller's buffers."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = arrays.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Its threads spin while it runs, which is its best, but not on after it: that would slow down the next contender.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(_model(arrays, node_type), options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    element_type = helper.np_dtype_to_tensor_dtype(arrays.x.dtype)
    outputs = {name: getattr(arrays, OUTPUTS[name]) for name in arrays.operation.writes}
    for name in (name for name in INPUTS if name in arrays.operation.reads):
        binding.bind_input(name, "cpu", 0, element_type, arrays.x.shape, getattr(arrays, name).ctypes.data)
    for name, array in outputs.items():
        binding.bind_output(name, "cpu", 0, element_type, array.shape, array.ctypes.data)
    return Prepared(partial(session.run_with_iobinding, binding), lambda _: tuple(outputs.values()))
