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

    enum:
        FLN_PANEL_BYTES
        FLN_CELL_NORMS
        FLN_CELL_PARAMETERS

    ctypedef struct fln_product_args:
        const void* const* a
        void* const* out
        const void* panels
        Py_ssize_t step
        Py_ssize_t rows
        Py_ssize_t depth
        Py_ssize_t cols
        int adds

    ctypedef enum fln_cell:
        FLN_RNN
        FLN_LSTM
        FLN_GRU
        FLN_CELLS

    ctypedef struct fln_cell_parameters:
        const void* bias
        const void** norm_weight
        const void** norm_bias
        Py_ssize_t hidden
        double eps
        int relu
        int carries_normalized

    ctypedef struct fln_cell_rows:
        void* gx
        void* gh
        void* gates
        void* inner
        void** mean
        void** rstd

    ctypedef struct fln_step_args:
        fln_cell_parameters cell
        fln_cell_rows rows
        const Py_ssize_t* order
        void* h
        void* c
        void* y
        Py_ssize_t y_stride
        void* room

    ctypedef struct fln_step_gradient_args:
        fln_cell_parameters cell
        fln_cell_rows rows
        const Py_ssize_t* order
        const void* y
        const void* before_y
        const void* before_inner
        const void* h0
        const void* c0
        const void* dy
        Py_ssize_t y_stride
        Py_ssize_t dy_stride
        Py_ssize_t before_rows
        void* dh
        void* dc
        void* dih
        void* dhh
        void* dgh
        void* dinner
        Py_ssize_t stride
        void* room

    ctypedef struct fln_cell_kernels:
        void (*step)(const fln_step_args* args, Py_ssize_t first, Py_ssize_t last) noexcept nogil
        void (*step_gradients)(const fln_step_gradient_args* args, Py_ssize_t first, Py_ssize_t last) noexcept nogil
        Py_ssize_t (*room)(Py_ssize_t hidden) noexcept nogil

    ctypedef struct fln_recurrence_kernels:
        void (*pack_columns)(
            const void* columns, Py_ssize_t depth, Py_ssize_t cols, void* panels, Py_ssize_t first, Py_ssize_t last
        ) noexcept nogil
        void (*pack_rows)(
            const void* const* rows, Py_ssize_t depth, Py_ssize_t cols, void* panels, Py_ssize_t first, Py_ssize_t last
        ) noexcept nogil
        void (*product)(const fln_product_args* args, Py_ssize_t first, Py_ssize_t last) noexcept nogil
        fln_cell_kernels* cells

    ctypedef struct fln_kernels:
        const char* isa
        const fln_element_kernels* elements
        const fln_recurrence_kernels* recurrences

# Read once a call: a call that has begun keeps its kernels when another thread calls set_isa.
cdef const fln_kernels* active
