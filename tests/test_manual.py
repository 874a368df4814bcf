"""The examples of the manual are true: every block of Python in README.md and docs/, page by page, from top to bottom.

Blocks of a page share their names. One that begins with >>> is a doctest: what it prints is compared.
Docstrings have a test of their own, test_docstrings.py.
"""

from __future__ import annotations

import doctest
import os
from importlib.util import find_spec
from pathlib import Path
from unittest import mock

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
if not PAGES:
    pytest.skip("docs/ is not beside tests/: run these tests from a clone", allow_module_level=True)
sybil = pytest.importorskip("sybil", reason="sybil is not installed (the group manual of pyproject.toml)")
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser  # noqa: E402


def is_missing(*modules):
    """Whether a block needs what is not installed: for `skip: start if(...)` in a page."""
    return any(find_spec(name) is None for name in modules)


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: page.name)
def test_page(page, subtests, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # pages write files
    reader = sybil.Sybil([PythonCodeBlockParser(doctest_optionflags=doctest.ELLIPSIS), SkipParser()])
    document = reader.parse(page)
    document.namespace["is_missing"] = is_missing
    examples = list(document.examples())
    assert len(examples) >= page.read_text(encoding="utf-8").count("```python"), (
        "a block that is not read is not tested"
    )
    # Dask sets variables for its workers, MKL_NUM_THREADS among them, in this process, and leaves them there.
    with mock.patch.dict(os.environ):
        for example in examples:
            with subtests.test(f"line {example.line}"):
                example.evaluate()
