"""How much effort a call gets: how many threads, whether the GIL is kept, whether its result goes past the cache.

Every threshold of these is in this module.
"""

cimport numpy as cnp

from fastln._core.stores cimport Shape
from fastln._core.threads cimport limit_of

# A call that reads and writes less than this stays on the calling thread.
cdef Py_ssize_t min_parallel_bytes

# A call that reads and writes as much stores its result past the cache, if nobody knows better.
cdef Py_ssize_t stream_bytes

# Releasing and taking back the GIL costs about 0.1 us; layer norm of this many bytes, read and written, takes 1 us.
cdef enum:
    KEEP_GIL_BYTES = 32 * 1024

# A thread that shares long rows with others takes at least this many columns, in whole cache lines.
cdef enum:
    COLUMNS_PER_THREAD = 1024


# What differs between the directions.
cdef struct Tuning:
    int direction  # what is measured of one is not said of the other
    int arrays  # of x's size that are read and written
    Py_ssize_t parallel_factor  # of min_parallel_bytes
    Py_ssize_t stream_share  # of stream_bytes

cdef Tuning FORWARD
cdef Tuning BACKWARD
# With a residual, which adds two arrays; with what flows into its sum beside y, which adds one.
cdef Tuning ADD_FORWARD
cdef Tuning ADD_BACKWARD


# A call from the choice of its effort to its end. `ended` comes from whoever does the work; so do busy and parts, where
# it is done on several threads.
cdef struct Effort:
    double busy  # seconds of work of all its threads
    Py_ssize_t parts  # of equal work, which they shared
    double ended
    int threads  # that it gets
    bint stream  # whether its result goes past the cache
    bint is_timed  # whether anybody wants to know how long it took; no clock is read otherwise
    bint is_tried  # whether it is one of those that find out which way is faster
    int limit  # threads that it might have had
    double gap  # seconds since the end of the call before it on this thread
    double pause  # seconds since the end of the last one on several threads
    double began
    Shape shape


cdef inline bint is_small(const Tuning* tuning, Py_ssize_t size) noexcept nogil:
    """Whether there is nothing to decide: one thread, which keeps the GIL, and a result that stays in the cache."""
    return size < KEEP_GIL_BYTES and size < min_parallel_bytes and size * tuning.stream_share < stream_bytes


# Whether a call of so many bytes may have threads.
cdef bint is_parallel_size(const Tuning* tuning, Py_ssize_t size) noexcept nogil


cdef inline int limit_for(const Tuning* tuning, object x, int asked) except -1:
    """The most threads that a call with this x may have, which asked for so many itself (0: for none).

    May run Python code, so it is to be known before any array is looked at.
    """
    if not cnp.PyArray_Check(x):
        return 1
    return limit_for_size(tuning, tuning.arrays * cnp.PyArray_NBYTES(<cnp.ndarray> x), asked)


cdef inline int limit_for_size(const Tuning* tuning, Py_ssize_t size, int asked) except -1:
    """The same of a call that reads and writes so many bytes."""
    if size < min_parallel_bytes or not is_parallel_size(tuning, size):
        return 1
    return limit_of(asked)


# Decides. The shape comes without its threads; the work can be done in up to `parts` parts, on up to `limit` threads.
cdef void begin(
    Effort* effort, const Tuning* tuning, const Shape* shape, Py_ssize_t parts, int limit, bint may_stream
) noexcept nogil

# The effort of a call that is small.
cdef void begin_small(Effort* effort) noexcept nogil

# How many threads a sequence gets, of at most `limit`: of so many bytes, read and written, and so many products of two
# numbers in each of its steps, after which the threads wait for each other.
cdef int threads_of_sequence(Py_ssize_t size, double products, int limit) noexcept nogil

# What the call took is remembered for the choices to come.
cdef void end(const Effort* effort) noexcept nogil

# Seconds of a clock that never goes back.
cdef double now() noexcept nogil
