"""A call over all its rows: the kernels on one thread, or on several.

All arguments have been checked, and all memory stays as it is until these return.
"""

from fastln._core.calls cimport Backward, Forward

# From Python, with the GIL, which small calls keep, on up to `limit` threads. They run no Python code. MemoryError
# where there is no room for sums over rows; nothing has been written then.
cdef int run_forward(Forward* call, int limit) except -1
cdef int run_backward(Backward* call, int limit) except -1

# From anywhere, with the GIL or without. 0, or -1 where those raise MemoryError.
cdef int drive_forward(Forward* call, int limit) noexcept nogil
cdef int drive_backward(Backward* call, int limit) noexcept nogil
