"""Norms of tensors past PyTorch's dispatcher, which takes longer than the norm where that is tiny.

DLPack's exchange lends the memory of a tensor and says nothing of what else PyTorch attaches to it: gradients, pending
negations, modes that watch every call. So a call is taken only when all of that is known to be absent. None is returned
otherwise, without a reason: then the call is PyTorch's, and so is its error if it is a wrong one.
"""

import torch
cimport numpy as cnp
from cpython.exc cimport PyErr_Clear
from cpython.pycapsule cimport PyCapsule_GetPointer, PyCapsule_IsValid
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF
from cpython.tuple cimport PyTuple_CheckExact
from libc.float cimport DBL_EPSILON, FLT_EPSILON
from libc.stdint cimport int64_t
from torch.autograd import forward_ad

from fastln._core.calls cimport Forward, choose_forward
from fastln._core.drive cimport run_forward
from fastln._core.effort cimport ADD_FORWARD, FORWARD, Tuning, limit_for_size
from fastln._core.elements cimport Room, begin_room, is_narrow, scale_at, shift_at
from fastln._core.isa cimport (
    FLN_BF16,
    FLN_ELEMENTS,
    FLN_F16,
    FLN_F32,
    FLN_F64,
    FLN_LAYER_NORM,
    FLN_RMS_NORM,
    fln_element,
    fln_forward_args,
    fln_norm,
)
from fastln._core.usual cimport are_apart, has_rows_at, usual_eps, usual_normalized
from fastln.torch.dlpack cimport DL_BFLOAT, DL_CPU, DL_FLOAT, DLPACK_MAJOR, DLDataType, DLExchange, DLManaged, DLTensor

cdef extern from "Python.h":
    ctypedef object (*PyCFunction)(PyObject* about, PyObject* nothing)
    ctypedef struct PyMethodDef:
        PyCFunction ml_meth
        int ml_flags
    ctypedef struct PyMethodDescrObject:
        PyMethodDef* d_method
    int METH_NOARGS
    bint PyCFunction_Check(object function) noexcept
    int PyCFunction_GetFlags(object function) noexcept
    PyCFunction PyCFunction_GetFunction(object function) noexcept
    PyObject* PyCFunction_GetSelf(object function) noexcept

cdef object Tensor = torch.Tensor
cdef object Parameter = torch.nn.Parameter


# What PyTorch is asked before each call


cdef const DLExchange* find_exchange() except? NULL:
    """The functions of version 1, NULL where PyTorch has none."""
    cdef const DLExchange* found
    capsule = getattr(Tensor, "__dlpack_c_exchange_api__", None)
    if not PyCapsule_IsValid(capsule, "dlpack_exchange_api"):
        return NULL
    found = <const DLExchange*> PyCapsule_GetPointer(capsule, "dlpack_exchange_api")
    while found != NULL and found.version.major > DLPACK_MAJOR:
        found = found.older
    return found if found != NULL and found.version.major == DLPACK_MAJOR and found.lend != NULL else NULL


cdef const DLExchange* exchange = find_exchange()

# A question to PyTorch about a tensor or the calling thread: a function without arguments, called as CPython would call
# it in the end. That takes 10 ns, and the usual way as much again.
cdef struct Question:
    PyCFunction answer
    PyObject* owner  # of a function of a module


cdef Question question_of(object owner, str name):
    """Without an answer where there is no such function."""
    cdef Question found
    function = getattr(owner, name, None)
    found.answer = NULL
    found.owner = NULL
    if PyCFunction_Check(function) and PyCFunction_GetFlags(function) == METH_NOARGS:
        found.answer, found.owner = PyCFunction_GetFunction(function), PyCFunction_GetSelf(function)
    elif isinstance(function, type(list.copy)) and (<PyMethodDescrObject*> function).d_method.ml_flags == METH_NOARGS:
        found.answer = (<PyMethodDescrObject*> function).d_method.ml_meth
    return found


cdef inline bint ask(const Question* question) except -1:
    return bool(question.answer(question.owner, NULL))


cdef inline bint ask_of(const Question* question, object tensor) except -1:
    return bool(question.answer(<PyObject*> tensor, NULL))


cdef Question are_gradients_on = question_of(torch, "is_grad_enabled")
cdef Question is_inference_on = question_of(torch, "is_inference_mode_enabled")
cdef Question count_dispatch_modes = question_of(torch._C, "_len_torch_dispatch_stack")
cdef Question count_function_modes = question_of(torch._C, "_len_torch_function_stack")
cdef Question is_negated = question_of(Tensor, "is_neg")
cdef Question is_of_inference = question_of(Tensor, "is_inference")
# Functions of another kind; and that a level of forward gradients is open, Python alone knows.
cdef object is_tracing = getattr(torch._C, "_is_tracing", None)
cdef object note_changes = getattr(torch._C, "_increment_version", None)
cdef dict of_forward_gradients = vars(forward_ad)

# Whether this PyTorch has all that is asked. One that has not normalizes every tensor itself.
cdef bint is_known = (
    exchange != NULL and sizeof(cnp.npy_intp) == sizeof(int64_t)
    and are_gradients_on.answer != NULL and is_inference_on.answer != NULL
    and count_dispatch_modes.answer != NULL and count_function_modes.answer != NULL
    and is_negated.answer != NULL and is_of_inference.answer != NULL
    and is_tracing is not None and note_changes is not None and "_current_level" in of_forward_gradients
)


cdef bint is_watched() except -1:
    """Whether anything but the kernel is to see the call: a mode, a tracer, forward gradients.

    The tensors of functorch's transforms lend no memory, and those that do are constants to them.
    """
    return (
        ask(&count_dispatch_modes) or ask(&count_function_modes) or is_tracing()
        or of_forward_gradients["_current_level"] != -1
    )


cdef inline bint is_plain(object a) except -1:
    """Whether an argument is a tensor as it stands in memory, or absent."""
    return a is None or ((type(a) is Tensor or type(a) is Parameter) and not ask_of(&is_negated, a))


cdef inline bint needs_gradient(object a) except -1:
    return a is not None and a.requires_grad


cdef inline bint may_change(object out) except -1:
    """Whether a result that the caller gave may be written to: what was made in inference mode, within it alone."""
    return out is None or ask(&is_inference_on) or not ask_of(&is_of_inference, out)


# Tensors as memory


# No tensor's offset in its storage is as large, in bytes; addresses of memory usually are larger.
cdef size_t NO_OFFSET = <size_t> 1 << 40

# x as rows, found once: what goes with it is compared with this.
cdef struct Rows:
    DLTensor x
    fln_element element
    int lead  # dimensions before the normalized ones
    Py_ssize_t rows
    Py_ssize_t cols
    Py_ssize_t itemsize
    fln_element of_parameters  # FLN_ELEMENTS: none was met


cdef bint lends(object a, DLTensor* t, fln_element* element) noexcept:
    """Whether a tensor is of numbers in the CPU's memory, of a type of the kernels', and lends it."""
    if exchange.lend(<void*> a, t) != 0:
        PyErr_Clear()
        return False
    t.data = <char*> t.data + t.byte_offset
    return (
        t.device.device_type == DL_CPU and find_element(t.dtype, element)
        and t.data != NULL and <size_t> t.data % (t.dtype.bits // 8) == 0
        and (<size_t> t.data >= NO_OFFSET or is_allocated(a))
    )


cdef bint is_allocated(object a) noexcept:
    """Whether there is memory behind a tensor: where it was given back, as by a sharded model, its offset is left."""
    try:
        return a.untyped_storage().data_ptr() != 0
    except Exception:
        return False


cdef inline bint find_element(DLDataType dtype, fln_element* element) noexcept:
    if dtype.lanes != 1:
        return False
    if dtype.code == DL_FLOAT and dtype.bits == 32:
        element[0] = FLN_F32
    elif dtype.code == DL_BFLOAT and dtype.bits == 16:
        element[0] = FLN_BF16
    elif dtype.code == DL_FLOAT and dtype.bits == 16:
        element[0] = FLN_F16
    elif dtype.code == DL_FLOAT and dtype.bits == 64:
        element[0] = FLN_F64
    else:
        return False
    return True


cdef inline bint has_rows(const DLTensor* t, int lead, Py_ssize_t* stride) noexcept:
    return has_rows_at(t.ndim, lead, <const cnp.npy_intp*> t.shape, <const cnp.npy_intp*> t.strides, 1, stride)


cdef inline bint has_sizes(const DLTensor* t, int ndim, const int64_t* sizes) noexcept:
    cdef int i
    if t.ndim != ndim:
        return False
    for i in range(ndim):
        if t.shape[i] != sizes[i]:
            return False
    return True


cdef bint lends_x(Rows* m, object x, object normalized_shape, const void** to, Py_ssize_t* stride) noexcept:
    """The first to be asked: what the others are compared with."""
    cdef int i, normalized
    if not lends(x, &m.x, &m.element):
        return False
    normalized = usual_normalized(m.x.ndim, <const cnp.npy_intp*> m.x.shape, normalized_shape)
    m.lead = m.x.ndim - normalized
    m.itemsize = m.x.dtype.bits // 8
    m.rows = m.cols = 1
    for i in range(m.lead):
        m.rows *= m.x.shape[i]
    for i in range(m.lead, m.x.ndim):
        m.cols *= m.x.shape[i]
    to[0] = m.x.data
    m.of_parameters = FLN_ELEMENTS
    return normalized != 0 and m.rows * m.cols != 0 and has_rows(&m.x, m.lead, stride)


cdef bint lends_rows(const Rows* m, object a, const void** to, Py_ssize_t* stride) noexcept:
    """The residual, and results: x's shape and type."""
    cdef DLTensor t
    cdef fln_element element
    if not lends(a, &t, &element) or element != m.element or not has_sizes(&t, m.x.ndim, m.x.shape):
        return False
    to[0] = t.data
    return has_rows(&t, m.lead, stride)


cdef bint lends_result(const Rows* m, object out, void** to, Py_ssize_t* stride) noexcept:
    """The same, with a place for each number; or absent, for the caller to make one."""
    to[0], stride[0] = NULL, m.cols
    if out is None:
        return True
    return lends_rows(m, out, <const void**> to, stride) and (stride[0] >= m.cols or m.rows == 1)


cdef bint lends_parameter(Rows* m, object a, const void** to) noexcept:
    """weight, bias: normalized_shape, both of x's type or both of the one that is computed in; or absent."""
    cdef DLTensor t
    cdef fln_element element
    cdef Py_ssize_t stride
    to[0] = NULL
    if a is None:
        return True
    if not lends(a, &t, &element) or not has_sizes(&t, m.x.ndim - m.lead, m.x.shape + m.lead):
        return False
    if m.of_parameters == FLN_ELEMENTS:
        m.of_parameters = element
    to[0] = t.data
    return (
        element == m.of_parameters and (element == m.element or (element == FLN_F32 and is_narrow(m.element)))
        and has_rows(&t, 0, &stride)
    )


cdef inline Py_ssize_t extent_of(const Rows* m, Py_ssize_t stride) noexcept:
    """Bytes from the first to the last element of rows at this stride."""
    return ((m.rows - 1) * stride + m.cols) * m.itemsize


cdef inline bint is_apart_or_same(
    const Rows* m, const void* out, Py_ssize_t out_stride, const void* a, Py_ssize_t stride
) noexcept:
    """Whether a result has no byte in common with other rows, or is in their place. NULL: absent."""
    return (out == a and out_stride == stride) or are_apart(out, extent_of(m, out_stride), a, extent_of(m, stride))


cdef bint is_result_apart(const Rows* m, const fln_forward_args* args, const void* out, Py_ssize_t stride) noexcept:
    """The same of a result and all that is read."""
    cdef Py_ssize_t size = extent_of(m, stride)
    cdef Py_ssize_t of_parameter = m.cols * (m.itemsize if m.of_parameters == m.element else <int> sizeof(float))
    return (
        is_apart_or_same(m, out, stride, args.x, args.x_stride)
        and is_apart_or_same(m, out, stride, args.residual, args.residual_stride)
        and are_apart(out, size, args.weight, of_parameter) and are_apart(out, size, args.bias, of_parameter)
    )


cdef object new_rows(const Rows* m, void** to):
    """A new tensor for a result; None where there is no room for one."""
    cdef DLTensor like = m.x
    cdef DLManaged* managed = NULL
    cdef void* made = NULL
    if exchange.allocate(&like, &managed, NULL, ignore_error) != 0:
        PyErr_Clear()
        return None
    to[0] = <char*> managed.tensor.data + managed.tensor.byte_offset
    exchange.to_python(managed, &made)
    tensor = <object> made
    Py_DECREF(tensor)  # the claim that came with it
    return tensor


cdef void ignore_error(void* context, const char* kind, const char* message) noexcept:
    """PyTorch says it again when it allocates for itself."""


# A call


cdef object normalize(
    fln_norm norm, object x, object normalized_shape, object weight, double offset, object bias, object eps,
    bint rounds_x_hat, object out, bint adds=False, object residual=None, object residual_out=None
):
    """y, or y and s where there is a residual; None where the call is PyTorch's."""
    cdef Forward call
    cdef Rows m
    cdef Room room
    cdef bint is_stored
    cdef const Tuning* tuning = &ADD_FORWARD if adds else &FORWARD
    if normalized_shape is None or not is_free(x, weight, bias, residual, out, residual_out):
        return None
    if not PyTuple_CheckExact(normalized_shape) and isinstance(normalized_shape, (tuple, list)):
        normalized_shape = tuple(normalized_shape)
    # From here on no other thread gets a turn, which might change a tensor, until the work begins.
    if not fill_in(&call, &m, norm, x, normalized_shape, weight, bias, eps, adds, residual, out, residual_out):
        return None
    call.args.round_x_hat = rounds_x_hat
    call.bytes = tuning.arrays * m.rows * m.cols * m.itemsize
    begin_room(&room, m.element, m.cols)
    is_stored = is_narrow(m.of_parameters)
    weight = scale_at(&room, &call.args.weight, is_stored and weight is not None, offset, bias is not None)
    bias = shift_at(&room, &call.args.bias, is_stored and bias is not None) if norm == FLN_LAYER_NORM else None
    y, s = out, residual_out
    if y is None:
        y = new_rows(&m, &call.args.y)
    if s is None and adds:
        s = new_rows(&m, &call.args.sum)
    if y is None or (s is None and adds):
        return None
    call.is_fresh = y is not out or s is not residual_out
    run_forward(&call, limit_for_size(tuning, call.bytes, 0))
    if out is not None:
        note_changes((out,))
    if residual_out is not None:
        note_changes((residual_out,))
    return (y, s) if adds else y


cdef bint is_free(object x, object weight, object bias, object residual, object out, object residual_out) except -1:
    """Whether PyTorch attaches nothing to a call and its tensors but numbers in memory."""
    if not is_known or x is None:
        return False
    if not (is_plain(x) and is_plain(weight) and is_plain(bias) and is_plain(residual)):
        return False
    if not (is_plain(out) and is_plain(residual_out) and may_change(out) and may_change(residual_out)):
        return False
    if is_watched():
        return False
    return not ask(&are_gradients_on) or not (
        needs_gradient(x) or needs_gradient(weight) or needs_gradient(bias) or needs_gradient(residual)
        or needs_gradient(out) or needs_gradient(residual_out)
    )


cdef bint fill_in(
    Forward* call, Rows* m, fln_norm norm, object x, object normalized_shape, object weight, object bias, object eps,
    bint adds, object residual, object out, object residual_out
) noexcept:
    """Fills in a call, but for parameters that take another form and results that are not there yet."""
    cdef fln_forward_args* args = &call.args
    args.residual = args.sum = args.mean = args.rstd = NULL
    args.residual_stride = args.sum_stride = 0
    if not (
        lends_x(m, x, normalized_shape, &args.x, &args.x_stride)
        and lends_parameter(m, weight, &args.weight) and lends_parameter(m, bias, &args.bias)
        and lends_result(m, out, &args.y, &args.y_stride)
        and (usual_eps(eps, &args.eps) or (norm == FLN_RMS_NORM and default_eps(m, eps, &args.eps)))
    ):
        return False
    if adds and not (
        lends_rows(m, residual, &args.residual, &args.residual_stride)
        and lends_result(m, residual_out, &args.sum, &args.sum_stride)
        and are_apart(args.y, extent_of(m, args.y_stride), args.sum, extent_of(m, args.sum_stride))
        and is_result_apart(m, args, args.sum, args.sum_stride)
    ):
        return False
    args.cols, call.rows = m.cols, m.rows
    choose_forward(call, m.element, norm)
    return is_result_apart(m, args, args.y, args.y_stride)


cdef inline bint default_eps(const Rows* m, object eps, double* value) noexcept:
    """Whether eps is None; then `value` is the spacing at 1 of the type that is computed in, as in PyTorch."""
    value[0] = DBL_EPSILON if m.element == FLN_F64 else FLT_EPSILON
    return eps is None


# From Python. What they return is what the functions of PyTorch's names do, or None.


def layer_norm(x, normalized_shape, weight, bias, eps, out):
    """y."""
    return normalize(FLN_LAYER_NORM, x, normalized_shape, weight, 0, bias, eps, False, out)


def rms_norm(x, normalized_shape, weight, eps, out, double weight_offset=0, bint rounds_x_hat=False):
    """y, in the rounding order of a model."""
    return normalize(FLN_RMS_NORM, x, normalized_shape, weight, weight_offset, None, eps, rounds_x_hat, out)


def add_layer_norm(x, residual, normalized_shape, weight, bias, eps, out, residual_out):
    """y and s."""
    return normalize(
        FLN_LAYER_NORM, x, normalized_shape, weight, 0, bias, eps, False, out, True, residual, residual_out
    )


def add_rms_norm(x, residual, normalized_shape, weight, eps, out, residual_out):
    """y and s."""
    return normalize(
        FLN_RMS_NORM, x, normalized_shape, weight, 0, None, eps, False, out, True, residual, residual_out
    )


def lacks_gradients_alone(x, weight):
    """Whether it is for a gradient alone that a call with these tensors on the CPU is PyTorch's."""
    cdef DLTensor t
    cdef fln_element element
    if not (is_known and x is not None and is_plain(x) and is_plain(weight)) or is_watched():
        return False
    return ask(&are_gradients_on) and (needs_gradient(x) or needs_gradient(weight)) and lends(x, &t, &element)
