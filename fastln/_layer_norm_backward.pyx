"""Gradients of layer normalization: arguments to rows of memory, rows or columns to threads."""

import numpy as np
cimport numpy as cnp
from cython.parallel cimport prange

from fastln._arrays cimport (
    Rows,
    as_floats,
    as_parameter,
    as_shaped,
    check_out,
    find_rows,
    may_share_rows,
    normalized_ndim,
    with_rows,
)
from fastln._dispatch cimport (
    FLN_BACKWARD_BLOCK_ROWS,
    FLN_BACKWARD_TERMS,
    active,
    fln_kernels,
    fln_layer_norm_backward,
    fln_layer_norm_backward_args,
    fln_layer_norm_backward_merge,
    fln_layer_norm_backward_part,
)
from fastln._threads cimport check_num_threads, threads_for

cnp.import_array()

# dweight and dbias are summed over chunks of rows, each on one thread, and the chunks in their order: so the chunks
# depend on the number of rows alone, and the bits not on the threads. No more than MOST_CHUNKS, since each has totals
# of its own; no fewer rows than SMALLEST_CHUNK, so that adding them up is little work next to the rows themselves.
cdef Py_ssize_t MOST_CHUNKS = 32
cdef Py_ssize_t SMALLEST_CHUNK = 8 * FLN_BACKWARD_BLOCK_ROWS

# A thread that shares long rows with others takes at least this many columns, in whole cache lines.
cdef Py_ssize_t COLUMNS_PER_THREAD = 1024


cdef struct Work:
    fln_layer_norm_backward_args args
    fln_layer_norm_backward kernel
    fln_layer_norm_backward_merge merge
    Py_ssize_t rows
    Py_ssize_t chunk_rows
    Py_ssize_t chunks
    void* terms
    double* dweight  # chunks * 2 * cols totals, or NULL
    double* dbias


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
    With g = dy * weight and eps' = finfo(dtype).eps, the error of dx is at most
    4 eps' rstd max(|g| + |mean(g)| + |x_hat mean(g x_hat)|), that of dweight 2 eps' sum(|dy| max|x_hat|) and that of
    dbias 2 eps' sum(|dy|): the maxima over a row, the sums over any number of rows.

    References
    ----------
    Ba, Kiros and Hinton, "Layer Normalization", 2016, arXiv:1607.06450.
    """
    cdef Work work
    cdef Rows x_rows, dy_rows, dx_rows
    cdef const fln_kernels* kernels = active
    check_num_threads(num_threads)
    want_dx, want_dweight, want_dbias = as_mask(output_mask)
    x = as_floats("x", x)
    cdef int ndim = normalized_ndim(x, normalized_shape)
    shape = x.shape[x.ndim - ndim:]
    dtype = x.dtype.newbyteorder("=")
    dy = as_shaped("dy", dy, x.shape, "match x")
    stats_shape = x.shape[:x.ndim - ndim] + (1,) * ndim
    mean = np.require(as_shaped("mean", mean, stats_shape, "match x and normalized_shape"), dtype, ["C", "A"])
    rstd = np.require(as_shaped("rstd", rstd, stats_shape, "match x and normalized_shape"), dtype, ["C", "A"])
    weight = as_parameter("weight", weight, x, ndim)
    if out is not None:
        if not want_dx:
            raise ValueError("out must be None where output_mask[0] is False, got an array for dx")
        check_out(out, x)

    dx = dx_buffer = None
    x = with_rows(x, ndim)
    dy = with_rows(dy if dy.dtype.newbyteorder("=") == dtype else dy.astype(dtype), ndim)
    find_rows(x, ndim, &x_rows)
    find_rows(dy, ndim, &dy_rows)
    if want_dx:
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

    work.rows = x_rows.rows
    work.chunk_rows = chunk_rows(work.rows)
    work.chunks = (work.rows + work.chunk_rows - 1) // work.chunk_rows
    work.args.dy, work.args.dy_stride = dy_rows.data, dy_rows.stride
    work.args.x, work.args.x_stride = x_rows.data, x_rows.stride
    work.args.dx, work.args.dx_stride = NULL, 0
    if want_dx:
        work.args.dx, work.args.dx_stride = dx_rows.data, dx_rows.stride
    work.args.mean = cnp.PyArray_DATA(mean)
    work.args.rstd = cnp.PyArray_DATA(rstd)
    work.args.weight = NULL if weight is None else cnp.PyArray_DATA(weight)
    work.args.cols = x_rows.cols
    if cnp.PyArray_TYPE(x) == cnp.NPY_FLOAT32:
        work.kernel, work.merge = kernels.layer_norm_backward_f32, kernels.layer_norm_backward_merge_f32
    else:
        work.kernel, work.merge = kernels.layer_norm_backward_f64, kernels.layer_norm_backward_merge_f64

    totals_shape = (work.chunks, 2, work.args.cols)
    dweight_totals = np.zeros(totals_shape) if want_dweight else None
    dbias_totals = np.zeros(totals_shape) if want_dbias else None
    dweight = np.empty(shape, dtype) if want_dweight else None
    dbias = np.empty(shape, dtype) if want_dbias else None
    work.dweight = <double*> NULL if dweight is None else <double*> cnp.PyArray_DATA(dweight_totals)
    work.dbias = <double*> NULL if dbias is None else <double*> cnp.PyArray_DATA(dbias_totals)
    blocks = (work.rows + FLN_BACKWARD_BLOCK_ROWS - 1) // FLN_BACKWARD_BLOCK_ROWS
    units = max(work.rows, work.args.cols // COLUMNS_PER_THREAD)
    cdef int count = threads_for(units, 3 * x.nbytes, num_threads)
    if count > work.chunks:  # too few chunks of rows for the threads: they share the columns
        terms = np.empty(blocks * FLN_BACKWARD_BLOCK_ROWS * FLN_BACKWARD_TERMS, dtype)
        work.terms = cnp.PyArray_DATA(terms)
        with nogil:
            run_by_columns(&work, count)
    else:
        work.terms = NULL
        with nogil:
            run_by_rows(&work, count)
    if dweight is not None:
        work.merge(work.dweight, work.chunks, work.args.cols, cnp.PyArray_DATA(dweight))
    if dbias is not None:
        work.merge(work.dbias, work.chunks, work.args.cols, cnp.PyArray_DATA(dbias))
    if dx_buffer is not dx:
        dx[...] = dx_buffer
    return dx, dweight, dbias


cdef tuple as_mask(object output_mask):
    if not isinstance(output_mask, (tuple, list)):
        raise TypeError(f"output_mask must be a tuple of 3 bools, got {output_mask!r}")
    if len(output_mask) != 3:
        raise ValueError(f"output_mask must be a tuple of 3 bools, got {output_mask!r}")
    for item in output_mask:
        if not isinstance(item, (bool, np.bool_)):
            raise TypeError(f"output_mask must be a tuple of 3 bools, got {output_mask!r}")
    return tuple(map(bool, output_mask))


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
    cdef Py_ssize_t totals = chunk * 2 * work.args.cols
    part.first_row = chunk * work.chunk_rows
    part.last_row = min(part.first_row + work.chunk_rows, work.rows)
    part.first_col = first_col
    part.last_col = last_col
    part.terms = work.terms
    part.dweight = work.dweight + totals if work.dweight != NULL else <double*> NULL
    part.dbias = work.dbias + totals if work.dbias != NULL else <double*> NULL
    work.kernel(&work.args, &part)


cdef int run_by_rows(const Work* work, int count) noexcept nogil:
    """Each thread takes whole chunks."""
    cdef Py_ssize_t i
    if count == 1:
        for i in range(work.chunks):
            run_part(work, i, 0, work.args.cols)
    else:
        for i in prange(work.chunks, num_threads=count, schedule="dynamic", chunksize=1):
            run_part(work, i, 0, work.args.cols)
    return 0


cdef void find_terms(const Work* work, Py_ssize_t block) noexcept nogil:
    """The first sweep over a block of rows, without the second."""
    cdef fln_layer_norm_backward_part part
    part.first_row = block * FLN_BACKWARD_BLOCK_ROWS
    part.last_row = min(part.first_row + FLN_BACKWARD_BLOCK_ROWS, work.rows)
    part.first_col = part.last_col = 0
    part.terms = work.terms
    part.dweight = work.dweight
    part.dbias = work.dbias
    work.kernel(&work.args, &part)


cdef int run_by_columns(const Work* work, int count) noexcept nogil:
    """The first sweep by blocks of rows; then each thread takes a range of columns of all rows."""
    cdef Py_ssize_t blocks = (work.rows + FLN_BACKWARD_BLOCK_ROWS - 1) // FLN_BACKWARD_BLOCK_ROWS
    cdef Py_ssize_t i, chunk, width, first_col, last_col
    for i in prange(blocks, num_threads=count, schedule="dynamic", chunksize=1):
        find_terms(work, i)
    width = (work.args.cols + count - 1) // count
    width = (width + COLUMNS_PER_THREAD - 1) // COLUMNS_PER_THREAD * COLUMNS_PER_THREAD
    # The last threads may have no columns left; a part without columns would be a first sweep.
    for i in prange((work.args.cols + width - 1) // width, num_threads=count, schedule="static", chunksize=1):
        first_col = i * width
        last_col = min(first_col + width, work.args.cols)
        for chunk in range(work.chunks):
            run_part(work, chunk, first_col, last_col)
    return 0
