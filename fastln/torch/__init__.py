"""fastln in PyTorch: norms of tensors."""

from fastln.torch.functional import add_layer_norm, add_rms_norm, layer_norm, rms_norm

__all__ = ["add_layer_norm", "add_rms_norm", "layer_norm", "rms_norm"]
