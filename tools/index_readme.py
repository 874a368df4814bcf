"""README as a package index shows it. Relative links and pictures lead nowhere there.

They become absolute where pyproject.toml says where the repository is (`Source` under [project.urls], a repository of
GitHub's form). Where it does not, links keep their words and pictures are left out: better none than a broken one.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

LINK = re.compile(r"\[([^\]]*)\]\((?!https?:|#)([^)]+)\)")
PICTURE_PATH = re.compile(r'(src|srcset)="(?!https?:)([^"]+)"')
PICTURE = re.compile(r"<picture>.*?</picture>\n*", re.DOTALL)


def index_readme(root: Path = ROOT) -> str:
    """What setup.py gives as the long description."""
    settings = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    text = (root / "README.md").read_text(encoding="utf-8")
    return made_absolute(text, settings["project"].get("urls", {}).get("Source"))


def made_absolute(text: str, source: str | None) -> str:
    """Text with links and pictures that hold anywhere, `source` being where the repository is."""
    if source is None:
        return LINK.sub(r"\1", PICTURE.sub("", text))
    text = LINK.sub(rf"[\1]({source}/blob/HEAD/\2)", text)
    return PICTURE_PATH.sub(rf'\1="{source}/raw/HEAD/\2"', text)
