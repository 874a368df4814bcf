#if defined(__x86_64__)
#include "fastln.h"
#include "target.h"

FLN_TARGET_BEGIN(FLN_AVX512)
namespace {
#include "registers/avx512.h"
#include "kernels.h"
}  // namespace
FLN_TARGET_END

extern "C" constexpr fln_kernels fln_kernels_avx512 = kernels_of("avx512");
#endif
