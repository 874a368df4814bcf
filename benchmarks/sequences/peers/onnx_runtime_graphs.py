"""ONNX Runtime: a Scan whose body is the cell, written by hand, and as a floor its LSTM, which has no norms.

Inputs and outputs are bound to the arrays; matrices are initializers, which the session packs when it is made.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from ...grid.arrays import EPS, Prepared
from ..cells import Arrays

OPSET, IR_VERSION = 17, 10


def set_threads(_threads: int) -> None:
    """The session has its own threads, see `_bound`."""


def sequence(arrays: Arrays) -> Prepared:
    """W_ih x and its norm for all steps at once, then a Scan."""
    a, p = arrays, arrays.parameters
    hidden = a.h0.shape[1]
    constants = {name.replace(".", "_"): value for name, value in p.items() if not name.startswith("weight")}
    constants |= {f"{name}_t": np.ascontiguousarray(p[name].T) for name in ("weight_ih", "weight_hh")}
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["h", "weight_hh_t"], ["product"]),
            _norm("product", "ln_hh", "from_h"),
            helper.make_node("Add", ["gates_of_x", "from_h"], ["sums"]),
            helper.make_node("Split", ["sums"], ["si", "sf", "sg", "so"], axis=1),
            helper.make_node("Sigmoid", ["si"], ["i"]),
            helper.make_node("Sigmoid", ["sf"], ["f"]),
            helper.make_node("Tanh", ["sg"], ["g"]),
            helper.make_node("Sigmoid", ["so"], ["o"]),
            helper.make_node("Mul", ["f", "c"], ["kept"]),
            helper.make_node("Mul", ["i", "g"], ["written"]),
            helper.make_node("Add", ["kept", "written"], ["c_after"]),
            _norm("c_after", "ln_c", "normed"),
            helper.make_node("Tanh", ["normed"], ["t"]),
            helper.make_node("Mul", ["o", "t"], ["h_after"]),
            helper.make_node("Identity", ["h_after"], ["y_of_step"]),
        ],
        "cell",
        _values({"h": a.h0.shape, "c": a.c0.shape, "gates_of_x": (len(a.h0), 4 * hidden)}),
        _values({"h_after": a.h0.shape, "c_after": a.c0.shape, "y_of_step": a.h0.shape}),
    )
    nodes = [
        helper.make_node("MatMul", ["x", "weight_ih_t"], ["products"]),
        _norm("products", "ln_ih", "from_x"),
        helper.make_node("Scan", ["h0", "c0", "from_x"], ["h_last", "c_last", "y"], body=body, num_scan_inputs=1),
    ]
    return _bound(arrays, nodes, constants, {"x": a.x, "h0": a.h0, "c0": a.c0}, {"y": a.out})


def sequence_without_norms(arrays: Arrays) -> Prepared:
    """LSTM, with the same matrices; the order of the gates, which is another one, changes no time."""
    a, p = arrays, arrays.parameters
    constants = {"w": p["weight_ih"][None], "r": p["weight_hh"][None]}
    node = helper.make_node(
        "LSTM", ["x", "w", "r", "", "", "h0", "c0"], ["y", "h_last", "c_last"], hidden_size=a.h0.shape[1]
    )
    inputs = {"x": a.x, "h0": a.h0[None], "c0": a.c0[None]}
    return _bound(arrays, [node], constants, inputs, {"y": a.out[:, None]})


def _norm(of: str, name: str, to: str) -> Any:
    inputs = [of, f"{name}_weight", f"{name}_bias"]
    return helper.make_node("LayerNormalization", inputs, [to], epsilon=EPS, axis=-1)


def _values(shapes: dict[str, tuple[int, ...]]) -> list[Any]:
    return [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]


def _bound(
    arrays: Arrays,
    nodes: list[Any],
    constants: dict[str, np.ndarray],
    inputs: dict[str, np.ndarray],
    outputs: dict[str, np.ndarray],
) -> Prepared:
    """run_with_iobinding into the caller's buffer."""
    graph = helper.make_graph(
        nodes,
        "sequence",
        _values({name: array.shape for name, array in inputs.items()}),
        _values({name: array.shape for name, array in outputs.items()}),
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION).SerializeToString()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = arrays.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Its threads spin while it runs, which is its best, but not on after it: that would slow down the next contender.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    for name, array in inputs.items():
        binding.bind_input(name, "cpu", 0, TensorProto.FLOAT, array.shape, array.ctypes.data)
    for name, array in outputs.items():
        binding.bind_output(name, "cpu", 0, TensorProto.FLOAT, array.shape, array.ctypes.data)
    return Prepared(partial(session.run_with_iobinding, binding), lambda _: (arrays.out,))
