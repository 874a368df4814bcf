#if defined(__x86_64__)
#include "fastln.h"
#include "target.h"

FLN_TARGET_BEGIN("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,bmi2")
namespace {
#include "isa/avx512.h"
#include "generic/layer_norm_backward.h"
#include "generic/layer_norm_forward.h"
}  // namespace
FLN_TARGET_END

extern "C" const fln_kernels fln_kernels_avx512 = {
    "avx512",
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
