"""fastln as PyTorch's kernel of layer norm and RMS norm on the CPU: on, off, and what became of the calls."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from typing import NamedTuple

from fastln.torch import _kernels, originals


class Calls(NamedTuple):
    """What became of the calls of PyTorch's operators that have reached fastln's kernels.

    Attributes
    ----------
    taken : dict of str to int
        Calls that ran on fastln, by the name of the operator in `torch.ops.aten`.
    passed_on : dict of str to int
        Calls that went on to PyTorch's own kernel, by reason. "dtype": x is of none of the four dtypes. "mixed dtypes":
        the others do not go with x's. "layout": no plain tensor, or parameters that are not in one piece. "empty": no
        rows or columns. "arguments": a wrong shape or
        eps, about which PyTorch may raise an error. "memory": none was left. "switched off": the call came after
        `disable`, where the kernels had to stay registered.

    Examples
    --------
    >>> import fastln.torch
    >>> list(fastln.torch.show_calls().taken)
    ['native_layer_norm', 'native_layer_norm_backward', '_fused_rms_norm', '_fused_rms_norm_backward']
    """

    taken: dict[str, int]
    passed_on: dict[str, int]


_lock = threading.RLock()
_is_on = False
_scopes = 0  # of `enabled` that are open
_is_on_outside = False  # of all of them


def enable() -> None:
    """Make fastln the kernel of layer norm and RMS norm on PyTorch's CPU, for the whole process.

    From then on `torch.nn.functional.layer_norm` and `rms_norm`, `torch.nn.LayerNorm` and `RMSNorm`, and whatever else
    ends in the same operators run on fastln, forward and backward, in models old and new, with nothing changed in
    them: eager mode, autograd, `torch.func`, TorchScript and exported programs. `torch.compile` does not: its compiler
    writes its own norms.

    float32, float64, float16 and bfloat16 are taken, with parameters of x's dtype, or of float32 beside 16 bits. Rows
    at a constant stride are used where they are, other layouts copied once. What is not taken, and every error, is
    PyTorch's: `show_calls` tells. The number of threads is fastln's, but never more than `torch.get_num_threads()`.

    Does nothing if it is on already. Kernels that another library has registered for the same operators are what is
    passed on to; of two that were registered, the later one is called.

    Examples
    --------
    >>> import torch
    >>> import fastln.torch
    >>> fastln.torch.enable()
    >>> torch.nn.LayerNorm(4)(torch.tensor([[1.0, 2.0, 3.0, 4.0]])).detach()
    tensor([[-1.3416, -0.4472,  0.4472,  1.3416]])
    >>> fastln.torch.disable()
    """
    global _is_on_outside
    with _lock:
        _is_on_outside = True
        _switch(True)


def disable() -> None:
    """Give PyTorch its own kernels back. Does nothing if they are there already.

    RMS norms that were computed before still have their gradients from fastln, since PyTorch has no kernel for these.

    PyTorch's dispatcher is not made for kernels that go while they are called. So where other threads have called norms
    since `enable`, fastln's kernels stay registered and pass every call on to PyTorch's: the results are PyTorch's, but
    for the gradients of RMS norm, and each call takes some 5 us longer.

    Examples
    --------
    >>> import fastln.torch
    >>> fastln.torch.disable()
    >>> fastln.torch.is_enabled()
    False
    """
    global _is_on_outside
    with _lock:
        _is_on_outside = False
        _switch(False)


@contextlib.contextmanager
def enabled() -> Iterator[None]:
    """Context manager, or decorator: `enable` within, and what was before afterwards.

    It holds for the whole process, not for this thread alone, until the last of all that are open ends. What `enable`
    or `disable` say within, they say for afterwards too.

    Examples
    --------
    >>> import fastln.torch
    >>> with fastln.torch.enabled():
    ...     fastln.torch.is_enabled()
    True
    >>> fastln.torch.is_enabled()
    False
    """
    global _scopes, _is_on_outside
    with _lock:
        if _scopes == 0:
            _is_on_outside = _is_on
        _scopes += 1
        _switch(True)
    try:
        yield
    finally:
        with _lock:
            _scopes -= 1
            if _scopes == 0:
                _switch(_is_on_outside)


def is_enabled() -> bool:
    """Whether PyTorch's layer norm and RMS norm run on fastln.

    Examples
    --------
    >>> import fastln.torch
    >>> fastln.torch.is_enabled()
    False
    """
    return _is_on


def show_calls() -> Calls:
    """Count the calls that fastln's kernels have taken in this process, and those that they passed on, by reason.

    Calls that do not reach the kernels are not among them: those of compiled models, say, or on another device.

    Returns
    -------
    Calls
        `taken` and `passed_on`, two dicts.

    Examples
    --------
    >>> import torch
    >>> import fastln.torch
    >>> before = fastln.torch.show_calls()
    >>> with fastln.torch.enabled():
    ...     y = torch.nn.functional.rms_norm(torch.ones(2, 3), (3,))
    >>> after = fastln.torch.show_calls()
    >>> after.taken["_fused_rms_norm"] - before.taken["_fused_rms_norm"]
    1
    >>> after.passed_on == before.passed_on
    True
    """
    counts = _kernels.counts()
    taken = {name: of_name[0] for name, of_name in zip(_kernels.OPERATOR_NAMES, counts, strict=True)}
    passed_on = {reason: sum(of_name[i] for of_name in counts) for i, reason in enumerate(_kernels.REASONS, start=1)}
    return Calls(taken, passed_on)


def _switch(is_on: bool) -> None:
    global _is_on
    if is_on and not _kernels.is_registered():
        originals.keep_kernels()
        _kernels.register()
    _kernels.switch(is_on)
    if not is_on:
        _kernels.unregister()
    _is_on = is_on


def _after_fork_in_child() -> None:
    """Have a lock of its own: that of the parent may be held by a thread that is not here."""
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
