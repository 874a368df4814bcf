# cython: cdivision=True
"""A call over all its rows: the kernels on one thread, or on several.

Forward: each thread takes a block of whole rows, and long rows that are left over are shared in segments. Backward:
each takes chunks of rows, or where these are too few, columns. The order of every sum is the kernels': threads change
no bit.
"""

from cython.parallel cimport prange
from libc.stdlib cimport free, malloc

from fastln._core.calls cimport Backward, Forward
from fastln._core.effort cimport (
    ADD_BACKWARD,
    ADD_FORWARD,
    BACKWARD,
    COLUMNS_PER_THREAD,
    FORWARD,
    Effort,
    Tuning,
    begin,
    begin_small,
    end,
    is_small,
    now,
)
from fastln._core.isa cimport FLN_FORWARD_SEGMENT_COLS, FLN_FORWARD_SUMS, fln_backward_parts, fln_element_kernels
from fastln._core.stores cimport Shape


cdef int run_forward(Forward* call, int limit) except -1:
    if is_small(tuning_forward(call), call.bytes):
        call.args.stream = False
        call.kernels.forward(&call.args, 0, call.rows)
        return 0
    with nogil:
        drive_forward(call, limit)
    return 0


cdef int run_backward(Backward* call, int limit) except -1:
    cdef Effort effort
    cdef int status
    if is_small(tuning_backward(call), call.bytes):
        begin_small(&effort)
        status = find_gradients(call, NULL, &effort)
    else:
        with nogil:
            status = drive_backward(call, limit)
    if status != 0:
        raise MemoryError
    return 0


cdef inline const Tuning* tuning_forward(const Forward* call) noexcept nogil:
    return &FORWARD if call.args.residual == NULL else &ADD_FORWARD


cdef inline const Tuning* tuning_backward(const Backward* call) noexcept nogil:
    return &BACKWARD if call.args.ds == NULL else &ADD_BACKWARD


# Forward


cdef int drive_forward(Forward* call, int limit) noexcept nogil:
    cdef Effort effort
    cdef Py_ssize_t cols = call.args.cols
    cdef Py_ssize_t segments = (cols + FLN_FORWARD_SEGMENT_COLS - 1) // FLN_FORWARD_SEGMENT_COLS
    cdef Shape shape = Shape(0, 0, call.rows, cols, call.bytes, call.is_fresh)
    # In place, what is written is in the cache already; and only arrays in one piece can go past it.
    cdef bint may_stream = (
        call.args.y != call.args.x and call.args.x_stride == cols and call.args.y_stride == cols
    )
    if call.args.residual != NULL:
        may_stream = (
            may_stream and call.args.y != call.args.residual
            and call.args.residual_stride == cols and call.args.sum_stride == cols
        )
    begin(&effort, tuning_forward(call), &shape, max(call.rows, segments), limit, may_stream)
    call.args.stream = effort.stream
    if effort.threads > 1:
        share(call, segments, &effort)
    else:
        call.kernels.forward(&call.args, 0, call.rows)
    if effort.is_timed:
        effort.ended = now()
    end(&effort)
    return 0


cdef void share(const Forward* call, Py_ssize_t segments, Effort* effort) noexcept nogil:
    """One block of whole rows to each thread; long rows left over are shared by all where that leaves fewer idle."""
    cdef int count = effort.threads, i
    cdef Py_ssize_t left_over = call.rows % count
    cdef Py_ssize_t rows, block, row
    cdef double* sums = NULL
    cdef double busy = 0
    # A row that is shared takes as long as the largest share of its segments; whole rows, in the worst block, one row.
    if left_over * ((segments + count - 1) // count) < segments and left_over > 0:
        sums = <double*> malloc(segments * FLN_FORWARD_SUMS * sizeof(double))
    if sums == NULL:  # nothing to share, or no memory for it
        left_over = 0
    rows = call.rows - left_over
    block = (rows + count - 1) // count
    if rows > 0:
        for i in prange(count, num_threads=count, schedule="static", chunksize=1):
            busy += run_block(call, min(i * block, rows), min(i * block + block, rows))
    for row in range(rows, call.rows):
        if call.args.residual != NULL:
            busy += add_row(call, row, segments, count)
        busy += share_row(call, row, segments, sums, count)
    free(sums)
    effort.busy = busy
    effort.parts = max(call.rows if left_over == 0 else call.rows * segments, 1)


cdef double run_block(const Forward* call, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
    """Some rows. Returns the seconds that it took, as do the others that are done on a thread of several."""
    cdef double began = now()
    call.kernels.forward(&call.args, first, last)
    return now() - began


cdef double add_row(const Forward* call, Py_ssize_t row, Py_ssize_t segments, int count) noexcept nogil:
    """All of a shared row, since the first sweep over any part of it takes samples of the others."""
    cdef double busy = 0
    cdef int i
    for i in prange(count, num_threads=count, schedule="static", chunksize=1):
        busy += add_segments(call, row, first_segment(i, segments, count), first_segment(i + 1, segments, count))
    return busy


cdef double share_row(
    const Forward* call, Py_ssize_t row, Py_ssize_t segments, double* sums, int count
) noexcept nogil:
    """Each thread sums some segments of the row, and when all of them are there, normalizes the same ones.

    The team is as large as for whole rows, even if some get nothing: OpenMP would end threads that a smaller one leaves
    out, and start them anew for the next call.
    """
    cdef double busy = 0
    cdef int i
    cdef Forward of_sum = call[0]
    if call.args.residual != NULL:  # which has been added
        of_sum.args.residual = NULL
        of_sum.args.x, of_sum.args.x_stride = call.args.sum, call.args.sum_stride
        call = &of_sum
    for i in prange(count, num_threads=count, schedule="static", chunksize=1):
        busy += sum_segments(call, row, first_segment(i, segments, count), first_segment(i + 1, segments, count), sums)
    for i in prange(count, num_threads=count, schedule="static", chunksize=1):
        busy += write_segments(
            call, row, first_segment(i, segments, count), first_segment(i + 1, segments, count), sums
        )
    return busy


cdef double add_segments(
    const Forward* call, Py_ssize_t row, Py_ssize_t first, Py_ssize_t last
) noexcept nogil:
    cdef double began = now()
    first *= FLN_FORWARD_SEGMENT_COLS
    last = min(last * FLN_FORWARD_SEGMENT_COLS, call.args.cols)
    if first < last:
        call.element.add(&call.args, row, first, last)
    return now() - began


cdef double sum_segments(
    const Forward* call, Py_ssize_t row, Py_ssize_t first, Py_ssize_t last, double* sums
) noexcept nogil:
    cdef double began = now()
    cdef Py_ssize_t segment
    for segment in range(first, last):
        call.kernels.forward_sums(&call.args, row, segment, sums + segment * FLN_FORWARD_SUMS)
    return now() - began


cdef double write_segments(
    const Forward* call, Py_ssize_t row, Py_ssize_t first, Py_ssize_t last, const double* sums
) noexcept nogil:
    cdef double began = now()
    first *= FLN_FORWARD_SEGMENT_COLS
    last = min(last * FLN_FORWARD_SEGMENT_COLS, call.args.cols)
    if first < last:
        call.kernels.forward_columns(&call.args, row, sums, first, last)
    return now() - began


cdef Py_ssize_t first_segment(int i, Py_ssize_t segments, int count) noexcept nogil:
    """Of those that thread i takes of a shared row; of the thread after the last one, their number."""
    return i * segments // count


# Backward


cdef int drive_backward(Backward* call, int limit) noexcept nogil:
    return drive_with(call, NULL, limit)


cdef void drive_backward_within(Backward* call, double* room, int limit) noexcept nogil:
    drive_with(call, room, limit)


cdef Py_ssize_t room_for_sums(const fln_element_kernels* element, Py_ssize_t rows, Py_ssize_t cols) noexcept nogil:
    cdef fln_backward_parts parts
    element.divide(rows, cols, &parts)
    return 2 * parts.chunks * parts.totals


cdef int drive_with(Backward* call, double* room, int limit) noexcept nogil:
    cdef Effort effort
    cdef int status
    cdef Py_ssize_t rows = call.args.rows, cols = call.args.cols
    cdef Shape shape = Shape(0, 0, rows, cols, call.bytes, call.is_fresh)
    # In place, what is written is in the cache already; and only arrays in one piece can go past it.
    # With ds, wherever its rows are, that are whole lines of float32 and float64; of others both ways are one.
    cdef bint may_stream = (
        call.args.dx != NULL and call.args.dx != call.args.x and call.args.dx != call.args.dy
        and call.args.dx != call.args.ds
        and call.args.dx_stride == cols and call.args.x_stride == cols and call.args.dy_stride == cols
    )
    begin(&effort, tuning_backward(call), &shape, max(rows, cols // COLUMNS_PER_THREAD), limit, may_stream)
    status = find_gradients(call, room, &effort)
    if status == 0:
        end(&effort)
    return status


cdef int find_gradients(Backward* call, double* room, Effort* effort) noexcept nogil:
    """All that one call is to find, with so much effort: the chunks, and their totals merged. -1: no memory.

    Without room for the totals, they get some.
    """
    cdef fln_backward_parts parts
    cdef bint are_parameters = call.args.dweight != NULL or call.args.dbias != NULL
    cdef double* totals = NULL
    cdef double* own = NULL
    cdef Py_ssize_t size
    call.element.divide(call.args.rows, call.args.cols, &parts)
    size = parts.chunks * parts.totals
    if parts.totals > 0 and are_parameters:  # of both, whichever is asked for
        totals = room
        if totals == NULL:
            totals = own = <double*> malloc(max(2 * size, 1) * sizeof(double))
        if totals == NULL:
            return -1
    call.args.stream = effort.stream
    call.args.dweight_totals = totals
    call.args.dbias_totals = totals + size if totals != NULL else <double*> NULL
    call.args.terms = NULL
    if effort.threads > parts.chunks:  # too few chunks of rows for the threads: they share the columns
        call.args.terms = malloc(max(<Py_ssize_t> parts.terms, 1))
    if call.args.terms != NULL:
        run_by_columns(call, &parts, effort)
    else:
        run_by_chunks(call, &parts, effort)
    if effort.is_timed:
        effort.ended = now()
    if are_parameters:
        call.element.merge(&call.args)
    free(own)
    free(call.args.terms)
    return 0


cdef void run_by_chunks(const Backward* call, const fln_backward_parts* parts, Effort* effort) noexcept nogil:
    """Each thread takes whole chunks of rows."""
    cdef double busy = 0
    cdef Py_ssize_t chunk
    if effort.threads == 1:
        for chunk in range(parts.chunks):
            call.kernels.backward(&call.args, chunk)
        return
    for chunk in prange(parts.chunks, num_threads=effort.threads, schedule="dynamic", chunksize=1):
        busy += run_chunk(call, chunk)
    effort.busy = busy
    effort.parts = max(parts.chunks, 1)


cdef double run_chunk(const Backward* call, Py_ssize_t chunk) noexcept nogil:
    cdef double began = now()
    call.kernels.backward(&call.args, chunk)
    return now() - began


cdef void run_by_columns(const Backward* call, const fln_backward_parts* parts, Effort* effort) noexcept nogil:
    """The first sweep by blocks of rows; then each thread takes a range of columns of all rows."""
    cdef int count = effort.threads
    cdef Py_ssize_t cols = call.args.cols, i, width
    cdef double busy = 0
    for i in prange(parts.blocks, num_threads=count, schedule="dynamic", chunksize=1):
        busy += find_terms(call, i)
    width = (cols + count - 1) // count
    width = (width + COLUMNS_PER_THREAD - 1) // COLUMNS_PER_THREAD * COLUMNS_PER_THREAD
    # The last threads may have no columns left.
    for i in prange((cols + width - 1) // width, num_threads=count, schedule="static", chunksize=1):
        busy += run_columns(call, parts.chunks, i * width, min(i * width + width, cols))
    effort.busy = busy
    effort.parts = (cols + COLUMNS_PER_THREAD - 1) // COLUMNS_PER_THREAD


cdef double find_terms(const Backward* call, Py_ssize_t block) noexcept nogil:
    cdef double began = now()
    call.kernels.backward_terms(&call.args, block)
    return now() - began


cdef double run_columns(const Backward* call, Py_ssize_t chunks, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
    cdef double began = now()
    cdef Py_ssize_t chunk
    for chunk in range(chunks):
        call.kernels.backward_columns(&call.args, chunk, first, last)
    return now() - began
