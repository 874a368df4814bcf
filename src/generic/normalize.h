// The second sweep: y = x_hat * weight + bias, for rows whose moments are known.
#pragma once

#include "moments.h"

// x_hat = fma(x - shift, rstd, offset), offset = -lo * rstd: the low part of the mean costs no instruction.
template <typename T, int ROWS>
struct RowScales {
  T shift[ROWS], rstd[ROWS], offset[ROWS];

  static FLN_INLINE RowScales of(const Moments<T, ROWS>& m, double eps) {
    RowScales s;
    const PerRow<ROWS> one = PerRow<ROWS>::splat(1), zero = PerRow<ROWS>::splat(0);
    const PerRow<ROWS> rstd = one / sqrt(m.var + PerRow<ROWS>::splat(eps));
    write(rstd, s.rstd);
    write(zero - m.lo * rstd, s.offset);
    for (int r = 0; r < ROWS; ++r) s.shift[r] = m.shift[r];
    return s;
  }

  FLN_INLINE RowScales<T, 1> row(int r) const { return {{shift[r]}, {rstd[r]}, {offset[r]}}; }
};

// A missing weight or bias is a compile-time fact: nobody pays for it.
template <typename T, bool WEIGHT, bool BIAS>
struct Affine {
  const T* weight;
  const T* bias;

  FLN_INLINE Vec<T> of(Vec<T> x_hat, Vec<T> w, Vec<T> b) const {
    if constexpr (WEIGHT && BIAS) return fma(x_hat, w, b);
    if constexpr (WEIGHT && !BIAS) return x_hat * w;
    if constexpr (!WEIGHT && BIAS) return x_hat + b;
    return x_hat;
  }
};

// ROWS rows at once, so that weight and bias are loaded once for all of them.
template <int ROWS, typename T, bool WEIGHT, bool BIAS>
FLN_INLINE void normalize(const T* x, ptrdiff_t x_stride, T* y, ptrdiff_t y_stride, ptrdiff_t cols,
                          const RowScales<T, ROWS>& scale, Affine<T, WEIGHT, BIAS> affine) {
  using V = Vec<T>;
  const V zero = V::splat(0);
  V shift[ROWS], rstd[ROWS], offset[ROWS];
  for (int r = 0; r < ROWS; ++r) {
    shift[r] = V::splat(scale.shift[r]);
    rstd[r] = V::splat(scale.rstd[r]);
    offset[r] = V::splat(scale.offset[r]);
  }
  ptrdiff_t i = 0;
  for (; i + LANES<T> <= cols; i += LANES<T>) {
    const V w = WEIGHT ? V::load(affine.weight + i) : zero;
    const V b = BIAS ? V::load(affine.bias + i) : zero;
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) {
      const V x_hat = fma(V::load(x + r * x_stride + i) - shift[r], rstd[r], offset[r]);
      affine.of(x_hat, w, b).store(y + r * y_stride + i);
    }
  }
  if (i < cols) {
    const ptrdiff_t n = cols - i;
    const V w = WEIGHT ? V::load_first(affine.weight + i, n, zero) : zero;
    const V b = BIAS ? V::load_first(affine.bias + i, n, zero) : zero;
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) {
      const V x_hat = fma(V::load_first(x + r * x_stride + i, n, zero) - shift[r], rstd[r], offset[r]);
      affine.of(x_hat, w, b).store_first(y + r * y_stride + i, n);
    }
  }
}
