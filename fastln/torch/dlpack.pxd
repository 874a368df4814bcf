"""DLPack's C structures as far as they are needed: how PyTorch lends its tensors, and makes new ones.

Source: the DLPack specification, version 1.3, section C API (https://dmlc.github.io/dlpack/latest/c_api.html). What is
written here holds for all of version 1.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef enum:
    DLPACK_MAJOR = 1

    # device_type
    DL_CPU = 1

    # DLDataType.code
    DL_FLOAT = 2
    DL_BFLOAT = 4


ctypedef struct DLVersion:
    uint32_t major
    uint32_t minor


ctypedef struct DLDevice:
    int32_t device_type
    int32_t device_id


ctypedef struct DLDataType:
    uint8_t code
    uint8_t bits
    uint16_t lanes


ctypedef struct DLTensor:
    void* data
    DLDevice device
    int32_t ndim
    DLDataType dtype
    int64_t* shape
    int64_t* strides  # in elements
    uint64_t byte_offset


# A tensor with a claim on its memory, which `deleter` gives up.
ctypedef struct DLManaged:
    DLVersion version
    void* manager_ctx
    void (*deleter)(DLManaged*) noexcept
    uint64_t flags
    DLTensor tensor


# Of a type of tensors, the functions for whoever holds the GIL. They return 0, or -1 with an exception set; `allocate`
# tells set_error instead. What `lend` gives is the tensor's own, shape and strides too, and lasts while nobody changes
# the tensor. `to_python` takes the claim over.
ctypedef struct DLExchange:
    DLVersion version
    DLExchange* older  # version, or NULL
    int (*allocate)(
        DLTensor* like, DLManaged** tensor, void* context,
        void (*set_error)(void* context, const char* kind, const char* message) noexcept
    ) noexcept
    int (*from_python)(void* tensor, DLManaged** managed) except -1
    int (*to_python)(DLManaged* managed, void** tensor) except -1
    int (*lend)(void* tensor, DLTensor* lent) noexcept  # may be NULL
    int (*current_stream)(int32_t device_type, int32_t device_id, void** stream) except -1
