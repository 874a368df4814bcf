#if defined(__aarch64__)
#include "fastln.h"
#include "target.h"

namespace {
#include "registers/neon.h"
#include "kernels.h"
}  // namespace

extern "C" constexpr fln_kernels fln_kernels_neon = kernels_of("neon");
#endif
