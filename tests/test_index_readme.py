"""README on a package index: no link and no picture that leads nowhere."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.skipif(
    not (ROOT / "README.md").exists(), reason="run from a copy of the tests: README.md is not beside it"
)

TEXT = """[here](docs/a.md), [there](https://example.org/b), [below](#c)

<picture>
  <source srcset="dark.png">
  <img alt="A" src="light.png">
</picture>

The end."""


@pytest.fixture
def readme(monkeypatch):
    """The module."""
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    return importlib.import_module("index_readme")


def test_without_an_address_words_stay_and_pictures_go(readme):
    assert readme.made_absolute(TEXT, None) == "here, [there](https://example.org/b), [below](#c)\n\nThe end."


def test_with_an_address_links_and_pictures_begin_with_it(readme):
    text = readme.made_absolute(TEXT, "https://example.org/o/r")
    assert text.startswith(
        "[here](https://example.org/o/r/blob/HEAD/docs/a.md), [there](https://example.org/b), [below](#c)"
    )
    assert 'srcset="https://example.org/o/r/raw/HEAD/dark.png"' in text
    assert 'src="https://example.org/o/r/raw/HEAD/light.png"' in text


def test_every_relative_link_of_readme_leads_to_a_file(readme):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    paths = [match[2] for match in readme.LINK.finditer(text)] + [
        match[2] for match in readme.PICTURE_PATH.finditer(text)
    ]
    assert len(paths) > 2
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_what_the_index_gets_has_no_relative_link(readme):
    text = readme.index_readme()
    assert text.startswith("# fastln\n")
    targets = re.findall(r'\]\(([^)]+)\)|src(?:set)?="([^"]+)"', text)
    assert [target for pair in targets for target in pair if target and not target.startswith("https://")] == []
