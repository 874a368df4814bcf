// What a row is normalized by. All norms are
//
//   x_hat = (x - mean) / sqrt(var + eps)
//
// where a norm without a mean takes it for 0, so that var is the mean of the squares. A norm here says which it is; all
// sweeps read it from there.
#pragma once

struct LayerNorm {
  static constexpr bool HAS_MEAN = true;
};

// The sums over a row that its moments are made of: of d = x - shift, if there is a mean, and of d * d.
template <typename Norm>
constexpr int MOMENT_SUMS = Norm::HAS_MEAN ? 2 : 1;
