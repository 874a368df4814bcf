"""fastln in PyTorch: norms of tensors, and of models whose RMS norms are not PyTorch's."""

from fastln.torch.functional import add_layer_norm, add_rms_norm, layer_norm, rms_norm
from fastln.torch.patching import Entry, PatchReport, patch, unpatch

__all__ = [
    "Entry",
    "PatchReport",
    "add_layer_norm",
    "add_rms_norm",
    "layer_norm",
    "patch",
    "rms_norm",
    "unpatch",
]
