#!/bin/sh
# Installs dist's only wheel in an empty environment and runs the tests there, from outside the clone.
set -eu
clone=$(cd "$(dirname "$0")/.." && pwd)
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
"${PYTHON:-python3}" -m venv "$place/venv"
cp -r "$clone/tests" "$clone/pyproject.toml" "$place"
cd "$place"
venv/bin/python -m pip install -q --upgrade pip
venv/bin/python -m pip install -q "$clone"/dist/*.whl
venv/bin/python -m pip install -q --group test
venv/bin/python -m pytest -q
