"""A call: what a front door fills in and the driver runs.

It knows memory and no objects: whoever fills it in keeps the arrays alive and as they are until the driver returns.
"""

from fastln._core.isa cimport (
    active,
    fln_backward_args,
    fln_element,
    fln_element_kernels,
    fln_forward_args,
    fln_norm,
    fln_norm_kernels,
)


cdef struct Forward:
    fln_forward_args args  # but for `stream`, which the driver decides
    const fln_element_kernels* element
    const fln_norm_kernels* kernels
    Py_ssize_t rows
    Py_ssize_t bytes  # read and written
    bint is_fresh  # y was allocated for this call: its pages may never have been touched


cdef struct Backward:
    fln_backward_args args  # but for `stream` and the room, which are the driver's
    const fln_element_kernels* element
    const fln_norm_kernels* kernels
    Py_ssize_t bytes  # read and written
    bint is_fresh  # dx was allocated for this call


# The kernels of the active instruction set: read once a call, which keeps them when another thread calls set_isa.

cdef inline void choose_forward(Forward* call, fln_element element, fln_norm norm) noexcept nogil:
    call.element = active.elements + <int> element
    call.kernels = call.element.norms + <int> norm


cdef inline void choose_backward(Backward* call, fln_element element, fln_norm norm) noexcept nogil:
    call.element = active.elements + <int> element
    call.kernels = call.element.norms + <int> norm
