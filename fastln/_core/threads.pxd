"""How many threads a call may have."""

# The limit of a call that named `num_threads` itself (a checked int), or did not (None).
cdef int thread_limit(object num_threads) except -1

# Whether the calling thread is in a parallel region of somebody else's.
cdef bint in_parallel() noexcept

# To be told before the first parallel loop: a child that is forked afterwards must do without.
cdef void remember_parallel() noexcept

# Raises unless num_threads is None or an int >= 1.
cdef int check_num_threads(object num_threads) except -1
