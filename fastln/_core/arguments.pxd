"""Every call but the usual one: what is accepted, what is converted, and what the error says.

A call goes through three steps, in this order. Objects become arrays, each of them asked once: this may run anybody's
code, which may do anything to the other arguments. Then the arrays are checked, and what the kernels cannot use is
copied. At last `rows_at` and the verbs of `usual` read what the kernels are told, from the arrays themselves, and test
it again: nothing runs between them and the kernel.
"""

from fastln._core.isa cimport fln_norm
from fastln._core.usual cimport Matrix

# Objects to arrays and numbers. These raise TypeError and ValueError; none of them writes to an argument.

cpdef object as_array(str name, object value)
cpdef object as_floats(str name, object value)
cdef object as_rows(object x, object normalized_shape, fln_norm norm)
cdef object as_forward_rows(object x, object normalized_shape, fln_norm norm, bint adds)
cpdef object as_any_floats(str name, object value)
cpdef object as_numbers(str name, object value)
cdef object as_floats_like(str name, object value, object x)
cdef object as_stats(str name, object value, object x)
cdef object as_parameter(str name, object value, object x)
cpdef object converted(str name, object array, int type_num)
cpdef double as_eps(object eps) except -1
cpdef double as_offset(object weight_offset, bint has_weight) except? -1
cpdef tuple as_sizes(object normalized_shape)
cpdef object as_out(object out, str name=*)

# Checks.

# Those of `x` are what the others go with; it may be called otherwise.

cdef int check_matrix(Matrix* m, object x, tuple sizes, str x_name=*) except -1
cdef int check_rows(str name, object a, const Matrix* m, str x_name=*) except -1
cdef int check_same_type(str name, object a, const Matrix* m) except -1
cdef int check_parameter(str name, object a, const Matrix* m, str eps_place=*) except -1
cpdef str reshaping(str name, tuple shape, tuple got)
cdef int check_stats(str name, object a, const Matrix* m, str x_name=*) except -1
cpdef int check_cast(object cast) except -1
cdef int check_out(object out, const Matrix* m, str name=*) except -1
cpdef int check_buffer(str name, object out, int type_num, tuple shape) except -1
cdef int check_apart(str name, object out, object other, str other_name) except -1

# What the kernels can use: the array itself, or a copy. `result` is the array that they write, or None.

cdef object usable_result(object out, const Matrix* m)
cdef object usable_rows(object a, const Matrix* m, object result)
cdef object usable_small(object a, object result)

# The last step: rows at any constant stride.

cdef bint rows_at(const Matrix* m, object a, const void** to, Py_ssize_t* stride) noexcept

# Raises: somebody has changed an argument in between.
cdef int refuse_changes() except -1

# The result into `out`.
cdef int copy_into(object out, object result) except -1
