// Which kernels are compiled in, and which of them this CPU runs.
#include "isas.h"

#include "fastln.h"

#include <cstring>

#if defined(__x86_64__)
#include <cpuid.h>

// Whether the CPU converts half precision, and the operating system saves the registers for it. It is asked here, since
// the __builtin_cpu_supports of some compilers (clang 14) does not know the name.
static bool has_f16c() {
  unsigned eax, ebx, ecx, edx, saved, high;
  if (__get_cpuid(1, &eax, &ebx, &ecx, &edx) == 0 || (ecx & bit_OSXSAVE) == 0 || (ecx & bit_F16C) == 0) return false;
  __asm__("xgetbv" : "=a"(saved), "=d"(high) : "c"(0));
  const unsigned XMM_AND_YMM = 6;
  return (saved & XMM_AND_YMM) == XMM_AND_YMM;
}
#endif

extern "C" {

extern const fln_kernels fln_kernels_scalar;
#if defined(__x86_64__)
extern const fln_kernels fln_kernels_sse2;
extern const fln_kernels fln_kernels_avx2;
extern const fln_kernels fln_kernels_avx512;
const fln_kernels* const fln_compiled[] = {&fln_kernels_avx512, &fln_kernels_avx2, &fln_kernels_sse2,
                                           &fln_kernels_scalar, nullptr};
#elif defined(__aarch64__)
extern const fln_kernels fln_kernels_neon;
const fln_kernels* const fln_compiled[] = {&fln_kernels_neon, &fln_kernels_scalar, nullptr};
#else
const fln_kernels* const fln_compiled[] = {&fln_kernels_scalar, nullptr};
#endif

int fln_cpu_supports(const char* isa) {
  if (std::strcmp(isa, "scalar") == 0) return 1;
#if defined(__x86_64__)
  // __builtin_cpu_supports also asks the operating system (XGETBV) whether it saves the wide registers.
  __builtin_cpu_init();
  if (std::strcmp(isa, "sse2") == 0) return 1;  // part of the architecture
#define FLN_HAS(feature) __builtin_cpu_supports(feature)
#define FLN_AND_HAS(feature) &&FLN_HAS(feature)
#define FLN_AND_HAS_F16C(feature) &&has_f16c()
  if (std::strcmp(isa, "avx2") == 0) return FLN_AVX2(FLN_HAS, FLN_AND_HAS, FLN_AND_HAS_F16C);
  if (std::strcmp(isa, "avx512") == 0) return FLN_AVX512(FLN_HAS, FLN_AND_HAS, FLN_AND_HAS_F16C);
#elif defined(__aarch64__)
  if (std::strcmp(isa, "neon") == 0) return 1;  // part of the architecture
#endif
  return 0;
}

}  // extern "C"
