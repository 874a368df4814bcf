# cython: cdivision=True
"""What a sequence and its gradients share: where its arrays are, and how its steps are gone through.

It knows memory and no objects but where it is told so: whoever fills it in keeps the arrays alive and as they are.
"""

from fastln._core.isa cimport (
    FLN_CELL_NORMS,
    FLN_PANEL_BYTES,
    fln_cell,
    fln_cell_kernels,
    fln_cell_parameters,
    fln_cell_rows,
    fln_element_kernels,
    fln_recurrence_kernels,
)
from libc.string cimport memset

cdef extern from "barrier.h" namespace "fln_teams" nogil:
    int team_size() noexcept
    cdef struct Barrier:
        pass
    void wait_at(Barrier* barrier, int threads) noexcept


cdef enum:
    PANELS_TOGETHER = 4  # that a product takes side by side: each thread gets so many, if there are enough


# Sequences side by side. They are taken in the order of their lengths, the longest first, so those that a step concerns
# are the first ones of `order`. Strides count bytes.
cdef struct Steps:
    const fln_element_kernels* element
    const fln_recurrence_kernels* kernels
    const fln_cell_kernels* cell_kernels
    fln_cell_parameters cell
    fln_cell which
    int type_num
    Py_ssize_t size  # of a number
    Py_ssize_t batch
    Py_ssize_t inputs
    Py_ssize_t hidden
    Py_ssize_t gates
    Py_ssize_t steps  # of the arrays
    Py_ssize_t longest  # steps of the longest sequence
    Py_ssize_t rows  # steps of all sequences together
    const Py_ssize_t* order  # (batch,)
    const Py_ssize_t* lengths  # (batch,), in that order
    bint reverse
    char* x
    char* y  # or NULL
    Py_ssize_t x_step
    Py_ssize_t x_row
    Py_ssize_t y_step
    Py_ssize_t y_row


# A step on the way through them.
cdef struct Step:
    Py_ssize_t number  # in the order in which steps are taken
    Py_ssize_t time
    Py_ssize_t rows  # sequences that it concerns
    Py_ssize_t first  # row of all that the steps before have


# Fills in what arrays say, as far as they are there. What is returned is to be kept as long as the steps.
cdef tuple begin_steps(
    Steps* steps, str cell, object x, object y, object lengths, object bias, tuple norms, double eps, bint reverse,
    bint carry_normalized, bint relu, Py_ssize_t hidden
)


cdef inline void set_time(const Steps* steps, Step* step) noexcept nogil:
    step.time = steps.longest - 1 - step.number if steps.reverse else step.number
    while step.rows > 0 and steps.lengths[step.rows - 1] <= step.time:
        step.rows -= 1
    while step.rows < steps.batch and steps.lengths[step.rows] > step.time:
        step.rows += 1


cdef inline Step first_step(const Steps* steps) noexcept nogil:
    cdef Step step = Step(0, 0, 0, 0)
    set_time(steps, &step)
    return step


cdef inline void to_next_step(const Steps* steps, Step* step) noexcept nogil:
    step.first += step.rows
    step.number += 1
    set_time(steps, step)


cdef inline void to_step_before(const Steps* steps, Step* step) noexcept nogil:
    step.number -= 1
    set_time(steps, step)
    step.first -= step.rows


cdef inline Py_ssize_t panels_of(const Steps* steps, Py_ssize_t cols) noexcept nogil:
    cdef Py_ssize_t together = FLN_PANEL_BYTES // steps.size
    return (cols + together - 1) // together


cdef inline Py_ssize_t packed_bytes(const Steps* steps, Py_ssize_t depth, Py_ssize_t cols) noexcept nogil:
    return depth * panels_of(steps, cols) * FLN_PANEL_BYTES


# The first of `count` things that a thread takes; of the thread after the last one, `count`.
cdef inline Py_ssize_t first_of(Py_ssize_t count, int thread, int threads) noexcept nogil:
    return thread * count // threads


# The same of panels, of which some are taken together.
cdef inline Py_ssize_t first_panel(Py_ssize_t panels, int thread, int threads) noexcept nogil:
    cdef Py_ssize_t groups = (panels + PANELS_TOGETHER - 1) // PANELS_TOGETHER
    if groups < threads:
        return first_of(panels, thread, threads)
    return min(first_of(groups, thread, threads) * PANELS_TOGETHER, panels)


# The ends of sequences, in an array that is laid out like x or y.
cdef inline void clear_ends(
    const Steps* steps, char* array, Py_ssize_t step_bytes, Py_ssize_t row_bytes, Py_ssize_t cols, int thread,
    int threads,
) noexcept nogil:
    cdef Py_ssize_t i, time
    for i in range(first_of(steps.batch, thread, threads), first_of(steps.batch, thread + 1, threads)):
        for time in range(steps.lengths[i], steps.steps):
            memset(array + time * step_bytes + steps.order[i] * row_bytes, 0, cols * steps.size)


# Room for a call: one piece of memory, from which arrays are taken, aligned as panels are. At first it is counted how
# much they need; then it is allocated, and they are taken once more, in the same order.
cdef struct Room:
    char* memory  # NULL: it is being counted
    Py_ssize_t taken


# What is returned is the memory: it is to be kept as long as the arrays.
cdef object allocate(Room* room)


cdef inline Py_ssize_t in_lines(Py_ssize_t bytes) noexcept nogil:
    return (bytes + FLN_PANEL_BYTES - 1) // FLN_PANEL_BYTES * FLN_PANEL_BYTES


cdef inline void* take(Room* room, Py_ssize_t bytes) noexcept nogil:
    cdef Py_ssize_t at = room.taken
    room.taken += in_lines(bytes)
    return <void*> (room.memory + at) if room.memory != NULL else NULL


cdef inline Barrier* take_barrier(Room* room) noexcept nogil:
    cdef Barrier* barrier = <Barrier*> take(room, sizeof(Barrier))
    if barrier != NULL:
        memset(<void*> barrier, 0, sizeof(Barrier))
    return barrier


# What is saved for the gradients, from a row of all on.
cdef inline fln_cell_rows rows_from(const fln_cell_rows* all_rows, const Steps* steps, Py_ssize_t row) noexcept nogil:
    cdef fln_cell_rows rows = all_rows[0]
    cdef Py_ssize_t gates = row * steps.gates * steps.size, units = row * steps.hidden * steps.size, i
    rows.gx = moved(rows.gx, gates)
    rows.gh = moved(rows.gh, gates)
    rows.gates = moved(rows.gates, gates)
    rows.inner = moved(rows.inner, units)
    for i in range(FLN_CELL_NORMS):
        rows.mean[i] = moved(rows.mean[i], row * steps.size)
        rows.rstd[i] = moved(rows.rstd[i], row * steps.size)
    return rows


cdef inline void* moved(void* place, Py_ssize_t bytes) noexcept nogil:
    return <void*> (<char*> place + bytes) if place != NULL else NULL


# norms, with ones for weights that are missing; `like` has rows of the hidden size.
cdef tuple with_weights(tuple norms, str cell, object like)


cdef void* data_or_null(object array)


# The arrays of what `make_saved` returned.
cdef void find_saved(const Steps* steps, tuple saved, fln_cell_rows* rows)
