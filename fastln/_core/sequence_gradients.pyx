# cython: cdivision=True
"""The gradients of a layer-normalized recurrence over a whole sequence.

First the steps, from the last to the first: the cell's own gradients, and from them by W_hh that of the h before. Then,
of all steps at once, the parameters of the norms, by layer norm's own driver, and three products: both weights, and x.
The sums over all steps are taken in blocks of BLOCK_ROWS rows, in their order: threads change no bit. Nothing is
checked here: `recurrent` has done it.
"""

cimport numpy as cnp
from cython.parallel cimport parallel, threadid
from libc.string cimport memset

import numpy as np

from fastln._core.calls cimport Backward
from fastln._core.drive cimport drive_backward_within, room_for_sums
from fastln._core.effort cimport threads_of_sequence
from fastln._core.isa cimport (
    FLN_GRU,
    FLN_LAYER_NORM,
    FLN_LSTM,
    FLN_PANEL_BYTES,
    FLN_RNN,
    fln_cell_rows,
    fln_product_args,
    fln_step_gradient_args,
)
from fastln._core.steps cimport (
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
    to_step_before,
    wait_at,
    with_weights,
)
from fastln._core.threads cimport limit_of

cnp.import_array()

# Rows whose products are summed at once, in one chain of the kernels (DEPTH_BLOCK of cells/product.h); rows that are
# multiplied by W_ih at once, for dx.
cdef enum:
    BLOCK_ROWS = 256
    DX_ROWS = 48


cdef struct Gradients:
    Steps steps
    fln_cell_rows saved
    const char* weight_ih
    const char* weight_hh
    const char* h0
    const char* c0
    const char* dy
    Py_ssize_t dy_step
    Py_ssize_t dy_row
    char* dx
    Py_ssize_t dx_step
    Py_ssize_t dx_row
    char* dh
    char* dc
    char* dweight_ih
    char* dweight_hh
    # Room: of all rows, with a line between two, so that those of many rows do not meet in one place of the cache
    char* dih
    char* dhh
    char* dgh
    char* dinner
    Py_ssize_t stride  # elements
    # of the team
    Barrier* barrier
    char* packed_hh  # the weights by their rows
    char* packed_ih
    char* packed_h  # a block of rows
    char* packed_x
    double* sums  # over rows, of a norm
    # and of its threads, each so many bytes further on
    const void** places
    void** results
    char* cell_room
    Py_ssize_t places_bytes
    Py_ssize_t cell_room_bytes


def run_backward_sequence(
    str cell, dy, dh, dc, x, y, h0, c0, weight_ih, weight_hh, bias, tuple norms, double eps, lengths, bint reverse,
    bint carry_normalized, bint relu, tuple saved, dx, int num_threads,
):
    """The gradients of `run_sequence`: those of parameters are returned, dx is written, dh and dc become those of the
    first state. See `recurrent`."""
    cdef Gradients call
    cdef Room room = Room(NULL, 0)
    cdef int limit = limit_of(num_threads), threads
    memset(&call, 0, sizeof(call))
    norms = with_weights(norms, cell, dh)
    _kept = begin_steps(
        &call.steps, cell, x, y, lengths, bias, norms, eps, reverse, carry_normalized, relu, dh.shape[1]
    )
    find_saved(&call.steps, saved, &call.saved)
    dweight_ih, dweight_hh = np.zeros_like(weight_ih), np.zeros_like(weight_hh)
    dnorms = tuple((np.empty_like(w), np.empty_like(w)) for w, _ in norms)
    dbias = np.empty_like(dnorms[0][1])
    call.weight_ih, call.weight_hh = <char*> data_or_null(weight_ih), <char*> data_or_null(weight_hh)
    call.dweight_ih, call.dweight_hh = <char*> data_or_null(dweight_ih), <char*> data_or_null(dweight_hh)
    call.h0, call.c0 = <char*> data_or_null(h0), <char*> data_or_null(c0)
    call.dh, call.dc = <char*> data_or_null(dh), <char*> data_or_null(dc)
    call.dy, call.dx = <char*> data_or_null(dy), <char*> data_or_null(dx)
    if dy is not None:
        call.dy_step, call.dy_row = dy.strides[0], dy.strides[1]
    if dx is not None:
        call.dx_step, call.dx_row = dx.strides[0], dx.strides[1]
    threads = threads_for(&call, limit)
    take_room(&call, &room, threads)
    _memory = allocate(&room)
    # No memory is asked for after this: what fails for want of it has changed neither dh nor dc nor dx.
    take_room(&call, &room, threads)
    with nogil:
        run_steps(&call, threads)
    find_norm_gradients(&call, dnorms, limit)
    dbias[...] = dnorms[0][1]
    threads = min(threads, threads_for(&call, limit))  # the team may have changed
    with nogil:
        run_products(&call, threads)
    return dweight_ih, dweight_hh, dbias, dnorms


cdef int threads_for(const Gradients* call, int limit) noexcept:
    cdef const Steps* steps = &call.steps
    cdef Py_ssize_t weights = steps.gates * (steps.inputs + steps.hidden), numbers = steps.inputs + steps.hidden
    cdef double products = 3 * <double> (steps.rows // max(steps.longest, 1)) * weights
    return threads_of_sequence(
        3 * (steps.longest * weights + steps.rows * numbers) * steps.size, products, limit
    )


cdef void take_room(Gradients* call, Room* room, int threads) noexcept:
    cdef const Steps* steps = &call.steps
    cdef Py_ssize_t of_gates
    call.stride = steps.gates + FLN_PANEL_BYTES // steps.size
    of_gates = steps.rows * call.stride * steps.size
    call.dih = <char*> take(room, of_gates)
    call.dgh = <char*> take(room, of_gates)
    call.dhh = <char*> take(room, of_gates) if steps.which == FLN_GRU else call.dih
    if steps.which == FLN_LSTM:
        call.dinner = <char*> take(room, steps.rows * steps.hidden * steps.size)
    call.packed_hh = <char*> take(room, packed_bytes(steps, steps.gates, steps.hidden))
    if call.dx != NULL:
        call.packed_ih = <char*> take(room, packed_bytes(steps, steps.gates, steps.inputs))
    call.packed_h = <char*> take(room, packed_bytes(steps, BLOCK_ROWS, steps.hidden))
    call.packed_x = <char*> take(room, packed_bytes(steps, BLOCK_ROWS, steps.inputs))
    call.sums = <double*> take(room, room_for_sums(steps.element, steps.rows, steps.gates) * sizeof(double))
    call.barrier = take_barrier(room)
    call.places_bytes = max(steps.batch, steps.gates, BLOCK_ROWS) * sizeof(void*)
    call.cell_room_bytes = in_lines(steps.cell_kernels.room(steps.hidden) * steps.size)
    call.places = <const void**> take(room, threads * call.places_bytes)
    call.results = <void**> take(room, threads * call.places_bytes)
    call.cell_room = <char*> take(room, threads * call.cell_room_bytes)


cdef inline const void** places_of(const Gradients* call, int thread) noexcept nogil:
    return <const void**> (<char*> call.places + thread * call.places_bytes)


cdef inline void** results_of(const Gradients* call, int thread) noexcept nogil:
    return <void**> (<char*> call.results + thread * call.places_bytes)


cdef inline char* row_of(const Gradients* call, char* start, Py_ssize_t row) noexcept nogil:
    """Of dih, dhh or dgh."""
    return start + row * call.stride * call.steps.size


# The steps


cdef void run_steps(const Gradients* call, int threads) noexcept nogil:
    if threads > 1:
        with parallel(num_threads=threads):
            run_steps_part(call, threadid(), team_size())
    else:
        run_steps_part(call, 0, 1)


cdef void run_steps_part(const Gradients* call, int thread, int threads) noexcept nogil:
    cdef const Steps* steps = &call.steps
    cdef Step step = Step(steps.longest, 0, 0, steps.rows)
    pack_weight(call, call.weight_hh, steps.hidden, call.packed_hh, thread, threads)
    wait_at(call.barrier, threads)
    while step.number > 0:
        to_step_before(steps, &step)
        run_cell(call, &step, thread, threads)
        wait_at(call.barrier, threads)
        pass_on(call, &step, thread, threads)
        wait_at(call.barrier, threads)


cdef void pack_weight(
    const Gradients* call, const char* weight, Py_ssize_t cols, char* packed, int thread, int threads
) noexcept nogil:
    """A weight by its rows, for the panels of a thread."""
    cdef const Steps* steps = &call.steps
    cdef const void** places = places_of(call, thread)
    cdef Py_ssize_t panels = panels_of(steps, cols), i
    for i in range(steps.gates):
        places[i] = weight + i * cols * steps.size
    steps.kernels.pack_rows(
        places, steps.gates, cols, packed, first_panel(panels, thread, threads),
        first_panel(panels, thread + 1, threads),
    )


cdef void run_cell(const Gradients* call, const Step* step, int thread, int threads) noexcept nogil:
    """The cell's gradients, for the sequences of a thread."""
    cdef const Steps* steps = &call.steps
    cdef fln_step_gradient_args args
    cdef Step before = step[0]
    memset(&args, 0, sizeof(args))
    args.cell = steps.cell
    args.rows = rows_from(&call.saved, steps, step.first)
    args.order = steps.order
    args.y = steps.y + step.time * steps.y_step
    args.y_stride = steps.y_row // steps.size
    if step.number > 0:
        to_step_before(steps, &before)
        args.before_y = steps.y + before.time * steps.y_step
        args.before_inner = rows_from(&call.saved, steps, before.first).inner
        args.before_rows = before.rows
    args.h0, args.c0 = call.h0, call.c0
    if call.dy != NULL:
        args.dy = call.dy + step.time * call.dy_step
        args.dy_stride = call.dy_row // steps.size
    args.dh, args.dc = call.dh, call.dc
    args.dih, args.dhh = row_of(call, call.dih, step.first), row_of(call, call.dhh, step.first)
    args.dgh = row_of(call, call.dgh, step.first)
    if call.dinner != NULL:
        args.dinner = call.dinner + step.first * steps.hidden * steps.size
    args.stride = call.stride
    args.room = call.cell_room + thread * call.cell_room_bytes
    steps.cell_kernels.step_gradients(
        &args, first_of(step.rows, thread, threads), first_of(step.rows, thread + 1, threads)
    )


cdef void pass_on(const Gradients* call, const Step* step, int thread, int threads) noexcept nogil:
    """The gradient of the h before, for the panels of a thread."""
    cdef const Steps* steps = &call.steps
    cdef fln_product_args args
    cdef const void** places = places_of(call, thread)
    cdef void** results = results_of(call, thread)
    cdef Py_ssize_t panels = panels_of(steps, steps.hidden), i
    for i in range(step.rows):
        places[i] = row_of(call, call.dgh, step.first + i)
        results[i] = call.dh + steps.order[i] * steps.hidden * steps.size
    args = fln_product_args(
        places, results, call.packed_hh, 1, step.rows, steps.gates, steps.hidden, steps.which == FLN_GRU
    )
    steps.kernels.product(&args, first_panel(panels, thread, threads), first_panel(panels, thread + 1, threads))


# The parameters of the norms, of all rows


cdef void find_norm_gradients(Gradients* call, tuple dnorms, int limit):
    """After it, `dih` of LSTM and GRU is the gradient of W_ih x itself."""
    cdef const Steps* steps = &call.steps
    cdef Py_ssize_t hidden = steps.hidden, gates = steps.gates
    cdef char* dx = call.dih
    cdef const char* gx = <const char*> call.saved.gx
    cdef const char* gh = <const char*> call.saved.gh
    cdef const char* inner = <const char*> call.saved.inner
    if steps.which == FLN_RNN:
        norm(call, 0, 0, 0, hidden, call.dih, call.stride, inner, hidden, NULL, dnorms[0], limit)
    elif steps.which == FLN_LSTM:  # that of W_hh h first: the other one replaces what both start from
        norm(call, 1, 1, 0, gates, call.dih, call.stride, gh, gates, NULL, dnorms[1], limit)
        norm(call, 0, 0, 0, gates, call.dih, call.stride, gx, gates, dx, dnorms[0], limit)
        norm(call, 2, 2, 0, hidden, call.dinner, hidden, inner, hidden, NULL, dnorms[2], limit)
    else:
        norm(call, 1, 1, 0, 2 * hidden, call.dhh, call.stride, gh, gates, NULL, dnorms[1], limit)
        norm(call, 3, 1, 2 * hidden, hidden, call.dhh, call.stride, gh, gates, NULL, dnorms[1], limit)
        norm(call, 0, 0, 0, 2 * hidden, call.dih, call.stride, gx, gates, dx, dnorms[0], limit)
        norm(call, 2, 0, 2 * hidden, hidden, call.dih, call.stride, gx, gates, dx, dnorms[0], limit)


cdef void norm(
    Gradients* call, int which, int parameters, Py_ssize_t first, Py_ssize_t cols, const char* dy, Py_ssize_t dy_stride,
    const char* x, Py_ssize_t x_stride, char* dx, tuple sums, int limit,
):
    """One norm, over columns [first, first + cols) of all rows."""
    cdef const Steps* steps = &call.steps
    cdef Backward backward
    cdef Py_ssize_t at = first * steps.size
    memset(&backward, 0, sizeof(backward))
    backward.element = steps.element
    backward.kernels = steps.element.norms + <int> FLN_LAYER_NORM
    backward.args.dy, backward.args.x = dy + at, x + at
    backward.args.mean, backward.args.rstd = call.saved.mean[which], call.saved.rstd[which]
    if dx != NULL:
        backward.args.dx = dx + at
        backward.args.weight = <const char*> steps.cell.norm_weight[parameters] + at
    backward.args.dweight = <char*> data_or_null(sums[0]) + at
    backward.args.dbias = <char*> data_or_null(sums[1]) + at
    backward.args.dy_stride = backward.args.dx_stride = dy_stride
    backward.args.x_stride = x_stride
    backward.args.rows, backward.args.cols = steps.rows, cols
    backward.bytes = 3 * steps.rows * cols * steps.size
    with nogil:
        drive_backward_within(&backward, call.sums, limit)


# The products, of all rows


cdef void run_products(const Gradients* call, int threads) noexcept nogil:
    if threads > 1:
        with parallel(num_threads=threads):
            run_products_part(call, threadid(), team_size())
    else:
        run_products_part(call, 0, 1)


cdef void run_products_part(const Gradients* call, int thread, int threads) noexcept nogil:
    cdef const Steps* steps = &call.steps
    cdef char* dgx = call.dgh if steps.which == FLN_RNN else call.dih
    cdef Step step = first_step(steps)
    cdef Py_ssize_t row = 0, in_step = 0, rows
    if call.dx != NULL:
        pack_weight(call, call.weight_ih, steps.inputs, call.packed_ih, thread, threads)
        clear_ends(steps, call.dx, call.dx_step, call.dx_row, steps.inputs, thread, threads)
        wait_at(call.barrier, threads)
        find_dx(call, dgx, thread, threads)
    while row < steps.rows:
        rows = pack_rows(call, &step, &in_step, min(steps.rows - row, BLOCK_ROWS), thread, threads)
        wait_at(call.barrier, threads)
        add_to_weight(call, call.dgh, row, rows, call.packed_h, steps.hidden, call.dweight_hh, thread, threads)
        add_to_weight(call, dgx, row, rows, call.packed_x, steps.inputs, call.dweight_ih, thread, threads)
        wait_at(call.barrier, threads)
        row += rows


cdef void find_dx(const Gradients* call, char* dgx, int thread, int threads) noexcept nogil:
    """For the rows of a thread."""
    cdef const Steps* steps = &call.steps
    cdef Py_ssize_t row = first_of(steps.rows, thread, threads), last = first_of(steps.rows, thread + 1, threads)
    cdef Py_ssize_t count
    cdef const void** places = places_of(call, thread)
    cdef void** results = results_of(call, thread)
    cdef fln_product_args args
    cdef Step step = first_step(steps)
    while row < last:
        count = 0
        while count < DX_ROWS and row < last:
            while row >= step.first + step.rows:
                to_next_step(steps, &step)
            places[count] = row_of(call, dgx, row)
            results[count] = call.dx + step.time * call.dx_step + steps.order[row - step.first] * call.dx_row
            count += 1
            row += 1
        args = fln_product_args(places, results, call.packed_ih, 1, count, steps.gates, steps.inputs, False)
        steps.kernels.product(&args, 0, panels_of(steps, steps.inputs))


cdef Py_ssize_t pack_rows(
    const Gradients* call, Step* step, Py_ssize_t* in_step, Py_ssize_t count, int thread, int threads
) noexcept nogil:
    """The next rows of the h before and of x, for the panels of a thread. Returns how many."""
    cdef const Steps* steps = &call.steps
    cdef const void** places = places_of(call, thread)  # of x in those of the results
    cdef const void** places_of_x = <const void**> results_of(call, thread)
    cdef Py_ssize_t of_h = panels_of(steps, steps.hidden), of_x = panels_of(steps, steps.inputs), i, sequence
    cdef Step before
    for i in range(count):
        while in_step[0] == step.rows:
            to_next_step(steps, step)
            in_step[0] = 0
        before = step[0]
        before.rows = 0
        if step.number > 0:
            before.rows = step.rows
            to_step_before(steps, &before)
        sequence = steps.order[in_step[0]]
        places[i] = call.h0 + sequence * steps.hidden * steps.size
        if in_step[0] < before.rows:
            places[i] = steps.y + before.time * steps.y_step + sequence * steps.y_row
        places_of_x[i] = steps.x + step.time * steps.x_step + sequence * steps.x_row
        in_step[0] += 1
    steps.kernels.pack_rows(
        places, count, steps.hidden, call.packed_h, first_panel(of_h, thread, threads),
        first_panel(of_h, thread + 1, threads),
    )
    steps.kernels.pack_rows(
        places_of_x, count, steps.inputs, call.packed_x, first_panel(of_x, thread, threads),
        first_panel(of_x, thread + 1, threads),
    )
    return count


cdef void add_to_weight(
    const Gradients* call, char* dsums, Py_ssize_t row, Py_ssize_t rows, const char* packed, Py_ssize_t cols,
    char* dweight, int thread, int threads,
) noexcept nogil:
    """What a block of rows adds to the gradient of a weight, for those of its rows that a thread takes."""
    cdef const Steps* steps = &call.steps
    cdef Py_ssize_t first = first_of(steps.gates, thread, threads), last = first_of(steps.gates, thread + 1, threads), i
    cdef const void** places = places_of(call, thread)
    cdef void** results = results_of(call, thread)
    cdef fln_product_args args
    for i in range(first, last):
        places[i - first] = row_of(call, dsums, row) + i * steps.size
        results[i - first] = dweight + i * cols * steps.size
    args = fln_product_args(places, results, packed, call.stride, last - first, rows, cols, row > 0)
    steps.kernels.product(&args, 0, panels_of(steps, cols))
