// A virtual register is 16 variables here: inlined everywhere, they would take minutes to compile.
#define FLN_INLINE inline
#include "fastln.h"
#include "target.h"

namespace {
#include "registers/scalar.h"
#include "kernels.h"
}  // namespace

extern "C" constexpr fln_kernels fln_kernels_scalar = kernels_of("scalar");
