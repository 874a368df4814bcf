"""fastln in PyTorch: the norms of models as they are, of tensors, and of models whose RMS norms are not PyTorch's.

Importing it changes nothing.
"""

from fastln.torch import _needs as _needs  # first: an ImportError says what is missing
from fastln.torch.functional import add_layer_norm, add_rms_norm, layer_norm, rms_norm
from fastln.torch.patching import Entry, PatchReport, patch, unpatch
from fastln.torch.switching import Calls, disable, enable, enabled, is_enabled, show_calls

__all__ = [
    "Calls",
    "Entry",
    "PatchReport",
    "add_layer_norm",
    "add_rms_norm",
    "disable",
    "enable",
    "enabled",
    "is_enabled",
    "layer_norm",
    "patch",
    "rms_norm",
    "show_calls",
    "unpatch",
]
