"""Whether a large result is stored in the cache or past it: tried both ways, and remembered for calls of that shape.

What pays depends on how much of the last-level cache this process really has, which no file tells: on a server the
others use it too. With the same 32 MB, float32 forward 2048x1024 (17 MB) took 0.36 of the time past the cache on one
machine; on another 1024x1024 (8 MB) took 1.2 times as long, and 4096x768 (25 MB) 0.9 on one thread and 1.4 on two. The
bits are the same either way.

Nothing here knows a clock or a limit: `effort` says which calls are tried, and what they took.
"""

cimport cython
from libc.math cimport INFINITY


# A shape, and what it took to store the result either way.
cdef struct Trials:
    Shape shape
    Py_ssize_t calls
    double best[2]  # seconds: into the cache, past it

# Shapes that are remembered, each in the place that its numbers give; a newcomer to the place begins anew.
cdef enum:
    PLACES = 256
cdef Trials table[PLACES]

# The first calls of a shape go the usual way, twice the other, and the usual way again: the first one of all finds its
# memory cold, and two callers of one shape who take turns both get to know both ways.
cdef Py_ssize_t FIRST_CALLS = 4
# From then on the other way is tried again once in so many calls: it may take 2.5 times as long, so 1 % of the time. An
# odd number, for callers who take turns.
cdef Py_ssize_t TRIED_AGAIN = 127
# Past the cache only if that takes less than this part of the time, since who reads the result then finds it in memory.
cdef double GAIN = 0.9
# The best time of a way ages by this factor with each call that goes it, so that a new neighbour is noticed.
cdef double AGEING = 1.02


@cython.cdivision(True)
cdef Trials* place_of(const Shape* shape) noexcept nogil:
    """Where a shape is remembered, or another one that has taken its place."""
    cdef size_t place = <size_t> shape.size * 31 + <size_t> shape.rows
    place = (place * 31 + <size_t> shape.cols) * 31 + <size_t> (
        2 * (4 * shape.threads + shape.direction) + shape.is_fresh
    )
    return &table[(place ^ (place >> 17)) % PLACES]


cdef bint is_same(const Shape* a, const Shape* b) noexcept nogil:
    return (
        a.size == b.size and a.rows == b.rows and a.cols == b.cols and a.threads == b.threads
        and a.direction == b.direction and a.is_fresh == b.is_fresh
    )


@cython.cdivision(True)
cdef bint goes_past(const Shape* shape, bint usual) noexcept nogil:
    cdef Trials* trials = place_of(shape)
    if not is_same(&trials.shape, shape):
        trials.shape = shape[0]
        trials.calls = 0
        trials.best[0] = trials.best[1] = INFINITY
    trials.calls += 1
    if trials.calls <= FIRST_CALLS:
        return usual if trials.calls == 1 or trials.calls == FIRST_CALLS else not usual
    cdef bint better = trials.best[1] < GAIN * trials.best[0]
    return better if trials.calls % TRIED_AGAIN else not better


cdef void tell(const Shape* shape, bint past, double seconds) noexcept nogil:
    cdef Trials* trials = place_of(shape)
    if is_same(&trials.shape, shape):  # another thread may have given the place away
        trials.best[past] = min(seconds, AGEING * trials.best[past])


def calls_of(direction, threads, rows, cols, size):
    """How many calls of a shape are remembered, with fresh results or others."""
    cdef Shape shape
    cdef Trials* trials
    calls = 0
    for is_fresh in range(2):
        shape = Shape(direction, threads, rows, cols, size, is_fresh)
        trials = place_of(&shape)
        calls += trials.calls if is_same(&trials.shape, &shape) else 0
    return calls


def forget():
    """Forget all shapes."""
    for i in range(PLACES):
        table[i].shape.size = -1


forget()
