"""A call over all its rows: the kernels on one thread, or on several.

All arguments have been checked, and all memory stays as it is until these return.
"""

from fastln._core.calls cimport Backward, Forward
from fastln._core.isa cimport fln_element_kernels

# From Python, with the GIL, which small calls keep, on up to `limit` threads. They run no Python code. MemoryError
# where there is no room for sums over rows; nothing has been written then.
cdef int run_forward(Forward* call, int limit) except -1
cdef int run_backward(Backward* call, int limit) except -1

# From anywhere, with the GIL or without. 0, or -1 where those raise MemoryError.
cdef int drive_forward(Forward* call, int limit) noexcept nogil
cdef int drive_backward(Backward* call, int limit) noexcept nogil

# For who has the room for the sums already, so many doubles: there is no error.
cdef Py_ssize_t room_for_sums(const fln_element_kernels* element, Py_ssize_t rows, Py_ssize_t cols) noexcept nogil
cdef void drive_backward_within(Backward* call, double* room, int limit) noexcept nogil
