"""The benchmark of fastln: against NumPy, against its peers, against a copy of the same bytes.

`python -m benchmarks --help` says how to run it; BENCHMARKS.md says what is measured and how.
"""
