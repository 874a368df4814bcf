// The C ABI of the kernels: one table of function pointers per instruction set.
//
// A kernel does arithmetic on whole rows, on the calling thread. It allocates nothing, checks nothing and keeps no
// state: the caller has checked every shape, dtype, alignment and overlap.
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
} fln_layer_norm_forward_args;

// Normalizes rows first <= row < last.
typedef void (*fln_layer_norm_forward)(const fln_layer_norm_forward_args* args, ptrdiff_t first, ptrdiff_t last);

typedef struct fln_kernels {
  const char* isa;
  fln_layer_norm_forward layer_norm_forward_f32;
  fln_layer_norm_forward layer_norm_forward_f64;
} fln_kernels;

// The tables compiled into this build, best first; NULL at the end.
extern const fln_kernels* const fln_compiled[];

// Whether this CPU (and its operating system) runs the kernels of `isa`.
int fln_cpu_supports(const char* isa);

#ifdef __cplusplus
}
#endif

#endif
