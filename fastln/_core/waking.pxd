"""Which calls get threads: what they have cost is remembered, and they get them where they save more."""

# How long the threads have had nothing to do, in kinds that cost alike. OpenMP's threads spin after a parallel loop and
# then sleep: libgomp's spun for 8 ms with the usual settings; not at all with OMP_WAIT_POLICY=passive; for ever with
# active.
cdef enum:
    AWAKE  # less than AWAKE_SECONDS: 1 us to fork and join
    DROWSY  # less than ASLEEP_SECONDS: they may have gone to sleep, or others work on their cores
    ASLEEP
    KINDS

# The cost of a kind is the second largest of its last so many: one late start is chance, two are the rule.
cdef enum:
    REMEMBERED = 3


cdef class Waking:
    cdef double costs[KINDS][REMEMBERED]
    cdef int oldest[KINDS]
    cdef bint is_known[KINDS]  # whether threads were woken after such a pause
    cdef double missed[KINDS]  # what serial calls after such pauses might have saved, until it is spent on trials
    cdef double succession  # what those that followed each other might have saved
    cdef double seconds_per_byte  # of serial calls

    cpdef bint is_worth(self, Py_ssize_t size, int count, double gap, double pause) noexcept nogil
    cpdef void ran_alone(self, Py_ssize_t size, int count, double seconds, double gap, double pause) noexcept nogil
    cpdef void ran_together(
        self, int count, Py_ssize_t parts, double seconds, double busy, double pause
    ) noexcept nogil
    cpdef double cost(self, double pause) noexcept nogil
    cpdef double price(self, double pause) noexcept nogil
    cpdef double saved(self, Py_ssize_t size, int count) noexcept nogil
    cdef void miss(self, double saved, double pause) noexcept nogil
