#if defined(__x86_64__)
// A virtual register is 4 or 8 of these: inlined everywhere, they would take minutes to compile.
#define FLN_INLINE inline
#include "fastln.h"
#include "target.h"

namespace {
#include "registers/sse2.h"
#include "kernels.h"
}  // namespace

extern "C" constexpr fln_kernels fln_kernels_sse2 = kernels_of("sse2");
#endif
