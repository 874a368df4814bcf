"""Gradients of layer norm and RMS norm, with or without a residual: what the arguments mean."""

import numpy as np
cimport numpy as cnp
from cpython.tuple cimport PyTuple_CheckExact, PyTuple_GET_ITEM, PyTuple_GET_SIZE

from fastln._core.arguments cimport (
    as_floats,
    as_floats_like,
    as_offset,
    as_out,
    as_parameter,
    as_rows,
    as_sizes,
    as_stats,
    check_matrix,
    check_out,
    check_parameter,
    check_rows,
    check_stats,
    copy_into,
    refuse_changes,
    rows_at,
    usable_result,
    usable_rows,
    usable_small,
)
from fastln._core.calls cimport Backward, choose_backward
from fastln._core.describe import describe
from fastln._core.drive cimport run_backward
from fastln._core.effort cimport ADD_BACKWARD, BACKWARD, limit_for
from fastln._core.elements cimport Room, begin_room, narrow, take_place, widened
from fastln._core.isa cimport FLN_LAYER_NORM, FLN_RMS_NORM, fln_norm
from fastln._core.keywords cimport explain_calls
from fastln._core.names import call_explainer
from fastln._core.threads cimport asked_threads
from fastln._core.usual cimport (
    Matrix,
    data_of,
    empty_parameter,
    empty_rows,
    is_apart,
    is_apart_or_same,
    is_stored,
    matrix_of,
    nbytes_of,
    parameter_of,
    result_of,
    rows_of,
    stats_of,
    type_of,
)

cnp.import_array()

# Which gradients a call asks for.
cdef enum:
    WANT_DX = 1
    WANT_DWEIGHT = 2
    WANT_DBIAS = 4


def layer_norm_backward(dy, x, mean, rstd, weight=None, *, normalized_shape=None, output_mask=(True, True, True),
                        out=None, num_threads=None):
    """Gradients of a loss with respect to the input, weight and bias of `layer_norm`.

    Parameters
    ----------
    dy : array of floats, shape of x
        Gradient of the loss with respect to y, in x's dtype; others are converted to it.
    x : array of float32, float64, float16 or bfloat16, shape `(..., *normalized_shape)`
        The input of the forward pass.
    mean, rstd : array of floats, shape (..., 1, ..., 1)
        As `layer_norm_forward` returned them: x's leading dimensions, then 1 for each normalized dimension. That mean
        is rounded does not matter: its low part is recovered from x.
    weight : array of floats, shape normalized_shape, optional
        The weight of the forward pass.
    normalized_shape : int or tuple of int, optional
        As in the forward pass. None stands for the last dimension.
    output_mask : tuple of 3 bools
        Which of dx, dweight and dbias to find. What is False is returned as None and costs nothing, but that dweight
        and dbias are found together where dx is found too.
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
        Shape normalized_shape, in x's dtype; but in float32 where x has 16 bits and weight another dtype. They are
        summed in more precision and rounded once. Zero if there are no rows.

    Raises
    ------
    TypeError
        If an argument has the wrong type or dtype.
    ValueError
        If a shape does not fit, a value of another argument is too large for the dtype that it is converted to, out is
        read-only or overlaps itself, or num_threads < 1. Nothing has been written then.

    Notes
    -----
    With g = dy * weight and eps' = finfo(dtype).eps, the error of dx in ordinary rows is at most
    `4 eps' rstd max(|g| + |mean(g)| + |x_hat mean(g x_hat)|)`, that of dweight `2 eps' sum(|dy| max|x_hat|)` and that
    of dbias `2 eps' sum(|dy|)`: the maxima over a row, the sums over any number of rows. For any finite rows,
    docs/accuracy.md proves 45 (float32) or 54 (float64) times `eps' rstd (max|g| + max|x_hat| rms(g))` for dx, 17 or 19
    times `eps' sum(|dy| max|x_hat|)` for dweight and `2.1 eps' sum(|dy|)` for dbias. For x of 16 bits it is float32's
    eps', and the rounding of the results comes to it.

    A call takes up to 160 KiB of stack on the thread that calls, and 124 KiB on each other one (forward 64 KiB and 36
    KiB). Where OMP_STACKSIZE or `threading.stack_size` says how much there is, let it be 256 KiB or more: with less the
    process may end.

    References
    ----------
    Ba, Kiros and Hinton, "Layer Normalization", 2016, arXiv:1607.06450.

    Examples
    --------
    >>> import numpy as np
    >>> import fastln
    >>> x = np.array([[1, 2, 3, 4], [10, 10, 30, 30]], np.float32)
    >>> y, mean, rstd = fastln.layer_norm_forward(x)
    >>> dx, dweight, dbias = fastln.layer_norm_backward(y, x, mean, rstd)  # of the loss (y * y).sum() / 2
    >>> dweight.round(4)
    array([2.8, 1.2, 1.2, 2.8], dtype=float32)
    >>> dbias.round(4)
    array([-2.3416, -1.4472,  1.4472,  2.3416], dtype=float32)

    Those of the parameters alone:

    >>> dx, dweight, dbias = fastln.layer_norm_backward(y, x, mean, rstd, output_mask=(False, True, True))
    >>> dx is None
    True
    """
    cdef Backward call
    cdef Matrix m
    cdef Room room
    cdef int asked = asked_threads(num_threads), limit = limit_for(&BACKWARD, x, asked)
    cdef int mask = as_mask(output_mask, 3)
    if not (
        mask & WANT_DX
        and usual_gradients(&call, &m, FLN_LAYER_NORM, dy, x, mean, rstd, weight, normalized_shape, out)
    ):
        return other_gradients(FLN_LAYER_NORM, dy, x, mean, rstd, weight, 0, normalized_shape, mask, out, asked)
    dweight, dbias = empty_sum(&m, weight, mask & WANT_DWEIGHT), empty_sum(&m, weight, mask & WANT_DBIAS)
    weight = scale_of(&call, &m, &room, weight, 0, mask)
    if out is None:
        out = fresh_result(&call, &m)
    run(&call, &m, &room, dweight, dbias, limit)
    return out, dweight, dbias


def add_layer_norm_backward(dy, ds, s, mean, rstd, weight=None, *, normalized_shape=None,
                            output_mask=(True, True, True), out=None, num_threads=None):
    """Gradients of a loss with respect to x and residual, weight and bias of `add_layer_norm`.

    x and residual have the same gradient, dx: that of s, through y and beside it.

    Parameters
    ----------
    dy : array of floats, shape of s
        Gradient of the loss with respect to y, in the dtype of s; others are converted to it.
    ds : array of floats, shape of s, or None
        Gradient of the loss with respect to s beside y: of a pre-norm block, what flows back along the stream. None
        where s is not used again (post-norm).
    s : array of float32, float64, float16 or bfloat16, shape `(..., *normalized_shape)`
        The sum, as `add_layer_norm_forward` returned it.
    mean, rstd : array of floats, shape (..., 1, ..., 1)
        As `add_layer_norm_forward` returned them.
    weight : array of floats, shape normalized_shape, optional
        The weight of the forward pass.
    normalized_shape : int or tuple of int, optional
        As in the forward pass. None stands for the last dimension.
    output_mask : tuple of 3 bools
        Which of dx, dweight and dbias to find. What is False is returned as None and costs nothing, but that dweight
        and dbias are found together where dx is found too.
    out : ndarray, optional
        Where to put dx: the shape and dtype of s. It may be dy, ds or s itself; any other overlap with an input gives
        the same result as if there were none.
    num_threads : int, optional
        Upper limit of threads for this call, instead of `get_num_threads()`. The results have the same bits for any.

    Returns
    -------
    dx : ndarray or None
        `out`, or a new array with the shape and dtype of s.
    dweight, dbias : ndarray or None
        Shape normalized_shape, in the dtype of s; but in float32 where s has 16 bits and weight another dtype. Zero if
        there are no rows.

    Raises
    ------
    TypeError
        If an argument has the wrong type or dtype.
    ValueError
        If a shape does not fit, a value of another argument is too large for the dtype that it is converted to, out is
        read-only or overlaps itself, or num_threads < 1. Nothing has been written then.

    Notes
    -----
    The results have the bits of `layer_norm_backward(dy, s, mean, rstd, weight)`, of which dx has ds added to it. Where
    s has 16 bits, ds is added in float32, and dx rounded once after that.

    References
    ----------
    Ba, Kiros and Hinton, "Layer Normalization", 2016, arXiv:1607.06450.

    Examples
    --------
    >>> import numpy as np
    >>> import fastln
    >>> x, residual = np.array([[1, 2, 3, 4]], np.float32), np.ones((1, 4), np.float32)
    >>> y, s, mean, rstd = fastln.add_layer_norm_forward(x, residual)
    >>> dx, dweight, dbias = fastln.add_layer_norm_backward(y, s, s, mean, rstd)  # of (y * y + s * s).sum() / 2
    >>> dx.round(3)
    array([[2., 3., 4., 5.]], dtype=float32)
    """
    return gradients_of_sum(
        FLN_LAYER_NORM, dy, ds, s, mean, rstd, weight, 0, normalized_shape, as_mask(output_mask, 3), out, num_threads
    )


def rms_norm_backward(dy, x, rstd, weight=None, *, normalized_shape=None, output_mask=(True, True), weight_offset=0.0,
                      out=None, num_threads=None):
    """Gradients of a loss with respect to the input and weight of `rms_norm`.

    Parameters
    ----------
    dy : array of floats, shape of x
        Gradient of the loss with respect to y, in x's dtype; others are converted to it.
    x : array of float32, float64, float16 or bfloat16, shape `(..., *normalized_shape)`
        The input of the forward pass.
    rstd : array of floats, shape (..., 1, ..., 1)
        As `rms_norm_forward` returned it: x's leading dimensions, then 1 for each normalized dimension.
    weight : array of floats, shape normalized_shape, optional
        The weight of the forward pass.
    normalized_shape : int or tuple of int, optional
        As in the forward pass. None stands for the last dimension.
    output_mask : tuple of 2 bools
        Which of dx and dweight to find. What is False is returned as None and costs nothing.
    weight_offset : float
        As in the forward pass.
    out : ndarray, optional
        Where to put dx: x's shape and dtype. It may be dy or x itself; any other overlap with an input gives the same
        result as if there were none.
    num_threads : int, optional
        Upper limit of threads for this call, instead of `get_num_threads()`. The results have the same bits for any.

    Returns
    -------
    dx : ndarray or None
        `out`, or a new array with x's shape and dtype.
    dweight : ndarray or None
        Shape normalized_shape, in x's dtype; but in float32 where x has 16 bits and weight another dtype. They are
        summed in more precision and rounded once. Zero if there are no rows.

    Raises
    ------
    TypeError
        If an argument has the wrong type or dtype.
    ValueError
        If a shape does not fit, weight_offset is not finite or there is no weight to add it to, out is read-only or
        overlaps itself, or num_threads < 1. Nothing has been written then.

    Notes
    -----
    With g = dy * (weight_offset + weight) and eps' = finfo(dtype).eps, the error of dx in ordinary rows is at most
    `4 eps' rstd max(|g| + |x_hat mean(g x_hat)|)` and that of dweight `2 eps' sum(|dy| max|x_hat|)`: the maxima over a
    row, the sum over any number of rows. For any finite rows, docs/accuracy.md proves 18 (float32) or 23 (float64)
    times `eps' rstd (max|g| + max|x_hat| rms(g))` for dx and 6.5 or 8 times `eps' sum(|dy| max|x_hat|)` for dweight.

    References
    ----------
    Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019, arXiv:1910.07467.

    Examples
    --------
    >>> import numpy as np
    >>> import fastln
    >>> x, dy = np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[1.0, 0.0], [0.0, 1.0]])
    >>> y, rstd = fastln.rms_norm_forward(x)
    >>> dx, dweight = fastln.rms_norm_backward(dy, x, rstd)
    >>> dweight.round(3)
    array([0.632, 1.131])
    """
    cdef Backward call
    cdef Matrix m
    cdef Room room
    cdef int asked = asked_threads(num_threads), limit = limit_for(&BACKWARD, x, asked)
    cdef int mask = as_mask(output_mask, 2)
    cdef double offset = as_offset(weight_offset, weight is not None)
    if not (
        mask & WANT_DX and usual_gradients(&call, &m, FLN_RMS_NORM, dy, x, None, rstd, weight, normalized_shape, out)
    ):
        return other_gradients(FLN_RMS_NORM, dy, x, None, rstd, weight, offset, normalized_shape, mask, out, asked)
    dweight = empty_sum(&m, weight, mask & WANT_DWEIGHT)
    weight = scale_of(&call, &m, &room, weight, offset, mask)
    if out is None:
        out = fresh_result(&call, &m)
    run(&call, &m, &room, dweight, None, limit)
    return out, dweight


def add_rms_norm_backward(dy, ds, s, rstd, weight=None, *, normalized_shape=None, output_mask=(True, True),
                          weight_offset=0.0, out=None, num_threads=None):
    """Gradients of a loss with respect to x and residual, and weight, of `add_rms_norm`.

    x and residual have the same gradient, dx: that of s, through y and beside it.

    Parameters
    ----------
    dy : array of floats, shape of s
        Gradient of the loss with respect to y, in the dtype of s; others are converted to it.
    ds : array of floats, shape of s, or None
        Gradient of the loss with respect to s beside y: of a pre-norm block, what flows back along the stream. None
        where s is not used again (post-norm).
    s : array of float32, float64, float16 or bfloat16, shape `(..., *normalized_shape)`
        The sum, as `add_rms_norm_forward` returned it.
    rstd : array of floats, shape (..., 1, ..., 1)
        As `add_rms_norm_forward` returned it.
    weight : array of floats, shape normalized_shape, optional
        The weight of the forward pass.
    normalized_shape : int or tuple of int, optional
        As in the forward pass. None stands for the last dimension.
    output_mask : tuple of 2 bools
        Which of dx and dweight to find. What is False is returned as None and costs nothing.
    weight_offset : float
        As in the forward pass.
    out : ndarray, optional
        Where to put dx: the shape and dtype of s. It may be dy, ds or s itself; any other overlap with an input gives
        the same result as if there were none.
    num_threads : int, optional
        Upper limit of threads for this call, instead of `get_num_threads()`. The results have the same bits for any.

    Returns
    -------
    dx : ndarray or None
        `out`, or a new array with the shape and dtype of s.
    dweight : ndarray or None
        Shape normalized_shape, in the dtype of s; but in float32 where s has 16 bits and weight another dtype. Zero if
        there are no rows.

    Raises
    ------
    TypeError
        If an argument has the wrong type or dtype.
    ValueError
        If a shape does not fit, weight_offset is not finite or there is no weight to add it to, out is read-only or
        overlaps itself, or num_threads < 1. Nothing has been written then.

    Notes
    -----
    The results have the bits of `rms_norm_backward(dy, s, rstd, weight)`, of which dx has ds added to it. Where
    s has 16 bits, ds is added in float32, and dx rounded once after that.

    References
    ----------
    Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019, arXiv:1910.07467.

    Examples
    --------
    >>> import numpy as np
    >>> import fastln
    >>> y, s, rstd = fastln.add_rms_norm_forward(np.array([[1.0, 2.0]]), np.array([[2.0, 2.0]]))
    >>> dx, dweight = fastln.add_rms_norm_backward(np.array([[1.0, 0.0]]), None, s, rstd)
    >>> dx.round(3)
    array([[ 0.181, -0.136]])
    """
    cdef double offset = as_offset(weight_offset, weight is not None)
    return gradients_of_sum(
        FLN_RMS_NORM, dy, ds, s, None, rstd, weight, offset, normalized_shape, as_mask(output_mask, 2), out, num_threads
    )


cdef object gradients_of_sum(
    fln_norm norm, object dy, object ds, object s, object mean, object rstd, object weight, double offset,
    object normalized_shape, int mask, object out, object num_threads
):
    """Those of any norm of a sum."""
    cdef Backward call
    cdef Matrix m
    cdef Room room
    cdef int asked = asked_threads(num_threads), limit = limit_for(&ADD_BACKWARD, s, asked)
    if not (
        mask & WANT_DX
        and usual_gradients(&call, &m, norm, dy, s, mean, rstd, weight, normalized_shape, out)
        and usual_stream(&call, &m, ds, s, out)
    ):
        return other_gradients(norm, dy, s, mean, rstd, weight, offset, normalized_shape, mask, out, asked, "s", ds)
    dweight, dbias = empty_sum(&m, weight, mask & WANT_DWEIGHT), empty_sum(&m, weight, mask & WANT_DBIAS)
    weight = scale_of(&call, &m, &room, weight, offset, mask)
    if out is None:
        out = fresh_result(&call, &m)
    run(&call, &m, &room, dweight, dbias, limit)
    return (out, dweight, dbias) if norm == FLN_LAYER_NORM else (out, dweight)


cdef inline bint usual_gradients(
    Backward* call, Matrix* m, fln_norm norm,
    object dy, object x, object mean, object rstd, object weight, object normalized_shape, object out
) noexcept:
    """Fills in a usual call, but for results that are not there yet. False: the call is unusual, or wrong."""
    call.args.mean = NULL
    if not (
        matrix_of(m, x, normalized_shape)
        and rows_of(m, dy, &call.args.dy)
        and (norm == FLN_RMS_NORM or stats_of(m, mean, &call.args.mean))
        and stats_of(m, rstd, &call.args.rstd)
        and parameter_of(m, weight, &call.args.weight)
        and result_of(m, out, &call.args.dx)
        and is_apart_or_same(out, x) and is_apart_or_same(out, dy)
        and is_apart(out, mean) and is_apart(out, rstd) and is_apart(out, weight)
    ):
        return False
    call.args.x = data_of(x)
    call.args.x_stride = call.args.dy_stride = call.args.dx_stride = m.cols
    fill_in(call, m, norm, x)
    return True


cdef inline bint usual_stream(Backward* call, const Matrix* m, object ds, object s, object out) noexcept:
    """Has a usual call add ds, if it is there. False: as of `usual_gradients`."""
    if ds is None:
        return True
    if not (rows_of(m, ds, &call.args.ds) and is_apart_or_same(out, ds)):
        return False
    call.args.ds_stride = m.cols
    call.bytes = ADD_BACKWARD.arrays * nbytes_of(s)
    return True


cdef inline void fill_in(Backward* call, const Matrix* m, fln_norm norm, object x) noexcept:
    """What follows from the matrix, without ds."""
    call.args.ds = NULL
    call.args.rows, call.args.cols = m.rows, m.cols
    call.bytes = BACKWARD.arrays * nbytes_of(x)
    call.is_fresh = False
    choose_backward(call, m.element, norm)


cdef inline object scale_of(Backward* call, const Matrix* m, Room* room, object weight, double offset, int mask):
    """The weight as the kernels take it, once it is known where it is: in the type computed in, with the offset.

    One of ones stands in for it beside dx and sums, and for 16-bit rows always. Returns what must be kept until the
    call has run.
    """
    begin_room(room, m.element, m.cols)
    if weight is None and (m.type_num != m.computed_num or mask & WANT_DX and mask & (WANT_DWEIGHT | WANT_DBIAS)):
        offset = 1
    if offset == 0 and not is_stored(m, weight):
        return weight
    return widened(room, &call.args.weight, is_stored(m, weight), offset)


cdef inline object empty_sum(const Matrix* m, object weight, bint wanted):
    """For dweight and dbias, in the type of the weight."""
    return empty_parameter(m, m.type_num if weight is None else type_of(weight)) if wanted else None


cdef object fresh_result(Backward* call, const Matrix* m):
    dx = empty_rows(m)
    call.args.dx = data_of(dx)
    call.is_fresh = True
    return dx


cdef int run(Backward* call, const Matrix* m, Room* room, object dweight, object dbias, int limit) except -1:
    """Runs a call whose sums go to these arrays, rounded once where they have 16 bits."""
    _dweight_place = sums_at(&call.args.dweight, m, room, dweight)
    _dbias_place = sums_at(&call.args.dbias, m, room, dbias)
    run_backward(call, limit)
    if is_stored(m, dweight):
        narrow(room, call.args.dweight, data_of(dweight))
    if is_stored(m, dbias):
        narrow(room, call.args.dbias, data_of(dbias))
    return 0


cdef inline object sums_at(void** to, const Matrix* m, Room* room, object sums):
    """Where the kernels write them. Returns what must be kept until they have."""
    to[0] = NULL if sums is None else data_of(sums)
    return take_place(room, to) if is_stored(m, sums) else None


cdef object other_gradients(
    fln_norm norm, object dy, object x, object mean, object rstd, object weight, double offset, object normalized_shape,
    int mask, object out, int asked, str x_name="x", object ds=None
):
    """A call that is not the usual one: says what is wrong with it, or converts what needs converting."""
    cdef Backward call
    cdef Matrix m
    cdef Room room
    cdef int limit
    cdef bint has_mean = norm == FLN_LAYER_NORM
    # These may run anybody's code.
    x = as_rows(x, normalized_shape, norm) if x_name == "x" else as_floats(x_name, x)
    dy = as_floats_like("dy", dy, x)
    ds = None if ds is None else as_floats_like("ds", ds, x)
    mean = as_stats("mean", mean, x) if has_mean else None
    rstd = as_stats("rstd", rstd, x)
    weight = as_parameter("weight", weight, x)
    sizes = as_sizes(normalized_shape)
    if out is not None and not mask & WANT_DX:
        raise ValueError(f"out must be None where output_mask[0] is False, got {describe(out)}")
    out = as_out(out)

    check_matrix(&m, x, sizes, x_name)
    check_rows("dy", dy, &m, x_name)
    check_rows("ds", ds, &m, x_name)
    if has_mean:
        check_stats("mean", mean, &m, x_name)
    check_stats("rstd", rstd, &m, x_name)
    check_parameter("weight", weight, &m)
    check_out(out, &m)

    dx = usable_result(out, &m) if mask & WANT_DX else None
    x, dy, ds = usable_rows(x, &m, dx), usable_rows(dy, &m, dx), usable_rows(ds, &m, dx)
    mean, rstd, weight = usable_small(mean, dx), usable_small(rstd, dx), usable_small(weight, dx)
    dweight, dbias = empty_sum(&m, weight, mask & WANT_DWEIGHT), empty_sum(&m, weight, mask & WANT_DBIAS)
    limit = limit_for(&BACKWARD if ds is None else &ADD_BACKWARD, x, asked)

    fill_in(&call, &m, norm, x)
    call.args.dx, call.args.dx_stride, call.args.mean = NULL, 0, NULL
    if not (
        rows_at(&m, x, &call.args.x, &call.args.x_stride)
        and rows_at(&m, dy, &call.args.dy, &call.args.dy_stride)
        and (ds is None or rows_at(&m, ds, &call.args.ds, &call.args.ds_stride))
        and (dx is None or rows_at(&m, dx, <const void**> &call.args.dx, &call.args.dx_stride))
        and (mean is None or stats_of(&m, mean, &call.args.mean))
        and stats_of(&m, rstd, &call.args.rstd)
        and parameter_of(&m, weight, &call.args.weight)
    ):
        refuse_changes()
    weight = scale_of(&call, &m, &room, weight, offset, mask)
    if ds is not None:
        call.bytes = ADD_BACKWARD.arrays * nbytes_of(x)
    call.is_fresh = dx is not out
    run(&call, &m, &room, dweight, dbias, limit)
    if out is not None and dx is not out:
        copy_into(out, dx)
        dx = out
    return (dx, dweight, dbias) if has_mean else (dx, dweight)


cdef inline int as_mask(object output_mask, int count) except -1:
    """Of WANT_DX, WANT_DWEIGHT and WANT_DBIAS, the first `count`, those that are asked for."""
    cdef int mask = 0, i
    cdef object item
    if not PyTuple_CheckExact(output_mask) or PyTuple_GET_SIZE(output_mask) != count:
        return as_other_mask(output_mask, count)
    for i in range(count):
        item = <object> PyTuple_GET_ITEM(output_mask, i)
        if item is True:
            mask |= 1 << i
        elif item is not False:
            return as_other_mask(output_mask, count)
    return mask


cdef int as_other_mask(object output_mask, int count) except -1:
    """The same of a mask that is no tuple of `count` bools: one of NumPy's, a list, or wrong."""
    cdef int mask = 0, i
    cdef bint wanted
    if not isinstance(output_mask, (tuple, list)):
        raise TypeError(f"output_mask must be a tuple of {count} bools, got {describe(output_mask)}")
    if len(output_mask) != count:
        raise ValueError(f"output_mask must be a tuple of {count} bools, got {describe(output_mask)}")
    for i in range(count):
        item = output_mask[i]
        if item is not True and item is not False and type(item) is not np.bool_:
            raise TypeError(f"output_mask must be a tuple of {count} bools, got {describe(output_mask)}")
        wanted = item
        mask |= wanted << i
    return mask


explain_calls(
    call_explainer(layer_norm_backward, add_layer_norm_backward, rms_norm_backward, add_rms_norm_backward)
)
