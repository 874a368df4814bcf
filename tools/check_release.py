"""Whether this tree is the release that a tag names: the version in fastln/_version.py and the date in CHANGELOG.md.

python tools/check_release.py v0.1.0
"""

from __future__ import annotations

import argparse
import datetime
import re
import runpy
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def problems(version: str, changelog: str, tag: str | None = None) -> list[str]:
    """What keeps a tree with this version and changelog from being released under the tag (None: v and the version)."""
    found = []
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        found.append(f"the version of a release must be MAJOR.MINOR.PATCH, got {version}")
    if tag not in (None, f"v{version}"):
        found.append(f"the tag must be v{version}, got {tag}")
    heading = re.search(rf"^## \[{re.escape(version)}\] - (\S+)$", changelog, re.MULTILINE)
    if not heading:
        found.append(f"CHANGELOG.md must have a heading '## [{version}] - YYYY-MM-DD'")
    elif not is_date(heading[1]):
        found.append(f"the date of {version} in CHANGELOG.md must be YYYY-MM-DD, got {heading[1]}")
    return found


def is_date(text: str) -> bool:
    """Whether a text is a day, as YYYY-MM-DD."""
    try:
        return datetime.date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def main() -> None:
    """Exit with what is wrong, one line each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tag")
    tag = parser.parse_args().tag
    version = runpy.run_path(str(ROOT / "fastln" / "_version.py"))["__version__"]
    found = problems(version, (ROOT / "CHANGELOG.md").read_text(), tag)
    if found:
        raise SystemExit("\n".join(found))
    print(f"{version}: tag, version and changelog agree")


if __name__ == "__main__":
    main()
