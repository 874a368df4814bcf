// The C ABI of the kernels: one table per instruction set, indexed by element and norm.
//
// A kernel does arithmetic on rows, or on a range of their columns, on the calling thread. It allocates nothing, checks
// nothing and keeps no state: the caller has checked every shape, dtype, alignment and overlap.
#ifndef FASTLN_H
#define FASTLN_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

// How the numbers of x, y, dy and dx are stored. All other arrays hold numbers of the type that it is computed in:
// float for those of 16 bits (bfloat16, IEEE half). For these weight is always given, forward and backward, and so is
// bias where the norm has one: ones and -0 stand in for what is missing, and change no bit.
typedef enum fln_element { FLN_F32, FLN_F64, FLN_BF16, FLN_F16, FLN_ELEMENTS } fln_element;

// What a row is normalized by: mean and standard deviation, or the root mean square. RMS norm has neither mean nor
// bias: it ignores `mean` and `bias`, and there must be no `dbias`.
typedef enum fln_norm { FLN_LAYER_NORM, FLN_RMS_NORM, FLN_NORMS } fln_norm;

// One call of a norm. What may be NULL is absent. Strides count elements from one row to the next and may be zero (x
// and residual only) or negative. y and sum may each be x or residual itself (same address and stride); apart from that
// nothing overlaps y, sum, mean or rstd.
//
// With a residual, what is normalized is sum = x + residual, as it is stored.
typedef struct fln_forward_args {
  const void* x;         // (rows, cols)
  const void* residual;  // (rows, cols) or NULL
  void* sum;             // (rows, cols), where there is a residual
  void* y;               // (rows, cols)
  const void* weight;    // (cols,) or NULL
  const void* bias;      // (cols,), or NULL as it is where weight is
  void* mean;            // (rows,) or NULL, contiguous
  void* rstd;            // (rows,) or NULL, contiguous
  ptrdiff_t x_stride;
  ptrdiff_t residual_stride;
  ptrdiff_t sum_stride;
  ptrdiff_t y_stride;
  ptrdiff_t cols;  // at least 1
  double eps;      // in squared units of x, finite and >= 0
  int stream;      // whether y, and sum, should go past the cache (see rows/lines.h)
  // RMS norm of numbers of 16 bits: whether x_hat is rounded to them before the weight. Ignored elsewhere.
  int round_x_hat;
} fln_forward_args;

// A row of more columns than a segment may be shared by several threads; each segment, the last one perhaps shorter,
// has FLN_FORWARD_SUMS sums.
#define FLN_FORWARD_SEGMENT_COLS 16384
#define FLN_FORWARD_SUMS 17

// One call of the gradients of a norm. dx may be dy, ds or x itself (same address and stride); apart from that nothing
// overlaps what is written. Totals and terms are room for the kernels' use, as large as fln_backward_parts says.
//
// Of a norm with a residual, x is the sum, ds what flows into that beside y, and dx the gradient of x and residual
// alike.
typedef struct fln_backward_args {
  const void* dy;      // (rows, cols)
  const void* x;       // (rows, cols)
  const void* ds;      // (rows, cols), added to dx, or NULL
  const void* mean;    // (rows,) contiguous
  const void* rstd;    // (rows,) contiguous
  const void* weight;  // (cols,), or NULL unless dx and one of dweight and dbias are there, or numbers have 16 bits
  void* dx;            // (rows, cols) or NULL
  void* dweight;       // (cols,) or NULL
  void* dbias;         // (cols,) or NULL
  ptrdiff_t dy_stride;
  ptrdiff_t x_stride;
  ptrdiff_t ds_stride;
  ptrdiff_t dx_stride;
  ptrdiff_t rows;
  ptrdiff_t cols;          // at least 1
  int stream;              // whether dx should go past the cache
  double* dweight_totals;  // (chunks, totals), not NULL where totals > 0 and dweight or dbias is not
  double* dbias_totals;    // the same
  void* terms;             // needed by backward_terms and backward_columns only
} fln_backward_args;

// How the sums over rows are divided: that decides their order, so it depends on the number of rows alone.
typedef struct fln_backward_parts {
  ptrdiff_t chunks;  // of rows, each of which is summed on one thread
  ptrdiff_t blocks;  // of rows, which backward_terms takes
  ptrdiff_t totals;  // doubles a chunk, for dweight and as many for dbias; 0: there is one block, whose sums they are
  size_t terms;      // bytes
} fln_backward_parts;

typedef struct fln_norm_kernels {
  // Normalizes rows first <= row < last.
  void (*forward)(const fln_forward_args* args, ptrdiff_t first, ptrdiff_t last);
  // For a row that is shared: the sums of one of its segments, to `sums`. Where there is a residual, the row has been
  // added by then and what is passed is a call without one, of `sum` as x.
  void (*forward_sums)(const fln_forward_args* args, ptrdiff_t row, ptrdiff_t segment, double* sums);
  // When the sums of all segments are there, one behind the other: columns first <= col < last of the row. All columns
  // together, some call starting at 0, do what `forward` does, to the same bits.
  void (*forward_columns)(const fln_forward_args* args, ptrdiff_t row, const double* sums, ptrdiff_t first,
                          ptrdiff_t last);
  // The gradients of the rows of a chunk; of dweight and dbias, what they add.
  void (*backward)(const fln_backward_args* args, ptrdiff_t chunk);
  // Where there are too few chunks for the threads, the same in two steps: what the second one needs of the rows of a
  // block; then, with all of that, columns first <= col < last of the rows of a chunk.
  void (*backward_terms)(const fln_backward_args* args, ptrdiff_t block);
  void (*backward_columns)(const fln_backward_args* args, ptrdiff_t chunk, ptrdiff_t first, ptrdiff_t last);
} fln_norm_kernels;

// Recurrence: cells of which the summed inputs are layer-normalized. A step takes the numbers of each sequence in two
// products, W_ih x and W_hh h, and then row by row. Arrays of it hold float or double alone.

// The right factor of a product, packed: panels of FLN_PANEL_BYTES of columns, one behind the other, the last one
// filled up with zeros. In a panel, the numbers of its columns stand together for k = 0, 1, ... < depth.
#define FLN_PANEL_BYTES 64

// out[row][col] = sum of a[row][k * step] * b[k][col] over k, added to what is there where `adds` says so.
typedef struct fln_product_args {
  const void* const* a;  // (rows,) of places
  void* const* out;      // (rows,) of places, which nothing else overlaps
  const void* panels;    // of b, (depth, cols), aligned to FLN_PANEL_BYTES
  ptrdiff_t step;        // elements
  ptrdiff_t rows;
  ptrdiff_t depth;
  ptrdiff_t cols;
  int adds;
} fln_product_args;

// In the order of their gates: LSTM i f g o, GRU r z n.
typedef enum fln_cell { FLN_RNN, FLN_LSTM, FLN_GRU, FLN_CELLS } fln_cell;

// The norms of a cell, each with a mean and rstd of its own. RNN: of W_ih x + W_hh h. LSTM: of W_ih x, W_hh h and c.
// GRU: of the first two gates of W_ih x and W_hh h, then of the last gate of these.
#define FLN_CELL_NORMS 4
#define FLN_CELL_PARAMETERS 3

// A cell with its parameters; `gates` is 1, 4 or 3 times `hidden`.
typedef struct fln_cell_parameters {
  const void* bias;  // (gates,) or NULL, after the norms; of GRU beside the normalized W_ih x
  // Of the norms: RNN (hidden,), LSTM (gates,), (gates,) and (hidden,), GRU (gates,) and (gates,); or NULL, a bias as
  // it is where the weight is.
  const void* norm_weight[FLN_CELL_PARAMETERS];
  const void* norm_bias[FLN_CELL_PARAMETERS];
  ptrdiff_t hidden;  // at least 1
  double eps;
  int relu;                // RNN: instead of tanh
  int carries_normalized;  // LSTM: the normalized c is passed on to the next step, not c itself
} fln_cell_parameters;

// What a step has found of its rows, all contiguous. What may be NULL is not kept.
typedef struct fln_cell_rows {
  void* gx;                    // (rows, gates): W_ih x
  void* gh;                    // (rows, gates): W_hh h
  void* gates;                 // (rows, gates) or NULL: the gates of LSTM and GRU
  void* inner;                 // (rows, hidden) or NULL: of RNN the sums that are normalized, of LSTM c
  void* mean[FLN_CELL_NORMS];  // (rows,), of those norms that the cell has; all or none NULL
  void* rstd[FLN_CELL_NORMS];
} fln_cell_rows;

// One step forward. Row r belongs to sequence order[r] of the batch.
typedef struct fln_step_args {
  fln_cell_parameters cell;
  fln_cell_rows rows;      // gx and gh are there, the others are written
  const ptrdiff_t* order;  // (rows,)
  void* h;                 // (batch, hidden): the state, read and written
  void* c;                 // the same, of LSTM
  void* y;                 // (batch, hidden) or NULL: h once more
  ptrdiff_t y_stride;
  void* room;  // for the kernel's use, as large as `room` says
} fln_step_args;

// One step of the gradients. What is named like forward is what was there then.
typedef struct fln_step_gradient_args {
  fln_cell_parameters cell;
  fln_cell_rows rows;        // complete
  const ptrdiff_t* order;    // (rows,)
  const void* y;             // (batch, hidden)
  const void* before_y;      // the same of the step before, which had the rows below before_rows; order is the same
  const void* before_inner;  // (before_rows, hidden), of LSTM
  const void* h0;            // (batch, hidden): the state before all steps, for the other rows
  const void* c0;
  const void* dy;  // (batch, hidden) or NULL
  ptrdiff_t y_stride;
  ptrdiff_t dy_stride;
  ptrdiff_t before_rows;
  void* dh;          // (batch, hidden): the gradient of h; of GRU, what of the one before does not come by W_hh
  void* dc;          // the same, complete, of LSTM
  void* dih;         // (rows, gates): the gradient of the normalized W_ih x, of RNN of the normalized sum
  void* dhh;         // (rows, gates): of GRU, that of the normalized W_hh h, which is dih elsewhere
  void* dgh;         // (rows, gates): the gradient of W_hh h
  void* dinner;      // (rows, hidden): of LSTM, the gradient of the normalized c
  ptrdiff_t stride;  // of dih, dhh and dgh
  void* room;
} fln_step_gradient_args;

typedef struct fln_cell_kernels {
  // Rows first <= row < last of a step.
  void (*step)(const fln_step_args* args, ptrdiff_t first, ptrdiff_t last);
  void (*step_gradients)(const fln_step_gradient_args* args, ptrdiff_t first, ptrdiff_t last);
  // Numbers that each of these needs as room.
  ptrdiff_t (*room)(ptrdiff_t hidden);
} fln_cell_kernels;

typedef struct fln_recurrence_kernels {
  // Panels first <= panel < last of b: from its columns, of `depth` numbers each, which follow each other in memory;
  // and from its rows, of which only the places are given.
  void (*pack_columns)(const void* columns, ptrdiff_t depth, ptrdiff_t cols, void* panels, ptrdiff_t first,
                       ptrdiff_t last);
  void (*pack_rows)(const void* const* rows, ptrdiff_t depth, ptrdiff_t cols, void* panels, ptrdiff_t first,
                    ptrdiff_t last);
  // The columns of these panels.
  void (*product)(const fln_product_args* args, ptrdiff_t first, ptrdiff_t last);
  fln_cell_kernels cells[FLN_CELLS];
} fln_recurrence_kernels;

typedef struct fln_element_kernels {
  fln_norm_kernels norms[FLN_NORMS];
  // Columns first <= col < last of `sum`, of one row.
  void (*add)(const fln_forward_args* args, ptrdiff_t row, ptrdiff_t first, ptrdiff_t last);
  void (*divide)(ptrdiff_t rows, ptrdiff_t cols, fln_backward_parts* parts);
  // After all chunks: dweight and dbias, as far as they are there, from the totals.
  void (*merge)(const fln_backward_args* args);
  // n numbers from how they are stored to the type that it is computed in, and back, rounded to nearest even.
  void (*widen)(const void* from, void* to, ptrdiff_t n);
  void (*narrow)(const void* from, void* to, ptrdiff_t n);
} fln_element_kernels;

typedef struct fln_kernels {
  const char* isa;
  fln_element_kernels elements[FLN_ELEMENTS];
  fln_recurrence_kernels recurrences[FLN_F64 + 1];  // of the elements of 32 and 64 bits
} fln_kernels;

// The tables compiled into this build, best first; NULL at the end.
extern const fln_kernels* const fln_compiled[];

// Whether this CPU (and its operating system) runs the kernels of `isa`.
int fln_cpu_supports(const char* isa);

#ifdef __cplusplus
}
#endif

#endif
