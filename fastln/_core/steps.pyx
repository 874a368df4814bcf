# cython: cdivision=True
"""What a sequence and its gradients share: where its arrays are, and how its steps are gone through."""

cimport numpy as cnp
from libc.stdint cimport uintptr_t

import numpy as np

from fastln._core.isa cimport (
    FLN_F32,
    FLN_F64,
    FLN_GRU,
    FLN_PANEL_BYTES,
    FLN_RNN,
    active,
    fln_cell,
    fln_cell_rows,
    fln_kernels,
)

cnp.import_array()

# In the order of fln_cell.
CELLS = ("rnn", "lstm", "gru")
GATES = (1, 4, 3)
NORMS = (1, 3, 4)


cdef object allocate(Room* room):
    """One array for all that a call needs: of several, glibc gives the system back what they leave free, and takes it
    anew in the next call (LSTM, 128 units, batch 8, 50 steps: 228 page faults, 17.1 us a step rather than 9.7). A large
    one NumPy places in huge pages."""
    cdef cnp.npy_intp size = room.taken + FLN_PANEL_BYTES
    cdef object memory = cnp.PyArray_EMPTY(1, &size, cnp.NPY_UINT8, False)
    cdef char* start = <char*> cnp.PyArray_DATA(memory)
    room.memory = start + (FLN_PANEL_BYTES - <uintptr_t> start % FLN_PANEL_BYTES)
    room.taken = 0
    return memory


cdef tuple begin_steps(
    Steps* steps, str cell, object x, object y, object lengths, object bias, tuple norms, double eps, bint reverse,
    bint carry_normalized, bint relu, Py_ssize_t hidden
):
    cdef object order, sorted_lengths
    cdef int which = CELLS.index(cell), element, i
    cdef const fln_kernels* table
    steps.which = <fln_cell> which
    steps.type_num = cnp.PyArray_TYPE(x)
    steps.size = cnp.PyArray_ITEMSIZE(x)
    table, element = active, <int> (FLN_F32 if steps.type_num == cnp.NPY_FLOAT32 else FLN_F64)
    steps.element, steps.kernels = table.elements + element, table.recurrences + element
    steps.cell_kernels = steps.kernels.cells + which
    steps.steps, steps.batch, steps.inputs = x.shape
    steps.hidden, steps.gates = hidden, GATES[which] * hidden
    steps.x, steps.x_step, steps.x_row = <char*> cnp.PyArray_DATA(x), x.strides[0], x.strides[1]
    steps.y, steps.y_step, steps.y_row = <char*> NULL, 0, 0
    if y is not None:
        steps.y, steps.y_step, steps.y_row = <char*> cnp.PyArray_DATA(y), y.strides[0], y.strides[1]
    steps.reverse = reverse
    if lengths is None:
        order = np.arange(steps.batch, dtype=np.intp)
        sorted_lengths = np.full(steps.batch, steps.steps, np.intp)
    else:
        order = np.argsort(-lengths, kind="stable").astype(np.intp, copy=False)
        sorted_lengths = lengths[order].astype(np.intp, copy=False)
    steps.order = <const Py_ssize_t*> cnp.PyArray_DATA(order)
    steps.lengths = <const Py_ssize_t*> cnp.PyArray_DATA(sorted_lengths)
    steps.longest = steps.lengths[0] if steps.batch > 0 else 0
    steps.rows = sorted_lengths.sum()
    steps.cell.bias = data_or_null(bias)
    for i in range(len(norms)):
        steps.cell.norm_weight[i] = data_or_null(norms[i][0])
        steps.cell.norm_bias[i] = data_or_null(norms[i][1])
    steps.cell.hidden, steps.cell.eps = hidden, eps
    steps.cell.relu, steps.cell.carries_normalized = relu, carry_normalized
    return order, sorted_lengths


cdef tuple with_weights(tuple norms, str cell, object like):
    """Ones where there is none: layer norm's kernels find dx and dweight together with a weight only."""
    cdef Py_ssize_t hidden = like.shape[1], gates = GATES[CELLS.index(cell)] * hidden
    cdef tuple sizes = (gates, gates, hidden)
    return tuple(
        (np.ones_like(like, shape=size) if weight is None else weight, bias)
        for (weight, bias), size in zip(norms, sizes, strict=False)
    )


cdef void* data_or_null(object array):
    return NULL if array is None else cnp.PyArray_DATA(array)


def make_saved(cell: str, rows: int, hidden: int, dtype) -> tuple:
    """Arrays for what `run_sequence` saves of so many rows, those of all steps together."""
    which = CELLS.index(cell)
    gates = GATES[which] * hidden
    of_gates = [None] * 3 if which == FLN_RNN else [np.empty((rows, gates), dtype) for _ in range(3)]
    inner = None if which == FLN_GRU else np.empty((rows, hidden), dtype)
    return (*of_gates, inner, np.empty((2 * NORMS[which], rows), dtype))


cdef void find_saved(const Steps* steps, tuple saved, fln_cell_rows* rows):
    cdef int i
    cdef char* stats = <char*> data_or_null(saved[4])
    rows.gx, rows.gh, rows.gates, rows.inner = (
        data_or_null(saved[0]), data_or_null(saved[1]), data_or_null(saved[2]), data_or_null(saved[3])
    )
    for i in range(NORMS[<int> steps.which]):
        rows.mean[i] = stats + 2 * i * steps.rows * steps.size
        rows.rstd[i] = stats + (2 * i + 1) * steps.rows * steps.size
