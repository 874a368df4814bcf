#if defined(__x86_64__)
// A virtual register is 4 or 8 of these: inlined everywhere, they would take minutes to compile.
#define FLN_INLINE inline
#include "fastln.h"
#include "target.h"

FLN_TARGET_BEGIN("sse2")
namespace {
#include "isa/sse2.h"
#include "generic/layer_norm_backward.h"
#include "generic/layer_norm_forward.h"
}  // namespace
FLN_TARGET_END

extern "C" const fln_kernels fln_kernels_sse2 = {
    "sse2",
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
