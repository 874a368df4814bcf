"""The active kernel table, for the modules that call kernels."""

cdef extern from "fastln.h" nogil:
    ctypedef enum fln_element:
        FLN_F32
        FLN_F64
        FLN_BF16
        FLN_F16
        FLN_ELEMENTS

    ctypedef enum fln_norm:
        FLN_LAYER_NORM
        FLN_RMS_NORM
        FLN_NORMS

    ctypedef struct fln_forward_args:
        const void* x
        const void* residual
        void* sum
        void* y
        const void* weight
        const void* bias
        void* mean
        void* rstd
        Py_ssize_t x_stride
        Py_ssize_t residual_stride
        Py_ssize_t sum_stride
        Py_ssize_t y_stride
        Py_ssize_t cols
        double eps
        int stream
        int round_x_hat

    enum:
        FLN_FORWARD_SEGMENT_COLS
        FLN_FORWARD_SUMS

    ctypedef struct fln_backward_args:
        const void* dy
        const void* x
        const void* ds
        const void* mean
        const void* rstd
        const void* weight
        void* dx
        void* dweight
        void* dbias
        Py_ssize_t dy_stride
        Py_ssize_t x_stride
        Py_ssize_t ds_stride
        Py_ssize_t dx_stride
        Py_ssize_t rows
        Py_ssize_t cols
        int stream
        double* dweight_totals
        double* dbias_totals
        void* terms

    ctypedef struct fln_backward_parts:
        Py_ssize_t chunks
        Py_ssize_t blocks
        Py_ssize_t totals
        size_t terms

    ctypedef struct fln_norm_kernels:
        void (*forward)(const fln_forward_args* args, Py_ssize_t first, Py_ssize_t last) noexcept nogil
        void (*forward_sums)(
            const fln_forward_args* args, Py_ssize_t row, Py_ssize_t segment, double* sums
        ) noexcept nogil
        void (*forward_columns)(
            const fln_forward_args* args, Py_ssize_t row, const double* sums, Py_ssize_t first, Py_ssize_t last
        ) noexcept nogil
        void (*backward)(const fln_backward_args* args, Py_ssize_t chunk) noexcept nogil
        void (*backward_terms)(const fln_backward_args* args, Py_ssize_t block) noexcept nogil
        void (*backward_columns)(
            const fln_backward_args* args, Py_ssize_t chunk, Py_ssize_t first, Py_ssize_t last
        ) noexcept nogil

    ctypedef struct fln_element_kernels:
        fln_norm_kernels* norms
        void (*add)(
            const fln_forward_args* args, Py_ssize_t row, Py_ssize_t first, Py_ssize_t last
        ) noexcept nogil
        void (*divide)(Py_ssize_t rows, Py_ssize_t cols, fln_backward_parts* parts) noexcept nogil
        void (*merge)(const fln_backward_args* args) noexcept nogil
        void (*widen)(const void* stored, void* to, Py_ssize_t n) noexcept nogil
        void (*narrow)(const void* computed, void* to, Py_ssize_t n) noexcept nogil

    ctypedef struct fln_kernels:
        const char* isa
        const fln_element_kernels* elements

# Read once a call: a call that has begun keeps its kernels when another thread calls set_isa.
cdef const fln_kernels* active
