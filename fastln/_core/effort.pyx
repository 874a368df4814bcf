"""Which calls get threads: what they cost is measured, and they get them where they save more."""

import os

cimport cython
from cpython.pythread cimport PyThread_get_thread_ident
from libc.math cimport INFINITY

from fastln._core.threads cimport in_parallel, limit_of, team_of

cdef extern from *:
    """
    #include <chrono>
    static double fln_clock(void) {
      return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
    }
    """
    double fln_clock() noexcept nogil

# Below this many bytes read and written, a call stays on the calling thread: one thread takes 5 us for 256 KiB, 1.3
# times as long as two that are awake, and 1.8 times for 0.8 MB (128x768). From there on `Waking` decides.
DEFAULT_MIN_PARALLEL_BYTES = 256 * 1024

# How long the threads have had nothing to do, in kinds that cost alike. OpenMP's threads spin after a parallel loop and
# then sleep: libgomp's spun for 8 ms with the usual settings; not at all with OMP_WAIT_POLICY=passive; for ever with
# active.
cdef enum:
    AWAKE  # less than AWAKE_SECONDS: 1 us to fork and join
    DROWSY  # less than ASLEEP_SECONDS: they may have gone to sleep, or others work on their cores
    ASLEEP
    KINDS
cdef double AWAKE_SECONDS = 500e-6
cdef double ASLEEP_SECONDS = 10e-3

# What is taken for granted until it has been measured. One thread takes 87 us for 4 MiB in the cache (50 GB/s), as long
# as with a second one that sleeps: so waking it costs 40 us there.
cdef double FIRST_SECONDS_PER_BYTE = 20e-12
cdef double FIRST_COST[KINDS]
FIRST_COST[:] = [1e-6, 40e-6, 40e-6]

# The cost of a kind is the second largest of its last so many: one late start is chance, two are the rule.
cdef enum:
    REMEMBERED = 3

# A call that is to pay for waking by itself must save this many times what that costs: for the cost varies, and two
# threads on the same memory save less than half (0.62 to 0.66 of the time at 64 MB, where 0.5 is assumed).
cdef double MARGIN = 2

# Threads that cost too much are tried again when the calls that stayed serial might have saved this many times their
# cost. A trial that turns out cheap spends little of that, and the next follows soon. So trials take at most 1/16 of
# the time with two threads; and since a call that takes more than 1.5 times as long as on one thread costs more than
# twice what it might save, these are fewer than 1 call in 16.
cdef double TRIAL = 8

min_parallel_bytes = DEFAULT_MIN_PARALLEL_BYTES
# When the last call that might have got threads ended, and the last that did, both on this thread.
cdef unsigned long _last_thread = 0
cdef double _last_call = 0
cdef double _last_region = 0


def set_min_parallel_bytes(size: int) -> int:
    """Set the size in bytes below which a call stays serial (FASTLN_MIN_PARALLEL_BYTES); returns the former one.

    Larger calls stay serial too while waking the threads has cost more than they save; 0 excepts none.
    """
    global min_parallel_bytes
    cdef Py_ssize_t former = min_parallel_bytes
    min_parallel_bytes = size
    return former


def get_min_parallel_bytes() -> int:
    """The size in bytes, read and written, below which a call stays serial."""
    return min_parallel_bytes


@cython.auto_pickle(False)
cdef class Waking:
    """What threads have cost, and whether a call is worth them. It knows no clock: all times are arguments, in seconds.

    A call gets threads if what they save pays for what they cost after their pause: in this call alone; or in the calls
    that followed each other up to this one, if after the pauses between them the threads cost less than such a call
    saves; or, rarely, as a trial.

    To wake a thread took 7 ms where the kernel put it on the core on which the caller spins for it: both wait for a
    tick of the scheduler, twice. Another pool that spins on their cores costs as much: 13 calls of 0.4 MB between the
    matrix products of a BERT encoder, with OpenBLAS on the same 2 cores, took 77 ms on two threads and 0.4 ms on one.
    Elsewhere 50 us is usual.
    """
    cdef double costs[KINDS][REMEMBERED]
    cdef int oldest[KINDS]
    cdef bint is_known[KINDS]  # whether threads were woken after such a pause
    cdef double missed[KINDS]  # what serial calls after such pauses might have saved, until it is spent on trials
    cdef double succession  # what those that followed each other might have saved
    cdef double seconds_per_byte  # of serial calls

    def __cinit__(self):
        cdef int kind, i
        for kind in range(KINDS):
            self.oldest[kind] = 0
            self.is_known[kind] = False
            self.missed[kind] = 0
            for i in range(REMEMBERED):
                self.costs[kind][i] = FIRST_COST[kind]
        self.succession = 0
        self.seconds_per_byte = FIRST_SECONDS_PER_BYTE

    cpdef bint is_worth(self, Py_ssize_t size, int count, double gap, double pause):
        """Whether a call of `size` bytes is to get `count` threads.

        It begins `gap` after the end of the call before it, `pause` after the end of the last one on several threads.
        """
        cdef double saved = self.saved(size, count)
        if gap >= ASLEEP_SECONDS:
            self.succession = 0
        return (
            saved >= self.price(pause)
            or saved >= self.price(gap) and self.succession + saved >= self.cost(pause)
            or self.missed[kind_of(pause)] + saved >= TRIAL * self.cost(pause)  # a trial
        )

    cpdef int ran_alone(self, Py_ssize_t size, int count, double seconds, double gap, double pause) except -1:
        """A call that was not worth `count` threads took so many seconds."""
        cdef double saved = self.saved(size, count)
        cdef double known = self.seconds_per_byte
        self.succession += saved
        self.miss(saved, pause)
        if kind_of(gap) != kind_of(pause):  # the calls before it were serial too, else its pause would be as short
            self.miss(saved, gap)
        # By a factor of 2 at most: the thread may have been interrupted.
        self.seconds_per_byte = min(max(seconds / size, known / 2), known * 2)
        return 0

    cdef void miss(self, double saved, double pause):
        cdef int kind = kind_of(pause)
        self.missed[kind] = min(self.missed[kind] + saved, TRIAL * self.cost(pause))

    @cython.cdivision(True)
    cpdef int ran_together(self, int count, Py_ssize_t parts, double seconds, double busy, double pause) except -1:
        """A call on `count` threads took so many seconds; together they worked `busy` seconds on `parts` equal parts.

        Where these do not come out even, the thread with most of them takes longest, however soon it began.
        """
        cdef int kind = kind_of(pause)
        cdef double longest = busy * ((parts + count - 1) // count) / parts
        cdef double cost = max(seconds - longest, 0)
        self.costs[kind][self.oldest[kind]] = cost
        self.oldest[kind] = (self.oldest[kind] + 1) % REMEMBERED
        if kind != AWAKE and not self.is_known[kind]:
            # What waking costs first is believed until the next time, whose place is this one: where it is 7 ms, to pay
            # that twice made the 90th percentile of 25 calls after 20 ms 2 to 4 times that of one thread.
            self.costs[kind][self.oldest[kind]] = cost
            self.is_known[kind] = True
        self.missed[kind] = max(self.missed[kind] - TRIAL * cost, 0)
        self.succession = 0
        return 0

    cpdef double cost(self, double pause) except -1:
        """Seconds that a parallel loop after such a pause takes beyond its work."""
        cdef int kind = kind_of(pause), i
        cdef double largest = 0, second = 0, cost
        for i in range(REMEMBERED):
            cost = self.costs[kind][i]
            second = max(second, min(cost, largest))
            largest = max(cost, largest)
        return second

    cpdef double price(self, double pause) except -1:
        """Seconds that a call must save if it is to pay for its threads by itself."""
        return self.cost(pause) * (1 if kind_of(pause) == AWAKE else MARGIN)

    cpdef double saved(self, Py_ssize_t size, int count) except -1:
        """Seconds by which `count` threads that share the work evenly are faster than one."""
        return size * self.seconds_per_byte * (count - 1) / count


cdef int kind_of(double pause) noexcept:
    return AWAKE if pause < AWAKE_SECONDS else DROWSY if pause < ASLEEP_SECONDS else ASLEEP


cdef Waking _waking = Waking()


cdef int threads_for(Py_ssize_t parts, Py_ssize_t size, int asked, Turn* turn) except -1:
    cdef bint has_grown = False
    turn.limit = turn.count = 1
    if size < min_parallel_bytes or parts < 2 or in_parallel():
        return 1
    turn.limit = <int>min(limit_of(asked), parts)
    if turn.limit == 1:
        return 1
    turn.size = size
    turn.busy = 0
    turn.parts = parts
    turn.began = now()
    turn.gap = turn.pause = INFINITY
    if PyThread_get_thread_ident() == _last_thread:  # each thread has its own team
        turn.gap, turn.pause = turn.began - _last_call, turn.began - _last_region
    if min_parallel_bytes == 0 or _waking.is_worth(size, turn.limit, turn.gap, turn.pause):
        turn.count = team_of(turn.limit, &has_grown)
        if has_grown:  # neither the start of threads nor their being awake now says what it costs to wake them
            turn.began = now()
            turn.gap = turn.pause = 0
    return turn.count


cdef int end_turn(const Turn* turn) except -1:
    global _last_thread, _last_call, _last_region
    cdef unsigned long thread
    if turn.limit == 1:
        return 0
    thread = PyThread_get_thread_ident()
    if thread != _last_thread:
        _last_thread, _last_region = thread, -INFINITY
    _last_call = turn.ended
    if turn.count > 1:
        _last_region = turn.ended
        _waking.ran_together(turn.count, turn.parts, turn.ended - turn.began, turn.busy, turn.pause)
    elif turn.size > 0:
        _waking.ran_alone(turn.size, turn.limit, turn.ended - turn.began, turn.gap, turn.pause)
    return 0


cdef double now() noexcept nogil:
    return fln_clock()


def _configure_from_environment():
    value = os.environ.get("FASTLN_MIN_PARALLEL_BYTES")
    if value:
        if not value.isascii() or not value.isdigit():
            raise ImportError(f"FASTLN_MIN_PARALLEL_BYTES must be a number of bytes, got {value!r}")
        set_min_parallel_bytes(int(value))


_configure_from_environment()
