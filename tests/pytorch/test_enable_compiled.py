"""`torch.compile` and `torch.export` make the same of a model with fastln on as with fastln off."""

from __future__ import annotations

import warnings

import pytest
from torch_calls import counted, fastln_torch, torch

pytestmark = pytest.mark.filterwarnings("ignore")


class Model(torch.nn.Module):
    """Both norms, as modules and as functions."""

    def __init__(self):
        super().__init__()
        self.norm, self.rms_norm = torch.nn.LayerNorm(8), torch.nn.RMSNorm(8)

    def forward(self, x):
        return self.rms_norm(self.norm(x).relu()) + torch.nn.functional.layer_norm(x, (8,))


def graphs_off_and_on(graphs_of):
    """The texts of what is traced with fastln off and on, and what became of the calls."""
    torch._dynamo.reset()
    off = graphs_of()
    torch._dynamo.reset()
    with counted() as calls:
        on = graphs_of()
    return off, on, calls


def test_dynamo_and_aot_autograd_trace_the_same_graphs():
    from torch._dynamo.backends.common import aot_autograd

    x = torch.randn(4, 8)

    def graphs_of():
        torch.manual_seed(0)
        texts = []

        def keep(graph, inputs):
            texts.append(graph.print_readable(print_output=False))
            return graph.forward

        model = Model()
        for backend in (keep, aot_autograd(fw_compiler=keep, bw_compiler=keep)):
            torch.compile(model, backend=backend, fullgraph=True)(x).sum().backward()
        return texts

    off, on, _ = graphs_off_and_on(graphs_of)
    assert len(off) == 3
    assert on == off


def test_export_gives_the_same_program_whose_norms_run_on_fastln():
    x = torch.randn(4, 8)
    model = Model().eval()

    def graphs_of():
        programs = [torch.export.export(model, (x,), strict=strict) for strict in (True, False)]
        programs.append(torch.export.export(model.norm, (x,)).run_decompositions())
        return [str(getattr(program, name)) for program in programs for name in ("graph", "graph_signature")]

    off, on, _ = graphs_off_and_on(graphs_of)
    assert on == off
    program = torch.export.export(model, (x,))
    with counted() as calls:
        program.module()(x)
    assert calls.taken == {"native_layer_norm": 2, "_fused_rms_norm": 1}


def test_decomposed_rms_norm_stays_one_operator():
    """As it does on every device that has a kernel for it; such a program runs with fastln off too."""
    x = torch.randn(4, 8)
    program = torch.export.export(torch.nn.RMSNorm(8).eval(), (x,))
    with fastln_torch.enabled():
        decomposed = program.run_decompositions()
    assert "aten._fused_rms_norm.default" in str(decomposed.graph)
    assert "aten._fused_rms_norm.default" not in str(program.run_decompositions().graph)
    torch.testing.assert_close(decomposed.module()(x), program.module()(x))


def test_inductor_writes_its_own_norms(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    from torch._inductor.utils import run_and_get_code

    x = torch.randn(4, 8)
    model = Model().eval()

    def graphs_of():
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            y, codes = run_and_get_code(torch.compile(model, fullgraph=True), x)
        torch.testing.assert_close(y, model_off)
        return [code.replace(str(tmp_path), "") for code in codes]

    with torch.inference_mode():
        model_off = model(x)
    off, on, calls = graphs_off_and_on(graphs_of)
    assert on == off
    assert calls.taken == {}


def test_switching_needs_no_new_compilation():
    x = torch.randn(4, 8)
    counter = torch._dynamo.testing.CompileCounter()
    torch._dynamo.reset()
    compiled = torch.compile(Model(), backend=counter, fullgraph=True)
    for switch in (fastln_torch.disable, fastln_torch.enable, fastln_torch.disable):
        switch()
        compiled(x)
    assert counter.frame_count == 1
