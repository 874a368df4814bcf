"""The examples of the manual under mypy --strict: each page of README.md and docs/ as one module, its blocks in order.

    python tools/type_examples.py [page ...]

A name may get another type further down a page, and libraries without types may be imported. A block that is not meant
as a whole piece of Python is no `python` block.
"""

from __future__ import annotations

import doctest
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
# Libraries that are not there, or say no types, are Any: a class may be made of one.
OPTIONS = [
    "--strict",
    "--allow-redefinition",
    "--allow-subclassing-any",
    "--ignore-missing-imports",
    "--no-error-summary",
]
TYPED_IN_PART = ("dask", "distributed", "transformers")
OPTIONS += [f"--untyped-calls-exclude={library}" for library in TYPED_IN_PART]


def code_of(page: str) -> str:
    """The code of a page's blocks, each line where it is in the page. Of a doctest, what is typed."""
    lines = [""] * (page.count("\n") + 1)
    for block in BLOCK.finditer(page):
        first = page.count("\n", 0, block.start(1))
        text = block[1]
        if text.lstrip().startswith(">>>"):
            for example in doctest.DocTestParser().get_examples(text):
                typed = example.source.splitlines()
                lines[first + example.lineno : first + example.lineno + len(typed)] = typed
        else:
            code = text.splitlines()
            lines[first : first + len(code)] = code
    return "\n".join(lines) + "\n"


def check(pages: Sequence[Path]) -> tuple[bool, str]:
    """Whether mypy has nothing to say of these pages, and what it says, by page and line."""
    with tempfile.TemporaryDirectory() as folder:
        modules = {Path(folder) / f"{page.stem}_{i}.py": page for i, page in enumerate(pages)}
        for module, page in modules.items():
            module.write_text(code_of(page.read_text(encoding="utf-8")), encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-m", "mypy", *OPTIONS, *map(str, modules)],
            cwd=ROOT,
            env={**os.environ, "MYPYPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        said = done.stdout + done.stderr
        for module, page in modules.items():
            said = said.replace(str(module), str(page)).replace(os.path.relpath(module, ROOT), str(page))
    return done.returncode == 0, said


def main() -> int:
    """Exit status 1 if mypy has something to say."""
    pages = [Path(name) for name in sys.argv[1:]] or [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    passed, said = check(pages)
    print(said or f"The examples of {len(pages)} pages have the types that they need.", end="" if said else "\n")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
