"""How numbers are stored: NumPy's types by the kernels' names, and parameters in the type that is computed in.

Numbers of 16 bits are stored only. x, y and their gradients stay as they are, in memory; weight, bias and what is
summed for them are as long as one row, and are widened or rounded once a call.
"""

cimport numpy as cnp

from fastln._core.isa cimport FLN_BF16, FLN_F16, FLN_F32, FLN_F64, fln_element

# NumPy's number of bfloat16, which is a dtype of another package: known since an array of it was met.
cdef int bfloat16_num


cdef inline bint element_of(int type_num, fln_element* element) noexcept:
    """The kernels' name of NumPy's type, if it is one of theirs that was met before."""
    if type_num == cnp.NPY_FLOAT32:
        element[0] = FLN_F32
    elif type_num == cnp.NPY_FLOAT64:
        element[0] = FLN_F64
    elif type_num == bfloat16_num:
        element[0] = FLN_BF16
    elif type_num == cnp.NPY_FLOAT16:
        element[0] = FLN_F16
    else:
        return False
    return True


cdef inline int computed_num(fln_element element) noexcept:
    """NumPy's number of the type that is computed in."""
    return cnp.NPY_FLOAT64 if element == FLN_F64 else cnp.NPY_FLOAT32


cdef inline bint is_narrow(fln_element element) noexcept nogil:
    """Whether it is of 16 bits: stored so, and computed with in another type."""
    return element == FLN_BF16 or element == FLN_F16


# The same of a dtype that may not have been met before, for Python too.
cpdef bint is_element(cnp.dtype dtype)

# Whether this is bfloat16, of whatever package.
cpdef bint is_bfloat16(cnp.dtype dtype)

cdef enum:
    PLACE_DOUBLES = 512  # a parameter of 1024 columns in float; those of longer rows get memory of their own
    PLACES = 3  # weight, dweight and dbias; forward, weight and bias


# Room for parameters while a call lasts, on the stack of its caller: an array more costs as much as a short row.
cdef struct Room:
    fln_element element
    Py_ssize_t cols
    int taken
    int owns
    void* own[PLACES]  # what was allocated without the GIL
    double places[PLACES * PLACE_DOUBLES]


cdef inline void begin_room(Room* room, fln_element element, Py_ssize_t cols) noexcept nogil:
    room.element, room.cols, room.taken, room.owns = element, cols, 0, 0


# The parameter at `to` in the type that is computed in, with so much added to each number; of one that is absent, the
# NULL at `to`, `added` itself. Afterwards it is at `to`, for as long as what is returned and the room are there.
cdef object widened(Room* room, const void** to, bint is_stored, double added)

# The parameters forward as the kernels take them: in the type computed in, the weight with its offset. Of float rows
# they may be absent, but a bias never comes without a weight; of 16-bit rows both are there. What is returned is to be
# kept as long as the room.

cdef inline object scale_at(Room* room, const void** weight, bint is_stored, double offset, bint has_bias):
    """`shift_at` comes after it, where the norm has a bias."""
    if weight[0] == NULL and (has_bias or is_narrow(room.element)):
        offset = 1
    return widened(room, weight, is_stored, offset) if is_stored or offset != 0 else None


cdef inline object shift_at(Room* room, const void** bias, bint is_stored):
    """The same of the bias."""
    if is_stored or (bias[0] == NULL and is_narrow(room.element)):
        return widened(room, bias, is_stored, -0.0)
    return None


# A place for what is summed over rows, which is there for as long; and these sums, rounded to the element.
cdef object take_place(Room* room, void** to)
cdef void narrow(const Room* room, const void* sums, void* to) noexcept nogil

# The same without the GIL, for as long as the room is there, which `end_room` ends. -1: there is no memory.
cdef int widen_in_room(Room* room, const void** to, bint is_stored, double added) noexcept nogil
cdef int take_place_in_room(Room* room, void** to) noexcept nogil
cdef void end_room(Room* room) noexcept nogil
