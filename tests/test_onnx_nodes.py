"""ONNX's own tests of the nodes LayerNormalization and RMSNormalization, as the package onnx makes them, on fastln."""

from __future__ import annotations

import importlib
from collections import Counter

import numpy as np
import pytest

import fastln

onnx = pytest.importorskip("onnx", reason="onnx is not installed: the node tests of ONNX are not run")
from onnx.backend.test.case import node as onnx_nodes  # noqa: E402

# A module of an operator makes its cases when it is imported, always the same ones; those of all take many seconds.
for _name in ("layernormalization", "rmsnormalization"):
    importlib.import_module(f"{onnx_nodes.__name__}.{_name}")

NODES = {"LayerNormalization": 19, "RMSNormalization": 19}

# Of the largest number of a row of y. Where the terms of one cancel, what ONNX expects is off by more of it: it is
# made in float32 too, and 5e-5 from the same formula in float64 at its worst. Of mean and rstd, which have one number
# a row, it is of each.
RTOL = 1e-6


def node_of(case):
    """The only node of a case; None of those that spell an operator out in others (named expanded)."""
    nodes = case.model.graph.node
    return nodes[0] if len(nodes) == 1 and nodes[0].op_type in NODES else None


CASES = {case.name: case for case in onnx_nodes._NodeTestCases if node_of(case)}


def attributes_of(node):
    """The attributes of a node, with what stands for those that it does not have."""
    given = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    return {"axis": -1, "epsilon": 1e-5, "stash_type": 1} | given


def run_node(node, inputs):
    """The outputs that a node names, from the inputs that it names."""
    attributes = attributes_of(node)
    axis, eps = attributes.pop("axis"), attributes.pop("epsilon")
    assert attributes == {"stash_type": 1}  # float32, which is what fastln computes in

    x, *parameters = dict(zip(node.input, inputs, strict=True)).values()
    parameters = [np.broadcast_to(parameter, x.shape[axis:]) for parameter in parameters]
    norm = {"LayerNormalization": fastln.layer_norm_forward, "RMSNormalization": fastln.rms_norm_forward}[node.op_type]
    return norm(x, x.shape[axis:], *parameters, eps=eps)[: len(node.output)]


def test_there_are_as_many_as_onnx_has():
    assert Counter(node_of(case).op_type for case in CASES.values()) == NODES
    ours = [c.name for c in onnx_nodes._NodeTestCases if c.name.startswith(("test_layer_norm", "test_rms_norm"))]
    assert all("_expanded" in name for name in ours if name not in CASES)


@pytest.mark.parametrize("name", CASES)
def test_node(name, isa):
    case = CASES[name]
    node = node_of(case)
    for inputs, expected in case.data_sets:
        outputs = run_node(node, inputs)
        assert len(outputs) == len(expected) == len(node.output)
        for output, their, found in zip(node.output, expected, outputs, strict=True):
            assert (found.dtype, found.shape) == (their.dtype, their.shape)
            axes = tuple(range(attributes_of(node)["axis"] % their.ndim, their.ndim))
            size = np.abs(their).max(axis=axes, keepdims=True)
            assert (np.abs(found - their) <= RTOL * size).all(), output
