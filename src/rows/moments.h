// Mean and variance of a row, in one sweep over memory.
//
//   shift ~ the mean, from a sample of the row          d = x - shift
//   lo  = sum(d) / cols                                 mean = shift + lo
//   var = sum(d * d) / cols - lo * lo
//
// The mean stays a pair: shift is its value in T, lo what rounding it to T would lose, which is where layer norm
// loses its digits when |mean| >> std. Subtracting lo * lo cancels nothing as long as shift is near the mean; where
// it is not (2 * |lo| > std), the sweep is done again around shift + lo. That depends on the row alone.
//
// Sums run over 4 registers (64 float lanes) for a block of CHAIN_STEPS steps; the sums of blocks are added in more
// precision (sums.h), so the error does not grow with cols.
//
// A norm without a mean has a shift of 0 and one sum, of the squares; there is nothing to verify.
// Source: Chan, Golub and LeVeque, "Algorithms for computing the sample variance" (1983), shifted data and pairwise.
#pragma once

#include "../registers/per_row.h"
#include "norm.h"
#include "sums.h"

constexpr int STEP_VECS = 4;
// Adding n equal numbers one by one may lose up to 2.5 (n = 8), 3.3 (12) or 4.5 (16) units of T's roundoff, always to
// the same side: measured with rows of two values. So few steps a block; folding one costs about 16 instructions. With
// 4 steps, docs/accuracy.md would prove 12 eps of y in float32 instead of 15; that took 1.02 to 1.05 of the time at
// 4x768, 1.01 to 1.03 at 32x768, 1.03 to 1.08 at 8x4096 (AVX2, Zen 3).
constexpr int CHAIN_STEPS = 8;

template <typename T>
constexpr ptrdiff_t STEP = STEP_VECS * LANES<T>;
template <typename T>
constexpr ptrdiff_t CHAIN_COLS = CHAIN_STEPS * STEP<T>;
// A row of more columns is summed in segments, which are added up in their order: so several threads may find them.
constexpr ptrdiff_t SEGMENT_COLS = FLN_FORWARD_SEGMENT_COLS;

// Below this variance, the squares of float (double) may have lost bits to underflow: 2^-100 is 2^50 times the
// smallest float (2^-960 is 2^114 times the smallest double).
template <typename T>
constexpr double SMALLEST_VARIANCE = 0x1p-100;
template <>
constexpr double SMALLEST_VARIANCE<double> = 0x1p-960;

template <typename Norm, typename V>
FLN_INLINE Sums<V, MOMENT_SUMS<Norm>> moment_sums(V d, V dd) {
  if constexpr (Norm::HAS_MEAN) return {{d, dd}};
  return {{dd}};
}

// The sums over the first COUNT registers of each step of x[0..n), n <= CHAIN_COLS, on as many accumulators as the ISA
// has registers for (ACCUMULATORS, of two sums each); the others in a sweep of their own over the same block, which is
// in L1 by then.
template <typename Norm, int COUNT, typename Source, typename T>
FLN_INLINE Sums<Vec<T>, MOMENT_SUMS<Norm>> chain_sums(Source x, ptrdiff_t n, T shift) {
  if constexpr (COUNT * MOMENT_SUMS<Norm> > 2 * ACCUMULATORS) {
    constexpr ptrdiff_t half = COUNT / 2 * LANES<T>;
    const auto low = chain_sums<Norm, COUNT / 2>(x, n, shift);
    return low + chain_sums<Norm, COUNT / 2>(x.from(half), n - half, shift);
  } else {
    using Step = Vecs<T, COUNT>;
    const Step shifts = Step::splat(shift);
    Step d_sum = Step::splat(0), dd_sum = Step::splat(0);
    while (n >= Step::lanes) {
      const Step d = centered<Norm>(x.template load<Step>(0), shifts);
      if constexpr (Norm::HAS_MEAN) d_sum = d_sum + d;
      dd_sum = fma(d, d, dd_sum);
      x = x.from(STEP<T>);
      n -= STEP<T>;
    }
    if (n > 0) {  // the lanes past the end count as x == shift
      const Step d = centered<Norm>(x.load_first(0, n, shifts), shifts);
      if constexpr (Norm::HAS_MEAN) d_sum = d_sum + d;
      dd_sum = fma(d, d, dd_sum);
    }
    return moment_sums<Norm>(fold<T, COUNT>(d_sum), fold<T, COUNT>(dd_sum));
  }
}

// A block of a row, summed as a chain.
template <typename Source, typename Norm>
struct Chain {
  using T = typename Source::T;
  static constexpr ptrdiff_t COLS = CHAIN_COLS<T>;
  static constexpr bool WHOLE_APART = false;
  Source x;
  T shift;

  FLN_INLINE Sums<Vec<T>, MOMENT_SUMS<Norm>> first(ptrdiff_t i, ptrdiff_t n) const {
    return chain_sums<Norm, STEP_VECS>(x.from(i), n, shift);
  }
};

// How a row of more than one step is read.
template <typename T, typename NormOf>
struct LongRow {
  static constexpr bool is_short = false;
  using Norm = NormOf;
  using RowTotals = Totals<T, MOMENT_SUMS<Norm>>;
  using Lanes = typename RowTotals::Lanes;
  using Any = LongRow;

  template <typename Source>
  static FLN_INLINE Vec<T> sample(Source x, ptrdiff_t cols, T origin) {
    const Vec<T> origins = Vec<T>::splat(origin);
    Vec<T> run[STEP_VECS];
    for (int i = 0; i < STEP_VECS; ++i) run[i] = x.template load<Vec<T>>(i * (cols / STEP_VECS)) - origins;
    return fold<STEP_VECS>(run);
  }
  static FLN_INLINE double inv_sample(double) { return 1.0 / STEP<T>; }

  template <typename Source>
  static FLN_INLINE Sums<Lanes, MOMENT_SUMS<Norm>> sums(Source x, ptrdiff_t cols, T shift) {
    const RowTotals totals = cols <= SEGMENT_COLS ? segment(x, cols, shift) : all_segments(x, cols, shift);
    return totals.folded();
  }

  // Of n <= SEGMENT_COLS columns.
  template <typename Source>
  static FLN_INLINE RowTotals segment(Source x, ptrdiff_t n, T shift) {
    const Chain<Source, Norm> chain = {x, shift};
    RowTotals totals = RowTotals::of(chain.first(0, n < CHAIN_COLS<T> ? n : CHAIN_COLS<T>));
    add_blocks(totals, chain, CHAIN_COLS<T>, n);
    return totals;
  }

  template <typename Source>
  static __attribute__((noinline)) RowTotals all_segments(Source x, ptrdiff_t cols, T shift) {
    RowTotals totals = segment(x, SEGMENT_COLS, shift);
    for (ptrdiff_t i = SEGMENT_COLS; i < cols; i += SEGMENT_COLS) {
      const ptrdiff_t left = cols - i;
      totals.add(segment(x.from(i), left < SEGMENT_COLS ? left : SEGMENT_COLS, shift));
    }
    return totals;
  }
};

// A row of at most one step, in COUNT registers. It is its own sample, and its sums need no more than T's precision.
// WHOLE: none of them is cut short by the row's end.
template <typename T, typename NormOf, int COUNT, bool WHOLE_ROW = false>
struct ShortRow {
  static constexpr bool is_short = true, WHOLE = WHOLE_ROW;
  static constexpr int VECS = COUNT;
  using Norm = NormOf;
  using Lanes = Vec<T>;
  using Any = ShortRow<T, Norm, VECS>;  // of as many registers

  // x - center; zero in the lanes past the end.
  template <typename Source>
  static FLN_INLINE void load(Source x, ptrdiff_t cols, T center, Vec<T>* d) {
    const Vec<T> centers = Vec<T>::splat(center);
    constexpr ptrdiff_t last = (VECS - 1) * LANES<T>;
    for (int i = 0; i < VECS - 1; ++i) d[i] = centered<Norm>(x.template load<Vec<T>>(i * LANES<T>), centers);
    d[VECS - 1] =
        centered<Norm>(WHOLE ? x.template load<Vec<T>>(last) : x.load_first(last, cols - last, centers), centers);
  }

  template <typename Source>
  static FLN_INLINE Vec<T> sample(Source x, ptrdiff_t cols, T origin) {
    Vec<T> d[VECS];
    load(x, cols, origin, d);
    return fold<VECS>(d);
  }
  static FLN_INLINE double inv_sample(double inv_cols) { return inv_cols; }

  template <typename Source>
  static FLN_INLINE Sums<Lanes, MOMENT_SUMS<Norm>> sums(Source x, ptrdiff_t cols, T shift) {
    Vec<T> d[VECS], dd[(VECS + 1) / 2];
    load(x, cols, shift, d);
    for (int i = 0; i < VECS; i += 2) dd[i / 2] = d[i] * d[i];
    for (int i = 1; i < VECS; i += 2) dd[i / 2] = fma(d[i], d[i], dd[i / 2]);
    return moment_sums<Norm>(fold<VECS>(d), fold<(VECS + 1) / 2>(dd));
  }
};

template <typename Norm, typename T, int ROWS>
struct Moments {
  T shift[ROWS];     // the mean, high part
  PerRow<ROWS> lo;   // the mean, low part
  PerRow<ROWS> var;  // biased, as layer norm has it

  FLN_INLINE PerRow<ROWS> mean() const {
    PerRow<ROWS> high;
    read(high, shift);
    return high + lo;
  }

  // From the sums of d, if there is a mean, and of d * d.
  template <typename A>
  FLN_INLINE void set(const A (*sums)[ROWS], double inv_cols) {
    const PerRow<ROWS> inv = PerRow<ROWS>::splat(inv_cols);
    PerRow<ROWS> d, dd;
    read(dd, sums[MOMENT_SUMS<Norm> - 1]);
    if constexpr (Norm::HAS_MEAN) {
      read(d, sums[0]);
      lo = d * inv;
      var = dd * inv - lo * lo;
    } else {
      lo = PerRow<ROWS>::splat(0);
      var = dd * inv;
    }
  }

  // Whether shift is near enough to the mean: |lo| <= std / 2.
  FLN_INLINE bool is_centered() const { return !Norm::HAS_MEAN || all_le(lo * lo * PerRow<ROWS>::splat(4), var); }

  // Whether the squares of these rows, and so their variances, are as exact as others: NaN and Inf are not.
  FLN_INLINE bool is_in_range() const {
    return all_le(PerRow<ROWS>::splat(SMALLEST_VARIANCE<T>), var) & all_le(var, PerRow<ROWS>::splat(DBL_MAX));
  }
};

// As many rows as are reduced at once.
template <int ROWS>
constexpr int REDUCED = ROWS < GROUP ? ROWS : GROUP;

// Row is how a row is read: ShortRow or LongRow.
template <typename Row, int ROWS, typename Source, typename T>
FLN_INLINE void find_moments(Moments<typename Row::Norm, T, ROWS>& m, Source x, ptrdiff_t cols, double inv_cols) {
  constexpr int COUNT = MOMENT_SUMS<typename Row::Norm>;
  typename Row::Lanes::value_type sums[COUNT][ROWS];
#pragma GCC unroll 4
  for (int g = 0; g < ROWS; g += REDUCED<ROWS>) {
    if (g > 0) keep_order();
    typename Row::Lanes lanes[COUNT][REDUCED<ROWS>];
#pragma GCC unroll 4
    for (int r = 0; r < REDUCED<ROWS>; ++r) {
      const auto row = Row::sums(x.row(g + r), cols, m.shift[g + r]);
#pragma GCC unroll 2
      for (int k = 0; k < COUNT; ++k) lanes[k][r] = row.of[k];
    }
#pragma GCC unroll 2
    for (int k = 0; k < COUNT; ++k) sum_rows<REDUCED<ROWS>>(lanes[k], sums[k] + g);
  }
  m.set(sums, inv_cols);
}

// The shift is the mean of a sample: of all the row if it is short, else of four runs spread over it, so that a trend
// along the row does not mislead. It is taken around x[0], since then the shift of a constant row is exactly its value.
template <typename Row, int ROWS, typename Source, typename T>
FLN_INLINE void find_shift(Moments<typename Row::Norm, T, ROWS>& m, Source x, ptrdiff_t cols, double inv_cols) {
  if constexpr (!Row::Norm::HAS_MEAN) {
    for (int r = 0; r < ROWS; ++r) m.shift[r] = 0;
    return;
  }
  const T inv_sample = static_cast<T>(Row::inv_sample(inv_cols));
#pragma GCC unroll 4
  for (int g = 0; g < ROWS; g += REDUCED<ROWS>) {
    if (g > 0) keep_order();
    Vec<T> lanes[REDUCED<ROWS>];
    T sums[REDUCED<ROWS>];
#pragma GCC unroll 4
    for (int r = 0; r < REDUCED<ROWS>; ++r) {
      lanes[r] = Row::sample(x.row(g + r), cols, x.row(g + r).number(0));
    }
    sum_rows<REDUCED<ROWS>>(lanes, sums);
#pragma GCC unroll 4
    for (int r = 0; r < REDUCED<ROWS>; ++r) m.shift[g + r] = x.row(g + r).number(0) + sums[r] * inv_sample;
  }
}

// Of one row, whatever it holds. Around the mean that the first sweep found, a second one is well centered: |lo| is
// at most half the spacing of T there. (A third is for a row whose first sum overflowed.)
template <typename Row, typename Source, typename T = typename Source::T>
__attribute__((noinline)) Moments<typename Row::Norm, T, 1> centered_moments(Source x, ptrdiff_t cols,
                                                                             double inv_cols) {
  Moments<typename Row::Norm, T, 1> m;
  find_shift<Row>(m, x, cols, inv_cols);
  find_moments<Row>(m, x, cols, inv_cols);
  for (int again = 0; again < 2 && !m.is_centered(); ++again) {
    write(m.mean(), m.shift);
    find_moments<Row>(m, x, cols, inv_cols);
  }
  return m;
}
