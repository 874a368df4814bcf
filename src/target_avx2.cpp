#if defined(__x86_64__)
#include "fastln.h"
#include "target.h"

FLN_TARGET_BEGIN(FLN_AVX2)
namespace {
#include "registers/avx2.h"
#include "kernels.h"
}  // namespace
FLN_TARGET_END

extern "C" constexpr fln_kernels fln_kernels_avx2 = kernels_of("avx2");
#endif
