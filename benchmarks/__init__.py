"""The benchmark of fastln: against NumPy, against its peers, against a copy of the same bytes.

`python -m benchmarks --help` says how to run it; BENCHMARKS.md says what is measured and how.
"""

# GOMP_SPINCOUNT, to be set before an OpenMP runtime is loaded. Threads of GCC's runtime spin for about 10 ms after
# their work, which takes CPUs from the next contender; with this they do for about 1 ms (measured: 33 ns a count),
# which still spans the time between two calls of a batch. The same for all who use it: fastln, PyTorch, numba, oneDNN.
SPIN_COUNT = "30000"
