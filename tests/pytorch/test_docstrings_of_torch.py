"""The examples in the docstrings of `fastln.torch` are true, and every public name has one."""

from __future__ import annotations

import doctest

import pytest
from torch_calls import fastln_torch


@pytest.mark.parametrize("name", fastln_torch.__all__)
def test_examples(name):
    function = getattr(fastln_torch, name)
    examples = doctest.DocTestFinder(recurse=False).find(function, name, globs={})
    assert examples
    assert examples[0].examples
    for example in examples:
        found = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example)
        assert found.failed == 0
