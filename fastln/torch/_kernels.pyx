"""The kernels for PyTorch: the core's side of them, and what `switching` does with them."""

import sys

from cpython.object cimport PyObject
from libc.stdint cimport int64_t
from libc.stdlib cimport free, malloc

from fastln._core.calls cimport Backward, Forward, choose_backward, choose_forward
from fastln._core.drive cimport drive_backward, drive_forward
from fastln._core.effort cimport BACKWARD, FORWARD, Tuning, is_parallel_size
from fastln._core.elements cimport (
    Room,
    begin_room,
    end_room,
    narrow,
    take_place_in_room,
    widen_in_room,
)
from fastln._core.isa cimport (
    FLN_F32,
    FLN_F64,
    FLN_LAYER_NORM,
    active,
    fln_backward_args,
    fln_element,
    fln_forward_args,
    fln_norm,
)
from fastln._core.threads cimport default_threads, limit_without_gil

cdef extern from "errors.h" namespace "fastln_torch" nogil:
    bint remember_error "fastln_torch::note_error"(PyObject* type, const char* message) noexcept

cdef extern from "shim.h" namespace "fastln_torch" nogil:
    struct LibraryOpaque:
        pass
    ctypedef LibraryOpaque* LibraryHandle
    const char* load_torch(const char* library) noexcept
    const char* const* required_names

cdef extern from "tensors.h" namespace "fastln_torch" nogil:
    void read_values() noexcept
    Py_ssize_t size_of(fln_element element) noexcept

cdef extern from "switch.h" namespace "fastln_torch" nogil:
    enum:
        OPERATORS
        OUTCOMES
    void turn(bint is_on) noexcept
    int64_t calls_so_far(int which, int outcome) noexcept
    bint are_callers_gone() noexcept
    void forget_callers() noexcept

cdef extern from "norm_kernels.h" namespace "fastln_torch" nogil:
    struct Norm:
        fln_norm norm
        fln_element element
        fln_forward_args args
        Py_ssize_t rows
        bint is_weight_stored
        bint is_bias_stored
        bint are_stats_stored

    struct Gradients:
        fln_norm norm
        fln_element element
        fln_backward_args args
        bint is_weight_stored
        bint is_bias_stored
        bint are_stats_stored

    struct Core:
        int (*normalize)(const Norm*) noexcept
        int (*find_gradients)(const Gradients*) noexcept

    Core core
    int torch_threads() noexcept
    LibraryHandle register_lasting() noexcept
    LibraryHandle register_switched() noexcept
    void unregister_kernels(LibraryHandle library) noexcept

# The names of the outcomes of `switch.h`, but for the first one, which is that the call was taken.
REASONS = ("dtype", "mixed dtypes", "layout", "empty", "arguments", "memory", "switched off")

OPERATOR_NAMES = (
    "native_layer_norm", "native_layer_norm_backward", "_fused_rms_norm", "_fused_rms_norm_backward"
)

cdef LibraryHandle lasting = NULL
cdef LibraryHandle switched = NULL


# What the kernels call, without the GIL. Results have just been allocated, so they are fresh: the driver takes nothing
# for granted of storing them past the cache.

cdef int limit_for(const Tuning* tuning, Py_ssize_t size) noexcept nogil:
    """The most threads of a call of so many bytes: what fastln allows, and PyTorch."""
    return min(limit_without_gil(), torch_threads()) if is_parallel_size(tuning, size) else 1


cdef inline bint is_narrow(fln_element element) noexcept nogil:
    """Whether numbers are computed in another type than they are stored in."""
    return element != FLN_F32 and element != FLN_F64


cdef int normalize(const Norm* norm) noexcept nogil:
    cdef Forward call
    cdef Room room
    cdef Py_ssize_t rows = norm.rows
    cdef float* stats = NULL
    cdef int status
    call.args = norm.args
    call.rows = rows
    call.bytes = FORWARD.arrays * rows * norm.args.cols * size_of(norm.element)
    call.is_fresh = True
    choose_forward(&call, norm.element, norm.norm)
    if norm.are_stats_stored:
        stats = <float*> malloc(2 * rows * sizeof(float))
        if stats == NULL:
            return -1
        call.args.mean, call.args.rstd = stats, stats + rows
    begin_room(&room, norm.element, norm.args.cols)
    status = widen_parameters(&call, norm, &room)
    if status == 0:
        status = drive_forward(&call, limit_for(&FORWARD, call.bytes))
    if status == 0 and stats != NULL:
        active.elements[<int> norm.element].narrow(stats, norm.args.mean, rows)
        active.elements[<int> norm.element].narrow(stats + rows, norm.args.rstd, rows)
    end_room(&room)
    free(stats)
    return status


cdef int widen_parameters(Forward* call, const Norm* norm, Room* room) noexcept nogil:
    """As the kernels take them. Of floats a bias never comes without a weight; of 16 bits, both are always there."""
    cdef bint needs_weight = is_narrow(norm.element) or call.args.bias != NULL
    if norm.is_weight_stored or call.args.weight == NULL and needs_weight:
        if widen_in_room(room, &call.args.weight, norm.is_weight_stored, 0 if norm.is_weight_stored else 1) != 0:
            return -1
    if norm.is_bias_stored or call.args.bias == NULL and is_narrow(norm.element) and norm.norm == FLN_LAYER_NORM:
        return widen_in_room(room, &call.args.bias, norm.is_bias_stored, -0.0)
    return 0


cdef int find_gradients(const Gradients* gradients) noexcept nogil:
    cdef Backward call
    cdef Room room
    cdef Py_ssize_t rows = gradients.args.rows
    cdef float* stats = NULL
    cdef int status
    call.args = gradients.args
    call.bytes = BACKWARD.arrays * rows * gradients.args.cols * size_of(gradients.element)
    call.is_fresh = True
    choose_backward(&call, gradients.element, gradients.norm)
    if gradients.are_stats_stored:
        stats = <float*> malloc(2 * rows * sizeof(float))
        if stats == NULL:
            return -1
        active.elements[<int> gradients.element].widen(gradients.args.mean, stats, rows)
        active.elements[<int> gradients.element].widen(gradients.args.rstd, stats + rows, rows)
        call.args.mean, call.args.rstd = stats, stats + rows
    begin_room(&room, gradients.element, gradients.args.cols)
    status = take_places(&call, gradients, &room)
    if status == 0:
        status = drive_backward(&call, limit_for(&BACKWARD, call.bytes))
    if status == 0:
        if call.args.dweight != gradients.args.dweight:
            narrow(&room, call.args.dweight, gradients.args.dweight)
        if call.args.dbias != gradients.args.dbias:
            narrow(&room, call.args.dbias, gradients.args.dbias)
    end_room(&room)
    free(stats)
    return status


cdef int take_places(Backward* call, const Gradients* gradients, Room* room) noexcept nogil:
    """The weight as the kernels take it, and places for sums that are rounded afterwards."""
    cdef bint are_sums = call.args.dweight != NULL or call.args.dbias != NULL
    cdef bint needs_weight = is_narrow(gradients.element) or call.args.dx != NULL and are_sums
    cdef bint is_stored = gradients.is_weight_stored
    if is_stored or call.args.weight == NULL and needs_weight:
        if widen_in_room(room, &call.args.weight, is_stored, 0 if is_stored else 1) != 0:
            return -1
    if is_stored and call.args.dweight != NULL and take_place_in_room(room, &call.args.dweight) != 0:
        return -1
    if gradients.is_bias_stored and call.args.dbias != NULL:
        return take_place_in_room(room, &call.args.dbias)
    return 0


# From Python, in one thread at a time


def load() -> str | None:
    """Find PyTorch's stable interface in the process. Returns None, or the first thing that is missing."""
    library = b"libtorch_cpu.dylib" if sys.platform == "darwin" else b"libtorch_cpu.so"
    cdef const char* missing = load_torch(library)  # which may be `library` itself
    if missing != NULL:
        return missing.decode()
    read_values()
    default_threads()
    core.normalize, core.find_gradients = normalize, find_gradients
    return None


def required_functions() -> tuple[str, ...]:
    """Names of the functions of PyTorch's stable interface that must be there."""
    names = []
    cdef int i = 0
    while required_names[i] != NULL:
        names.append(required_names[i].decode())
        i += 1
    return tuple(names)


def is_registered() -> bool:
    """Whether the kernels are in PyTorch's dispatcher."""
    return switched != NULL


def register() -> None:
    """Put the kernels in front of PyTorch's own. They must not be there already."""
    global lasting, switched
    forget_callers()
    if lasting == NULL:
        lasting = register_lasting()
    if lasting != NULL:
        switched = register_switched()
    if switched == NULL:
        raise RuntimeError("PyTorch refused the kernels of fastln")


def unregister() -> bool:
    """Take them away, if nobody but this thread has called them: the dispatcher is not made for that under calls."""
    global switched
    if switched == NULL or not are_callers_gone():
        return switched == NULL
    unregister_kernels(switched)
    switched = NULL
    return True


def switch(is_on: bool) -> None:
    """Have the kernels take calls, or pass all of them on."""
    turn(is_on)


def counts() -> list[list[int]]:
    """For each operator the calls that were taken, and those that were passed on for each of `REASONS`."""
    return [[calls_so_far(which, outcome) for outcome in range(OUTCOMES)] for which in range(OPERATORS)]


def note_error(error: BaseException) -> None:
    """Note the error of PyTorch's own kernel, for the kernel that has passed a call on to raise it."""
    kind, message = type(error), str(error).encode("utf-8", "surrogateescape")
    if not remember_error(<PyObject*> kind, message):
        raise error
