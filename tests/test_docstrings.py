"""Every public function, object and method has an example, and the examples are true: those of the built modules."""

from __future__ import annotations

import doctest
import inspect

import pytest

import fastln


def with_docstrings():
    """{name as a user writes it: object} of all that is public and can be called."""
    found = {f"fastln.{name}": getattr(fastln, name) for name in fastln.__all__}
    found = {name: value for name, value in found.items() if callable(value)}
    for name, value in list(found.items()):
        if inspect.isclass(value) and not issubclass(value, tuple):
            methods = dict(inspect.getmembers(value, inspect.isfunction))
            found |= {f"{name}.{key}": m for key, m in methods.items() if key == "__call__" or not key.startswith("_")}
    return found


DOCUMENTED = with_docstrings()


@pytest.fixture(autouse=True)
def _choices_of_before():
    """Examples may choose another ISA or number of threads; whoever comes next has what was before."""
    isa, num_threads = fastln.get_isa(), fastln.get_num_threads()
    yield
    fastln.set_isa(isa)
    fastln.set_num_threads(num_threads)


@pytest.mark.parametrize("name", DOCUMENTED)
def test_examples_are_true(name):
    value = DOCUMENTED[name]
    # Without names given: an example imports what it uses, so that it can be copied as it stands.
    tests = doctest.DocTestFinder(recurse=False).find(value, name, module=False, globs={})
    assert [test for test in tests if test.examples], f"{name} must have an example"
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS, verbose=False)
    for test in tests:
        report: list[str] = []
        outcome = runner.run(test, out=report.append)
        assert not outcome.failed, "".join(report)
