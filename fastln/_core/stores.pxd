"""Whether a large result is stored in the cache or past it: tried both ways, and remembered for calls of that shape."""


# What calls have in common whose times are compared.
cdef struct Shape:
    int direction
    int threads
    Py_ssize_t rows
    Py_ssize_t cols
    Py_ssize_t size  # bytes read and written
    bint is_fresh  # whether the result was allocated for the call: its pages may never have been touched

# Whether the next call of a shape goes past the cache; `usual`: whether it does if nothing is known.
cdef bint goes_past(const Shape* shape, bint usual) noexcept nogil

# What that call took.
cdef void tell(const Shape* shape, bint past, double seconds) noexcept nogil
