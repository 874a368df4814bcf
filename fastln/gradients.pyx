"""Gradients of layer normalization: arguments to rows of memory, rows or columns to threads."""

import numpy as np
cimport cython
cimport numpy as cnp
from cython.parallel cimport prange
from libc.stdlib cimport free, malloc

from fastln._core.arguments cimport (
    Rows,
    as_floats,
    as_parameter,
    as_shaped,
    check_out,
    data_of,
    find_rows,
    has_shape,
    is_plain,
    is_plain_out,
    may_share_rows,
    nbytes_of,
    ndim_of,
    normalized_ndim,
    plain_normalized_ndim,
    ranges_overlap,
    shape_of,
    type_of,
    with_rows,
)
from fastln._core.effort cimport Turn, end_turn, min_parallel_bytes, now, threads_for
from fastln._core.isa cimport (
    FLN_BACKWARD_BLOCK_ROWS,
    FLN_BACKWARD_TERMS,
    active,
    fln_kernels,
    fln_layer_norm_backward,
    fln_layer_norm_backward_args,
    fln_layer_norm_backward_merge,
    fln_layer_norm_backward_part,
)
from fastln._core.stores cimport BACKWARD, Shape, goes_past, is_tried, stream_bytes, tell
from fastln._core.threads cimport asked_threads

cnp.import_array()

# dweight and dbias are summed over chunks of rows, each on one thread, and the chunks in their order: so the chunks
# depend on the number of rows alone, and the bits not on the threads. No more than MOST_CHUNKS, since each has totals
# of its own; no fewer rows than SMALLEST_CHUNK, so that adding them up is little work next to the rows themselves.
cdef Py_ssize_t MOST_CHUNKS = 32
cdef Py_ssize_t SMALLEST_CHUNK = 8 * FLN_BACKWARD_BLOCK_ROWS

# A thread that shares long rows with others takes at least this many columns, in whole cache lines.
cdef Py_ssize_t COLUMNS_PER_THREAD = 1024


# Below this many times min_parallel_bytes, a call stays on its thread: fewer rows than two chunks are no faster on two
# threads (64x768 float32, 0.6 MB, 0.97 times as fast; 128x768 1.7 times).
cdef Py_ssize_t PARALLEL_FACTOR = 4


# Before anything is known of a shape, dx goes past the cache from this part of stream_bytes on. With 32 MB of L3, that
# took 0.97 of the time at 1024x768 float32 (9 MB), 0.8 at 512x1024 float64 (13 MB), 0.35 to 0.5 at 2560x768 (24 MB).
cdef Py_ssize_t STREAM_SHARE = 4


# Which gradients a call asks for.
cdef enum:
    WANT_DX = 1
    WANT_DWEIGHT = 2
    WANT_DBIAS = 4


# A checked call: everything that the kernel needs but dx, dweight and dbias.
cdef struct Plan:
    fln_layer_norm_backward_args args
    fln_layer_norm_backward kernel
    fln_layer_norm_backward_merge merge
    Py_ssize_t rows
    Py_ssize_t size  # bytes read and written
    int ndim  # normalized dimensions
    int totals  # doubles a column


# A plan under way.
cdef struct Work:
    fln_layer_norm_backward_args args
    fln_layer_norm_backward kernel
    Py_ssize_t rows
    Py_ssize_t chunk_rows
    Py_ssize_t chunks
    Py_ssize_t totals  # doubles a chunk
    void* terms
    bint is_result
    void* dweight  # totals of each chunk, or the result, or NULL
    void* dbias


def layer_norm_backward(dy, x, mean, rstd, weight=None, *, normalized_shape=None, output_mask=(True, True, True),
                        out=None, num_threads=None):
    """Gradients of a loss with respect to the input, weight and bias of `layer_norm`.

    Parameters
    ----------
    dy : array of float32 or float64, shape of x
        Gradient of the loss with respect to y.
    x : array of float32 or float64, shape (..., *normalized_shape)
        The input of the forward pass.
    mean, rstd : array of floats, shape (..., 1, ..., 1)
        As `layer_norm_forward` returned them: x's leading dimensions, then 1 for each normalized dimension. That mean
        is rounded to x's dtype does not matter: its low part is recovered from x.
    weight : array of floats, shape normalized_shape, optional
        The weight of the forward pass.
    normalized_shape : int or tuple of int, optional
        As in the forward pass. None stands for the last dimension.
    output_mask : tuple of 3 bools
        Which of dx, dweight and dbias to find. What is False is returned as None and costs nothing.
    out : ndarray, optional
        Where to put dx: x's shape and dtype. It may be dy or x itself; any other overlap with an input gives the same
        result as if there were none.
    num_threads : int, optional
        Upper limit of threads for this call, instead of `get_num_threads()`. The results have the same bits for any.

    Returns
    -------
    dx : ndarray or None
        `out`, or a new array with x's shape and dtype.
    dweight, dbias : ndarray or None
        In x's dtype, shape normalized_shape. Zero if there are no rows.

    Raises
    ------
    TypeError
        If an argument has the wrong type or dtype.
    ValueError
        If a shape does not fit, out is read-only or overlaps itself, or num_threads < 1. Nothing has been written then.

    Notes
    -----
    With g = dy * weight and eps' = finfo(dtype).eps, the error of dx in ordinary rows is at most
    4 eps' rstd max(|g| + |mean(g)| + |x_hat mean(g x_hat)|), that of dweight 2 eps' sum(|dy| max|x_hat|) and that of
    dbias 2 eps' sum(|dy|): the maxima over a row, the sums over any number of rows. For any finite rows,
    docs/accuracy.md proves 45 (float32) or 54 (float64) eps' rstd (max|g| + max|x_hat| rms(g)) for dx, 17 or 19 eps'
    sum(|dy| max|x_hat|) for dweight and 2.1 eps' sum(|dy|) for dbias.

    References
    ----------
    Ba, Kiros and Hinton, "Layer Normalization", 2016, arXiv:1607.06450.
    """
    cdef Plan plan
    cdef int asked = asked_threads(num_threads)
    cdef int mask = as_mask(output_mask)
    if mask & WANT_DX and plan_plain(&plan, dy, x, mean, rstd, weight, normalized_shape, out):
        dx = out
        if dx is None:
            dx = cnp.PyArray_EMPTY(ndim_of(x), shape_of(x), type_of(x), 0)
        plan.args.dx = data_of(dx)
        dweight, dbias = empty_parameters(x, plan.ndim, mask)
        run(&plan, dweight, dbias, asked)
        return dx, dweight, dbias
    return convert_and_run(dy, x, mean, rstd, weight, normalized_shape, mask, out, asked)


cdef bint plan_plain(
    Plan* plan, object dy, object x, object mean, object rstd, object weight, object normalized_shape, object out
) noexcept:
    """Fills in the plan of a usual call. False: the call is unusual, or wrong."""
    cdef int ndim, lead, i, type_num
    cdef const cnp.npy_intp* shape
    cdef Py_ssize_t cols = 1, rows = 1
    if not cnp.PyArray_CheckExact(x):
        return False
    type_num = type_of(x)
    if type_num != cnp.NPY_FLOAT32 and type_num != cnp.NPY_FLOAT64 or not is_plain(x, type_num):
        return False
    ndim = plain_normalized_ndim(x, normalized_shape)
    if ndim == 0:
        return False
    lead = ndim_of(x) - ndim
    shape = shape_of(x)
    for i in range(lead):
        rows *= shape[i]
    for i in range(lead, lead + ndim):
        cols *= shape[i]
    if cols == 0:
        return False

    if not (is_plain(dy, type_num) and has_shape(dy, lead + ndim, shape)):
        return False
    if not (is_stats(mean, type_num, lead, ndim, shape) and is_stats(rstd, type_num, lead, ndim, shape)):
        return False
    if weight is not None and not (is_plain(weight, type_num) and has_shape(weight, ndim, shape + lead)):
        return False
    if out is not None:
        if not is_plain_out(out, type_num, lead + ndim, shape):
            return False
        if ranges_overlap(out, x) and data_of(out) != data_of(x):
            return False
        if ranges_overlap(out, dy) and data_of(out) != data_of(dy):
            return False
        if ranges_overlap(out, mean) or ranges_overlap(out, rstd):
            return False
        if weight is not None and ranges_overlap(out, weight):
            return False

    plan.args.dy = data_of(dy)
    plan.args.x = data_of(x)
    plan.args.mean = data_of(mean)
    plan.args.rstd = data_of(rstd)
    plan.args.weight = NULL if weight is None else data_of(weight)
    plan.args.dy_stride = plan.args.x_stride = plan.args.dx_stride = plan.args.cols = cols
    plan.rows = rows
    plan.size = 3 * nbytes_of(x)
    plan.ndim = ndim
    choose_kernel(plan, type_num)
    return True


cdef bint is_stats(object a, int type_num, int lead, int ndim, const cnp.npy_intp* shape) noexcept:
    """Whether it is as layer_norm_forward returned it for an x of this shape."""
    cdef int i
    if not (is_plain(a, type_num) and ndim_of(a) == lead + ndim):
        return False
    for i in range(lead + ndim):
        if shape_of(a)[i] != (shape[i] if i < lead else 1):
            return False
    return True


cdef void choose_kernel(Plan* plan, int type_num) noexcept:
    cdef const fln_kernels* kernels = active
    plan.totals = 1 if type_num == cnp.NPY_FLOAT32 else 2
    if type_num == cnp.NPY_FLOAT32:
        plan.kernel, plan.merge = kernels.layer_norm_backward_f32, kernels.layer_norm_backward_merge_f32
    else:
        plan.kernel, plan.merge = kernels.layer_norm_backward_f64, kernels.layer_norm_backward_merge_f64


cdef tuple empty_parameters(object x, int ndim, int mask):
    cdef cnp.npy_intp* shape = shape_of(x) + (ndim_of(x) - ndim)
    return (
        cnp.PyArray_EMPTY(ndim, shape, type_of(x), 0) if mask & WANT_DWEIGHT else None,
        cnp.PyArray_EMPTY(ndim, shape, type_of(x), 0) if mask & WANT_DBIAS else None,
    )


cdef object convert_and_run(
    object dy, object x, object mean, object rstd, object weight, object normalized_shape, int mask, object out,
    int asked
):
    """A call that plan_plain does not take: explains what is wrong with it, or converts what needs converting."""
    cdef Plan plan
    cdef Rows x_rows, dy_rows, dx_rows
    x = as_floats("x", x)
    cdef int ndim = normalized_ndim(x, normalized_shape)
    dtype = x.dtype.newbyteorder("=")
    dy = as_shaped("dy", dy, x.shape, "match x")
    stats_shape = x.shape[:x.ndim - ndim] + (1,) * ndim
    mean = np.require(as_shaped("mean", mean, stats_shape, "match x and normalized_shape"), dtype, ["C", "A"])
    rstd = np.require(as_shaped("rstd", rstd, stats_shape, "match x and normalized_shape"), dtype, ["C", "A"])
    weight = as_parameter("weight", weight, x, ndim)
    if out is not None:
        if not mask & WANT_DX:
            raise ValueError("out must be None where output_mask[0] is False, got an array for dx")
        check_out(out, x)

    dx = dx_buffer = None
    x = with_rows(x, ndim)
    dy = with_rows(dy if dy.dtype.newbyteorder("=") == dtype else dy.astype(dtype), ndim)
    find_rows(x, ndim, &x_rows)
    find_rows(dy, ndim, &dy_rows)
    plan.args.dx, plan.args.dx_stride = NULL, 0
    if mask & WANT_DX:
        dx = np.empty(x.shape, dtype) if out is None else out
        dx_buffer = dx if find_rows(dx, ndim, &dx_rows) else np.empty(x.shape, dtype)
        find_rows(dx_buffer, ndim, &dx_rows)
        if may_share_rows(x, dx_buffer, ndim) and not same_rows(&x_rows, &dx_rows):
            x = x.copy(order="C")
            find_rows(x, ndim, &x_rows)
        if may_share_rows(dy, dx_buffer, ndim) and not same_rows(&dy_rows, &dx_rows):
            dy = dy.copy(order="C")
            find_rows(dy, ndim, &dy_rows)
        mean, rstd, weight = (
            a if a is None or not np.may_share_memory(a, dx_buffer) else a.copy() for a in (mean, rstd, weight)
        )
        plan.args.dx, plan.args.dx_stride = dx_rows.data, dx_rows.stride

    plan.args.dy, plan.args.dy_stride = dy_rows.data, dy_rows.stride
    plan.args.x, plan.args.x_stride = x_rows.data, x_rows.stride
    plan.args.mean = data_of(mean)
    plan.args.rstd = data_of(rstd)
    plan.args.weight = NULL if weight is None else data_of(weight)
    plan.args.cols = x_rows.cols
    plan.rows = x_rows.rows
    plan.size = 3 * x.nbytes
    choose_kernel(&plan, type_of(x))
    dweight, dbias = empty_parameters(x, ndim, mask)
    run(&plan, dweight, dbias, asked)
    if dx_buffer is not dx:
        dx[...] = dx_buffer
    return dx, dweight, dbias


@cython.cdivision(True)
cdef int run(Plan* plan, object dweight, object dbias, int asked) except -1:
    """The kernel over all rows, and the totals of its chunks merged into dweight and dbias."""
    cdef Work work
    cdef double* totals = NULL
    cdef void* dweight_to = NULL if dweight is None else data_of(dweight)
    cdef void* dbias_to = NULL if dbias is None else data_of(dbias)
    cdef Py_ssize_t rows = plan.rows, cols = plan.args.cols, blocks, size
    cdef bint is_small = plan.size // PARALLEL_FACTOR < min_parallel_bytes
    cdef Turn turn
    cdef int count = 1
    turn.limit = 1
    if not is_small:
        count = threads_for(max(rows, cols // COLUMNS_PER_THREAD), plan.size, asked, &turn)
    cdef Shape shape = Shape(BACKWARD, count, rows, cols, plan.size)
    cdef double seconds = 0
    # In place, what is written is in the cache already; and only arrays in one piece can go past it.
    cdef bint may_stream = (
        plan.args.dx != NULL and plan.args.dx != plan.args.x and plan.args.dx != plan.args.dy
        and plan.args.dx_stride == cols and plan.args.x_stride == cols and plan.args.dy_stride == cols
    )
    cdef bint is_timed = may_stream and is_tried(&shape)
    work.args = plan.args
    work.args.rows = rows
    work.args.stream = may_stream and goes_past(&shape, stream_bytes // STREAM_SHARE)
    work.kernel = plan.kernel
    work.rows = rows
    work.chunk_rows = chunk_rows(rows)
    work.chunks = (rows + work.chunk_rows - 1) // work.chunk_rows
    work.is_result = 0 < rows <= FLN_BACKWARD_BLOCK_ROWS
    work.dweight = dweight_to if work.is_result else NULL
    work.dbias = dbias_to if work.is_result else NULL
    work.terms = NULL
    work.totals = plan.totals * cols
    size = work.chunks * work.totals
    try:
        if not work.is_result and (dweight is not None or dbias is not None):
            totals = <double*> malloc(max(2 * size, 1) * sizeof(double))
            if totals == NULL:
                raise MemoryError
            work.dweight = totals if dweight is not None else <double*> NULL
            work.dbias = totals + size if dbias is not None else <double*> NULL
        if count > work.chunks:  # too few chunks of rows for the threads: they share the columns
            blocks = (rows + FLN_BACKWARD_BLOCK_ROWS - 1) // FLN_BACKWARD_BLOCK_ROWS
            work.terms = malloc(max(blocks, 1) * FLN_BACKWARD_BLOCK_ROWS * FLN_BACKWARD_TERMS * sizeof(double))
            if work.terms == NULL:
                raise MemoryError
        with nogil:
            if is_timed:
                seconds = -now()
            if work.terms != NULL:
                turn.busy = run_by_columns(&work, count)
                turn.parts = (cols + COLUMNS_PER_THREAD - 1) // COLUMNS_PER_THREAD
            else:
                turn.busy = run_by_rows(&work, count)
                turn.parts = work.chunks
            if turn.limit > 1:
                turn.ended = now()
            if work.dweight != dweight_to:
                plan.merge(<double*> work.dweight, work.chunks, cols, dweight_to)
            if work.dbias != dbias_to:
                plan.merge(<double*> work.dbias, work.chunks, cols, dbias_to)
            if is_timed:
                seconds += now()
        if is_timed:
            tell(&shape, work.args.stream, seconds)
    finally:
        free(totals)
        free(work.terms)
    return end_turn(&turn)


cdef int as_mask(object output_mask) except -1:
    """WANT_DX, WANT_DWEIGHT and WANT_DBIAS, those that are asked for."""
    cdef int mask = 0, i
    cdef bint wanted
    if not isinstance(output_mask, (tuple, list)):
        raise TypeError(f"output_mask must be a tuple of 3 bools, got {output_mask!r}")
    if len(output_mask) != 3:
        raise ValueError(f"output_mask must be a tuple of 3 bools, got {output_mask!r}")
    for i in range(3):
        item = output_mask[i]
        if item is not True and item is not False and not isinstance(item, np.bool_):
            raise TypeError(f"output_mask must be a tuple of 3 bools, got {output_mask!r}")
        wanted = item
        mask |= wanted << i
    return mask


cdef bint same_rows(const Rows* a, const Rows* b) noexcept:
    return a.data == b.data and a.stride == b.stride


cdef Py_ssize_t chunk_rows(Py_ssize_t rows) noexcept:
    """A multiple of the block: the rows whose part of dweight and dbias is summed on one thread."""
    cdef Py_ssize_t size = (rows + MOST_CHUNKS - 1) // MOST_CHUNKS
    size = (size + FLN_BACKWARD_BLOCK_ROWS - 1) // FLN_BACKWARD_BLOCK_ROWS * FLN_BACKWARD_BLOCK_ROWS
    return max(size, SMALLEST_CHUNK)


cdef void run_part(
    const Work* work, Py_ssize_t chunk, Py_ssize_t first_col, Py_ssize_t last_col
) noexcept nogil:
    """The rows of a chunk, over some columns."""
    cdef fln_layer_norm_backward_part part
    cdef Py_ssize_t totals = 0 if work.is_result else chunk * work.totals
    part.first_row = chunk * work.chunk_rows
    part.last_row = min(part.first_row + work.chunk_rows, work.rows)
    part.first_col = first_col
    part.last_col = last_col
    part.terms = work.terms
    part.is_result = work.is_result
    part.dweight = <double*> work.dweight + totals if work.dweight != NULL else <double*> NULL
    part.dbias = <double*> work.dbias + totals if work.dbias != NULL else <double*> NULL
    work.kernel(&work.args, &part)


cdef double run_by_rows(const Work* work, int count) noexcept nogil:
    """Each thread takes whole chunks. Returns the seconds that several threads worked in all."""
    cdef double busy = 0
    cdef Py_ssize_t i
    if count == 1:
        for i in range(work.chunks):
            run_part(work, i, 0, work.args.cols)
    else:
        for i in prange(work.chunks, num_threads=count, schedule="dynamic", chunksize=1):
            busy += run_chunks(work, i, i + 1, 0, work.args.cols)
    return busy


cdef double run_chunks(
    const Work* work, Py_ssize_t first, Py_ssize_t last, Py_ssize_t first_col, Py_ssize_t last_col
) noexcept nogil:
    """Some chunks, over some columns. Returns the seconds that it took."""
    cdef double began = now()
    cdef Py_ssize_t chunk
    for chunk in range(first, last):
        run_part(work, chunk, first_col, last_col)
    return now() - began


cdef double find_terms(const Work* work, Py_ssize_t block) noexcept nogil:
    """The first sweep over a block of rows, without the second. Returns the seconds that it took."""
    cdef double began = now()
    cdef fln_layer_norm_backward_part part
    part.first_row = block * FLN_BACKWARD_BLOCK_ROWS
    part.last_row = min(part.first_row + FLN_BACKWARD_BLOCK_ROWS, work.rows)
    part.first_col = part.last_col = 0
    part.terms = work.terms
    part.is_result = work.is_result
    part.dweight = work.dweight
    part.dbias = work.dbias
    work.kernel(&work.args, &part)
    return now() - began


cdef double run_by_columns(const Work* work, int count) noexcept nogil:
    """The first sweep by blocks of rows; then each thread takes a range of columns of all rows.

    Returns the seconds that they worked in all.
    """
    cdef Py_ssize_t blocks = (work.rows + FLN_BACKWARD_BLOCK_ROWS - 1) // FLN_BACKWARD_BLOCK_ROWS
    cdef Py_ssize_t i, width
    cdef double busy = 0
    for i in prange(blocks, num_threads=count, schedule="dynamic", chunksize=1):
        busy += find_terms(work, i)
    width = (work.args.cols + count - 1) // count
    width = (width + COLUMNS_PER_THREAD - 1) // COLUMNS_PER_THREAD * COLUMNS_PER_THREAD
    # The last threads may have no columns left; a part without columns would be a first sweep.
    for i in prange((work.args.cols + width - 1) // width, num_threads=count, schedule="static", chunksize=1):
        busy += run_chunks(work, 0, work.chunks, i * width, min(i * width + width, work.args.cols))
    return busy
