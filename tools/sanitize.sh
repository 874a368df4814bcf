#!/bin/sh
# sanitize.sh [PYTHON]: runs tests and a minute of the fuzzer against the sanitized build. Any report ends the process
# that it is about, so a report is a failure. PYTHON is one with PyTorch, if the one on PATH is not.
set -eu
if [ "${1-}" != beside ]; then
  cd "$(dirname "$0")/.."
  exec tools/beside_build.sh "$PWD/build/sanitize/address-undefined/lib" tools/sanitize.sh beside "${1-python}"
fi
with_pytorch=$2
shift 2

# Python itself is not sanitized: the runtime has to be there before it, and before the C++ runtime whose exceptions it
# watches. Every allocation of Python goes to malloc, so that it is watched too. Leaks are looked for at the very end
# alone, since an interpreter that ends leaves much behind. A signal is left to the tests that wait for one. Fresh
# processes inherit all.
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
# Nor the kernels of other instruction sets than the best, which the fuzzer has (those that are not inlined here take
# the scalar ones 20 times as long); nor limits of the address space, of which the sanitizer needs terabytes.
others=$(python -c 'import fastln; print("".join(f" and not {isa}" for isa in fastln.available_isas()[1:]))')
python -m pytest -q -x -n auto --dist worksteal -p no:cacheprovider "$@" -k "not memory_for_the_stacks$others" \
  --ignore tests/pytorch
python tools/fuzz.py --seconds 60

if ! "$with_pytorch" -c "import torch" 2>/dev/null; then
  echo "sanitize: fastln.torch is left out: $with_pytorch has no PyTorch (make test-torch gets one, in .venv-torch)"
  exit
fi
# PyTorch itself is not sanitized. Not these: code that PyTorch's compiler writes, which takes a minute to compile here
# and has none of fastln's; growth, which is next.
"$with_pytorch" -m pytest -q -x -n auto --dist worksteal -p no:cacheprovider tests/pytorch \
  -k "not inductor and not nothing_behind and not keeps_memory"
# 10 000 calls of each path, errors included, must neither grow the process nor leave a block that nobody can reach.
# What was there before may: the interpreter. Freed memory goes back soon, or it would be taken for growth.
ASAN_OPTIONS=$ASAN_OPTIONS:detect_leaks=1:quarantine_size_mb=1:thread_local_quarantine_size_kb=64 \
  PYTHONPATH=$PYTHONPATH:tests:tests/pytorch "$with_pytorch" - <<'END'
import ctypes, gc, os

sanitizer = ctypes.CDLL(None)
sanitizer.__lsan_disable()
import test_direct, test_enable_processes as processes

sanitizer.__lsan_enable()
for path in processes.PATHS:
    processes.test_10000_calls_leave_nothing_behind(path)
processes.test_switching_on_and_off_leaves_nothing_behind()
test_direct.test_no_path_keeps_memory()
gc.collect()
sanitizer.__lsan_disable()
leaks = sanitizer.__lsan_do_recoverable_leak_check()
print("leaks in fastln.torch" if leaks else "no leaks in fastln.torch", flush=True)
os._exit(leaks)  # a usual end would look through all that the interpreter leaves
END
