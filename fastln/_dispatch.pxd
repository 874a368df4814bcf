"""The active kernel table, for the modules that call it."""

cdef extern from "fastln.h" nogil:
    ctypedef struct fln_layer_norm_forward_args:
        const void* x
        void* y
        const void* weight
        const void* bias
        void* mean
        void* rstd
        Py_ssize_t x_stride
        Py_ssize_t y_stride
        Py_ssize_t cols
        double eps

    ctypedef void (*fln_layer_norm_forward)(
        const fln_layer_norm_forward_args* args, Py_ssize_t first, Py_ssize_t last
    ) noexcept nogil

    ctypedef struct fln_kernels:
        const char* isa
        fln_layer_norm_forward layer_norm_forward_f32
        fln_layer_norm_forward layer_norm_forward_f64

# Read once a call: a call that has begun keeps its kernels when another thread calls set_isa.
cdef const fln_kernels* active
