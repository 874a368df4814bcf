"""Layer norm and RMS norm, of x or of its sum with a residual: what the arguments mean."""

cimport numpy as cnp

from fastln._core.arguments cimport (
    as_eps,
    as_floats,
    as_forward_rows,
    as_out,
    as_parameter,
    as_offset,
    as_sizes,
    check_apart,
    check_cast,
    check_matrix,
    check_out,
    check_parameter,
    check_rows,
    check_same_type,
    copy_into,
    refuse_changes,
    rows_at,
    usable_result,
    usable_rows,
    usable_small,
)
from fastln._core.calls cimport Forward, choose_forward
from fastln._core.drive cimport run_forward
from fastln._core.effort cimport ADD_FORWARD, FORWARD, limit_for
from fastln._core.elements cimport Room, begin_room, scale_at, shift_at
from fastln._core.isa cimport FLN_LAYER_NORM, FLN_RMS_NORM, fln_forward_args, fln_norm
from fastln._core.keywords cimport explain_calls
from fastln._core.names import call_explainer
from fastln._core.threads cimport asked_threads
from fastln._core.usual cimport (
    Matrix,
    are_apart,
    data_of,
    default_eps,
    empty_rows,
    empty_stats,
    is_apart,
    is_apart_or_same,
    is_stored,
    matrix_of,
    nbytes_of,
    parameter_of,
    result_of,
    rows_of,
    usual_eps,
)

cnp.import_array()

# Of an argument, by the number of those before it.
cdef tuple EPS_PLACES = ("first", "second", "third", "fourth", "fifth", "sixth")


def layer_norm(x, normalized_shape=None, weight=None, bias=None, eps=1e-5, *, out=None, num_threads=None):
    """Normalize the rows of x: y = (x - mean) / sqrt(var + eps) * weight + bias.

    A row is the block of the trailing `normalized_shape` dimensions; mean and var (biased) are those of its elements.

    Parameters
    ----------
    x : array of float32, float64, float16 or bfloat16, shape `(..., *normalized_shape)`
        Rows may lie at any constant stride; other layouts are copied once. Numbers of 16 bits (bfloat16 is ml_dtypes')
        are computed with in float32 and rounded once, to nearest even.
    normalized_shape : int or tuple of int, optional
        Trailing dimensions to normalize over. None stands for the last one.
    weight, bias : array of floats, shape normalized_shape, optional
        Scale and offset per element, of any floats. Each may be absent on its own, and beside x of 16 bits each may be
        of x's dtype or of float32; others are converted to the dtype that is computed in.
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
        If a shape does not fit, eps is negative or not finite, a value of weight or bias is too large for the dtype
        that is computed in, out is read-only or overlaps itself, or num_threads < 1. Nothing has been written then.

    Notes
    -----
    With eps' = finfo(dtype).eps, the error of y is at most 15 eps' (float32) or 20 eps' (float64) times
    `|weight| max|x_hat| + |bias|`, the maximum over the row, for any finite row: docs/accuracy.md has the proof.
    Ordinary rows stay within 2 eps', whatever their mean, outliers and magnitude. For x of 16 bits it is the eps' of
    float32, and the rounding of y to x's dtype comes to it. A constant row gives exactly bias. A NaN or Inf makes its
    own row NaN and no other. The bits of a row depend on that row, eps, weight, bias and dtype alone.

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
    cdef Room room
    cdef int asked = asked_threads(num_threads), limit = limit_for(&FORWARD, x, asked)
    if not usual_norm(&call, &m, FLN_LAYER_NORM, x, normalized_shape, weight, bias, eps, out):
        return other_norm(FLN_LAYER_NORM, x, normalized_shape, weight, 0, bias, eps, False, out, asked, False)
    weight = scale_of(&call, &m, &room, weight, 0, bias)
    bias = shift_of(&call, &m, &room, bias)
    if out is None:
        out = fresh_result(&call, &m)
    call.args.mean = call.args.rstd = NULL
    run_forward(&call, limit)
    return out


def layer_norm_forward(x, normalized_shape=None, weight=None, bias=None, eps=1e-5, *, out=None, num_threads=None):
    """`layer_norm` that returns what the backward pass needs as well.

    Parameters
    ----------
    x : array of float32, float64, float16 or bfloat16, shape `(..., *normalized_shape)`
    normalized_shape, weight, bias, eps, out, num_threads
        As in `layer_norm`.

    Returns
    -------
    y : ndarray
        As from `layer_norm`, with the same bits.
    mean, rstd : ndarray
        Mean and 1 / sqrt(var + eps) of each row, in x's dtype, or in float32 where that has 16 bits; shape: the leading
        dimensions of x, then 1 for each normalized dimension.

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
    cdef Room room
    cdef int asked = asked_threads(num_threads), limit = limit_for(&FORWARD, x, asked)
    if not usual_norm(&call, &m, FLN_LAYER_NORM, x, normalized_shape, weight, bias, eps, out):
        return other_norm(FLN_LAYER_NORM, x, normalized_shape, weight, 0, bias, eps, False, out, asked, True)
    weight = scale_of(&call, &m, &room, weight, 0, bias)
    bias = shift_of(&call, &m, &room, bias)
    if out is None:
        out = fresh_result(&call, &m)
    mean, rstd = empty_stats(&m), empty_stats(&m)
    call.args.mean, call.args.rstd = data_of(mean), data_of(rstd)
    run_forward(&call, limit)
    return out, mean, rstd


def add_layer_norm(x, residual, normalized_shape=None, weight=None, bias=None, eps=1e-5, *, out=None,
                   residual_out=None, num_threads=None):
    """Add a residual and normalize the rows of the sum: s = x + residual and y = layer_norm(s), in one call.

    Of a pre-norm block s is the stream that goes on and y the input of the next sublayer; of a post-norm block y is the
    stream. Both have the bits of the two calls, and memory is gone through once.

    Parameters
    ----------
    x : array of float32, float64, float16 or bfloat16, shape `(..., *normalized_shape)`
        Rows may lie at any constant stride; other layouts are copied once. Numbers of 16 bits (bfloat16 is ml_dtypes')
        are computed with in float32; s and y are each rounded once, to nearest even.
    residual : array of x's dtype, shape of x
        What is added to x. Another dtype is refused.
    normalized_shape : int or tuple of int, optional
        Trailing dimensions to normalize over. None stands for the last one.
    weight, bias : array of floats, shape normalized_shape, optional
        Scale and offset per element, of any floats, as in `layer_norm`. Each may be absent on its own.
    eps : float
        Added to the variance, in squared units of s.
    out, residual_out : ndarray, optional
        Where to put y and s: x's shape and dtype. Each may be x or residual itself, so `residual_out=residual` updates
        the stream in place; any other overlap with an input gives the same result as if there were none. They must not
        overlap each other.
    num_threads : int, optional
        Upper limit of threads for this call, instead of `get_num_threads()`. The results have the same bits for any.

    Returns
    -------
    y : ndarray
        `out`, or a new array with x's shape and dtype.
    s : ndarray
        `residual_out`, or a new array with x's shape and dtype.

    Raises
    ------
    TypeError
        If an argument has the wrong type or dtype, or x and residual have different ones.
    ValueError
        If a shape does not fit, eps is negative or not finite, a value of weight or bias is too large for the dtype
        that is computed in, out or residual_out is read-only or overlaps itself or the other one, or num_threads < 1.
        Nothing has been written then.

    Notes
    -----
    s is rounded to x's dtype, as `x + residual` is, before it is normalized: y is as accurate as that of `layer_norm`
    for the rows of s.

    References
    ----------
    Ba, Kiros and Hinton, "Layer Normalization", 2016, arXiv:1607.06450.

    Xiong et al., "On Layer Normalization in the Transformer Architecture", 2020, arXiv:2002.04745: pre-norm, post-norm.

    Examples
    --------
    >>> import numpy as np
    >>> import fastln
    >>> stream = np.array([[1, 2, 3, 4]], np.float32)
    >>> y, s = fastln.add_layer_norm(np.ones((1, 4), np.float32), stream, residual_out=stream)
    >>> y.round(4)
    array([[-1.3416, -0.4472,  0.4472,  1.3416]], dtype=float32)
    >>> s is stream, stream
    (True, array([[2., 3., 4., 5.]], dtype=float32))
    """
    return add_norm(
        FLN_LAYER_NORM, x, residual, normalized_shape, weight, 0, bias, eps, False, out, residual_out, num_threads,
        False
    )


def add_layer_norm_forward(x, residual, normalized_shape=None, weight=None, bias=None, eps=1e-5, *, out=None,
                           residual_out=None, num_threads=None):
    """`add_layer_norm` that returns what the backward pass needs as well.

    Parameters
    ----------
    x : array of float32, float64, float16 or bfloat16, shape `(..., *normalized_shape)`
    residual, normalized_shape, weight, bias, eps, out, residual_out, num_threads
        As in `add_layer_norm`.

    Returns
    -------
    y, s : ndarray
        As from `add_layer_norm`, with the same bits.
    mean, rstd : ndarray
        Mean and 1 / sqrt(var + eps) of each row of s, in x's dtype, or in float32 where that has 16 bits; shape: the
        leading dimensions of x, then 1 for each normalized dimension.

    Raises
    ------
    TypeError, ValueError
        As `add_layer_norm`.

    References
    ----------
    Ba, Kiros and Hinton, "Layer Normalization", 2016, arXiv:1607.06450.

    Examples
    --------
    >>> import numpy as np
    >>> import fastln
    >>> x, residual = np.array([[1.0, 2.0, 3.0, 4.0]]), np.ones((1, 4))
    >>> y, s, mean, rstd = fastln.add_layer_norm_forward(x, residual, eps=0)
    >>> mean, rstd.round(4)
    (array([[3.5]]), array([[0.8944]]))
    """
    return add_norm(
        FLN_LAYER_NORM, x, residual, normalized_shape, weight, 0, bias, eps, False, out, residual_out, num_threads,
        True
    )


def rms_norm(x, normalized_shape=None, weight=None, eps=None, *, weight_offset=0.0, cast=None, out=None,
             num_threads=None):
    """Normalize the rows of x by their root mean square: y = x / sqrt(mean(x * x) + eps) * (weight_offset + weight).

    A row is the block of the trailing `normalized_shape` dimensions.

    Parameters
    ----------
    x : array of float32, float64, float16 or bfloat16, shape `(..., *normalized_shape)`
        Rows may lie at any constant stride; other layouts are copied once. Numbers of 16 bits (bfloat16 is ml_dtypes')
        are computed with in float32 and rounded once, to nearest even.
    normalized_shape : int or tuple of int, optional
        Trailing dimensions to normalize over. None stands for the last one.
    weight : array of floats, shape normalized_shape, optional
        Scale per element, of any floats: beside x of 16 bits of x's dtype or of float32; others are converted to the
        dtype that is computed in.
    eps : float, optional
        Added to the mean square, in squared units of x. None stands for `finfo(x.dtype).eps`, for x of 16 bits for that
        of float32, as in PyTorch; it is seldom what a checkpoint was trained with: Llama's is 1e-5 or 1e-6, Gemma's
        1e-6.
    weight_offset : float
        Added to weight, in the dtype that is computed in. 1 for checkpoints that store weight - 1, as Gemma's do.
    cast : {None, "llama", "gemma"}
        Where a model rounds to an x of 16 bits: "llama" rounds x_hat before the multiplication with weight and y after
        it, as Llama's `weight * x_hat.to(dtype)`; "gemma" and None round y alone, as Gemma's
        `(x_hat * weight).to(dtype)`. Other x are computed with in their own dtype, where all of these are the same.
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
        it to, it or a value of weight is too large for the dtype that is computed in, cast is none of the above, out is
        read-only or overlaps itself, or num_threads < 1. Nothing has been written then.

    Notes
    -----
    With eps' = finfo(dtype).eps, the error of y is at most 4.5 eps' (float32) or 6 eps' (float64) times
    `|weight| max|x_hat|`, the maximum over the row, for any finite row: docs/accuracy.md has the proof. Ordinary rows
    stay within 2 eps', whatever their magnitude: squares neither overflow nor underflow. For x of 16 bits it is the
    eps' of float32, and the rounding to x's dtype comes to it. A NaN or Inf makes its own row NaN and no other (PyTorch
    gives 0 for the finite numbers beside an Inf). The bits of a row depend on that row, eps, weight, weight_offset,
    cast and dtype alone.

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
    cdef Room room
    cdef int asked = asked_threads(num_threads), limit = limit_for(&FORWARD, x, asked)
    cdef double offset = as_offset(weight_offset, weight is not None)
    cdef bint rounds_x_hat = check_cast(cast)
    if not usual_norm(&call, &m, FLN_RMS_NORM, x, normalized_shape, weight, None, eps, out):
        return other_norm(
            FLN_RMS_NORM, x, normalized_shape, weight, offset, None, eps, rounds_x_hat, out, asked, False
        )
    weight = scale_of(&call, &m, &room, weight, offset, None)
    if out is None:
        out = fresh_result(&call, &m)
    call.args.mean = call.args.rstd = NULL
    call.args.round_x_hat = rounds_x_hat
    run_forward(&call, limit)
    return out


def rms_norm_forward(x, normalized_shape=None, weight=None, eps=None, *, weight_offset=0.0, cast=None, out=None,
                     num_threads=None):
    """`rms_norm` that returns what the backward pass needs as well.

    Parameters
    ----------
    x : array of float32, float64, float16 or bfloat16, shape `(..., *normalized_shape)`
    normalized_shape, weight, eps, weight_offset, cast, out, num_threads
        As in `rms_norm`.

    Returns
    -------
    y : ndarray
        As from `rms_norm`, with the same bits.
    rstd : ndarray
        1 / sqrt(mean(x * x) + eps) of each row, in x's dtype, or in float32 where that has 16 bits; shape: the leading
        dimensions of x, then 1 for each normalized dimension.

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
    cdef Room room
    cdef int asked = asked_threads(num_threads), limit = limit_for(&FORWARD, x, asked)
    cdef double offset = as_offset(weight_offset, weight is not None)
    cdef bint rounds_x_hat = check_cast(cast)
    if not usual_norm(&call, &m, FLN_RMS_NORM, x, normalized_shape, weight, None, eps, out):
        return other_norm(
            FLN_RMS_NORM, x, normalized_shape, weight, offset, None, eps, rounds_x_hat, out, asked, True
        )
    weight = scale_of(&call, &m, &room, weight, offset, None)
    if out is None:
        out = fresh_result(&call, &m)
    rstd = empty_stats(&m)
    call.args.mean, call.args.rstd = NULL, data_of(rstd)
    call.args.round_x_hat = rounds_x_hat
    run_forward(&call, limit)
    return out, rstd


def add_rms_norm(x, residual, normalized_shape=None, weight=None, eps=None, *, weight_offset=0.0, cast=None, out=None,
                 residual_out=None, num_threads=None):
    """Add a residual and normalize the rows of the sum: s = x + residual and y = rms_norm(s), in one call.

    Of a pre-norm block s is the stream that goes on and y the input of the next sublayer; of a post-norm block y is the
    stream. Both have the bits of the two calls, and memory is gone through once.

    Parameters
    ----------
    x : array of float32, float64, float16 or bfloat16, shape `(..., *normalized_shape)`
        Rows may lie at any constant stride; other layouts are copied once. Numbers of 16 bits (bfloat16 is ml_dtypes')
        are computed with in float32; s and y are each rounded once, to nearest even.
    residual : array of x's dtype, shape of x
        What is added to x. Another dtype is refused.
    normalized_shape : int or tuple of int, optional
        Trailing dimensions to normalize over. None stands for the last one.
    weight : array of floats, shape normalized_shape, optional
        Scale per element, of any floats, as in `rms_norm`.
    eps : float, optional
        Added to the mean square, in squared units of s. None stands for what it does in `rms_norm`.
    weight_offset, cast
        As in `rms_norm`.
    out, residual_out : ndarray, optional
        Where to put y and s: x's shape and dtype. Each may be x or residual itself, so `residual_out=residual` updates
        the stream in place; any other overlap with an input gives the same result as if there were none. They must not
        overlap each other.
    num_threads : int, optional
        Upper limit of threads for this call, instead of `get_num_threads()`. The results have the same bits for any.

    Returns
    -------
    y : ndarray
        `out`, or a new array with x's shape and dtype.
    s : ndarray
        `residual_out`, or a new array with x's shape and dtype.

    Raises
    ------
    TypeError
        If an argument has the wrong type or dtype, or x and residual have different ones.
    ValueError
        If a shape does not fit, eps is negative or not finite, weight_offset is not finite or there is no weight to add
        it to, it or a value of weight is too large for the dtype that is computed in, cast is none of the above, out or
        residual_out is read-only or overlaps itself or the other one, or num_threads < 1. Nothing has been written
        then.

    Notes
    -----
    s is rounded to x's dtype, as `x + residual` is, before it is normalized: y is as accurate as that of `rms_norm` for
    the rows of s.

    References
    ----------
    Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019, arXiv:1910.07467.

    Examples
    --------
    >>> import numpy as np
    >>> import fastln
    >>> y, s = fastln.add_rms_norm(np.array([[1.0, 2.0]]), np.array([[2.0, 2.0]]), eps=0)
    >>> s, y.round(3)
    (array([[3., 4.]]), array([[0.849, 1.131]]))
    """
    cdef double offset = as_offset(weight_offset, weight is not None)
    return add_norm(
        FLN_RMS_NORM, x, residual, normalized_shape, weight, offset, None, eps, check_cast(cast), out, residual_out,
        num_threads, False
    )


def add_rms_norm_forward(x, residual, normalized_shape=None, weight=None, eps=None, *, weight_offset=0.0, cast=None,
                         out=None, residual_out=None, num_threads=None):
    """`add_rms_norm` that returns what the backward pass needs as well.

    Parameters
    ----------
    x : array of float32, float64, float16 or bfloat16, shape `(..., *normalized_shape)`
    residual, normalized_shape, weight, eps, weight_offset, cast, out, residual_out, num_threads
        As in `add_rms_norm`.

    Returns
    -------
    y, s : ndarray
        As from `add_rms_norm`, with the same bits.
    rstd : ndarray
        1 / sqrt(mean(s * s) + eps) of each row, in x's dtype, or in float32 where that has 16 bits; shape: the leading
        dimensions of x, then 1 for each normalized dimension.

    Raises
    ------
    TypeError, ValueError
        As `add_rms_norm`.

    References
    ----------
    Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019, arXiv:1910.07467.

    Examples
    --------
    >>> import numpy as np
    >>> import fastln
    >>> y, s, rstd = fastln.add_rms_norm_forward(np.array([[1.0, 2.0]]), np.array([[2.0, 2.0]]), eps=0)
    >>> rstd.round(3)
    array([[0.283]])
    """
    cdef double offset = as_offset(weight_offset, weight is not None)
    return add_norm(
        FLN_RMS_NORM, x, residual, normalized_shape, weight, offset, None, eps, check_cast(cast), out, residual_out,
        num_threads, True
    )


cdef object add_norm(
    fln_norm norm, object x, object residual, object normalized_shape, object weight, double offset, object bias,
    object eps, bint rounds_x_hat, object out, object residual_out, object num_threads, bint stats
):
    """Any norm of the sum of x and residual."""
    cdef Forward call
    cdef Matrix m
    cdef Room room
    cdef int asked = asked_threads(num_threads), limit = limit_for(&ADD_FORWARD, x, asked)
    if not (
        usual_norm(&call, &m, norm, x, normalized_shape, weight, bias, eps, out)
        and usual_sum(&call, &m, residual, weight, bias, residual_out)
    ):
        return other_norm(
            norm, x, normalized_shape, weight, offset, bias, eps, rounds_x_hat, out, asked, stats, True, residual,
            residual_out
        )
    weight = scale_of(&call, &m, &room, weight, offset, bias)
    if norm == FLN_LAYER_NORM:
        bias = shift_of(&call, &m, &room, bias)
    if out is None:
        out = fresh_result(&call, &m)
    if residual_out is None:
        residual_out = empty_rows(&m)
        call.args.sum = data_of(residual_out)
        call.is_fresh = True
    mean = empty_stats(&m) if stats and norm == FLN_LAYER_NORM else None
    rstd = empty_stats(&m) if stats else None
    call.args.mean = NULL if mean is None else data_of(mean)
    call.args.rstd = NULL if rstd is None else data_of(rstd)
    call.args.round_x_hat = rounds_x_hat
    run_forward(&call, limit)
    return results_of(out, residual_out, mean, rstd)


cdef inline object results_of(object y, object s, object mean, object rstd):
    """Those that are there: y alone, or a tuple."""
    if mean is not None:
        return (y, mean, rstd) if s is None else (y, s, mean, rstd)
    if rstd is not None:
        return (y, rstd) if s is None else (y, s, rstd)
    return y if s is None else (y, s)


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


cdef inline bint usual_sum(
    Forward* call, const Matrix* m, object residual, object weight, object bias, object residual_out
) noexcept:
    """Has a usual call add a residual, but for a sum that is not there yet. False: as of `usual_norm`."""
    cdef const fln_forward_args* args = &call.args
    cdef Py_ssize_t size = call.bytes // FORWARD.arrays
    if not (rows_of(m, residual, &call.args.residual) and result_of(m, residual_out, &call.args.sum)):
        return False
    call.args.residual_stride = call.args.sum_stride = m.cols
    call.bytes = ADD_FORWARD.arrays * size
    return (
        are_apart(args.sum, size, args.y, size)
        and (args.y == args.residual or are_apart(args.y, size, args.residual, size))
        and (args.sum == args.x or are_apart(args.sum, size, args.x, size))
        and (args.sum == args.residual or are_apart(args.sum, size, args.residual, size))
        and is_apart(residual_out, weight) and is_apart(residual_out, bias)
    )


cdef inline void fill_in(Forward* call, const Matrix* m, fln_norm norm, object x) noexcept:
    """What follows from the matrix, without a residual."""
    call.args.residual = NULL
    call.args.cols = m.cols
    call.args.round_x_hat = False
    call.rows = m.rows
    call.bytes = FORWARD.arrays * nbytes_of(x)
    call.is_fresh = False
    choose_forward(call, m.element, norm)


# The parameters as the kernels take them, once it is known where they are.

cdef inline object scale_of(Forward* call, const Matrix* m, Room* room, object weight, double offset, object bias):
    """Returns what must be kept until the call has run. `shift_of` comes after it."""
    begin_room(room, m.element, m.cols)
    placed = scale_at(room, &call.args.weight, is_stored(m, weight), offset, bias is not None)
    return weight if placed is None else placed


cdef inline object shift_of(Forward* call, const Matrix* m, Room* room, object bias):
    """The same of the bias."""
    placed = shift_at(room, &call.args.bias, is_stored(m, bias))
    return bias if placed is None else placed


cdef object fresh_result(Forward* call, const Matrix* m):
    y = empty_rows(m)
    call.args.y = data_of(y)
    call.is_fresh = True
    return y


cdef object other_norm(
    fln_norm norm, object x, object normalized_shape, object weight, double offset, object bias, object eps,
    bint rounds_x_hat, object out, int asked, bint stats, bint adds=False, object residual=None,
    object residual_out=None
):
    """A call that is not the usual one: says what is wrong with it, or converts what needs converting."""
    cdef Forward call
    cdef Matrix m
    cdef Room room
    cdef int limit
    cdef bint has_default = norm == FLN_RMS_NORM and eps is None
    cdef str eps_place = EPS_PLACES[3 + (norm == FLN_LAYER_NORM) + adds]
    # These may run anybody's code.
    x = as_forward_rows(x, normalized_shape, norm, adds)
    residual = as_floats("residual", residual) if adds else None
    weight = as_parameter("weight", weight, x)
    bias = as_parameter("bias", bias, x)
    call.args.eps = 0 if has_default else as_eps(eps)
    sizes = as_sizes(normalized_shape)
    out, residual_out = as_out(out), as_out(residual_out, "residual_out")

    check_matrix(&m, x, sizes)
    check_rows("residual", residual, &m)
    check_same_type("residual", residual, &m)
    check_parameter("weight", weight, &m, eps_place)
    check_parameter("bias", bias, &m, eps_place)
    check_out(out, &m)
    check_out(residual_out, &m, "residual_out")
    check_apart("residual_out", residual_out, out, "out")

    y, s = usable_result(out, &m), usable_result(residual_out, &m) if adds else None
    for result in (y, s):
        x, residual = usable_rows(x, &m, result), usable_rows(residual, &m, result)
        weight, bias = usable_small(weight, result), usable_small(bias, result)
    has_mean = stats and norm == FLN_LAYER_NORM
    mean, rstd = empty_stats(&m) if has_mean else None, empty_stats(&m) if stats else None
    limit = limit_for(&ADD_FORWARD if adds else &FORWARD, y, asked)

    fill_in(&call, &m, norm, x)
    if not (
        rows_at(&m, x, &call.args.x, &call.args.x_stride)
        and rows_at(&m, y, <const void**> &call.args.y, &call.args.y_stride)
        and (residual is None or rows_at(&m, residual, &call.args.residual, &call.args.residual_stride))
        and (s is None or rows_at(&m, s, <const void**> &call.args.sum, &call.args.sum_stride))
        and parameter_of(&m, weight, &call.args.weight)
        and parameter_of(&m, bias, &call.args.bias)
    ):
        refuse_changes()
    weight = scale_of(&call, &m, &room, weight, offset, bias)
    if norm == FLN_LAYER_NORM:
        bias = shift_of(&call, &m, &room, bias)
    if has_default:
        default_eps(&m, None, &call.args.eps)
    call.args.mean = data_of(mean) if has_mean else NULL
    call.args.rstd = data_of(rstd) if stats else NULL
    call.args.round_x_hat = rounds_x_hat
    if adds:
        call.bytes = ADD_FORWARD.arrays * nbytes_of(y)
    call.is_fresh = y is not out or s is not residual_out
    run_forward(&call, limit)
    return results_of(given_back(out, y), given_back(residual_out, s), mean, rstd)


cdef object given_back(object out, object result):
    """What stands in `result`, where the caller wants it."""
    if out is None or result is out:
        return result
    copy_into(out, result)
    return out


explain_calls(
    call_explainer(
        layer_norm, layer_norm_forward, add_layer_norm, add_layer_norm_forward, rms_norm, rms_norm_forward,
        add_rms_norm, add_rms_norm_forward,
    )
)
