"""ONNX Runtime: one node, with input and output bound to the arrays, parameters as initializers.

LayerNormalization-17, and for RMS norm SimplifiedLayerNormalization, which is what exported models have.
"""

from __future__ import annotations

from functools import partial

import onnxruntime
from onnx import helper, numpy_helper

from ..grid.arrays import EPS, Arrays, Prepared

OPSET, IR_VERSION = 17, 10


def set_threads(_threads: int) -> None:
    """The session has its own threads, see `_bound`."""


def _model(arrays: Arrays, node_type: str) -> bytes:
    element_type = helper.np_dtype_to_tensor_dtype(arrays.x.dtype)
    names = [name for name in ("weight", "bias") if name in arrays.operation.reads]
    node = helper.make_node(node_type, ["x", *names], ["y"], epsilon=EPS, axis=-1)
    x, y = (helper.make_tensor_value_info(name, element_type, arrays.x.shape) for name in "xy")
    parameters = [numpy_helper.from_array(getattr(arrays, name), name) for name in names]
    graph = helper.make_graph([node], arrays.operation.name, [x], [y], parameters)
    opset = helper.make_opsetid("", OPSET)
    return helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION).SerializeToString()


def layer_norm(arrays: Arrays) -> Prepared:
    """LayerNormalization."""
    return _bound(arrays, "LayerNormalization")


def rms_norm(arrays: Arrays) -> Prepared:
    """SimplifiedLayerNormalization."""
    return _bound(arrays, "SimplifiedLayerNormalization")


def _bound(arrays: Arrays, node_type: str) -> Prepared:
    """run_with_iobinding into the caller's buffer."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = arrays.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Its threads spin while it runs, which is its best, but not on after it: that would slow down the next contender.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(_model(arrays, node_type), options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    x, y = arrays.x, arrays.out
    binding.bind_input("x", "cpu", 0, x.dtype, x.shape, x.ctypes.data)
    binding.bind_output("y", "cpu", 0, y.dtype, y.shape, y.ctypes.data)
    return Prepared(partial(session.run_with_iobinding, binding), lambda _: (y,))
