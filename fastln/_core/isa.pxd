"""The active kernel table, for the modules that call kernels."""

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
        int stream

    ctypedef void (*fln_layer_norm_forward)(
        const fln_layer_norm_forward_args* args, Py_ssize_t first, Py_ssize_t last
    ) noexcept nogil

    ctypedef void (*fln_layer_norm_forward_sums)(
        const fln_layer_norm_forward_args* args, Py_ssize_t row, Py_ssize_t segment, double* sums
    ) noexcept nogil

    ctypedef void (*fln_layer_norm_forward_columns)(
        const fln_layer_norm_forward_args* args, Py_ssize_t row, const double* sums, Py_ssize_t first, Py_ssize_t last
    ) noexcept nogil

    enum:
        FLN_FORWARD_SEGMENT_COLS
        FLN_FORWARD_SUMS
        FLN_BACKWARD_BLOCK_ROWS
        FLN_BACKWARD_TERMS

    ctypedef struct fln_layer_norm_backward_args:
        const void* dy
        const void* x
        const void* mean
        const void* rstd
        const void* weight
        void* dx
        Py_ssize_t dy_stride
        Py_ssize_t x_stride
        Py_ssize_t dx_stride
        Py_ssize_t cols
        int stream
        Py_ssize_t rows

    ctypedef struct fln_layer_norm_backward_part:
        Py_ssize_t first_row
        Py_ssize_t last_row
        Py_ssize_t first_col
        Py_ssize_t last_col
        void* terms
        void* dweight
        void* dbias
        int is_result

    ctypedef void (*fln_layer_norm_backward)(
        const fln_layer_norm_backward_args* args, const fln_layer_norm_backward_part* part
    ) noexcept nogil

    ctypedef void (*fln_layer_norm_backward_merge)(
        const double* totals, Py_ssize_t chunks, Py_ssize_t cols, void* result
    ) noexcept nogil

    ctypedef struct fln_kernels:
        const char* isa
        fln_layer_norm_forward layer_norm_forward_f32
        fln_layer_norm_forward layer_norm_forward_f64
        fln_layer_norm_forward_sums layer_norm_forward_sums_f32
        fln_layer_norm_forward_sums layer_norm_forward_sums_f64
        fln_layer_norm_forward_columns layer_norm_forward_columns_f32
        fln_layer_norm_forward_columns layer_norm_forward_columns_f64
        fln_layer_norm_backward layer_norm_backward_f32
        fln_layer_norm_backward layer_norm_backward_f64
        fln_layer_norm_backward_merge layer_norm_backward_merge_f32
        fln_layer_norm_backward_merge layer_norm_backward_merge_f64

# Read once a call: a call that has begun keeps its kernels when another thread calls set_isa.
cdef const fln_kernels* active
