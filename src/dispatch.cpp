// Which kernels are compiled in, and which of them this CPU runs.
#include "fastln.h"

#include <cstring>

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
  const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                        __builtin_cpu_supports("f16c") && __builtin_cpu_supports("bmi2");
  if (std::strcmp(isa, "sse2") == 0) return 1;
  if (std::strcmp(isa, "avx2") == 0) return has_avx2;
  if (std::strcmp(isa, "avx512") == 0)
    return has_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#elif defined(__aarch64__)
  if (std::strcmp(isa, "neon") == 0) return 1;  // part of the architecture
#endif
  return 0;
}

}  // extern "C"
