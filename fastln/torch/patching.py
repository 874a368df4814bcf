"""RMS norms of other libraries on fastln: the forward of each module that is known to be one, on the instance alone."""

from __future__ import annotations

import copy
import functools
import re
import types
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.compiler import is_dynamo_compiling

from fastln._core.describe import describe
from fastln.torch import _direct
from fastln.torch.formulas import HALF_DTYPES, Norm, Order, UnknownError, read_norm

# Of classes whose modules are listed where they are left alone, if they are made of no others.
NAME_OF_A_NORM = re.compile(r"norm|rms", re.IGNORECASE)

# Of modules of one class, in a report.
MOST_NAMES = 3


class Entry(NamedTuple):
    """What became of a module.

    Attributes
    ----------
    name : str
        As `model.named_modules()` has it; "" is the model itself.
    kind : str
        Its class.
    note : str
        How fastln rounds there, or why the module was left alone.

    Examples
    --------
    >>> import torch
    >>> import fastln.torch
    >>> fastln.torch.patch(torch.nn.Sequential(torch.nn.RMSNorm(8))).left[0]
    Entry(name='0', kind='RMSNorm', note="PyTorch's own, which fastln.torch.enable() takes")
    """

    name: str
    kind: str
    note: str


class PatchReport(NamedTuple):
    """What `patch` did, or would do. Its repr is a table.

    Attributes
    ----------
    replaced : tuple of Entry
        Modules whose forward is fastln's.
    left : tuple of Entry
        Other modules that look like norms.
    dry_run : bool
        Whether nothing was changed.

    Examples
    --------
    >>> import torch
    >>> import fastln.torch
    >>> report = fastln.torch.patch(torch.nn.Sequential(torch.nn.RMSNorm(8)), dry_run=True)
    >>> len(report.replaced), len(report.left), report.dry_run
    (0, 1, True)
    """

    replaced: tuple[Entry, ...]
    left: tuple[Entry, ...]
    dry_run: bool

    def __repr__(self) -> str:
        title = "fastln.torch.patch, dry run: would replace" if self.dry_run else "fastln.torch.patch: replaced"
        lines = [f"{title} {len(self.replaced)} of {len(self.replaced) + len(self.left)} norms"]
        lines += [f"  replaced  {line}" for line in _lines_of(self.replaced)]
        lines += [f"  left      {line}" for line in _lines_of(self.left)]
        return "\n".join(lines)


def patch(model: torch.nn.Module, dry_run: bool = False) -> PatchReport:
    """Have the RMS norms of a model that are not PyTorch's run on fastln: Llama's, Qwen's, Gemma's, T5's and the like.

    What a norm computes, and where it rounds numbers of 16 bits, is read from the source of its class. Where fastln
    has the same formula and the same roundings, the module gets a `forward` of its own; every other module, an own
    subclass with another formula among them, is left alone. Nothing else changes: neither classes nor parameters, so
    hooks, state_dict, the optimizer and isinstance do not notice.

    A call that needs no gradient is one of fastln's. With gradients the same formula runs by way of
    `torch.nn.functional.rms_norm`, which is fastln's after `enable()`. Under a compiler, a tracer, a mode or a
    transform, on other devices and for float64 the original forward runs, so graphs are the same as without.

    Parameters
    ----------
    model : torch.nn.Module
        Its modules are looked through, itself among them.
    dry_run : bool
        Change nothing, report only.

    Returns
    -------
    PatchReport
        What was replaced, and why the rest was not.

    Raises
    ------
    TypeError
        If model is no Module.

    Notes
    -----
    float32 results differ by a few eps, as two ways to compute one formula do. Of 16 bits, x_hat and y are rounded
    where the original rounds them, so they differ where a number lies within such a difference of the middle of two:
    a few in 10000, by one unit in the last place. A row with an Inf becomes NaN; the originals give 0 for its finite
    numbers.

    A deep copy is patched too. A pickle is that of the model before, and is loaded without fastln; so is a shallow
    copy. `torch.jit.script` compiles the original. `torch.nn.DataParallel` copies the `forward` of one module to all
    its replicas: `unpatch` first.

    Examples
    --------
    >>> import torch
    >>> import fastln.torch
    >>> fastln.torch.patch(torch.nn.Sequential(torch.nn.RMSNorm(8)))
    fastln.torch.patch: replaced 0 of 1 norms
      left      1 RMSNorm: PyTorch's own, which fastln.torch.enable() takes (0)
    """
    replaced, left = [], []
    for name, module in _modules_of(model):
        try:
            norm = _norm_of(module)
        except UnknownError as reason:
            if NAME_OF_A_NORM.search(type(module).__name__) and not any(True for _ in module.children()):
                left.append(Entry(name, type(module).__name__, str(reason)))
            continue
        if not dry_run:
            _bind(module, _forward_of(type(module).forward, norm))
        replaced.append(Entry(name, type(module).__name__, _note_of(norm)))
    return PatchReport(tuple(replaced), tuple(left), bool(dry_run))


def unpatch(model: torch.nn.Module) -> None:
    """Give the modules of a model that `patch` changed their own forward again.

    Parameters
    ----------
    model : torch.nn.Module
        A patched model, a part of it, or any other one.

    Raises
    ------
    TypeError
        If model is no Module.

    Examples
    --------
    >>> import torch
    >>> import fastln.torch
    >>> fastln.torch.unpatch(torch.nn.Sequential(torch.nn.RMSNorm(8)))
    """
    for _, module in _modules_of(model):
        if _is_patched(module):
            for name in ATTRIBUTES:
                vars(module).pop(name, None)


def _modules_of(model: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Module]]:
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {describe(model)}")
    yield from model.named_modules()


def _norm_of(module: torch.nn.Module) -> Norm:
    """What there is to replace. UnknownError says why there is nothing."""
    kind = type(module)
    if kind.__module__.partition(".")[0] == "torch":
        own = "PyTorch's own, which fastln.torch.enable() takes"
        raise UnknownError(own if kind in (torch.nn.LayerNorm, torch.nn.RMSNorm) else "PyTorch's own")
    if _is_patched(module):
        raise UnknownError("patched before")
    if "forward" in vars(module):
        raise UnknownError("it has a forward of its own, which is not its class's")
    try:
        return read_norm(module)
    except UnknownError as reason:
        raise UnknownError(f"no RMS norm that is known, for {reason}") from None


# The report


def _note_of(norm: Norm) -> str:
    """Where fastln rounds."""
    order = norm.of_16_bits
    if order is None:
        return "float32 alone: rounds 16 bits in an order that fastln has not"
    weight = "" if not order.has_weight else " * (1 + weight)" if order.weight_offset else " * weight"
    return f"round(x_hat){weight}, rounded again" if order.rounds_x_hat else f"x_hat{weight}, rounded once"


def _lines_of(entries: tuple[Entry, ...]) -> Iterator[str]:
    """One for each class and note."""
    names: dict[tuple[str, str], list[str]] = {}
    for entry in entries:
        names.setdefault((entry.kind, entry.note), []).append(entry.name)
    for (kind, note), places in names.items():
        shown = ", ".join(place or "the model" for place in places[:MOST_NAMES])
        yield f"{len(places)} {kind}: {note} ({shown}{', ...' if len(places) > MOST_NAMES else ''})"


# The forward of a module


# By the forward of a class and what it was read as: all such modules share one.
_forwards: dict[tuple[Callable[..., Any], Norm], types.FunctionType] = {}


def _forward_of(original: Callable[..., Any], norm: Norm) -> types.FunctionType:
    if (original, norm) not in _forwards:
        _forwards[original, norm] = _make_forward(original, norm)
    return _forwards[original, norm]


def _make_forward(original: Callable[..., Any], norm: Norm) -> types.FunctionType:
    @functools.wraps(original)
    def forward(self: torch.nn.Module, *given: Any, **named: Any) -> Any:
        if len(given) == 1 and not named and not is_dynamo_compiling():
            y = _normalized(self, norm, given[0])
            if y is not None:
                return y
        return original(self, *given, **named)

    forward._fastln_norm = norm  # type: ignore[attr-defined]  # the mark of what `patch` has bound
    return forward  # type: ignore[return-value]


def _normalized(module: torch.nn.Module, norm: Norm, x: Any) -> Tensor | None:
    """The result where fastln rounds as the module does; None where it does not, or something is to see the call."""
    if type(x) is not Tensor or x.ndim == 0:
        return None
    weight = None if norm.weight is None else module._parameters.get(norm.weight)
    is_narrow = x.dtype in HALF_DTYPES
    order = norm.of_16_bits if is_narrow else norm.of_float32 if x.dtype is torch.float32 else None
    if order is None or (weight is None) == order.has_weight:
        return None
    if weight is not None and weight.dtype is not x.dtype and norm.needs_one_dtype:
        return None
    eps = vars(module).get(norm.eps)
    if eps is None or any(vars(module).get(name) is not value for name, value in norm.choices):
        return None
    cols = x.shape[-1]
    y = _direct.rms_norm(x, cols, weight, eps, None, order.weight_offset, order.rounds_x_hat)
    if y is None and _direct.lacks_gradients_alone(x, weight):
        return _with_gradients(x, cols, weight, eps, order, is_narrow)
    return y


def _with_gradients(
    x: Tensor, cols: int, weight: Tensor | None, eps: float, order: Order, is_narrow: bool
) -> Tensor | None:
    """The same by PyTorch's function, whose one rounding is of the result."""
    if not isinstance(eps, float) or (weight is not None and weight.shape != (cols,)):
        return None
    if order.rounds_x_hat and is_narrow:
        return None if weight is None else weight * F.rms_norm(x, (cols,), None, eps)
    if weight is not None:
        weight = weight.float() + order.weight_offset if order.weight_offset else weight.float()
    return F.rms_norm(x.float(), (cols,), weight, eps).type_as(x)


# An instance with a forward of its own: bound to it, so that a copy needs another one, and nothing for a pickle.
ATTRIBUTES = ("forward", "__getstate__", "__deepcopy__")


def _is_patched(module: torch.nn.Module) -> bool:
    forward = vars(module).get("forward")
    return isinstance(forward, types.MethodType) and hasattr(forward.__func__, "_fastln_norm")


def _bind(module: torch.nn.Module, forward: types.FunctionType) -> None:
    vars(module)["forward"] = types.MethodType(forward, module)
    vars(module)["__getstate__"] = functools.partial(_state_of, module)
    vars(module)["__deepcopy__"] = functools.partial(_deep_copy_of, module)


def _state_of(module: torch.nn.Module) -> Any:
    """What pickle and copy take of a module, as if it were not patched."""
    kind: Any = type(module)
    state = kind.__getstate__(module)
    if not isinstance(state, dict):
        return state
    return {name: value for name, value in state.items() if name not in ATTRIBUTES}


def _deep_copy_of(module: torch.nn.Module, memo: dict[int, Any]) -> torch.nn.Module:
    """A deep copy as of an unpatched module, patched in turn."""
    own = getattr(type(module), "__deepcopy__", None)
    if own is not None:
        other: torch.nn.Module = own(module, memo)
    else:
        reduced: Any = module.__reduce_ex__(4)
        make, arguments, state = reduced[:3]
        other = memo[id(module)] = make(*arguments)
        other.__setstate__(copy.deepcopy(state, memo))
    _bind(other, vars(module)["forward"].__func__)
    return other
