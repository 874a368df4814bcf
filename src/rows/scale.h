// The second sweep: y = x_hat * weight + bias, for rows whose moments are known.
#pragma once

#include "lines.h"
#include "moments.h"

template <typename P>
struct Pair {
  P high, low;
};

// 1 / sqrt(v). For float, rounding that double to float is all the error there is. For double, the roundings of the
// root and of the division are taken back by one Newton step with an exact residual 1 - v r^2.
template <typename T, typename P>
FLN_INLINE Pair<P> reciprocal_root(P v) {
  const P zero = P::splat(0), one = P::splat(1);
  const P r = one / sqrt(v);
  // All zero: a constant row with eps = 0, and infinite.
  if (sizeof(T) == sizeof(float) || all_le(v, zero)) return {r, zero};
  const P vr = v * r;
  const P vr_low = fused(v, r, zero - vr);
  const P residual = fused(zero - vr, r, one) - vr_low * r;
  const P correction = P::splat(0.5) * r * residual;
  const P high = r + correction;
  return {high, correction - (high - r)};
}

// Without FMA, x_hat is rounded once more, and in double (where no wider type helps) that may take the error of
// ordinary rows past 2 eps. Then rstd is a pair too.
template <typename T>
constexpr bool RSTD_IS_PAIR = sizeof(T) == sizeof(double) && !HAS_FMA;

// x_hat = fma(x - shift, rstd, offset), offset = -lo * rstd: the low part of the mean costs no instruction.
template <typename Norm, typename T, int ROWS>
struct RowScales {
  T shift[ROWS], rstd[ROWS], rstd_low[ROWS], offset[ROWS];

  static FLN_INLINE RowScales of(const Moments<Norm, T, ROWS>& m, double eps) {
    RowScales s;
    const Pair<PerRow<ROWS>> rstd = reciprocal_root<T>(m.var + PerRow<ROWS>::splat(eps));
    write(rstd.high, s.rstd);
    if (RSTD_IS_PAIR<T>) write(rstd.low, s.rstd_low);
    if constexpr (Norm::HAS_MEAN) {
      write(PerRow<ROWS>::splat(0) - m.lo * rstd.high, s.offset);
      for (int r = 0; r < ROWS; ++r) s.shift[r] = m.shift[r];
    }
    return s;
  }
};

// The scale of one row in every lane.
template <typename Norm, typename T>
struct Scale {
  Vec<T> shift, rstd, rstd_low, offset;

  template <int ROWS>
  static FLN_INLINE Scale of(const RowScales<Norm, T, ROWS>& s, int r) {
    Scale scale;
    scale.rstd = Vec<T>::splat(s.rstd[r]);
    scale.rstd_low = Vec<T>::splat(RSTD_IS_PAIR<T> ? s.rstd_low[r] : 0);
    if constexpr (Norm::HAS_MEAN) {
      scale.shift = Vec<T>::splat(s.shift[r]);
      scale.offset = Vec<T>::splat(s.offset[r]);
    }
    return scale;
  }

  FLN_INLINE Vec<T> x_hat(Vec<T> x) const {
    if constexpr (Norm::HAS_MEAN) {
      const Vec<T> d = x - shift;
      return fma(d, rstd, RSTD_IS_PAIR<T> ? fma(d, rstd_low, offset) : offset);
    } else {
      return RSTD_IS_PAIR<T> ? fma(x, rstd, x * rstd_low) : x * rstd;
    }
  }
};

// How x_hat becomes y. A missing weight or bias is a compile-time fact: nobody pays for it. A bias comes with a weight.
// Of numbers stored as S, x_hat may be rounded to S before the weight, if there is no bias.
template <typename S, bool WEIGHT, bool BIAS>
struct Affine {
  static_assert(WEIGHT || !BIAS, "of ones, if there is no other");
  using T = Computed<S>;
  static constexpr bool MAY_ROUND = IS_WIDENED<S> && WEIGHT && !BIAS;
  const T* weight;
  const T* bias;
  bool round_x_hat;

  FLN_INLINE Affine from(ptrdiff_t col) const {
    return {WEIGHT ? weight + col : weight, BIAS ? bias + col : bias, round_x_hat};
  }

  FLN_INLINE Vec<T> of(Vec<T> x_hat, Vec<T> w, Vec<T> b) const {
    if constexpr (MAY_ROUND) {
      if (round_x_hat) x_hat = rounded<S>(x_hat);
    }
    if constexpr (WEIGHT && BIAS) return fma(x_hat, w, b);
    if constexpr (WEIGHT && !BIAS) return x_hat * w;
    return x_hat;
  }
};

// What the second sweep writes: rows of y in memory, from one of them on.
template <typename S>
struct Written {
  S* start;
  ptrdiff_t stride;

  FLN_INLINE S* row(ptrdiff_t r) const { return start + r * stride; }
};

// The second sweep over ROWS rows at once, so that weight and bias are loaded once for all of them.
template <int ROWS, typename Source, typename S, typename Norm, bool WEIGHT, bool BIAS>
struct Normalizing {
  using T = Computed<S>;
  Source x;
  Written<S> y;
  const Scale<Norm, T>* scale;
  Affine<S, WEIGHT, BIAS> affine;

  // One register of each row, or only its first n lanes. Two rows are loaded before either is stored: a load waits for
  // a store to the same place of another page (rows of 4 KiB took 1.13 times as long row by row). Of four, the results
  // would be more than AVX2 has registers for (64x100 float32 1.07 times as long).
  template <bool ALL, bool STREAM, typename To>
  FLN_INLINE void write(const To& to, ptrdiff_t to_col, ptrdiff_t i, ptrdiff_t n) const {
    using V = Vec<T>;
    const V zero = V::splat(0);
    const V w = WEIGHT ? load_lanes<V, ALL>(affine.weight + i, n) : zero;
    const V b = BIAS ? load_lanes<V, ALL>(affine.bias + i, n) : zero;
    V result[ROWS];
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) {
      result[r] = affine.of(scale[r].x_hat(x.row(r).template lanes<V, ALL>(i, n)), w, b);
      if (ROWS != 2) store_lanes<ALL, STREAM>(result[r], to.row(r) + to_col, n);
    }
    for (int r = 0; ROWS == 2 && r < ROWS; ++r) store_lanes<ALL, STREAM>(result[r], to.row(r) + to_col, n);
  }

  template <bool STREAM>
  FLN_INLINE void whole(ptrdiff_t i) const {
    write<true, STREAM>(y, i, i, LANES<T>);
  }
  FLN_INLINE void some(const Places<S, ROWS>& places, ptrdiff_t i, ptrdiff_t n) const {
    write<false, false>(places, 0, i, n);
  }
  FLN_INLINE void prefetch(ptrdiff_t i) const {
    for (int r = 0; r < ROWS; ++r) prefetch_ahead(x.row(r).start + i, LINE_COLS<S>);
  }
};

// With STREAM, past the cache, by way of `seams`: for rows that follow each other in memory.
template <int ROWS, bool STREAM, typename Source, typename S, typename Norm, typename T, bool WEIGHT, bool BIAS>
FLN_INLINE void normalize(Source x, Written<S> y, ptrdiff_t cols, const RowScales<Norm, T, ROWS>& scales,
                          Affine<S, WEIGHT, BIAS> affine, Seams<S>* seams = nullptr) {
  Scale<Norm, T> scale[ROWS];
  for (int r = 0; r < ROWS; ++r) scale[r] = Scale<Norm, T>::of(scales, r);
  const Normalizing<ROWS, Source, S, Norm, WEIGHT, BIAS> sweep = {x, y, scale, affine};
  sweep_columns<ROWS, STREAM, STREAM>(sweep, y, head_cols<STREAM>(y.start, cols), cols, seams);
}

// Short rows one by one, weight and bias in registers for all of them. The last register ends where the row does, over
// a part of the one before, rather than being cut short: masked stores take AVX2 long (1000x10 float32, where it is two
// halves of one register that overlap, 0.67 of the time). Each row is read to its end before it is written to: y may be
// x.
template <typename Row, bool STREAM, int ROWS, typename S, typename Norm, typename T, bool WEIGHT, bool BIAS>
FLN_INLINE void normalize_short(Stored<S> x, Written<S> y, ptrdiff_t cols, const RowScales<Norm, T, ROWS>& scales,
                                Affine<S, WEIGHT, BIAS> affine) {
  using V = Vec<T>;
  constexpr int VECS = Row::VECS;
  constexpr bool ENDS = VECS == 1 && !Row::WHOLE;
  const V zero = V::splat(0);
  ptrdiff_t at[VECS];
  V w[VECS], b[VECS], result[VECS];
#pragma GCC unroll 4
  for (int i = 0; i < VECS; ++i) {
    at[i] = !Row::WHOLE && !ENDS && i == VECS - 1 ? cols - LANES<T> : i * LANES<T>;
    w[i] = !WEIGHT ? zero : ENDS ? load_ends(affine.weight, cols, zero) : V::load(affine.weight + at[i]);
    b[i] = !BIAS ? zero : ENDS ? load_ends(affine.bias, cols, zero) : V::load(affine.bias + at[i]);
  }
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r) {
    const Scale<Norm, T> scale = Scale<Norm, T>::of(scales, r);
    const S* const from = x.row(r).start;
    S* const to = y.row(r);
#pragma GCC unroll 4
    for (int i = 0; i < VECS; ++i) {
      if (STREAM) prefetch_ahead(from + at[i], LANES<T>);
      result[i] = affine.of(scale.x_hat(ENDS ? load_ends(from, cols, zero) : V::load(from + at[i])), w[i], b[i]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < VECS; ++i) {
      ENDS ? store_ends(result[i], to, cols) : store_lanes<true, STREAM>(result[i], to + at[i], LANES<T>);
    }
    keep_order();
  }
}
