"""How many threads a call gets."""

# A call that reads and writes less than this stays on the calling thread.
cdef Py_ssize_t min_parallel_bytes

# Threads for a call of `size` bytes that can be done in up to `parts` parts; `num_threads` (a checked int or None) is
# the limit that the call itself named.
cdef int threads_for(Py_ssize_t parts, Py_ssize_t size, object num_threads) except -1

# Raises unless num_threads is None or an int >= 1.
cdef int check_num_threads(object num_threads) except -1
