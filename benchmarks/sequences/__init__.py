"""The benchmark of recurrence: fastln's layer-normalized LSTM against what else runs the same cell, and against floors.

Floors are LSTMs without norms. `python -m benchmarks.sequences --help` says how to run it. Contenders, timing in turns
and intervals are those of the benchmark of norms; cells and arrays are its own.
"""
