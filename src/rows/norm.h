// What a row is normalized by. All norms are
//
//   x_hat = (x - mean) / sqrt(var + eps)
//
// where a norm without a mean takes it for 0, so that var is the mean of the squares. Which it is, and whether a bias
// may be added to the result, a norm says here; all sweeps read it from there.
#pragma once

#include "../registers/vec.h"

struct LayerNorm {
  static constexpr bool HAS_MEAN = true, HAS_BIAS = true;
};

// By the root mean square: Zhang and Sennrich, "Root Mean Square Layer Normalization" (2019), arXiv:1910.07467.
struct RMSNorm {
  static constexpr bool HAS_MEAN = false, HAS_BIAS = false;
};

// x around its mean, or what stands for it; a norm without a mean takes x as it is.
template <typename Norm, typename V>
FLN_INLINE V centered(V x, V means) {
  if constexpr (Norm::HAS_MEAN) return x - means;
  return x;
}

// The sums over a row that its moments are made of: of d = x - shift, if there is a mean, and of d * d.
template <typename Norm>
constexpr int MOMENT_SUMS = Norm::HAS_MEAN ? 2 : 1;
