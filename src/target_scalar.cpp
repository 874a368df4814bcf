// A virtual register is 16 variables here: inlined everywhere, they would take minutes to compile.
#define FLN_INLINE inline
#include "fastln.h"
#include "target.h"

namespace {
#include "isa/scalar.h"
#include "generic/layer_norm_backward.h"
#include "generic/layer_norm_forward.h"
}  // namespace

extern "C" const fln_kernels fln_kernels_scalar = {
    "scalar",
    layer_norm_forward<float>,
    layer_norm_forward<double>,
    layer_norm_forward_sums<float>,
    layer_norm_forward_sums<double>,
    layer_norm_forward_columns<float>,
    layer_norm_forward_columns<double>,
    layer_norm_backward<float>,
    layer_norm_backward<double>,
    layer_norm_backward_merge<float>,
    layer_norm_backward_merge<double>,
};
