"""fastln in PyTorch: its layer norm and RMS norm on the CPU, in models as they are. Importing it changes nothing."""

from fastln.torch import _needs as _needs  # first: an ImportError says what is missing
from fastln.torch.switching import Calls, disable, enable, enabled, is_enabled, show_calls

__all__ = [
    "Calls",
    "disable",
    "enable",
    "enabled",
    "is_enabled",
    "show_calls",
]
