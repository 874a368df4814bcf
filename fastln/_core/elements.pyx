"""How numbers are stored: bfloat16 without the package that it comes from, and parameters that take another form."""

cimport numpy as cnp
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.float cimport FLT_MAX
from libc.stdlib cimport free, malloc

from fastln._core.isa cimport FLN_F64, active

cnp.import_array()

cdef extern from "Python.h":
    Py_ssize_t PY_SSIZE_T_MAX

cdef extern from "numpy/arrayobject.h":
    enum:
        NPY_USERDEF

bfloat16_num = -1

# What stands in for an absent weight and bias of 16-bit rows: the kernels take both. They change no bit: x_hat * 1 is
# x_hat, and what -0 is added to stays as it is, 0 and -0 too. Longer ones are made for the call.
cdef enum:
    STAND_IN_COLS = 4096

cdef float[STAND_IN_COLS] ones
cdef float[STAND_IN_COLS] negative_zeros


cdef int fill_stand_ins() except -1:
    cdef Py_ssize_t i
    for i in range(STAND_IN_COLS):
        ones[i], negative_zeros[i] = 1, -0.0
    return 0


fill_stand_ins()


cpdef bint is_element(cnp.dtype dtype):
    """Whether x may be of this dtype, in whatever byte order."""
    global bfloat16_num
    cdef fln_element element
    if bfloat16_num < 0 and is_bfloat16(dtype):
        bfloat16_num = dtype.type_num
    return element_of(dtype.type_num, &element)


cpdef bint is_bfloat16(cnp.dtype dtype):
    """By its name: ml_dtypes, whose it is, is not imported for it."""
    return dtype.type_num >= NPY_USERDEF and dtype.itemsize == 2 and dtype.name == "bfloat16"


cdef Py_ssize_t size_of(fln_element element) noexcept nogil:
    """Bytes of a number in the type that is computed in."""
    return sizeof(double) if element == FLN_F64 else sizeof(float)


# Places: of a room, or where that has none left, of memory.

cdef void* place_on_stack(Room* room) noexcept nogil:
    """The next place of the room, NULL where it has none for so many columns."""
    cdef Py_ssize_t size = size_of(room.element)
    if room.cols > <Py_ssize_t> sizeof(double) * PLACE_DOUBLES // size or room.taken == PLACES:
        return NULL
    room.taken += 1
    return room.places + (room.taken - 1) * PLACE_DOUBLES


cdef object take_place(Room* room, void** to):
    cdef Py_ssize_t size = size_of(room.element)
    to[0] = place_on_stack(room)
    if to[0] != NULL:
        return None
    if room.cols > PY_SSIZE_T_MAX // (2 * size):
        raise MemoryError
    own = PyBytes_FromStringAndSize(NULL, room.cols * size)
    to[0] = PyBytes_AS_STRING(own)
    return own


cdef int take_place_in_room(Room* room, void** to) noexcept nogil:
    to[0] = place_on_stack(room)
    if to[0] == NULL and room.owns < PLACES:
        to[0] = malloc(room.cols * size_of(room.element))
        room.own[room.owns] = to[0]
        room.owns += to[0] != NULL
    return 0 if to[0] != NULL else -1


cdef void end_room(Room* room) noexcept nogil:
    cdef int i
    for i in range(room.owns):
        free(room.own[i])
    room.owns = 0


# Parameters

cdef object widened(Room* room, const void** to, bint is_stored, double added):
    cdef void* place
    if room.element != FLN_F64 and abs(added) > FLT_MAX:
        raise ValueError(f"weight_offset must be a value that float32 can hold, got {added}")
    if finds_stand_in(room, to, added):
        return None
    own = take_place(room, &place)
    widen_to(room, to, is_stored, added, place)
    return own


cdef int widen_in_room(Room* room, const void** to, bint is_stored, double added) noexcept nogil:
    cdef void* place
    if finds_stand_in(room, to, added):
        return 0
    if take_place_in_room(room, &place) != 0:
        return -1
    widen_to(room, to, is_stored, added, place)
    return 0


cdef bint finds_stand_in(const Room* room, const void** to, double added) noexcept nogil:
    """Whether there is an array already of what the absent parameter at `to` is to be."""
    if to[0] != NULL or room.element == FLN_F64 or room.cols > STAND_IN_COLS or added != 0 and added != 1:
        return False
    to[0] = <const void*> (&negative_zeros[0] if added == 0 else &ones[0])
    return True


cdef void widen_to(const Room* room, const void** to, bint is_stored, double added, void* place) noexcept nogil:
    cdef const void* given = to[0]
    if is_stored:
        active.elements[<int> room.element].widen(given, place, room.cols)
        given = place
    if room.element == FLN_F64:
        add(<const double*> given, added, <double*> place, room.cols)
    elif given != place or added != 0:
        add(<const float*> given, <float> added, <float*> place, room.cols)
    to[0] = place


ctypedef fused computed:
    float
    double


cdef inline void add(const computed* numbers, computed added, computed* to, Py_ssize_t cols) noexcept nogil:
    """Of numbers that are not there, what is added."""
    cdef Py_ssize_t i
    for i in range(cols):
        to[i] = added if numbers == NULL else numbers[i] + added


cdef void narrow(const Room* room, const void* sums, void* to) noexcept nogil:
    active.elements[<int> room.element].narrow(sums, to, room.cols)
