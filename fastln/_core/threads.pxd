"""How many threads a call may have, and how many it gets."""

# The one parse of `num_threads`, at the door of a call, before any array is looked at: TypeError or ValueError unless
# it is None (then 0) or an int >= 1, whose `__index__` is asked once. Costs nothing for None.
cpdef int asked_threads(object num_threads) except -1

# The limit, at least 1, of a call that asked for so many threads itself (0: for none). With the GIL, when the call is
# known to be large enough for threads: a small one need not pay for this.
cdef int limit_of(int asked) except -1

# The same for a call that asked for none, without the GIL: what holds for the process and for this thread of OpenMP's,
# but not the scopes of `threads`, which are Python's. The default must have been asked for before.
cdef int limit_without_gil() noexcept nogil

# Of a call where nobody has asked for anything.
cdef int default_threads() except -1

# Whether the calling thread is in a parallel region of somebody else's.
cdef bint in_parallel() noexcept nogil

# To be asked by a call, right before its first parallel loop, how many threads it gets of the up to `count` that it
# wants: as many as the system grants. A loop that names more than this may end the process. Costs nothing while the
# team does not grow; `has_grown` becomes whether it did, or was tried to.
cdef int team_of(int count, bint* has_grown) noexcept nogil
