#if defined(__aarch64__)
#include "fastln.h"
#include "target.h"

namespace {
#include "isa/neon.h"
#include "generic/layer_norm_backward.h"
#include "generic/layer_norm_forward.h"
}  // namespace

extern "C" const fln_kernels fln_kernels_neon = {
    "neon",
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
#endif
