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
} fln_kernels;

// The tables compiled into this build, best first; NULL at the end.
extern const fln_kernels* const fln_compiled[];

// Whether this CPU (and its operating system) runs the kernels of `isa`.
int fln_cpu_supports(const char* isa);

#ifdef __cplusplus
}
#endif

#endif
