from fastln._dispatch cimport stream_bytes

# Which result; what is measured of one is not said of the other.
cdef enum:
    FORWARD = 0
    BACKWARD = 1

# A shape that calls are made with, and what it took to store the result either way.
cdef struct Trials:
    int operation
    int threads
    Py_ssize_t rows
    Py_ssize_t size
    Py_ssize_t calls
    double best[2]  # seconds: into the cache, past it

cdef Trials* trials_of(int operation, Py_ssize_t rows, Py_ssize_t size, int threads) noexcept
cdef bint goes_past(Trials* trials, Py_ssize_t size, Py_ssize_t least) noexcept
cdef void tell(Trials* trials, bint past, double seconds) noexcept
cdef double clock() noexcept nogil
