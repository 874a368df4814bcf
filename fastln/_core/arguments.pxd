"""What arrays mean to the kernels: rows of memory, at a constant stride."""

cimport numpy as cnp


# A float32 or float64 array seen as `rows` rows of `cols` contiguous elements, `stride` elements apart.
cdef struct Rows:
    void* data
    Py_ssize_t rows
    Py_ssize_t cols
    Py_ssize_t stride


# The usual case. Only C-API macros on exact ndarrays: anything else is for the functions below to explain or convert.

cdef inline bint is_plain(object a, int type_num) noexcept:
    """Exact ndarray of this type: native, aligned, C-contiguous."""
    return (
        cnp.PyArray_CheckExact(a) and cnp.PyArray_TYPE(<cnp.ndarray> a) == type_num
        and cnp.PyArray_ISCARRAY_RO(<cnp.ndarray> a)
    )


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


cdef inline bint is_plain_out(object a, int type_num, int ndim, const cnp.npy_intp* shape) noexcept:
    return is_plain(a, type_num) and cnp.PyArray_ISWRITEABLE(<cnp.ndarray> a) and has_shape(a, ndim, shape)


cdef inline bint ranges_overlap(object a, object b) noexcept:
    """Whether two C-contiguous arrays share memory."""
    return data_of(a) < data_of(b) + nbytes_of(b) and data_of(b) < data_of(a) + nbytes_of(a)


# How many trailing dimensions of an exact ndarray normalized_shape names; 0 if it names others, or is neither int nor
# tuple.
cdef int plain_normalized_ndim(object x, object normalized_shape) noexcept


# Whether eps is a float or an int that will do, which `value` is then.
cdef bint is_plain_eps(object eps, double* value) noexcept


# Everything else. These raise TypeError and ValueError; none of them writes to an argument.

cdef object as_floats(str name, object value)
cdef int normalized_ndim(object x, object normalized_shape) except -1
cdef object as_shaped(str name, object value, tuple shape, str purpose)
cdef object as_parameter(str name, object value, object x, int ndim)
cdef double as_eps(object eps) except -1
cdef object check_out(object out, object x)
cdef bint find_rows(object a, int ndim, Rows* rows) except -1
cdef object with_rows(object a, int ndim)
cdef bint may_share_rows(object a, object b, int ndim) except -1
