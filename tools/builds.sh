#!/bin/sh
# builds.sh [NAME...]: builds fastln in the ways that `make check` does not, each in a place of its own and with warnings
# as errors, and runs against it the tests that another compiler, or one thread, may break. Without a name: all of them.
#
#   clang         clang with libomp (Debian: clang, libomp-dev)
#   clang-serial  a newer clang without libomp (clang-19)
#   gcc-serial    GCC, told to leave OpenMP out
set -eu
clone=$(cd "$(dirname "$0")/.." && pwd)
cd "$clone"
TESTS="golden dispatch config calls bits threads thread_limits"

# try NAME OPENMP VARIABLE=VALUE...: a build with these in the environment; whether it has OpenMP must be as said.
try() {
  name=$1 openmp=$2
  shift 2
  echo "== $name: $*"
  place=$clone/build/builds/$name
  env FASTLN_STRICT=1 "$@" python setup.py -q build --build-base "$place" --build-lib "$place/lib"
  tools/beside_build.sh "$place/lib" python - "$openmp" <<'END'
import sys
from fastln._core.facts import config

build = config()["build"]
has_openmp = "with" if build["openmp"] else "without"
if has_openmp != sys.argv[1]:
    sys.exit(f"builds: a build {sys.argv[1]} OpenMP was meant, this one is {has_openmp} it")
print(build["compiler"])
END
  set --
  for test in $TESTS; do
    set -- "$@" "tests/test_$test.py"
  done
  tools/beside_build.sh "$place/lib" python -m pytest -q -n auto --dist worksteal -p no:cacheprovider "$@"
}

for name in "${@:-all}"; do
  case $name in
    clang) try clang with CXX=clang++ ;;
    clang-serial) try clang-serial without CXX=clang++-19 ;;
    gcc-serial) try gcc-serial without CXX=g++ FASTLN_OPENMP=0 ;;
    all) "$0" clang clang-serial gcc-serial ;;
    *) echo "builds: NAME must be clang, clang-serial or gcc-serial, got $name" >&2; exit 2 ;;
  esac
done
