// What the target region of an ISA exports, and the only list of kernels: for each element, those of each norm.
#pragma once

#include "norms/backward.h"
#include "norms/forward.h"
#include "rows/conversions.h"

template <typename S, typename Norm>
constexpr fln_norm_kernels norm_kernels() {
  return {forward<S, Norm>,  forward_sums<S, Norm>,   forward_columns<S, Norm>,
          backward<S, Norm>, backward_terms<S, Norm>, backward_columns<S, Norm>};
}

template <typename S>
constexpr fln_element_kernels element_kernels() {  // in the order of fln_norm
  return {{norm_kernels<S, LayerNorm>(), norm_kernels<S, RMSNorm>()},
          add<S>,
          divide<S>,
          merge<S>,
          widen_all<S>,
          narrow_all<S>};
}

// In the order of fln_element.
constexpr fln_kernels kernels_of(const char* isa) {
  return {isa, {element_kernels<float>(), element_kernels<double>(), element_kernels<BF16>(), element_kernels<F16>()}};
}
