#!/bin/sh
# beside_build.sh PLACE COMMAND...: runs a command where a build is that is not the clone's, with copies of tests and
# tools beside it: there the package of the clone is not in the way.
set -eu
clone=$(cd "$(dirname "$0")/.." && pwd)
place=$1
shift
rm -rf "$place/tests" "$place/tools"
cp -r "$clone/tests" "$clone/tools" "$clone/pyproject.toml" "$place"
cd "$place"
export PYTHONPATH="$place" # fresh processes find the build too
exec "$@"
