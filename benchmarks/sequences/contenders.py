"""Who runs a layer-normalized LSTM over a sequence, and the floors, which run one without norms."""

from __future__ import annotations

from ..contenders import FLOOR, PEER, SUBJECT, VARIANT, Contender

FLOAT32 = ("float32",)


def _contender(name: str, kind: str, module: str, way: str = "", needs: tuple[str, ...] = ()) -> Contender:
    return Contender(name, kind, f"{__package__}.peers.{module}", way, needs, FLOAT32)


CONTENDERS = (
    _contender("fastln", SUBJECT, "fastln_calls"),
    _contender("fastln frozen", VARIANT, "fastln_calls", "frozen"),
    _contender("NumPy and fastln.layer_norm", PEER, "numpy_steps", needs=("numpy", "threadpoolctl")),
    _contender("ONNX Runtime Scan", PEER, "onnx_runtime_graphs", needs=("onnxruntime", "onnx")),
    _contender("JAX scan", PEER, "jax_scan", needs=("jax",)),
    _contender("numba", PEER, "numba_loops", needs=("numba", "scipy", "threadpoolctl")),
    _contender("PyTorch", PEER, "pytorch_cells", needs=("torch",)),
    _contender("PyTorch scripted", PEER, "pytorch_cells", "scripted", needs=("torch",)),
    _contender("PyTorch without norms", FLOOR, "pytorch_cells", "without_norms", needs=("torch",)),
    _contender("ONNX Runtime without norms", FLOOR, "onnx_runtime_graphs", "without_norms", ("onnxruntime", "onnx")),
)


def select(keys: list[str] | None) -> list[Contender]:
    """All contenders, or fastln and those with these keys.

    Raises
    ------
    ValueError
        If a key is of none.
    """
    own = [contender for contender in CONTENDERS if contender.kind in (SUBJECT, VARIANT)]
    others = {contender.key: contender for contender in CONTENDERS if contender not in own}
    for key in keys or ():
        if key not in others:
            raise ValueError(f"must be of {', '.join(others)}, got {key!r}")
    return list(CONTENDERS) if keys is None else own + [others[key] for key in keys]
