// Rows out of the ordinary range: squares that overflow or underflow T, NaN and Inf. Rare, so plain loops will do.
//
// The row is multiplied by a power of two (exact) as it is read, so that its largest element is near 1, and normalized
// like any other row. With x' = 2^g x the variance and eps scale by 2^2g, so
//
//   x_hat = (x' - mean') / sqrt(var' + eps 2^2g)
//
// Where x is tiny, eps 2^2g may pass the range of double. Then 2^-f x_hat is found first, with f such that
// eps 2^(2g - 2f) is near 1, and the factor 2^-f goes into the last operation, so that only the result is rounded.
#pragma once

#include "scale.h"

// A row whose x_hat is 0 in every column, which needs no variance: a constant one, if there is a mean, or zeros.
template <typename Norm, typename S>
FLN_INLINE bool is_flat(Stored<S> x, ptrdiff_t cols) {
  if (Norm::HAS_MEAN && std::isfinite(x.number(0)) &&
      std::memcmp(x.start, x.start + 1, static_cast<size_t>(cols - 1) * sizeof(S)) == 0) {
    return true;
  }
  for (ptrdiff_t i = 0; i < cols; ++i) {  // zeros of either sign
    if (!(x.number(i) == 0)) return false;
  }
  return true;
}

// The largest |x|, or NaN where there is one.
template <typename S, typename T = Computed<S>>
T peak_of(Stored<S> x, ptrdiff_t cols) {
  T peak = 0;
  for (ptrdiff_t i = 0; i < cols; ++i) {
    const T size = std::fabs(x.number(i));
    if (!(size <= peak)) peak = size;
    if (std::isnan(peak)) break;
  }
  return peak;
}

// The exponent that brings `peak` near 1, limited so that 2^g and 2^-g are both normal numbers of T.
template <typename T>
int rescaling_exponent(T peak) {
  const int most = sizeof(T) == sizeof(float) ? FLT_MAX_EXP - 2 : DBL_MAX_EXP - 2;
  const int g = peak > 0 ? -std::ilogb(peak) : 0;
  return g > most ? most : g < -most ? -most : g;
}

// y = 2^-f x_hat weight + bias, in double; x is scaled already.
template <typename S, bool WEIGHT, bool BIAS>
void shrink(Scaled<S> x, S* y, ptrdiff_t cols, double shift, double rstd, double offset, int f,
            Affine<S, WEIGHT, BIAS> affine) {
  using T = Computed<S>;
  const double half = std::ldexp(1.0, -f / 2), rest = std::ldexp(1.0, f / 2 - f);
  for (ptrdiff_t i = 0; i < cols; ++i) {
    double x_hat = std::fma(x.number(i) - shift, rstd, offset) * half, factor = rest;
    if constexpr (Affine<S, WEIGHT, BIAS>::MAY_ROUND) {
      if (affine.round_x_hat) x_hat = static_cast<T>(static_cast<S>(static_cast<T>(x_hat * rest))), factor = 1;
    }
    const double scaled = WEIGHT ? x_hat * affine.weight[i] : x_hat;
    const double result = BIAS ? std::fma(scaled, factor, static_cast<double>(affine.bias[i])) : scaled * factor;
    y[i] = static_cast<S>(static_cast<T>(result));
  }
}

template <typename Row, typename S, typename T, bool WEIGHT, bool BIAS>
__attribute__((noinline, cold)) void rescaled_row(Stored<S> x, S* y, ptrdiff_t cols, double inv_cols, double eps,
                                                  Affine<S, WEIGHT, BIAS> affine, T* mean, T* rstd) {
  const T peak = peak_of(x, cols);
  if (!std::isfinite(peak)) {  // one NaN or Inf makes the whole row NaN
    const T nan = std::numeric_limits<T>::quiet_NaN();
    for (ptrdiff_t i = 0; i < cols; ++i) y[i] = static_cast<S>(nan);
    if (mean) *mean = nan;
    if (rstd) *rstd = nan;
    return;
  }
  const int g = rescaling_exponent(peak);
  const Scaled<S> scaled = {x, static_cast<T>(std::ldexp(1.0, g))};

  using Norm = typename Row::Norm;
  Moments<Norm, T, 1> m = centered_moments<Row>(scaled, cols, inv_cols);
  const int e = eps > 0 ? std::ilogb(eps) + 2 * g : 0;
  const int f = e > 0 ? (e + 1) / 2 : 0;
  m.var.v = std::ldexp(m.var.v, -2 * f);
  const double scaled_eps = std::ldexp(eps, 2 * (g - f));
  const double r = reciprocal_root<double>(Single<double>{m.var.v + scaled_eps}).high.v;
  if (f == 0) {
    normalize<1, false>(scaled, Written<S>{y, 0}, cols, RowScales<Norm, T, 1>::of(m, scaled_eps), affine);
  } else {
    shrink(scaled, y, cols, m.shift[0], r, -m.lo.v * r, f, affine);
  }
  if (mean) *mean = static_cast<T>(std::ldexp(m.mean().v, -g));
  if (rstd) *rstd = static_cast<T>(std::ldexp(r, g - f));
}
