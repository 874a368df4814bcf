"""fastln: fast, accurate and reproducible layer and RMS normalization on the CPU, for NumPy arrays."""

from typing import TYPE_CHECKING as _TYPE_CHECKING

from fastln._core.facts import show_config
from fastln._core.isa import available_isas, get_isa, set_isa
from fastln._core.threads import get_num_threads, set_num_threads, threads
from fastln._version import __version__
from fastln.frozen import FrozenRecurrent
from fastln.gradients import (
    add_layer_norm_backward,
    add_rms_norm_backward,
    layer_norm_backward,
    rms_norm_backward,
)
from fastln.modules import (
    LayerNorm,
    LayerNormGradients,
    LayerNormSaved,
    RMSNorm,
    RMSNormGradients,
    RMSNormSaved,
)
from fastln.norms import (
    add_layer_norm,
    add_layer_norm_forward,
    add_rms_norm,
    add_rms_norm_forward,
    layer_norm,
    layer_norm_forward,
    rms_norm,
    rms_norm_forward,
)
from fastln.recurrent import layer_norm_gru, layer_norm_lstm, layer_norm_rnn
from fastln.recurrent_modules import (
    LayerNormGRU,
    LayerNormLSTM,
    LayerNormRNN,
    RecurrentGradients,
    RecurrentSaved,
)

__all__ = [
    "FrozenRecurrent",
    "LayerNorm",
    "LayerNormGRU",
    "LayerNormGradients",
    "LayerNormLSTM",
    "LayerNormRNN",
    "LayerNormSaved",
    "RMSNorm",
    "RMSNormGradients",
    "RMSNormSaved",
    "RecurrentGradients",
    "RecurrentSaved",
    "__version__",
    "add_layer_norm",
    "add_layer_norm_backward",
    "add_layer_norm_forward",
    "add_rms_norm",
    "add_rms_norm_backward",
    "add_rms_norm_forward",
    "available_isas",
    "get_isa",
    "get_num_threads",
    "layer_norm",
    "layer_norm_backward",
    "layer_norm_forward",
    "layer_norm_gru",
    "layer_norm_lstm",
    "layer_norm_rnn",
    "rms_norm",
    "rms_norm_backward",
    "rms_norm_forward",
    "set_isa",
    "set_num_threads",
    "show_config",
    "threads",
]

if not _TYPE_CHECKING:  # a type checker would take every name for one that is here

    def __getattr__(name: str) -> object:
        from fastln._core.names import explain_public

        raise AttributeError(explain_public(__name__, name, __all__), name=name)
