"""Checks and conversions of unusual arguments, and the view of an array as rows of memory.

The calling contract in one place: what is accepted, what is converted, and what the error says. Messages read
`NAME must be REQUIREMENT, got VALUE`.
"""

import math
import numbers
import operator

import numpy as np
cimport numpy as cnp
from cpython.exc cimport PyErr_Clear
from cpython.float cimport PyFloat_AS_DOUBLE, PyFloat_CheckExact
from cpython.long cimport PyLong_CheckExact
from cpython.tuple cimport PyTuple_CheckExact, PyTuple_GET_ITEM, PyTuple_GET_SIZE
from libc.float cimport DBL_MAX

cdef extern from "Python.h":
    Py_ssize_t PyLong_AsSsize_t(object value) noexcept
    double PyLong_AsDouble(object value) noexcept

cnp.import_array()

_FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


cdef object as_floats(str name, object value):
    """An exact ndarray over `value`'s data, of either float type in any byte order, alignment and layout."""
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name} must be an array without a mask, got {type(value).__name__}")
    if isinstance(value, np.ndarray):
        array = value.view(np.ndarray) if type(value) is not np.ndarray else value
    else:
        try:
            array = np.asarray(value)
        except ValueError as error:
            raise ValueError(f"{name} must be a rectangular array, got {type(value).__name__} ({error})") from None
        if isinstance(array, np.ma.MaskedArray):
            raise TypeError(f"{name} must be an array without a mask, got {type(value).__name__}")
    if array.dtype.newbyteorder("=") not in _FLOATS:
        got = type(value).__name__ if array.dtype == object else array.dtype
        raise TypeError(f"{name} must be an array of float32 or float64, got {got}")
    return array


cdef int plain_normalized_ndim(object x, object normalized_shape) noexcept:
    """How many trailing dimensions normalized_shape names; 0 if they are not x's, or it is neither int nor tuple."""
    cdef int ndim = ndim_of(x)
    cdef Py_ssize_t count, i
    if ndim == 0:
        return 0
    if normalized_shape is None:
        return 1
    if PyLong_CheckExact(normalized_shape):
        return is_size(normalized_shape, shape_of(x)[ndim - 1])
    if not PyTuple_CheckExact(normalized_shape):
        return 0
    count = PyTuple_GET_SIZE(normalized_shape)
    if count == 0 or count > ndim:
        return 0
    for i in range(count):
        if not is_size(<object> PyTuple_GET_ITEM(normalized_shape, i), shape_of(x)[ndim - count + i]):
            return 0
    return <int> count


cdef bint is_size(object value, Py_ssize_t size) noexcept:
    cdef Py_ssize_t number
    if not PyLong_CheckExact(value):
        return False
    number = PyLong_AsSsize_t(value)
    if number == -1:  # or too large, with an error set
        PyErr_Clear()
    return number == size


cdef int normalized_ndim(object x, object normalized_shape) except -1:
    """How many trailing dimensions of x are normalized."""
    if x.ndim == 0:
        raise ValueError("x must have at least 1 dimension, got 0")
    if normalized_shape is None:
        shape = x.shape[-1:]
    else:
        shape = _as_shape(normalized_shape)
        if not shape:
            raise ValueError("normalized_shape must have at least 1 dimension, got ()")
        if shape != x.shape[-len(shape):]:
            raise ValueError(
                f"normalized_shape must equal the trailing dimensions of x, whose shape is {x.shape}, got {shape}"
            )
    if 0 in shape:
        raise ValueError(f"normalized_shape must have no dimension of size 0, got {shape}")
    return len(shape)


cdef tuple _as_shape(object value):
    if isinstance(value, bool):
        raise TypeError(f"normalized_shape must be an int or a tuple of ints, got {value!r}")
    try:
        return (operator.index(value),)
    except TypeError:
        pass
    try:
        if not isinstance(value, (tuple, list)):
            raise TypeError
        return tuple(operator.index(size) for size in value)
    except TypeError:
        raise TypeError(f"normalized_shape must be an int or a tuple of ints, got {value!r}") from None


cdef object as_shaped(str name, object value, tuple shape, str purpose):
    """An exact ndarray of floats over `value`'s data that has this shape."""
    array = as_floats(name, value)
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {shape} to {purpose}, got {array.shape}")
    return array


cdef object as_parameter(str name, object value, object x, int ndim):
    """weight or bias as a C-contiguous native array of x's type; None stays None."""
    if value is None:
        return None
    array = as_shaped(name, value, x.shape[x.ndim - ndim:], "match normalized_shape")
    return np.require(array, x.dtype.newbyteorder("="), ["C", "A"])


cdef bint is_plain_eps(object eps, double* value) noexcept:
    """Whether eps is a float or an int that will do, which `value` is then."""
    if PyFloat_CheckExact(eps):
        value[0] = PyFloat_AS_DOUBLE(eps)
    elif PyLong_CheckExact(eps):
        value[0] = PyLong_AsDouble(eps)
        if value[0] == -1:  # or too large, with an error set
            PyErr_Clear()
    else:
        return False
    return 0 <= value[0] <= DBL_MAX


cdef double as_eps(object eps) except -1:
    if isinstance(eps, np.ndarray) or isinstance(eps, (bool, np.bool_)) or not isinstance(eps, numbers.Real):
        raise TypeError(f"eps must be a real number >= 0, got {eps!r}")
    cdef double value
    try:
        value = float(eps)
    except OverflowError:
        value = math.inf
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"eps must be finite and >= 0, got {eps!r}")
    return value


cdef object check_out(object out, object x):
    """`out`, if it can take the result for x: its shape and type, writable, each element at an address of its own."""
    if not isinstance(out, np.ndarray) or isinstance(out, np.ma.MaskedArray):
        raise TypeError(f"out must be an ndarray, got {type(out).__name__}")
    if out.dtype.newbyteorder("=") != x.dtype.newbyteorder("="):
        raise TypeError(f"out must have dtype {x.dtype.newbyteorder('=')}, got {out.dtype}")
    if out.shape != x.shape:
        raise ValueError(f"out must have shape {x.shape}, got {out.shape}")
    if not out.flags.writeable:
        raise ValueError("out must be writable, got a read-only array")
    extent = out.itemsize
    axes = [(abs(stride), size) for stride, size in zip(out.strides, out.shape) if size > 1] if out.size else []
    for stride, size in sorted(axes):
        if stride < extent:
            raise ValueError(f"out must not overlap itself, got strides {out.strides} for shape {out.shape}")
        extent += stride * (size - 1)
    return out


cdef bint find_rows(object a, int ndim, Rows* rows) except -1:
    """Fills in `rows` and returns True if the kernels can use the array where it is."""
    cdef int lead = cnp.PyArray_NDIM(a) - ndim
    cdef int i
    cdef const cnp.npy_intp* shape = cnp.PyArray_DIMS(a)
    cdef const cnp.npy_intp* strides = cnp.PyArray_STRIDES(a)
    cdef Py_ssize_t itemsize = cnp.PyArray_ITEMSIZE(a)
    cdef Py_ssize_t cols = 1, count = 1, stride = 0
    cdef bint empty = cnp.PyArray_SIZE(a) == 0  # then its strides mean nothing
    if not (cnp.PyArray_ISALIGNED(a) and cnp.PyArray_ISNOTSWAPPED(a)):
        return False
    for i in range(lead + ndim - 1, lead - 1, -1):
        if shape[i] != 1 and strides[i] != cols * itemsize and not empty:
            return False
        cols *= shape[i]
    for i in range(lead - 1, -1, -1):
        if shape[i] == 1:
            continue
        if count == 1:
            stride = strides[i]
        elif strides[i] != stride * count and not empty:
            return False
        count *= shape[i]
    if stride % itemsize != 0:
        return False
    rows.data = cnp.PyArray_DATA(a)
    rows.rows = count
    rows.cols = cols
    rows.stride = stride // itemsize
    return True


cdef object with_rows(object a, int ndim):
    """The array itself if the kernels can use it where it is, else a C-contiguous copy."""
    cdef Rows rows
    if find_rows(a, ndim, &rows):
        return a
    return np.array(a, dtype=a.dtype.newbyteorder("="), order="C", copy=True)


cdef bint may_share_rows(object a, object b, int ndim) except -1:
    """Whether two arrays of rows may have an element in common; False where that is certain."""
    cdef Rows p, q
    cdef Py_ssize_t distance, stride, itemsize
    if not np.may_share_memory(a, b):
        return False
    if find_rows(a, ndim, &p) and find_rows(b, ndim, &q) and p.stride == q.stride and a.itemsize == b.itemsize:
        # Columns side by side in one wider array: their ranges interleave, but no row touches another.
        itemsize = a.itemsize
        stride = abs(p.stride) * itemsize
        if stride:
            distance = (<char*> q.data - <char*> p.data) % stride
            if distance >= p.cols * itemsize and stride - distance >= q.cols * itemsize:
                return False
    return True
