"""How many threads a call gets."""

# A call that reads and writes less than this stays on the calling thread.
cdef Py_ssize_t min_parallel_bytes


# A call from the choice of its threads to its end. Whoever does its work fills in the last three.
cdef struct Turn:
    int limit  # threads that it may have
    int count  # threads that it gets
    Py_ssize_t size
    double gap  # seconds since the end of the call before it on this thread
    double pause  # seconds since the end of the last one on several threads
    double began
    double ended
    double busy  # seconds of work of all its threads
    Py_ssize_t parts  # of equal work, which they shared


# Threads for a call of `size` bytes that can be done in up to `parts` parts; `asked` is what the call itself named
# (asked_threads).
cdef int threads_for(Py_ssize_t parts, Py_ssize_t size, int asked, Turn* turn) except -1

# What the call took is remembered for the choices to come.
cdef int end_turn(const Turn* turn) except -1

# Seconds of a clock that never goes back.
cdef double now() noexcept nogil
