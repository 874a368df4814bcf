#!/bin/sh
# Installs dist's only wheel in an empty environment and runs the tests there, from outside the clone.
set -eu
clone=$(cd "$(dirname "$0")/.." && pwd)
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
"${PYTHON:-python3}" -m venv "$place/venv"
"$place/venv/bin/pip" install -q "$(ls "$clone"/dist/*.whl)[test]"
cp -r "$clone/tests" "$clone/pyproject.toml" "$place"
cd "$place"
venv/bin/python -m pytest -q
