"""Every call but the usual one: what is accepted, what is converted, and what the error says.

The calling contract in one place. Messages read `NAME must be REQUIREMENT, got VALUE`. Only the functions that make
arrays and numbers of objects run code that is not NumPy's or ours. All others ask no object for its shape, strides or
flags, which a subclass may have lie: they read them from the array itself.
"""

import math
import numbers
import operator

import numpy as np
cimport numpy as cnp
from cpython.float cimport PyFloat_AS_DOUBLE, PyFloat_CheckExact
from cpython.object cimport PyObject_TypeCheck, PyTypeObject
from cpython.ref cimport Py_INCREF
from libc.math cimport isfinite
from libc.string cimport memcpy

from fastln._core.describe import cut, describe, describe_array
from fastln._core.elements cimport computed_num, element_of, is_bfloat16, is_element
from fastln._core.isa cimport FLN_RMS_NORM, fln_element, fln_norm
from fastln._core.usual cimport (
    MOST_DIMENSIONS,
    Matrix,
    data_of,
    empty_rows,
    has_rows_at,
    has_shape,
    is_usual,
    measure,
    nbytes_of,
    ndim_of,
    shape_of,
    type_of,
)

cdef extern from "numpy/arrayobject.h":
    enum:
        NPY_ARRAY_CARRAY
        NPY_ARRAY_ENSUREARRAY
        NPY_ARRAY_ENSURECOPY
        NPY_ARRAY_FORCECAST
        NPY_USERDEF
    object PyArray_FromArray(cnp.ndarray a, cnp.dtype dtype, int requirements)  # takes a reference to dtype

cnp.import_array()

# Of what another library says of its own object: its advice should be among it.
cdef int MOST_OF_AN_ERROR = 160

# For NumPy, to find out whether two strided arrays have a byte in common. What takes more is said to have one.
cdef int MOST_WORK_ON_OVERLAPS = 100_000


# Objects to arrays and numbers


cpdef object as_floats(str name, object value):
    """An ndarray of any type that x may be of, over `value`'s data, in any byte order, alignment and layout.

    What is an ndarray already, perhaps of a subclass, stays what it is: a view would know too little of it if it was
    given another size before it is read.
    """
    array = as_array(name, value)
    if not is_float(array):
        raise TypeError(
            f"{name} must be an array of float32, float64, float16 or bfloat16, "
            f"got {described(value, array)}{casting(name, value, array)}"
        )
    return array


cdef object as_rows(object x, object normalized_shape, fln_norm norm):
    """as_floats of x, whose error says how dask normalizes it where it is."""
    if is_lazy(x):
        refuse_lazy(x, normalized_shape, "rms_norm" if norm == FLN_RMS_NORM else "layer_norm")
    return as_floats("x", x)


cdef object as_forward_rows(object x, object normalized_shape, fln_norm norm, bint adds):
    """The same for a forward pass, of a sum or not, whose error says who takes tensors of PyTorch where x is one."""
    try:
        return as_floats("x", x) if adds else as_rows(x, normalized_shape, norm)
    except TypeError as error:
        if not is_tensor(x):
            raise
        function = ("add_" if adds else "") + ("rms_norm" if norm == FLN_RMS_NORM else "layer_norm")
        raise TypeError(f"{error}; fastln.torch.{function} takes tensors") from None


cpdef object as_any_floats(str name, object value):
    """The same of what will be converted anyway: longer floats too, and bfloat16 as PyTorch has it."""
    array = as_array(name, as_numpy_knows(value))
    if not is_any_float(array):
        got = described(value, array) + casting(name, value, array)
        raise TypeError(f"{name} must be an array of float32, float64, float16, bfloat16 or longdouble, got {got}")
    return array


cpdef object as_numbers(str name, object value):
    """The same of what a parameter may begin with: ints too, and single numbers."""
    array = as_array(name, as_numpy_knows(value))
    if not is_any_float(array) and dtype_of(array).kind not in "iu":
        got = described(value, array)
        raise TypeError(f"{name} must be a number, an array or a callable that gives one, got {got}")
    return array


cdef object as_numpy_knows(object value):
    """PyTorch makes no array of its bfloat16."""
    is_of_torch = not cnp.PyArray_Check(value) and str(getattr(value, "dtype", None)) == "torch.bfloat16"
    return value.float() if is_of_torch else value


cpdef object as_array(str name, object value):
    """An ndarray over `value`'s data, of any type; refused if it is not in memory, or has a mask that would be lost."""
    unfit = unfit_item(value, 0)
    if unfit is None:
        return value if cnp.PyArray_Check(value) else _as_array(name, value)
    inside = "" if unfit is value else f"{type(value).__name__} with "
    if is_masked(unfit):
        raise TypeError(f"{name} must be an array without a mask, got {inside}{describe(unfit)}")
    raise TypeError(
        f"{name} must be an array in memory, got {inside}dask's {describe(unfit)}: its compute() loads it"
    )


def refuse_lazy(x, normalized_shape, function):
    """With the way to have each block normalized: of whole rows, which `map_blocks` does not ask for by itself."""
    sizes = x.shape[-1:] if normalized_shape is None else as_sizes(normalized_shape)
    got = f"x must be an array in memory, got dask's {describe(x)}"
    chunks = getattr(x, "chunks", None)
    if not hasattr(type(x), "map_blocks") or not isinstance(chunks, tuple) or not 0 < len(sizes) <= len(chunks):
        raise TypeError(f"{got}: its compute() loads it")
    own = "x" if hasattr(type(x), "rechunk") else "x.data"  # an array of dask, or xarray's around one
    if any([len(sizes_of_chunks) > 1 for sizes_of_chunks in chunks[-len(sizes):]]):
        own += f".rechunk({{{', '.join([f'{-axis}: -1' for axis in range(len(sizes), 0, -1)])}}})"
    shape = sizes[0] if len(sizes) == 1 else sizes
    after = "weight comes" if function == "rms_norm" else "weight and bias come"
    raise TypeError(
        f"{got}: {own}.map_blocks(fastln.{function}, {shape}, dtype=x.dtype) normalizes it block by block "
        f"({after} after {shape}), x.compute() loads it"
    )


cdef object _as_array(str name, object value):
    try:
        return np.asarray(value)
    except (AttributeError, TypeError, RuntimeError, ValueError) as error:
        reason = f"{describe(value)} ({cut(str(error), MOST_OF_AN_ERROR)})"
        if type(error) is ValueError and isinstance(value, (tuple, list)):
            raise ValueError(f"{name} must be a rectangular array, got {reason}") from None
        raise TypeError(f"{name} must be what NumPy can make an array of, got {reason}") from None


cdef object unfit_item(object value, int depth):
    """The value or what is nested in it, if NumPy would drop its mask or load it, however large; or else None."""
    if PyFloat_CheckExact(value):
        return None
    if is_masked(value) or is_lazy(value):
        return value
    if isinstance(value, (tuple, list)) and depth < MOST_DIMENSIONS:
        for item in value:
            unfit = unfit_item(item, depth + 1)
            if unfit is not None:
                return unfit
    return None


cdef bint is_masked(object value):
    return PyObject_TypeCheck(value, <PyTypeObject*> np.ma.MaskedArray)


cdef bint is_lazy(object value):
    """Whether it is a collection of dask, or wraps one as xarray's do."""
    graph = None if cnp.PyArray_Check(value) else getattr(type(value), "__dask_graph__", None)
    return graph is not None and graph(value) is not None


cdef bint is_tensor(object value):
    """Whether it is PyTorch's, of floats."""
    is_of_torch = type(value).__module__.partition(".")[0] == "torch"
    return is_of_torch and getattr(getattr(value, "dtype", None), "is_floating_point", False) is True


cdef str described(object value, object array):
    """`value`, of which this array was made."""
    if value is array or ndim_of(array) == 0:
        return describe(value)
    return describe_array(value, dtype_of(array), shape_tuple(shape_of(array), ndim_of(array)))


cdef str casting(str name, object value, object array):
    """How to have floats of numbers that are none, or of another precision; nothing of anything else."""
    dtype = dtype_of(array)
    if dtype.kind not in "iub" and not is_any_float(array):
        return ""
    if value is not array:
        return f": np.asarray({name}, np.float32)" if isinstance(value, (tuple, list)) else ""
    bits = f", or {name}.view(ml_dtypes.bfloat16) if these are its bits" if dtype == np.uint16 else ""
    return f": {name}.astype(np.{'float64' if dtype.itemsize > 8 else 'float32'}){bits}"


cdef object as_floats_like(str name, object value, object x):
    """as_floats in x's type."""
    return converted(name, as_floats(name, value), float_type(x))


cdef object as_stats(str name, object value, object x):
    """as_floats in the type that is computed in."""
    return converted(name, as_floats(name, value), computed_type(x))


cdef object as_parameter(str name, object value, object x):
    """weight or bias, which may be absent: as it is in x's type, else in the one that is computed in."""
    if value is None:
        return None
    array = as_any_floats(name, value)
    return array if float_type(array) == float_type(x) else converted(name, array, computed_type(x))


cpdef object converted(str name, object array, int type_num):
    """The array itself if it has this type, or else its values, rounded. One that is too large would become Inf."""
    if float_type(array) == type_num:
        return array
    try:
        with np.errstate(all="ignore", over="raise"):
            found = copied(array, type_num)
            # Other packages' conversions set no flag: those to bfloat16, and from it to float16.
            is_silent = type_num >= NPY_USERDEF or type_num == cnp.NPY_FLOAT16 and type_of(array) >= NPY_USERDEF
            if is_silent and not np.array_equal(np.isinf(found), np.isinf(copied(array, type_of(array)))):
                raise FloatingPointError
            return found
    except FloatingPointError:
        values = copied(array, type_of(array))
        finite = values[np.isfinite(values)]
        raise ValueError(
            f"{name} must be of values that {cnp.PyArray_DescrFromType(type_num)} can hold, "
            f"got {finite[np.abs(finite).argmax()]}"
        ) from None


cpdef double as_eps(object eps) except -1:
    """eps as a number, if it is one and will do."""
    cdef double value = as_real("eps", "a real number >= 0", eps)
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"eps must be finite and >= 0, got {describe(eps)}")
    return value


cpdef double as_offset(object weight_offset, bint has_weight) except? -1:
    """weight_offset as a number, if it is one and there is something to add it to."""
    cdef double value
    if PyFloat_CheckExact(weight_offset):
        value = PyFloat_AS_DOUBLE(weight_offset)
    else:
        value = as_real("weight_offset", "a real number", weight_offset)
    if not isfinite(value):
        raise ValueError(f"weight_offset must be finite, got {describe(weight_offset)}")
    if value != 0 and not has_weight:
        raise ValueError(f"weight_offset must be 0 where weight is None, got {describe(weight_offset)}")
    return value


cdef double as_real(str name, str requirement, object value) except? -1:
    """A number without any code of its own; infinite if it is too large."""
    if isinstance(value, np.ndarray) or isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be {requirement}, got {describe(value)}")
    try:
        return float(value)
    except OverflowError:
        return math.inf


cpdef int check_cast(object cast) except -1:
    """The name of a rounding order of 16-bit numbers; whether it is one that rounds before the weight."""
    if cast is None:
        return False
    if isinstance(cast, str) and cast in ("llama", "gemma"):
        return cast == "llama"
    error = ValueError if isinstance(cast, str) else TypeError
    raise error(f"cast must be None, 'llama' or 'gemma', got {describe(cast)}")


cpdef tuple as_sizes(object normalized_shape):
    """The sizes that it names, as ints without any code of their own; None stays None."""
    if normalized_shape is None:
        return None
    many = isinstance(normalized_shape, (tuple, list))
    sizes = tuple(normalized_shape) if many else (normalized_shape,)
    try:
        if any([isinstance(size, bool) for size in sizes]):
            raise TypeError
        return tuple([int.__index__(operator.index(size)) for size in sizes])
    except TypeError:
        forgotten = ": weight and bias come after it" if hasattr(type(normalized_shape), "__array__") else ""
        raise TypeError(
            f"normalized_shape must be an int or a tuple of ints, got {describe(normalized_shape)}{forgotten}"
        ) from None


cpdef object as_out(object out, str name="out"):
    """`out` or its like, if it is an ndarray or None."""
    if out is None:
        return None
    if not cnp.PyArray_Check(out) or is_masked(out):
        raise TypeError(f"{name} must be an ndarray, got {describe(out)}")
    return out


# Checks


cdef int float_type(object a) noexcept:
    """NumPy's number of its type. A long double that is no longer than double is one."""
    cdef int type_num = type_of(a)
    if type_num == cnp.NPY_LONGDOUBLE and cnp.PyArray_ITEMSIZE(a) == sizeof(double):
        return cnp.NPY_FLOAT64
    return type_num


cdef int computed_type(object x) noexcept:
    """NumPy's number of the type that is computed in with such an x."""
    cdef fln_element element
    return computed_num(element) if element_of(float_type(x), &element) else -1


cdef object dtype_of(object a):
    return <object> cnp.PyArray_DESCR(a)


cdef bint is_float(object a):
    cdef fln_element element
    return element_of(float_type(a), &element) or is_element(dtype_of(a))


cdef bint is_any_float(object a):
    return is_float(a) or type_of(a) == cnp.NPY_LONGDOUBLE or is_bfloat16(dtype_of(a))


cdef tuple shape_tuple(const cnp.npy_intp* shape, int ndim):
    return tuple([shape[i] for i in range(ndim)])


cdef int check_matrix(Matrix* m, object x, tuple sizes, str x_name="x") except -1:
    """Fills in m, if x has rows of these sizes."""
    cdef int ndim = ndim_of(x)
    if ndim == 0:
        raise ValueError(f"{x_name} must have at least 1 dimension, got 0")
    m.type_num = float_type(x)
    if not element_of(m.type_num, &m.element):
        refuse_changes()
    m.computed_num = computed_num(m.element)
    m.ndim = ndim
    m.shape = m.copied_shape
    memcpy(m.copied_shape, shape_of(x), ndim * sizeof(cnp.npy_intp))
    shape = shape_tuple(m.shape, ndim)
    if sizes is None:
        sizes = shape[ndim - 1:]
    if not sizes:
        raise ValueError("normalized_shape must have at least 1 dimension, got ()")
    if sizes != shape[max(ndim - len(sizes), 0):]:
        advice = ": sizes are meant, not axes" if all([-ndim <= size < ndim for size in sizes]) else ""
        if sizes == (-1,):
            advice += "; leave it out, the last dimension is the default"
        raise ValueError(
            f"normalized_shape must equal the trailing dimensions of {x_name}, whose shape is {shape}, "
            f"got {describe(sizes)}{advice}"
        )
    if 0 in sizes:
        raise ValueError(f"normalized_shape must have no dimension of size 0, got {sizes}")
    m.lead = ndim - <int> len(sizes)
    measure(m)
    return 0


cdef int check_rows(str name, object a, const Matrix* m, str x_name="x") except -1:
    """dy and its like, if they are there."""
    return 0 if a is None else check_shape(name, a, shape_tuple(m.shape, m.ndim), f"match {x_name}")


cdef int check_same_type(str name, object a, const Matrix* m) except -1:
    """What goes with x and is not converted to its type, if it is there."""
    if a is not None and float_type(a) != m.type_num:
        dtype = cnp.PyArray_DescrFromType(m.type_num)
        raise TypeError(f"{name} must have dtype {dtype} to match x, got {describe(dtype_of(a))}")
    return 0


cdef int check_parameter(str name, object a, const Matrix* m, str eps_place=None) except -1:
    """weight and bias, if they are there. `eps_place` is where the call takes eps, if it does."""
    if a is None:
        return 0
    shape = shape_tuple(m.shape + m.lead, m.ndim - m.lead)
    if ndim_of(a) == 0 and eps_place is not None:
        number = str(copied(a, type_of(a))[()])
        raise ValueError(
            f"{name} must have shape {shape} to match normalized_shape, got the number {number}: "
            f"eps is the {eps_place} argument"
        )
    return check_shape(name, a, shape, "match normalized_shape")


cdef int check_stats(str name, object a, const Matrix* m, str x_name="x") except -1:
    """mean and rstd."""
    shape = shape_tuple(m.shape, m.lead) + (1,) * (m.ndim - m.lead)
    return check_shape(name, a, shape, f"match {x_name} and normalized_shape")


cdef int check_shape(str name, object a, tuple shape, str purpose) except -1:
    got = shape_tuple(shape_of(a), ndim_of(a))
    if got != shape:
        raise ValueError(f"{name} must have shape {shape} to {purpose}, got {got}{reshaping(name, shape, got)}")
    return 0


cpdef str reshaping(str name, tuple shape, tuple got):
    """The cure for a parameter with dimensions of 1 that do not count."""
    if len(shape) != 1 or len(got) < 2 or [size for size in got if size != 1] != [size for size in shape if size != 1]:
        return ""
    return f": {name}.reshape({shape[0]})"


cdef int check_out(object out, const Matrix* m, str name="out") except -1:
    """Whether it can take a result of x's shape and type, if it is there."""
    return 0 if out is None else check_buffer(name, out, m.type_num, shape_tuple(m.shape, m.ndim))


cpdef int check_buffer(str name, object out, int type_num, tuple shape) except -1:
    """Whether a result fits in: its type and shape, writable, each element at an address of its own."""
    if float_type(out) != type_num:
        dtype = cnp.PyArray_DescrFromType(type_num)
        raise TypeError(f"{name} must have dtype {dtype}, got {describe(dtype_of(out))}")
    got = shape_tuple(shape_of(out), ndim_of(out))
    if got != shape:
        raise ValueError(f"{name} must have shape {shape}, got {got}")
    if not cnp.PyArray_ISWRITEABLE(out):
        raise ValueError(f"{name} must be writable, got a read-only array")
    strides = shape_tuple(cnp.PyArray_STRIDES(out), ndim_of(out))
    extent = cnp.PyArray_ITEMSIZE(out)
    axes = [(abs(stride), size) for stride, size in zip(strides, shape) if size > 1] if 0 not in shape else []
    for stride, size in sorted(axes):
        if stride < extent:
            raise ValueError(f"{name} must not overlap itself, got strides {strides} for shape {shape}")
        extent += stride * (size - 1)
    return 0


cdef int check_apart(str name, object out, object other, str other_name) except -1:
    """Whether two results, if they are there, have no byte in common."""
    if out is None or other is None or not may_overlap(out, other):
        return 0
    # Their ranges have some in common. What is not an exact ndarray would be asked by NumPy what it says itself.
    views = np.ndarray.view(out, np.ndarray), np.ndarray.view(other, np.ndarray)
    if np.may_share_memory(*views, max_work=MOST_WORK_ON_OVERLAPS):
        raise ValueError(f"{name} must share no memory with {other_name}, got an array that does")
    return 0


cdef int refuse_changes() except -1:
    raise ValueError("x and what goes with it must keep shape and dtype during a call, got others")


# Where an array is, and what it shares


cdef bint rows_at(const Matrix* m, object a, const void** to, Py_ssize_t* stride) noexcept:
    """Whether the kernels can use the array where it is: native contiguous rows at a constant stride, in elements."""
    cdef Py_ssize_t itemsize = cnp.PyArray_ITEMSIZE(a)
    if not (float_type(a) == m.type_num and cnp.PyArray_ISALIGNED(a) and cnp.PyArray_ISNOTSWAPPED(a)):
        return False
    if not has_shape(a, m.ndim, m.shape):
        return False
    if not has_rows_at(m.ndim, m.lead, m.shape, cnp.PyArray_STRIDES(a), itemsize, stride) or stride[0] % itemsize != 0:
        return False
    to[0] = data_of(a)
    stride[0] //= itemsize
    return True


cdef bint may_overlap(object a, object b) noexcept:
    """Whether the ranges of memory from the first to the last element of two arrays have a byte in common."""
    cdef char* low_a
    cdef char* end_a
    cdef char* low_b
    cdef char* end_b
    find_range(a, &low_a, &end_a)
    find_range(b, &low_b, &end_b)
    return low_a < end_b and low_b < end_a


cdef void find_range(object a, char** low, char** end) noexcept:
    cdef int i
    cdef Py_ssize_t span
    low[0] = end[0] = data_of(a)
    if nbytes_of(a) == 0:
        return
    end[0] += cnp.PyArray_ITEMSIZE(a)
    for i in range(ndim_of(a)):
        span = (shape_of(a)[i] - 1) * cnp.PyArray_STRIDES(a)[i]
        if span > 0:
            end[0] += span
        else:
            low[0] += span


cdef bint may_share_rows(const Matrix* m, object a, object result) noexcept:
    """Whether writing a row of the result may change an element of `a` that is not in that very row."""
    cdef const void* p
    cdef const void* q
    cdef Py_ssize_t p_stride, q_stride, distance, step, row
    if not may_overlap(a, result):
        return False
    if not (rows_at(m, a, &p, &p_stride) and rows_at(m, result, &q, &q_stride)) or p_stride != q_stride:
        return True
    if p == q:
        return False
    # Columns side by side in one wider array: their ranges interleave, but no row touches another.
    row = m.cols * cnp.PyArray_ITEMSIZE(a)
    step = abs(p_stride) * cnp.PyArray_ITEMSIZE(a)
    if step == 0:
        return True
    distance = (<const char*> q - <const char*> p) % step
    return distance < row or step - distance < row


# What the kernels can use


cdef object copied(object a, int type_num):
    """An exact ndarray of the same values: native, aligned, C-contiguous."""
    dtype = cnp.PyArray_DescrFromType(type_num)
    Py_INCREF(dtype)
    return PyArray_FromArray(
        a, dtype, NPY_ARRAY_CARRAY | NPY_ARRAY_ENSUREARRAY | NPY_ARRAY_ENSURECOPY | NPY_ARRAY_FORCECAST
    )


cdef object usable_result(object out, const Matrix* m):
    """`out`, or an array for the kernels to write to in its place."""
    cdef const void* to
    cdef Py_ssize_t stride
    return out if out is not None and rows_at(m, out, &to, &stride) else empty_rows(m)


cdef object usable_rows(object a, const Matrix* m, object result):
    """x, dy, if they are there: rows that the result shares no memory with, or all of it."""
    cdef const void* to
    cdef Py_ssize_t stride
    if a is None:
        return None
    if rows_at(m, a, &to, &stride) and (result is None or not may_share_rows(m, a, result)):
        return a
    return copied(a, m.type_num)


cdef object usable_small(object a, object result):
    """Parameters, mean and rstd: as in the usual call."""
    if a is None or is_usual(a, float_type(a)) and (result is None or not may_overlap(a, result)):
        return a
    return copied(a, float_type(a))


cdef int copy_into(object out, object result) except -1:
    return cnp.PyArray_CopyInto(out, result)
