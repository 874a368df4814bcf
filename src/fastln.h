// The C ABI of the kernels: one table of function pointers per instruction set.
//
// A kernel does arithmetic on rows, or on a part of their columns, on the calling thread. It allocates nothing, checks
// nothing and keeps no state: the caller has checked every shape, dtype, alignment and overlap.
#ifndef FASTLN_H
#define FASTLN_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

// One call of layer_norm. x and y are `float` or `double` according to the kernel; so are the others, which may be
// NULL when absent. Strides count elements from one row to the next and may be zero (x only) or negative.
// y may be x itself (same address and stride); apart from that nothing overlaps y, mean or rstd.
typedef struct fln_layer_norm_forward_args {
  const void* x;       // (rows, cols)
  void* y;             // (rows, cols)
  const void* weight;  // (cols,) or NULL
  const void* bias;    // (cols,) or NULL
  void* mean;          // (rows,) or NULL, contiguous
  void* rstd;          // (rows,) or NULL, contiguous
  ptrdiff_t x_stride;
  ptrdiff_t y_stride;
  ptrdiff_t cols;  // at least 1
  double eps;      // in squared units of x, finite and >= 0
  int stream;      // whether y should go past the cache (see generic/stream.h)
} fln_layer_norm_forward_args;

// Normalizes rows first <= row < last.
typedef void (*fln_layer_norm_forward)(const fln_layer_norm_forward_args* args, ptrdiff_t first, ptrdiff_t last);

// A row of more columns than a segment may be shared by several threads. First each segment, the last one perhaps
// shorter, leaves FLN_FORWARD_SUMS numbers; `sums` is where.
#define FLN_FORWARD_SEGMENT_COLS 16384
#define FLN_FORWARD_SUMS 17
typedef void (*fln_layer_norm_forward_sums)(const fln_layer_norm_forward_args* args, ptrdiff_t row, ptrdiff_t segment,
                                            double* sums);

// When the sums of all segments are there, one behind the other: columns first <= col < last of the row. All columns
// together, some call starting at 0, do what a kernel for whole rows does, to the same bits.
typedef void (*fln_layer_norm_forward_columns)(const fln_layer_norm_forward_args* args, ptrdiff_t row,
                                               const double* sums, ptrdiff_t first, ptrdiff_t last);

// Rows whose parts of dweight and dbias are summed in the element type, before more precision takes over; and how many
// numbers of the element type a row keeps between the two sweeps.
#define FLN_BACKWARD_BLOCK_ROWS 8
#define FLN_BACKWARD_TERMS 3

// One call of layer_norm_backward. dx may be dy or x itself (same address and stride); apart from that nothing
// overlaps what is written.
typedef struct fln_layer_norm_backward_args {
  const void* dy;      // (rows, cols)
  const void* x;       // (rows, cols)
  const void* mean;    // (rows,) contiguous
  const void* rstd;    // (rows,) contiguous
  const void* weight;  // (cols,) or NULL
  void* dx;            // (rows, cols) or NULL
  ptrdiff_t dy_stride;
  ptrdiff_t x_stride;
  ptrdiff_t dx_stride;
  ptrdiff_t cols;  // at least 1
  int stream;      // whether dx should go past the cache
  ptrdiff_t rows;  // of all parts: how much passes through the caches
} fln_layer_norm_backward_args;

// A part of its work: rows first_row <= row < last_row (first_row a multiple of the block), columns first_col <= col <
// last_col. What dweight and dbias point to are totals, or NULL: for each column 1 double (f32) or 2 (f64), in any
// state before the part that has its first row. If there is but one block of rows, they are the results themselves
// (cols,).
//
// Either a part has all columns and terms == NULL, and does everything. Or `terms` has room for FLN_BACKWARD_TERMS
// numbers for each row of whole blocks: a part without columns fills it in for its rows, and parts with columns use it.
typedef struct fln_layer_norm_backward_part {
  ptrdiff_t first_row;
  ptrdiff_t last_row;
  ptrdiff_t first_col;
  ptrdiff_t last_col;
  void* terms;
  void* dweight;
  void* dbias;
  int is_result;  // whether dweight and dbias are results, not totals
} fln_layer_norm_backward_part;

typedef void (*fln_layer_norm_backward)(const fln_layer_norm_backward_args* args,
                                        const fln_layer_norm_backward_part* part);

// Adds up the totals of `chunks` parts, one after the other in memory, into dweight or dbias (cols,).
typedef void (*fln_layer_norm_backward_merge)(const double* totals, ptrdiff_t chunks, ptrdiff_t cols, void* result);

typedef struct fln_kernels {
  const char* isa;
  fln_layer_norm_forward layer_norm_forward_f32;
  fln_layer_norm_forward layer_norm_forward_f64;
  fln_layer_norm_forward_sums layer_norm_forward_sums_f32;
  fln_layer_norm_forward_sums layer_norm_forward_sums_f64;
  fln_layer_norm_forward_columns layer_norm_forward_columns_f32;
  fln_layer_norm_forward_columns layer_norm_forward_columns_f64;
  fln_layer_norm_backward layer_norm_backward_f32;
  fln_layer_norm_backward layer_norm_backward_f64;
  fln_layer_norm_backward_merge layer_norm_backward_merge_f32;
  fln_layer_norm_backward_merge layer_norm_backward_merge_f64;
} fln_kernels;

// The tables compiled into this build, best first; NULL at the end.
extern const fln_kernels* const fln_compiled[];

// Whether this CPU (and its operating system) runs the kernels of `isa`.
int fln_cpu_supports(const char* isa);

#ifdef __cplusplus
}
#endif

#endif
