"""Whether a large result is stored in the cache or past it: tried both ways, and remembered for calls of that shape.

What pays depends on how much of the last-level cache this process really has, which no file tells: on a server the
others use it too. With the same 32 MB, float32 forward 2048x1024 (17 MB) took 0.36 of the time past the cache on one
machine; on another 1024x1024 (8 MB) took 1.2 times as long, and 4096x768 (25 MB) 0.9 on one thread and 1.4 on two. The
bits are the same either way.
"""

cimport cython
from libc.math cimport INFINITY

from fastln._dispatch cimport default_stream_bytes, stream_bytes

cdef extern from *:
    """
    #include <chrono>
    static double fln_clock(void) {
      return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
    }
    """
    double fln_clock() noexcept nogil

# Shapes that are remembered, each in the place that its numbers give; a newcomer to the place begins anew.
cdef enum:
    PLACES = 256
cdef Trials table[PLACES]

# Nothing smaller than this part of the last-level cache gains from going past it.
cdef Py_ssize_t TRIED_SHARE = 8
# The first calls of a shape take turns: two each, since the first one of all finds its memory cold.
cdef Py_ssize_t FIRST_CALLS = 4
# From then on the other way is tried again once in so many calls: it may take 2.5 times as long, so 1 % of the time.
cdef Py_ssize_t TRIED_AGAIN = 128
# Past the cache only if that takes less than this part of the time, since who reads the result then finds it in memory.
cdef double GAIN = 0.9
# The best time of a way ages by this factor a call, so that a neighbour who has gone is noticed.
cdef double AGEING = 1.02


cdef double clock() noexcept nogil:
    """Seconds from some moment on."""
    return fln_clock()


@cython.cdivision(True)
cdef Trials* trials_of(int operation, Py_ssize_t rows, Py_ssize_t size, int threads) noexcept:
    """What is known of a shape; NULL where there is nothing to find out: it is small, or somebody set the limit."""
    if size < default_stream_bytes // TRIED_SHARE or stream_bytes != default_stream_bytes:
        return NULL
    cdef size_t place = (<size_t> size * 31 + <size_t> rows) * 31 + <size_t> threads * 2 + operation
    cdef Trials* trials = &table[(place ^ (place >> 17)) % PLACES]
    if trials.size != size or trials.rows != rows or trials.threads != threads or trials.operation != operation:
        trials.operation, trials.threads, trials.rows, trials.size = operation, threads, rows, size
        trials.calls = 0
        trials.best[0] = trials.best[1] = INFINITY
    return trials


@cython.cdivision(True)
cdef bint goes_past(Trials* trials, Py_ssize_t size, Py_ssize_t least) noexcept:
    """The way of the next call; `least` is the size in bytes from which it is past the cache if nothing is known."""
    cdef bint usual = size >= least
    if trials == NULL:
        return usual
    trials.calls += 1
    if trials.calls <= FIRST_CALLS:
        return usual if trials.calls % 2 else not usual
    cdef bint better = trials.best[1] < GAIN * trials.best[0]
    return better if trials.calls % TRIED_AGAIN else not better


cdef void tell(Trials* trials, bint past, double seconds) noexcept:
    """What a call took."""
    if trials != NULL:
        trials.best[past] = min(seconds, AGEING * trials.best[past])


def next_choice(operation, rows, size, threads, least):
    """Whether the next call of a shape (rows, and bytes read and written) goes past the cache."""
    return bool(goes_past(trials_of(operation, rows, size, threads), size, least))


def tell_seconds(operation, rows, size, threads, past, seconds):
    """What that call took, in seconds."""
    tell(trials_of(operation, rows, size, threads), past, seconds)


def forget():
    """Forget all shapes."""
    for i in range(PLACES):
        table[i].size = -1


forget()
