"""Layer normalization: arguments to rows of memory, rows to threads."""

import numpy as np
cimport cython
cimport numpy as cnp
from cython.parallel cimport prange
from libc.stdlib cimport free, malloc

from fastln._core.arguments cimport (
    Rows,
    as_eps,
    as_floats,
    as_parameter,
    check_out,
    data_of,
    find_rows,
    has_shape,
    is_plain,
    is_plain_eps,
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
    FLN_FORWARD_SEGMENT_COLS,
    FLN_FORWARD_SUMS,
    active,
    fln_kernels,
    fln_layer_norm_forward,
    fln_layer_norm_forward_args,
    fln_layer_norm_forward_columns,
    fln_layer_norm_forward_sums,
)
from fastln._core.stores cimport FORWARD, Shape, goes_past, is_tried, stream_bytes, tell
from fastln._core.threads cimport asked_threads

cnp.import_array()

# Releasing and taking back the GIL costs about 0.1 us; layer norm of this many bytes, read and written, takes 1 us.
cdef Py_ssize_t KEEP_GIL_BYTES = 32 * 1024


# A checked call: everything that the kernel needs but y, mean and rstd.
cdef struct Plan:
    fln_layer_norm_forward_args args
    fln_layer_norm_forward kernel
    fln_layer_norm_forward_sums sums
    fln_layer_norm_forward_columns columns
    Py_ssize_t rows
    Py_ssize_t size  # bytes read and written
    int ndim  # normalized dimensions


def layer_norm(x, normalized_shape=None, weight=None, bias=None, eps=1e-5, *, out=None, num_threads=None):
    """Normalize the rows of x: y = (x - mean) / sqrt(var + eps) * weight + bias.

    A row is the block of the trailing `normalized_shape` dimensions; mean and var (biased) are those of its elements.

    Parameters
    ----------
    x : array of float32 or float64, shape (..., *normalized_shape)
        Rows may lie at any constant stride; other layouts are copied once.
    normalized_shape : int or tuple of int, optional
        Trailing dimensions to normalize over. None stands for the last one.
    weight, bias : array of floats, shape normalized_shape, optional
        Scale and offset per element, converted to x's dtype. Each may be absent on its own.
    eps : float
        Added to the variance, in squared units of x.
    out : ndarray, optional
        Where to put the result: x's shape and dtype. It may be x itself; any other overlap with an input gives the
        same result as if there were none.
    num_threads : int, optional
        Upper limit of threads for this call, instead of `get_num_threads()`. The result has the same bits for any.

    Returns
    -------
    ndarray
        `out`, or a new array with x's shape and dtype.

    Raises
    ------
    TypeError
        If an argument has the wrong type or dtype.
    ValueError
        If a shape does not fit, eps is negative or not finite, out is read-only or overlaps itself, or
        num_threads < 1. Nothing has been written then.

    Notes
    -----
    With eps' = finfo(dtype).eps, the error of y is at most 15 eps' (float32) or 20 eps' (float64) times
    |weight| max|x_hat| + |bias|, the maximum over the row, for any finite row: docs/accuracy.md has the proof. Ordinary
    rows stay within 2 eps', whatever their mean, outliers and magnitude. A constant row gives exactly bias. A NaN or
    Inf makes its own row NaN and no other. The bits of a row depend on that row, eps, weight, bias and dtype alone.

    References
    ----------
    Ba, Kiros and Hinton, "Layer Normalization", 2016, arXiv:1607.06450.
    """
    cdef Plan plan
    cdef int asked = asked_threads(num_threads)
    if not plan_plain(&plan, x, normalized_shape, weight, bias, eps, out):
        return convert_and_run(x, normalized_shape, weight, bias, eps, out, asked, False)
    if out is None:
        out = cnp.PyArray_EMPTY(ndim_of(x), shape_of(x), type_of(x), 0)
    plan.args.y = data_of(out)
    plan.args.mean = plan.args.rstd = NULL
    run(&plan, asked)
    return out


def layer_norm_forward(x, normalized_shape=None, weight=None, bias=None, eps=1e-5, *, out=None, num_threads=None):
    """`layer_norm` that returns what the backward pass needs as well.

    Parameters
    ----------
    x : array of float32 or float64, shape (..., *normalized_shape)
    normalized_shape, weight, bias, eps, out, num_threads
        As in `layer_norm`.

    Returns
    -------
    y : ndarray
        As from `layer_norm`, with the same bits.
    mean, rstd : ndarray
        Mean and 1 / sqrt(var + eps) of each row, in x's dtype; shape: the leading dimensions of x, then 1 for each
        normalized dimension.

    Raises
    ------
    TypeError, ValueError
        As `layer_norm`.

    References
    ----------
    Ba, Kiros and Hinton, "Layer Normalization", 2016, arXiv:1607.06450.
    """
    cdef Plan plan
    cdef int asked = asked_threads(num_threads)
    if not plan_plain(&plan, x, normalized_shape, weight, bias, eps, out):
        return convert_and_run(x, normalized_shape, weight, bias, eps, out, asked, True)
    if out is None:
        out = cnp.PyArray_EMPTY(ndim_of(x), shape_of(x), type_of(x), 0)
    mean, rstd = empty_stats(x, plan.ndim), empty_stats(x, plan.ndim)
    plan.args.y = data_of(out)
    plan.args.mean = data_of(mean)
    plan.args.rstd = data_of(rstd)
    run(&plan, asked)
    return out, mean, rstd


cdef bint plan_plain(
    Plan* plan, object x, object normalized_shape, object weight, object bias, object eps, object out
) noexcept:
    """Fills in the plan of a usual call. False: the call is unusual, or wrong."""
    cdef int ndim, lead, i, type_num
    cdef const cnp.npy_intp* shape
    cdef Py_ssize_t cols = 1, rows = 1
    if not cnp.PyArray_CheckExact(x):
        return False
    type_num = type_of(x)
    if type_num != cnp.NPY_FLOAT32 and type_num != cnp.NPY_FLOAT64 or not cnp.PyArray_ISCARRAY_RO(<cnp.ndarray> x):
        return False

    ndim = plain_normalized_ndim(x, normalized_shape)
    if ndim == 0:
        return False
    lead = ndim_of(x) - ndim
    for i in range(lead):
        rows *= shape_of(x)[i]
    shape = shape_of(x) + lead
    for i in range(ndim):
        cols *= shape[i]

    if not is_plain_eps(eps, &plan.args.eps) or cols == 0:
        return False
    if weight is not None and not (is_plain(weight, type_num) and has_shape(weight, ndim, shape)):
        return False
    if bias is not None and not (is_plain(bias, type_num) and has_shape(bias, ndim, shape)):
        return False
    if out is not None:
        if not is_plain_out(out, type_num, lead + ndim, shape_of(x)):
            return False
        if ranges_overlap(out, x) and data_of(out) != data_of(x):
            return False
        if weight is not None and ranges_overlap(out, weight) or bias is not None and ranges_overlap(out, bias):
            return False

    plan.args.x = data_of(x)
    plan.args.weight = NULL if weight is None else data_of(weight)
    plan.args.bias = NULL if bias is None else data_of(bias)
    plan.args.x_stride = plan.args.y_stride = plan.args.cols = cols
    choose_kernels(plan, type_num)
    plan.rows = rows
    plan.size = 2 * nbytes_of(x)
    plan.ndim = ndim
    return True


cdef void choose_kernels(Plan* plan, int type_num) noexcept:
    cdef const fln_kernels* kernels = active
    if type_num == cnp.NPY_FLOAT32:
        plan.kernel = kernels.layer_norm_forward_f32
        plan.sums, plan.columns = kernels.layer_norm_forward_sums_f32, kernels.layer_norm_forward_columns_f32
    else:
        plan.kernel = kernels.layer_norm_forward_f64
        plan.sums, plan.columns = kernels.layer_norm_forward_sums_f64, kernels.layer_norm_forward_columns_f64


cdef object empty_stats(object x, int ndim):
    cdef cnp.npy_intp shape[64]  # NumPy's largest number of dimensions
    cdef int lead = ndim_of(x) - ndim
    cdef int i
    for i in range(lead + ndim):
        shape[i] = shape_of(x)[i] if i < lead else 1
    return cnp.PyArray_EMPTY(lead + ndim, shape, type_of(x), 0)


cdef int run(Plan* plan, int asked) except -1:
    """The kernel over all rows: here, or on several threads."""
    cdef Py_ssize_t segments
    cdef Turn turn
    cdef Shape shape
    cdef double began = 0
    cdef bint is_timed
    cdef Py_ssize_t cols = plan.args.cols
    # In place, what is written is in the cache already; and only arrays in one piece can go past it.
    cdef bint may_stream = plan.args.y != plan.args.x and plan.args.x_stride == cols and plan.args.y_stride == cols
    if plan.size < KEEP_GIL_BYTES and plan.size < min_parallel_bytes:
        plan.args.stream = may_stream and plan.size >= stream_bytes
        plan.kernel(&plan.args, 0, plan.rows)
        return 0
    segments = (cols + FLN_FORWARD_SEGMENT_COLS - 1) // FLN_FORWARD_SEGMENT_COLS
    threads_for(max(plan.rows, segments), plan.size, asked, &turn)
    shape = Shape(FORWARD, turn.count, plan.rows, cols, plan.size)
    is_timed = may_stream and is_tried(&shape)
    plan.args.stream = may_stream and goes_past(&shape, stream_bytes)
    if turn.count > 1:
        began = turn.began
        share(plan, segments, &turn)
    else:
        with nogil:
            if is_timed:
                began = now()
            plan.kernel(&plan.args, 0, plan.rows)
            if is_timed or turn.limit > 1:
                turn.ended = now()
    if is_timed:
        tell(&shape, plan.args.stream, turn.ended - began)
    return end_turn(&turn)


@cython.cdivision(True)
cdef int share(const Plan* plan, Py_ssize_t segments, Turn* turn) except -1:
    """One block of whole rows to each thread; long rows left over are shared by all where that leaves fewer idle."""
    cdef int count = turn.count, i
    cdef Py_ssize_t left_over = plan.rows % count
    cdef Py_ssize_t rows, block, row
    cdef double* sums = NULL
    cdef double busy = 0
    # A row that is shared takes as long as the largest share of its segments; whole rows, in the worst block, one row.
    if left_over * ((segments + count - 1) // count) >= segments:
        left_over = 0
    rows = plan.rows - left_over
    block = (rows + count - 1) // count
    if left_over > 0:
        sums = <double*> malloc(segments * FLN_FORWARD_SUMS * sizeof(double))
        if sums == NULL:
            raise MemoryError
    with nogil:
        if rows > 0:
            for i in prange(count, num_threads=count, schedule="static", chunksize=1):
                busy += run_block(plan, min(i * block, rows), min(i * block + block, rows))
        for row in range(rows, plan.rows):
            busy += share_row(plan, row, segments, sums, count)
        turn.busy, turn.ended = busy, now()
        turn.parts = plan.rows if left_over == 0 else plan.rows * segments
        free(sums)
    return 0


cdef double run_block(const Plan* plan, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
    """Some rows. Returns the seconds that it took, as do the others that are done on a thread of several."""
    cdef double began = now()
    plan.kernel(&plan.args, first, last)
    return now() - began


cdef double share_row(
    const Plan* plan, Py_ssize_t row, Py_ssize_t segments, double* sums, int count
) noexcept nogil:
    """Each thread sums some segments of the row, and when all of them are there, normalizes the same ones.

    The team is as large as for whole rows, even if some get nothing: OpenMP would end threads that a smaller one leaves
    out, and start them anew for the next call.
    """
    cdef double busy = 0
    cdef int i
    for i in prange(count, num_threads=count, schedule="static", chunksize=1):
        busy += sum_segments(plan, row, first_segment(i, segments, count), first_segment(i + 1, segments, count), sums)
    for i in prange(count, num_threads=count, schedule="static", chunksize=1):
        busy += write_segments(
            plan, row, first_segment(i, segments, count), first_segment(i + 1, segments, count), sums
        )
    return busy


cdef double sum_segments(
    const Plan* plan, Py_ssize_t row, Py_ssize_t first, Py_ssize_t last, double* sums
) noexcept nogil:
    cdef double began = now()
    cdef Py_ssize_t segment
    for segment in range(first, last):
        plan.sums(&plan.args, row, segment, sums + segment * FLN_FORWARD_SUMS)
    return now() - began


cdef double write_segments(
    const Plan* plan, Py_ssize_t row, Py_ssize_t first, Py_ssize_t last, const double* sums
) noexcept nogil:
    cdef double began = now()
    first *= FLN_FORWARD_SEGMENT_COLS
    last = min(last * FLN_FORWARD_SEGMENT_COLS, plan.args.cols)
    if first < last:
        plan.columns(&plan.args, row, sums, first, last)
    return now() - began


@cython.cdivision(True)
cdef Py_ssize_t first_segment(int i, Py_ssize_t segments, int count) noexcept nogil:
    """Of those that thread i takes of a shared row; of the thread after the last one, their number."""
    return i * segments // count


cdef object convert_and_run(
    object x, object normalized_shape, object weight, object bias, object eps, object out, int asked,
    bint stats
):
    """A call that plan_plain does not take: explains what is wrong with it, or converts what needs converting."""
    cdef Plan plan
    cdef Rows x_rows, y_rows
    x = as_floats("x", x)
    cdef int ndim = normalized_ndim(x, normalized_shape)
    weight = as_parameter("weight", weight, x, ndim)
    bias = as_parameter("bias", bias, x, ndim)
    plan.args.eps = as_eps(eps)
    if out is None:
        out = np.empty(x.shape, x.dtype.newbyteorder("="))
    else:
        check_out(out, x)

    x = with_rows(x, ndim)
    y = out if find_rows(out, ndim, &y_rows) else np.empty_like(x, order="C", subok=False)
    find_rows(x, ndim, &x_rows)
    find_rows(y, ndim, &y_rows)
    if may_share_rows(x, y, ndim) and not (x_rows.data == y_rows.data and x_rows.stride == y_rows.stride):
        x = x.copy(order="C")
        find_rows(x, ndim, &x_rows)
    if weight is not None and np.may_share_memory(weight, y):
        weight = weight.copy()
    if bias is not None and np.may_share_memory(bias, y):
        bias = bias.copy()
    mean, rstd = (empty_stats(x, ndim), empty_stats(x, ndim)) if stats else (None, None)

    plan.args.x = x_rows.data
    plan.args.y = y_rows.data
    plan.args.x_stride = x_rows.stride
    plan.args.y_stride = y_rows.stride
    plan.args.cols = x_rows.cols
    plan.args.weight = NULL if weight is None else data_of(weight)
    plan.args.bias = NULL if bias is None else data_of(bias)
    plan.args.mean = NULL if mean is None else data_of(mean)
    plan.args.rstd = NULL if rstd is None else data_of(rstd)
    choose_kernels(&plan, type_of(x))
    plan.rows = x_rows.rows
    plan.size = 2 * x.nbytes
    run(&plan, asked)
    if y is not out:
        out[...] = y
    return (out, mean, rstd) if stats else out
