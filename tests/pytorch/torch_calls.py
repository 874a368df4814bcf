"""What the tests of fastln.torch share: tensors as arrays, and what became of the calls that a test made."""

from __future__ import annotations

import contextlib

import pytest

fastln_torch = pytest.importorskip("fastln.torch", exc_type=ImportError)
import torch  # noqa: E402

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def as_array(tensor):
    """The tensor's memory as an ndarray; bfloat16 is ml_dtypes'."""
    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:
        import ml_dtypes

        return tensor.view(torch.uint16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


class Counted:
    """What became of the calls within `counted`: {operator: calls taken}, {reason: calls passed on}, without zeros."""

    def __init__(self):
        self.taken, self.passed_on = {}, {}


@contextlib.contextmanager
def counted():
    """Within: fastln's kernels are on, and the calls are counted."""
    counts = Counted()
    before = fastln_torch.show_calls()
    with fastln_torch.enabled():
        yield counts
    for after, former, to in zip(fastln_torch.show_calls(), before, (counts.taken, counts.passed_on), strict=True):
        to.update({name: count - former[name] for name, count in after.items() if count != former[name]})


def outcome_of(call):
    """What the call returns, or the type and message of what it raises."""
    try:
        return call()
    except Exception as error:
        return type(error), str(error)


def off_and_on(call):
    """The outcomes with PyTorch's kernels and with fastln's, and what became of the latter's calls."""
    off = outcome_of(call)
    with counted() as calls:
        on = outcome_of(call)
    return off, on, calls


def is_error(outcome):
    """Whether an outcome is what was raised."""
    return isinstance(outcome, tuple) and len(outcome) > 0 and isinstance(outcome[0], type)


def assert_same_kind(off, on, are_near=True):
    """The same error, or tensors that are alike in all but their numbers, which are near each other."""
    if is_error(off) or is_error(on):
        assert on == off
        return
    pairs = zip(*((one,) if torch.is_tensor(one) else one for one in (off, on)), strict=True)
    for theirs, ours in pairs:
        if theirs is None or ours is None:
            assert theirs is ours
            continue
        assert (ours.dtype, ours.device, ours.shape) == (theirs.dtype, theirs.device, theirs.shape)
        assert ours.requires_grad == theirs.requires_grad
        if are_near:
            torch.testing.assert_close(ours, theirs, equal_nan=True)
