# cython: cdivision=True
"""A layer-normalized recurrence over a whole sequence, in one parallel region.

The team divides the panels of the weights, then the sequences of the batch: W_ih x for some steps, then for each step
W_hh h and the cell. The order of every sum is the kernels': neither threads nor batch nor what comes after a sequence's
end change a bit. Nothing is checked here: `recurrent` has done it.
"""

cimport numpy as cnp
from cython.parallel cimport parallel, threadid
from libc.stdint cimport uintptr_t
from libc.string cimport memset

import numpy as np

from fastln._core.effort cimport threads_of_sequence
from fastln._core.isa cimport FLN_PANEL_BYTES, fln_cell_rows, fln_product_args, fln_step_args
from fastln._core.steps cimport (
    PANELS_TOGETHER,
    Barrier,
    Room,
    Step,
    Steps,
    allocate,
    begin_steps,
    clear_ends,
    data_or_null,
    find_saved,
    first_of,
    first_panel,
    first_step,
    in_lines,
    packed_bytes,
    panels_of,
    rows_from,
    take,
    take_barrier,
    team_size,
    to_next_step,
    wait_at,
)
from fastln._core.threads cimport limit_of

cnp.import_array()

# Rows of x that are projected together, of several steps where the batch is small: W_ih then comes from memory once for
# all of them. LSTM of 1024 units, batch 8, of the time with 96: 48 1.04, 24 1.13, 12 1.5; batch 1: 1.01, 1.07, 1.12.
# Batch 64, of the time with 48, which is one step: 128 0.98, 256 0.98; on two threads 0.96, 0.95; 512 units 1.00.
#
# Where there are few rows in all, they are projected in larger groups, and W_ih is packed anew for each, some panels at
# a time, which stay in the cache: no memory of its size is needed, which the system would have to clear first. LSTM
# over 50 steps, in us a step, with all of W_ih packed first and so: 512 units, batch 1 58.6, 49.5; 1024 units 270, 241;
# batch 8 830, 690.
cdef enum:
    PROJECTED_ROWS = 128
    FEW_ROWS = 512
    PROJECTED_FEW_ROWS = 256


# Forward over a sequence.
cdef struct Forward:
    Steps steps
    const char* weight_ih  # where they are still to be packed
    const char* weight_hh
    char* packed_ih
    char* packed_hh
    bint packs_anew  # W_ih as it is used: packed_ih is NULL
    char* h
    char* c
    fln_cell_rows saved  # of all rows; without arrays where nothing is saved
    bint saves
    Py_ssize_t projected  # rows at most
    # Room: of the team
    Barrier* barrier
    char* gx
    char* gh
    # and of its threads, each so many bytes further on
    const void** places
    void** results
    char* cell_room
    char* panel_room
    Py_ssize_t places_bytes
    Py_ssize_t cell_room_bytes
    Py_ssize_t panel_room_bytes


def pack(weight_ih, weight_hh, num_threads: int = 0) -> tuple:
    """Both weights as the kernels take them, for `run_sequence`: a copy, on every instruction set the same."""
    cdef Forward call
    cdef Py_ssize_t inputs = weight_ih.shape[1], hidden = weight_hh.shape[1]
    cdef Py_ssize_t numbers = weight_ih.shape[0] * (inputs + hidden)
    cdef int limit = limit_of(num_threads), threads
    x = np.empty((0, 0, inputs), weight_ih.dtype)
    _kept = begin_steps(&call.steps, "rnn", x, None, None, None, (), 0, False, False, False, hidden)
    call.steps.gates = weight_ih.shape[0]
    packed = (
        empty_panels(&call.steps, inputs, weight_ih.dtype), empty_panels(&call.steps, hidden, weight_ih.dtype)
    )
    call.weight_ih, call.weight_hh = <char*> data_or_null(weight_ih), <char*> data_or_null(weight_hh)
    call.packed_ih, call.packed_hh = <char*> data_or_null(packed[0]), <char*> data_or_null(packed[1])
    call.packs_anew = False
    with nogil:
        threads = threads_of_sequence(2 * numbers * call.steps.size, numbers, limit)
        if threads > 1:
            with parallel(num_threads=threads):
                pack_part(&call, threadid(), team_size())
        else:
            pack_part(&call, 0, 1)
    return packed


cdef object empty_panels(const Steps* steps, Py_ssize_t depth, object dtype):
    """Room for a packed weight, aligned as panels are."""
    cdef Py_ssize_t count = packed_bytes(steps, depth, steps.gates) // steps.size, more = FLN_PANEL_BYTES // steps.size
    cdef object array = np.empty(count + more, dtype)
    cdef Py_ssize_t past = (<uintptr_t> cnp.PyArray_DATA(array)) % FLN_PANEL_BYTES
    cdef Py_ssize_t first = (FLN_PANEL_BYTES - past) % FLN_PANEL_BYTES // steps.size
    return array[first:first + count]


def run_sequence(
    str cell, x, y, h, c, weight_ih, weight_hh, packed, bias, tuple norms, double eps, lengths, bint reverse,
    bint carry_normalized, bint relu, saved, int num_threads,
):
    """A cell over a sequence: y is written, h and c go from the first state to the last. See `recurrent`."""
    cdef Forward call
    cdef Room room = Room(NULL, 0)
    cdef int limit = limit_of(num_threads)
    memset(&call, 0, sizeof(call))
    _kept = begin_steps(
        &call.steps, cell, x, y, lengths, bias, norms, eps, reverse, carry_normalized, relu, h.shape[1]
    )
    call.packs_anew = packed is None and call.steps.rows <= FEW_ROWS
    call.projected = PROJECTED_FEW_ROWS if call.packs_anew else PROJECTED_ROWS
    if packed is None:
        call.weight_ih, call.weight_hh = <char*> data_or_null(weight_ih), <char*> data_or_null(weight_hh)
    else:
        call.packed_ih, call.packed_hh = <char*> data_or_null(packed[0]), <char*> data_or_null(packed[1])
    call.h = <char*> cnp.PyArray_DATA(h)
    call.c = <char*> NULL if c is None else <char*> cnp.PyArray_DATA(c)
    call.saves = saved is not None
    if call.saves:
        find_saved(&call.steps, saved, &call.saved)
    call.projected = max(call.steps.batch, min(call.projected, call.steps.rows))
    limit = threads_for(&call, limit)
    take_room(&call, &room, limit)
    _memory = allocate(&room)
    take_room(&call, &room, limit)
    with nogil:
        run(&call, limit)


cdef int threads_for(const Forward* call, int limit) noexcept:
    cdef const Steps* steps = &call.steps
    cdef Py_ssize_t weights = steps.gates * (steps.inputs + steps.hidden), numbers = steps.inputs + steps.hidden
    cdef double products = <double> (steps.rows // max(steps.longest, 1)) * weights
    cdef Py_ssize_t panels = panels_of(steps, steps.gates)
    return threads_of_sequence(
        (steps.longest * weights + steps.rows * numbers) * steps.size, products, <int> min(limit, panels)
    )


cdef void take_room(Forward* call, Room* room, int threads) noexcept:
    cdef const Steps* steps = &call.steps
    call.barrier = take_barrier(room)
    call.places_bytes = (call.projected + steps.batch) * sizeof(void*)
    call.cell_room_bytes = in_lines(steps.cell_kernels.room(steps.hidden) * steps.size)
    call.places = <const void**> take(room, threads * call.places_bytes)
    call.results = <void**> take(room, threads * call.places_bytes)
    call.cell_room = <char*> take(room, threads * call.cell_room_bytes)
    if call.weight_hh != NULL:
        call.packed_hh = <char*> take(room, packed_bytes(steps, steps.hidden, steps.gates))
        if not call.packs_anew:
            call.packed_ih = <char*> take(room, packed_bytes(steps, steps.inputs, steps.gates))
    if call.packs_anew:
        call.panel_room_bytes = PANELS_TOGETHER * steps.inputs * FLN_PANEL_BYTES
        call.panel_room = <char*> take(room, threads * call.panel_room_bytes)
    if not call.saves or call.saved.gx == NULL:
        call.gx = <char*> take(room, call.projected * steps.gates * steps.size)
        call.gh = <char*> take(room, steps.batch * steps.gates * steps.size)


cdef void run(const Forward* call, int threads) noexcept nogil:
    if threads > 1:
        with parallel(num_threads=threads):
            run_part(call, threadid(), team_size())
    else:
        run_part(call, 0, 1)


cdef void pack_part(const Forward* call, int thread, int threads) noexcept nogil:
    cdef const Steps* steps = &call.steps
    cdef Py_ssize_t panels = panels_of(steps, steps.gates)
    cdef Py_ssize_t first = first_panel(panels, thread, threads), last = first_panel(panels, thread + 1, threads)
    if not call.packs_anew:
        steps.kernels.pack_columns(call.weight_ih, steps.inputs, steps.gates, call.packed_ih, first, last)
    steps.kernels.pack_columns(call.weight_hh, steps.hidden, steps.gates, call.packed_hh, first, last)


cdef void run_part(const Forward* call, int thread, int threads) noexcept nogil:
    """What one thread of the team does. The others are never more than one wait ahead of it or behind."""
    cdef const Steps* steps = &call.steps
    cdef Step step = first_step(steps)
    cdef Py_ssize_t chunk_end = 0, chunk_first = 0
    if call.weight_hh != NULL:  # each thread packs what it will read itself
        pack_part(call, thread, threads)
    if steps.y != NULL:
        clear_ends(steps, steps.y, steps.y_step, steps.y_row, steps.hidden, thread, threads)
    while step.number < steps.longest:
        if step.number == chunk_end:
            chunk_first = step.first
            chunk_end = project(call, step, thread, threads)
        recur(call, &step, thread, threads)
        wait_at(call.barrier, threads)
        run_cell(call, &step, chunk_first, thread, threads)
        wait_at(call.barrier, threads)
        to_next_step(steps, &step)


cdef Py_ssize_t project(const Forward* call, Step step, int thread, int threads) noexcept nogil:
    """W_ih x of a step and of as many after it as fit, for the panels of a thread. Returns the first step left."""
    cdef const Steps* steps = &call.steps
    cdef fln_product_args args
    cdef Py_ssize_t first = step.first, panels = panels_of(steps, steps.gates), i, row = 0
    cdef const void** places = <const void**> (<char*> call.places + thread * call.places_bytes)
    cdef void** results = <void**> (<char*> call.results + thread * call.places_bytes)
    cdef char* gx = call.gx
    if call.saves and call.saved.gx != NULL:
        gx = <char*> call.saved.gx + first * steps.gates * steps.size
    while step.number < steps.longest and (row == 0 or row + step.rows <= call.projected):
        for i in range(step.rows):
            places[row] = steps.x + step.time * steps.x_step + steps.order[i] * steps.x_row
            results[row] = gx + row * steps.gates * steps.size
            row += 1
        to_next_step(steps, &step)
    args = fln_product_args(places, results, call.packed_ih, 1, row, steps.inputs, steps.gates, False)
    if not call.packs_anew:
        steps.kernels.product(&args, first_panel(panels, thread, threads), first_panel(panels, thread + 1, threads))
    else:
        pack_and_multiply(call, &args, thread, threads)
    return step.number


cdef void pack_and_multiply(const Forward* call, fln_product_args* args, int thread, int threads) noexcept nogil:
    """The product of some rows of x with the panels of a thread, which are packed for that, a few at a time."""
    cdef const Steps* steps = &call.steps
    cdef Py_ssize_t panels = panels_of(steps, steps.gates), last = first_panel(panels, thread + 1, threads)
    cdef Py_ssize_t panel = first_panel(panels, thread, threads), width = FLN_PANEL_BYTES // steps.size
    cdef Py_ssize_t moved = 0, count, i
    cdef char* room = call.panel_room + thread * call.panel_room_bytes
    cdef void** results = <void**> args.out
    args.panels = room
    while panel < last:
        count = min(last - panel, PANELS_TOGETHER)
        args.cols = steps.gates - panel * width
        for i in range(args.rows):  # where the columns of these panels are
            results[i] = <char*> results[i] + (panel * width - moved) * steps.size
        moved = panel * width
        steps.kernels.pack_columns(
            call.weight_ih + moved * steps.inputs * steps.size, steps.inputs, args.cols, room, 0, count
        )
        steps.kernels.product(args, 0, count)
        panel += count


cdef void recur(const Forward* call, const Step* step, int thread, int threads) noexcept nogil:
    """W_hh h, for the panels of a thread."""
    cdef const Steps* steps = &call.steps
    cdef fln_product_args args
    cdef Py_ssize_t panels = panels_of(steps, steps.gates), i
    cdef const void** places = <const void**> (<char*> call.places + thread * call.places_bytes)
    cdef void** results = <void**> (<char*> call.results + thread * call.places_bytes)
    cdef char* gh = call.gh
    if call.saves and call.saved.gh != NULL:
        gh = <char*> call.saved.gh + step.first * steps.gates * steps.size
    for i in range(step.rows):
        places[i] = call.h + steps.order[i] * steps.hidden * steps.size
        results[i] = gh + i * steps.gates * steps.size
    args = fln_product_args(places, results, call.packed_hh, 1, step.rows, steps.hidden, steps.gates, False)
    steps.kernels.product(&args, first_panel(panels, thread, threads), first_panel(panels, thread + 1, threads))


cdef void run_cell(
    const Forward* call, const Step* step, Py_ssize_t chunk_first, int thread, int threads
) noexcept nogil:
    """The cell, for the sequences of a thread."""
    cdef const Steps* steps = &call.steps
    cdef fln_step_args args
    args.cell = steps.cell
    args.rows = rows_from(&call.saved, steps, step.first)
    if args.rows.gx == NULL:
        args.rows.gx = call.gx + (step.first - chunk_first) * steps.gates * steps.size
        args.rows.gh = call.gh
    args.order = steps.order
    args.h, args.c = call.h, call.c
    args.y = steps.y + step.time * steps.y_step if steps.y != NULL else <char*> NULL
    args.y_stride = steps.y_row // steps.size
    args.room = call.cell_room + thread * call.cell_room_bytes
    steps.cell_kernels.step(&args, first_of(step.rows, thread, threads), first_of(step.rows, thread + 1, threads))
