#!/bin/sh
# Runs tests and a minute of the fuzzer against the sanitized build. Any report ends the process that it is about, so a
# report is a failure.
set -eu
if [ "${1-}" != beside ]; then
  cd "$(dirname "$0")/.."
  exec tools/beside_build.sh "$PWD/build/sanitize/address-undefined/lib" tools/sanitize.sh beside
fi
shift

# Python itself is not sanitized: the runtime has to be there before it, and before the C++ runtime whose exceptions it
# watches. Every allocation of Python goes to malloc, so that it is watched too. Leaks are not looked for, since an
# interpreter that ends leaves much behind. A signal is left to the tests that wait for one. Fresh processes inherit all.
library() { "${CXX:-g++}" -print-file-name="$1"; }
export LD_PRELOAD="$(library libasan.so) $(library libubsan.so) $(library libstdc++.so)"
export PYTHONMALLOC=malloc
export ASAN_OPTIONS=detect_leaks=0:handle_segv=0:allocator_may_return_null=1
export UBSAN_OPTIONS=print_stacktrace=1

# What all the rest relies on.
if python - 2>/dev/null <<'END'
import numpy as np, fastln
fastln.layer_norm(np.lib.stride_tricks.as_strided(np.ones(10, np.float32), (5, 4), (16, 4)))
END
then
  echo "sanitize: reading past the end of an array was not reported" >&2
  exit 1
fi

# Not these: accuracy and the search for large errors (millions of rows, whose memory the others have seen); arrays
# against a page without access (the same thousands of calls for each, where the sanitizer guards every array anyway);
# emulated kernels, which this build does not hold; benchmarks, examples and training, which are about other libraries.
for left_out in accuracy memory emulated benchmarks examples train; do
  set -- "$@" --ignore-glob="*$left_out*"
done
# Nor the kernels of other instruction sets than the best, which the fuzzer has (those that are not inlined here take the
# scalar ones 20 times as long); nor limits of the address space, of which the sanitizer needs terabytes.
others=$(python -c 'import fastln; print("".join(f" and not {isa}" for isa in fastln.available_isas()[1:]))')
python -m pytest -q -x -n auto --dist worksteal -p no:cacheprovider "$@" -k "not memory_for_the_stacks$others"
python tools/fuzz.py --seconds 60
