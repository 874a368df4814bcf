#include "fastln.h"
#include "target.h"

namespace {
#include "isa/scalar.h"
#include "generic/layer_norm_forward.h"
}  // namespace

extern "C" const fln_kernels fln_kernels_scalar = {"scalar", layer_norm_forward<float>, layer_norm_forward<double>};
