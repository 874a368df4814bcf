"""The usual call: exact ndarrays of types that go together, native, aligned and C-contiguous.

Each verb tests an argument and notes what the kernels need of it. They are NumPy's C-API macros and nothing else: no
Python code runs in them, they raise nothing and explain nothing. False: the call is unusual, or wrong; `arguments`
says which.
"""

cimport numpy as cnp
from cpython.exc cimport PyErr_Clear
from cpython.float cimport PyFloat_AS_DOUBLE, PyFloat_CheckExact
from cpython.long cimport PyLong_CheckExact
from cpython.tuple cimport PyTuple_CheckExact, PyTuple_GET_ITEM, PyTuple_GET_SIZE
from libc.float cimport DBL_EPSILON, DBL_MAX, FLT_EPSILON

from fastln._core.elements cimport computed_num, element_of
from fastln._core.isa cimport FLN_F64, fln_element

cdef extern from "Python.h":
    Py_ssize_t PyLong_AsSsize_t(object value) noexcept
    double PyLong_AsDouble(object value) noexcept

cdef enum:
    MOST_DIMENSIONS = 64  # of an ndarray


# x as rows, found once: what goes with it is compared with this.
cdef struct Matrix:
    int type_num  # NumPy's
    int computed_num  # NumPy's of the type that is computed in: another one where x has 16 bits
    fln_element element
    int ndim
    int lead  # dimensions before the normalized ones
    const cnp.npy_intp* shape
    Py_ssize_t rows
    Py_ssize_t cols
    cnp.npy_intp copied_shape[MOST_DIMENSIONS]  # where x's own cannot be relied on


# Of what is known to be an ndarray. NumPy's macros would have its type tested again each time.

cdef inline char* data_of(object a) noexcept:
    return <char*> cnp.PyArray_DATA(<cnp.ndarray> a)


cdef inline int ndim_of(object a) noexcept:
    return cnp.PyArray_NDIM(<cnp.ndarray> a)


cdef inline cnp.npy_intp* shape_of(object a) noexcept:
    return cnp.PyArray_DIMS(<cnp.ndarray> a)


cdef inline int type_of(object a) noexcept:
    return cnp.PyArray_TYPE(<cnp.ndarray> a)


cdef inline Py_ssize_t nbytes_of(object a) noexcept:
    return cnp.PyArray_NBYTES(<cnp.ndarray> a)


cdef inline bint has_shape(object a, int ndim, const cnp.npy_intp* shape) noexcept:
    cdef int i
    if ndim_of(a) != ndim:
        return False
    for i in range(ndim):
        if shape_of(a)[i] != shape[i]:
            return False
    return True


cdef inline bint has_stats_shape(object a, const Matrix* m) noexcept:
    """Whether it is as for the mean of each row: x's leading dimensions, then 1 for each normalized one."""
    cdef int i
    if ndim_of(a) != m.ndim:
        return False
    for i in range(m.ndim):
        if shape_of(a)[i] != (m.shape[i] if i < m.lead else 1):
            return False
    return True


cdef inline void measure(Matrix* m) noexcept:
    """Its rows and columns, from its shape."""
    cdef int i
    m.rows = m.cols = 1
    for i in range(m.lead):
        m.rows *= m.shape[i]
    for i in range(m.lead, m.ndim):
        m.cols *= m.shape[i]


cdef inline bint has_rows_at(
    int ndim, int lead, const cnp.npy_intp* shape, const cnp.npy_intp* strides, Py_ssize_t unit, Py_ssize_t* stride
) noexcept nogil:
    """Whether the rows of the dimensions from `lead` on are contiguous and at a constant stride, which is found then.

    Strides and `unit`, the size of an element, are in bytes or in elements. Without rows the strides do not count.
    """
    cdef Py_ssize_t cols = 1, rows = 1, step = 0
    cdef bint fits = True
    cdef int i
    for i in range(ndim - 1, lead - 1, -1):
        if shape[i] != 1 and strides[i] != cols * unit:
            fits = False
        cols *= shape[i]
    for i in range(lead - 1, -1, -1):
        if shape[i] == 1:
            continue
        if rows == 1:
            step = strides[i]
        elif strides[i] != step * rows:
            fits = False
        rows *= shape[i]
    stride[0] = step
    return fits or rows == 0


# The verbs.

cdef inline bint matrix_of(Matrix* m, object x, object normalized_shape) noexcept:
    cdef int normalized
    if not cnp.PyArray_CheckExact(x):
        return False
    m.type_num = type_of(x)
    if not (element_of(m.type_num, &m.element) and cnp.PyArray_ISCARRAY_RO(<cnp.ndarray> x)):
        return False
    normalized = usual_normalized(ndim_of(x), shape_of(x), normalized_shape)
    if normalized == 0:
        return False
    m.computed_num = computed_num(m.element)
    m.ndim = ndim_of(x)
    m.lead = m.ndim - normalized
    m.shape = shape_of(x)
    measure(m)
    return m.cols != 0


cdef inline bint is_usual(object a, int type_num) noexcept:
    """Exact ndarray of this type: native, aligned, C-contiguous."""
    return (
        cnp.PyArray_CheckExact(a) and cnp.PyArray_TYPE(<cnp.ndarray> a) == type_num
        and cnp.PyArray_ISCARRAY_RO(<cnp.ndarray> a)
    )


cdef inline bint rows_of(const Matrix* m, object a, const void** to) noexcept:
    """dy and its like: the shape of x."""
    if not (is_usual(a, m.type_num) and has_shape(a, m.ndim, m.shape)):
        return False
    to[0] = data_of(a)
    return True


cdef inline bint parameter_of(const Matrix* m, object a, const void** to) noexcept:
    """weight, bias: normalized_shape, of x's type or of the one that is computed in; or absent."""
    to[0] = NULL
    if a is None:
        return True
    if not (is_usual(a, m.type_num) or is_usual(a, m.computed_num)):
        return False
    if not has_shape(a, m.ndim - m.lead, m.shape + m.lead):
        return False
    to[0] = data_of(a)
    return True


cdef inline bint is_stored(const Matrix* m, object parameter) noexcept:
    """Whether a parameter is of 16 bits, as x is: the kernels take it in the type that is computed in."""
    return parameter is not None and type_of(parameter) != m.computed_num


cdef inline bint stats_of(const Matrix* m, object a, const void** to) noexcept:
    """mean, rstd: as the forward pass returned them."""
    if not (is_usual(a, m.computed_num) and has_stats_shape(a, m)):
        return False
    to[0] = data_of(a)
    return True


cdef inline bint result_of(const Matrix* m, object out, void** to) noexcept:
    """out: the shape of x and writable, or absent, for the caller to make one."""
    to[0] = NULL
    if out is None:
        return True
    if not (is_usual(out, m.type_num) and cnp.PyArray_ISWRITEABLE(<cnp.ndarray> out)):
        return False
    if not has_shape(out, m.ndim, m.shape):
        return False
    to[0] = data_of(out)
    return True


cdef inline bint is_apart(object out, object a) noexcept:
    """Whether out shares no memory with a, if both are there; both are C-contiguous."""
    return (
        out is None or a is None
        or data_of(out) >= data_of(a) + nbytes_of(a) or data_of(a) >= data_of(out) + nbytes_of(out)
    )


cdef inline bint are_apart(const void* a, Py_ssize_t a_bytes, const void* b, Py_ssize_t b_bytes) noexcept nogil:
    """The same of so many bytes from an address on: NumPy takes a while to say how large an array is. NULL: absent."""
    return (
        a == NULL or b == NULL
        or <const char*> a >= <const char*> b + b_bytes or <const char*> b >= <const char*> a + a_bytes
    )


cdef inline bint is_apart_or_same(object out, object a) noexcept:
    """The same of an `a` with out's shape, in whose place out may be."""
    return is_apart(out, a) or data_of(out) == data_of(a)


cdef inline bint usual_eps(object eps, double* value) noexcept:
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


cdef inline bint default_eps(const Matrix* m, object eps, double* value) noexcept:
    """Whether eps is None; then `value` is the spacing at 1 of the type that is computed in."""
    value[0] = DBL_EPSILON if m.element == FLN_F64 else FLT_EPSILON
    return eps is None


cdef inline int usual_normalized(int ndim, const cnp.npy_intp* shape, object normalized_shape) noexcept:
    """How many trailing dimensions normalized_shape names; 0 if they are not x's, or it is neither int nor tuple."""
    cdef Py_ssize_t count, i
    if ndim == 0:
        return 0
    if normalized_shape is None:
        return 1
    if PyLong_CheckExact(normalized_shape):
        return is_size(normalized_shape, shape[ndim - 1])
    if not PyTuple_CheckExact(normalized_shape):
        return 0
    count = PyTuple_GET_SIZE(normalized_shape)
    if count == 0 or count > ndim:
        return 0
    for i in range(count):
        if not is_size(<object> PyTuple_GET_ITEM(normalized_shape, i), shape[ndim - count + i]):
            return 0
    return <int> count


cdef inline bint is_size(object value, Py_ssize_t size) noexcept:
    cdef Py_ssize_t number
    if not PyLong_CheckExact(value):
        return False
    number = PyLong_AsSsize_t(value)
    if number == -1:  # or too large, with an error set
        PyErr_Clear()
    return number == size


# New arrays for results. NumPy allocates them without running anybody's code, so what was found of x still holds.

cdef inline object empty_rows(const Matrix* m):
    return cnp.PyArray_EMPTY(m.ndim, <cnp.npy_intp*> m.shape, m.type_num, 0)


cdef inline object empty_parameter(const Matrix* m, int type_num):
    return cnp.PyArray_EMPTY(m.ndim - m.lead, <cnp.npy_intp*> (m.shape + m.lead), type_num, 0)


cdef inline object empty_stats(const Matrix* m):
    cdef cnp.npy_intp shape[MOST_DIMENSIONS]
    cdef int i
    for i in range(m.ndim):
        shape[i] = m.shape[i] if i < m.lead else 1
    return cnp.PyArray_EMPTY(m.ndim, shape, m.computed_num, 0)
