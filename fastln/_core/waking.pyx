"""Which calls get threads: what they have cost is remembered, and they get them where they save more."""

cimport cython

cdef double AWAKE_SECONDS = 500e-6
cdef double ASLEEP_SECONDS = 10e-3

# What is taken for granted until it has been measured. One thread takes 87 us for 4 MiB in the cache (50 GB/s), as long
# as with a second one that sleeps: so waking it costs 40 us there.
cdef double FIRST_SECONDS_PER_BYTE = 20e-12
cdef double FIRST_COST[KINDS]
FIRST_COST[:] = [1e-6, 40e-6, 40e-6]

# A call that is to pay for waking by itself must save this many times what that costs: for the cost varies, and two
# threads on the same memory save less than half (0.62 to 0.66 of the time at 64 MB, where 0.5 is assumed).
cdef double MARGIN = 2

# Threads that cost too much are tried again when the calls that stayed serial might have saved this many times their
# cost. A trial that turns out cheap spends little of that, and the next follows soon. So trials take at most 1/16 of
# the time with two threads; and since a call that takes more than 1.5 times as long as on one thread costs more than
# twice what it might save, these are fewer than 1 call in 16.
cdef double TRIAL = 8


@cython.final
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

    cpdef bint is_worth(self, Py_ssize_t size, int count, double gap, double pause) noexcept nogil:
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

    @cython.cdivision(True)
    cpdef void ran_alone(self, Py_ssize_t size, int count, double seconds, double gap, double pause) noexcept nogil:
        """A call that was not worth `count` threads took so many seconds."""
        cdef double saved = self.saved(size, count)
        cdef double known = self.seconds_per_byte
        self.succession += saved
        self.miss(saved, pause)
        if kind_of(gap) != kind_of(pause):  # the calls before it were serial too, else its pause would be as short
            self.miss(saved, gap)
        # By a factor of 2 at most: the thread may have been interrupted.
        self.seconds_per_byte = min(max(seconds / size, known / 2), known * 2)

    cdef void miss(self, double saved, double pause) noexcept nogil:
        cdef int kind = kind_of(pause)
        self.missed[kind] = min(self.missed[kind] + saved, TRIAL * self.cost(pause))

    @cython.cdivision(True)
    cpdef void ran_together(
        self, int count, Py_ssize_t parts, double seconds, double busy, double pause
    ) noexcept nogil:
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

    cpdef double cost(self, double pause) noexcept nogil:
        """Seconds that a parallel loop after such a pause takes beyond its work."""
        cdef int kind = kind_of(pause), i
        cdef double largest = 0, second = 0, cost
        for i in range(REMEMBERED):
            cost = self.costs[kind][i]
            second = max(second, min(cost, largest))
            largest = max(cost, largest)
        return second

    cpdef double price(self, double pause) noexcept nogil:
        """Seconds that a call must save if it is to pay for its threads by itself."""
        return self.cost(pause) * (1 if kind_of(pause) == AWAKE else MARGIN)

    @cython.cdivision(True)
    cpdef double saved(self, Py_ssize_t size, int count) noexcept nogil:
        """Seconds by which `count` threads that share the work evenly are faster than one."""
        return size * self.seconds_per_byte * (count - 1) / count


cdef int kind_of(double pause) noexcept nogil:
    return AWAKE if pause < AWAKE_SECONDS else DROWSY if pause < ASLEEP_SECONDS else ASLEEP
