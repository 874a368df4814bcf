"""Layer norm and RMS norm: what the arguments mean."""

cimport numpy as cnp

from fastln._core.arguments cimport (
    as_eps,
    as_out,
    as_parameter,
    as_rows,
    as_offset,
    as_sizes,
    check_cast,
    check_matrix,
    check_out,
    check_parameter,
    copy_into,
    refuse_changes,
    rows_at,
    usable_result,
    usable_rows,
    usable_small,
    with_offset,
)
from fastln._core.calls cimport Forward, choose_forward
from fastln._core.drive cimport run_forward
from fastln._core.effort cimport FORWARD, limit_for
from fastln._core.isa cimport FLN_LAYER_NORM, FLN_RMS_NORM, fln_norm
from fastln._core.keywords cimport explain_calls
from fastln._core.names import call_explainer
from fastln._core.threads cimport asked_threads
from fastln._core.usual cimport (
    Matrix,
    data_of,
    default_eps,
    empty_rows,
    empty_stats,
    is_apart,
    is_apart_or_same,
    matrix_of,
    nbytes_of,
    parameter_of,
    result_of,
    usual_eps,
)

cnp.import_array()


def layer_norm(x, normalized_shape=None, weight=None, bias=None, eps=1e-5, *, out=None, num_threads=None):
    """Normalize the rows of x: y = (x - mean) / sqrt(var + eps) * weight + bias.

    A row is the block of the trailing `normalized_shape` dimensions; mean and var (biased) are those of its elements.

    Parameters
    ----------
    x : array of float32 or float64, shape `(..., *normalized_shape)`
        Rows may lie at any constant stride; other layouts are copied once.
    normalized_shape : int or tuple of int, optional
        Trailing dimensions to normalize over. None stands for the last one.
    weight, bias : array of floats, shape normalized_shape, optional
        Scale and offset per element, converted to x's dtype: from float16 and ml_dtypes' bfloat16 too. Each may be
        absent on its own.
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
        If a shape does not fit, eps is negative or not finite, a value of weight or bias is too large for x's dtype,
        out is read-only or overlaps itself, or num_threads < 1. Nothing has been written then.

    Notes
    -----
    With eps' = finfo(dtype).eps, the error of y is at most 15 eps' (float32) or 20 eps' (float64) times
    `|weight| max|x_hat| + |bias|`, the maximum over the row, for any finite row: docs/accuracy.md has the proof.
    Ordinary rows stay within 2 eps', whatever their mean, outliers and magnitude. A constant row gives exactly bias. A
    NaN or Inf makes its own row NaN and no other. The bits of a row depend on that row, eps, weight, bias and dtype
    alone.

    References
    ----------
    Ba, Kiros and Hinton, "Layer Normalization", 2016, arXiv:1607.06450.

    Examples
    --------
    >>> import numpy as np
    >>> import fastln
    >>> x = np.array([[1, 2, 3, 4], [10, 10, 30, 30]], np.float32)
    >>> fastln.layer_norm(x).round(4)
    array([[-1.3416, -0.4472,  0.4472,  1.3416],
           [-1.    , -1.    ,  1.    ,  1.    ]], dtype=float32)

    With parameters, another eps, and in place:

    >>> weight, bias = np.full(4, 2, np.float32), np.ones(4, np.float32)
    >>> fastln.layer_norm(x, 4, weight, bias, eps=1e-12, out=x) is x
    True
    >>> x.round(4)
    array([[-1.6833,  0.1056,  1.8944,  3.6833],
           [-1.    , -1.    ,  3.    ,  3.    ]], dtype=float32)
    """
    cdef Forward call
    cdef Matrix m
    cdef int asked = asked_threads(num_threads), limit = limit_for(&FORWARD, x, asked)
    if not usual_norm(&call, &m, FLN_LAYER_NORM, x, normalized_shape, weight, bias, eps, out):
        return other_norm(FLN_LAYER_NORM, x, normalized_shape, weight, 0, bias, eps, out, asked, False)
    weight = scale_of(&call, &m, weight, 0, bias)
    if out is None:
        out = fresh_result(&call, &m)
    call.args.mean = call.args.rstd = NULL
    run_forward(&call, limit)
    return out


def layer_norm_forward(x, normalized_shape=None, weight=None, bias=None, eps=1e-5, *, out=None, num_threads=None):
    """`layer_norm` that returns what the backward pass needs as well.

    Parameters
    ----------
    x : array of float32 or float64, shape `(..., *normalized_shape)`
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

    Examples
    --------
    >>> import numpy as np
    >>> import fastln
    >>> x = np.array([[1, 2, 3, 4], [10, 10, 30, 30]], np.float32)
    >>> y, mean, rstd = fastln.layer_norm_forward(x, eps=0)
    >>> mean
    array([[ 2.5],
           [20. ]], dtype=float32)
    >>> rstd.round(4)
    array([[0.8944],
           [0.1   ]], dtype=float32)
    """
    cdef Forward call
    cdef Matrix m
    cdef int asked = asked_threads(num_threads), limit = limit_for(&FORWARD, x, asked)
    if not usual_norm(&call, &m, FLN_LAYER_NORM, x, normalized_shape, weight, bias, eps, out):
        return other_norm(FLN_LAYER_NORM, x, normalized_shape, weight, 0, bias, eps, out, asked, True)
    weight = scale_of(&call, &m, weight, 0, bias)
    if out is None:
        out = fresh_result(&call, &m)
    mean, rstd = empty_stats(&m), empty_stats(&m)
    call.args.mean, call.args.rstd = data_of(mean), data_of(rstd)
    run_forward(&call, limit)
    return out, mean, rstd


def rms_norm(x, normalized_shape=None, weight=None, eps=None, *, weight_offset=0.0, cast=None, out=None,
             num_threads=None):
    """Normalize the rows of x by their root mean square: y = x / sqrt(mean(x * x) + eps) * (weight_offset + weight).

    A row is the block of the trailing `normalized_shape` dimensions.

    Parameters
    ----------
    x : array of float32 or float64, shape `(..., *normalized_shape)`
        Rows may lie at any constant stride; other layouts are copied once.
    normalized_shape : int or tuple of int, optional
        Trailing dimensions to normalize over. None stands for the last one.
    weight : array of floats, shape normalized_shape, optional
        Scale per element, converted to x's dtype.
    eps : float, optional
        Added to the mean square, in squared units of x. None stands for `finfo(x.dtype).eps`, as in PyTorch, and is
        seldom what a checkpoint was trained with: Llama's is 1e-5 or 1e-6, Gemma's 1e-6.
    weight_offset : float
        Added to weight, in x's dtype. 1 for checkpoints that store weight - 1, as Gemma's do.
    cast : {None, "llama", "gemma"}
        Where a model rounds to x's dtype: "llama" before the multiplication with weight, "gemma" after it. x is
        computed with in its own dtype here, so all of these are the same.
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
        If a shape does not fit, eps is negative or not finite, weight_offset is not finite or there is no weight to add
        it to, cast is none of the above, out is read-only or overlaps itself, or num_threads < 1. Nothing has been
        written then.

    Notes
    -----
    With eps' = finfo(dtype).eps, the error of y is at most 4.5 eps' (float32) or 6 eps' (float64) times
    `|weight| max|x_hat|`, the maximum over the row, for any finite row: docs/accuracy.md has the proof. Ordinary rows
    stay within 2 eps', whatever their magnitude: squares neither overflow nor underflow. A NaN or Inf makes its own row
    NaN and no other (PyTorch gives 0 for the finite numbers beside an Inf). The bits of a row depend on that row, eps,
    weight, weight_offset and dtype alone.

    References
    ----------
    Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019, arXiv:1910.07467.

    Examples
    --------
    >>> import numpy as np
    >>> import fastln
    >>> x = np.array([[3.0, 4.0], [-1e300, 1e300]])
    >>> fastln.rms_norm(x, eps=1e-6).round(3)
    array([[ 0.849,  1.131],
           [-1.   ,  1.   ]])
    """
    cdef Forward call
    cdef Matrix m
    cdef int asked = asked_threads(num_threads), limit = limit_for(&FORWARD, x, asked)
    cdef double offset = as_offset(weight_offset, weight is not None)
    check_cast(cast)
    if not usual_norm(&call, &m, FLN_RMS_NORM, x, normalized_shape, weight, None, eps, out):
        return other_norm(FLN_RMS_NORM, x, normalized_shape, weight, offset, None, eps, out, asked, False)
    weight = scale_of(&call, &m, weight, offset, None)
    if out is None:
        out = fresh_result(&call, &m)
    call.args.mean = call.args.rstd = NULL
    run_forward(&call, limit)
    return out


def rms_norm_forward(x, normalized_shape=None, weight=None, eps=None, *, weight_offset=0.0, cast=None, out=None,
                     num_threads=None):
    """`rms_norm` that returns what the backward pass needs as well.

    Parameters
    ----------
    x : array of float32 or float64, shape `(..., *normalized_shape)`
    normalized_shape, weight, eps, weight_offset, cast, out, num_threads
        As in `rms_norm`.

    Returns
    -------
    y : ndarray
        As from `rms_norm`, with the same bits.
    rstd : ndarray
        1 / sqrt(mean(x * x) + eps) of each row, in x's dtype; shape: the leading dimensions of x, then 1 for each
        normalized dimension.

    Raises
    ------
    TypeError, ValueError
        As `rms_norm`.

    References
    ----------
    Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019, arXiv:1910.07467.

    Examples
    --------
    >>> import numpy as np
    >>> import fastln
    >>> y, rstd = fastln.rms_norm_forward(np.array([[3.0, 4.0]]), eps=0)
    >>> rstd.round(3)
    array([[0.283]])
    """
    cdef Forward call
    cdef Matrix m
    cdef int asked = asked_threads(num_threads), limit = limit_for(&FORWARD, x, asked)
    cdef double offset = as_offset(weight_offset, weight is not None)
    check_cast(cast)
    if not usual_norm(&call, &m, FLN_RMS_NORM, x, normalized_shape, weight, None, eps, out):
        return other_norm(FLN_RMS_NORM, x, normalized_shape, weight, offset, None, eps, out, asked, True)
    weight = scale_of(&call, &m, weight, offset, None)
    if out is None:
        out = fresh_result(&call, &m)
    rstd = empty_stats(&m)
    call.args.mean, call.args.rstd = NULL, data_of(rstd)
    run_forward(&call, limit)
    return out, rstd


cdef inline bint usual_norm(
    Forward* call, Matrix* m, fln_norm norm,
    object x, object normalized_shape, object weight, object bias, object eps, object out
) noexcept:
    """Fills in a usual call, but for a result that is not there yet. False: the call is unusual, or wrong."""
    if not (
        matrix_of(m, x, normalized_shape)
        and parameter_of(m, weight, &call.args.weight)
        and parameter_of(m, bias, &call.args.bias)
        and (usual_eps(eps, &call.args.eps) or (norm == FLN_RMS_NORM and default_eps(m, eps, &call.args.eps)))
        and result_of(m, out, &call.args.y)
        and is_apart_or_same(out, x) and is_apart(out, weight) and is_apart(out, bias)
    ):
        return False
    call.args.x = data_of(x)
    call.args.x_stride = call.args.y_stride = m.cols
    fill_in(call, m, norm, x)
    return True


cdef inline void fill_in(Forward* call, const Matrix* m, fln_norm norm, object x) noexcept:
    """What follows from the matrix."""
    call.args.cols = m.cols
    call.rows = m.rows
    call.bytes = FORWARD.arrays * nbytes_of(x)
    call.is_fresh = False
    choose_forward(call, m.element, norm)


cdef inline object scale_of(Forward* call, const Matrix* m, object weight, double offset, object bias):
    """The weight as the kernels take it, once it is known where it is: with the offset, and of ones under a bias."""
    if weight is None and bias is not None:
        offset = 1
    return weight if offset == 0 else with_offset(m, offset, &call.args.weight)


cdef object fresh_result(Forward* call, const Matrix* m):
    y = empty_rows(m)
    call.args.y = data_of(y)
    call.is_fresh = True
    return y


cdef object other_norm(
    fln_norm norm, object x, object normalized_shape, object weight, double offset, object bias, object eps, object out,
    int asked, bint stats
):
    """A call that is not the usual one: says what is wrong with it, or converts what needs converting."""
    cdef Forward call
    cdef Matrix m
    cdef int limit
    cdef bint has_default = norm == FLN_RMS_NORM and eps is None
    cdef str eps_place = "fourth" if norm == FLN_RMS_NORM else "fifth"
    # These may run anybody's code.
    x = as_rows(x, normalized_shape, norm)
    weight = as_parameter("weight", weight, x)
    bias = as_parameter("bias", bias, x)
    call.args.eps = 0 if has_default else as_eps(eps)
    sizes = as_sizes(normalized_shape)
    out = as_out(out)

    check_matrix(&m, x, sizes)
    check_parameter("weight", weight, &m, eps_place)
    check_parameter("bias", bias, &m, eps_place)
    check_out(out, &m)

    y = usable_result(out, &m)
    x = usable_rows(x, &m, y)
    weight, bias = usable_small(weight, &m, y), usable_small(bias, &m, y)
    has_mean = stats and norm == FLN_LAYER_NORM
    mean, rstd = empty_stats(&m) if has_mean else None, empty_stats(&m) if stats else None
    limit = limit_for(&FORWARD, y, asked)

    if not (
        rows_at(&m, x, &call.args.x, &call.args.x_stride)
        and rows_at(&m, y, <const void**> &call.args.y, &call.args.y_stride)
        and parameter_of(&m, weight, &call.args.weight)
        and parameter_of(&m, bias, &call.args.bias)
    ):
        refuse_changes()
    weight = scale_of(&call, &m, weight, offset, bias)
    if has_default:
        default_eps(&m, None, &call.args.eps)
    call.args.mean = data_of(mean) if has_mean else NULL
    call.args.rstd = data_of(rstd) if stats else NULL
    fill_in(&call, &m, norm, x)
    call.is_fresh = y is not out
    run_forward(&call, limit)
    if out is not None and y is not out:
        copy_into(out, y)
        y = out
    return (y, mean, rstd) if has_mean else (y, rstd) if stats else y


explain_calls(call_explainer(layer_norm, layer_norm_forward, rms_norm, rms_norm_forward))
