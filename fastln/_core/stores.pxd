# A call that reads and writes as much (gradients: a quarter) stores its result past the cache, if nobody knows better.
cdef Py_ssize_t stream_bytes

# The same if nobody has set another: the size of the last-level cache.
cdef Py_ssize_t default_stream_bytes

# Whether somebody has set stream_bytes, perhaps to that very size.
cdef bint stream_bytes_were_set

# Which result; what is measured of one is not said of the other.
cdef enum:
    FORWARD = 0
    BACKWARD = 1

# What calls have in common whose times are compared.
cdef struct Shape:
    int operation
    int threads
    Py_ssize_t rows
    Py_ssize_t cols
    Py_ssize_t size  # bytes read and written

# Whether calls of a shape are tried both ways, and so are to be told: not if it is small, or somebody set the limit.
cdef bint is_tried(const Shape* shape) noexcept

# Whether the next call of a shape goes past the cache; `least` is the size from which it does if nothing is known.
cdef bint goes_past(const Shape* shape, Py_ssize_t least) noexcept

# What that call took.
cdef void tell(const Shape* shape, bint past, double seconds) noexcept
