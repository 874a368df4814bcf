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
// Sums run over 4 registers (64 float lanes) for a block of BLOCK_STEPS steps; the block's sums are then added into
// a RowTotal of more than T's precision, so the error does not grow with cols.
// Source: Chan, Golub and LeVeque, "Algorithms for computing the sample variance" (1983), shifted data and pairwise.
#pragma once

#include "per_row.h"
#include "tree.h"

constexpr int STEP_VECS = 4;
// Adding n equal numbers one by one may lose up to 2.5 (n = 8), 3.3 (12) or 4.5 (16) units of T's roundoff, always to
// the same side: measured with rows of two values. So few steps a block; folding one costs about 16 instructions. With
// 4 steps, docs/accuracy.md would prove 12 eps of y in float32 instead of 15; that took 1.02 to 1.05 of the time at
// 4x768, 1.01 to 1.03 at 32x768, 1.03 to 1.08 at 8x4096 (AVX2, Zen 3).
constexpr int BLOCK_STEPS = 8;

template <typename T>
constexpr ptrdiff_t STEP = STEP_VECS * LANES<T>;
template <typename T>
constexpr ptrdiff_t BLOCK = BLOCK_STEPS * STEP<T>;
// A row of more columns is summed in segments, which are added up in their order: so several threads may find them.
constexpr ptrdiff_t SEGMENT_COLS = FLN_FORWARD_SEGMENT_COLS;

template <typename T>
struct Sums {
  Vec<T> d, dd;
};

template <typename T>
FLN_INLINE Sums<T> operator+(Sums<T> a, Sums<T> b) {
  return {a.d + b.d, a.dd + b.dd};
}

// A sum of many V as a pair: `low` collects what rounding `high` lost (Knuth's TwoSum).
template <typename V>
struct Compensated {
  V high, low;

  static FLN_INLINE Compensated of(V a) { return {a, V::splat(0)}; }
  FLN_INLINE void add(V a) {
    const V sum = high + a;
    const V part = sum - high;
    low = low + ((high - (sum - part)) + (a - part));
    high = sum;
  }
  FLN_INLINE V folded() const { return high + low; }
};

// A sum of many Vec<T> over a row, in more than T's precision. The two halves of a register are added up first: half
// the work, for one more level of the tree that comes before.
template <typename T>
struct RowTotal {
  using Lanes = Vec<double>;
  Lanes lanes;

  static FLN_INLINE RowTotal of(Vec<float> a) { return {widen_folded(a)}; }
  FLN_INLINE void add(Vec<float> a) { lanes = lanes + widen_folded(a); }
  FLN_INLINE void add(RowTotal a) { lanes = lanes + a.lanes; }
  FLN_INLINE Lanes folded() const { return lanes; }

  static FLN_INLINE RowTotal load(const double* p) { return {Lanes::load(p)}; }
  FLN_INLINE void store(double* p) const { lanes.store(p); }
};
template <>
struct RowTotal<double> {
  using Lanes = decltype(fold_halves(Vec<double>()));
  Compensated<Lanes> lanes;

  static FLN_INLINE RowTotal of(Vec<double> a) { return {Compensated<Lanes>::of(fold_halves(a))}; }
  FLN_INLINE void add(Vec<double> a) { lanes.add(fold_halves(a)); }
  FLN_INLINE void add(RowTotal a) {
    lanes.add(a.lanes.high);
    lanes.low = lanes.low + a.lanes.low;
  }
  FLN_INLINE Lanes folded() const { return lanes.folded(); }

  static FLN_INLINE RowTotal load(const double* p) { return {{Lanes::load(p), Lanes::load(p + Lanes::lanes)}}; }
  FLN_INLINE void store(double* p) const {
    lanes.high.store(p);
    lanes.low.store(p + Lanes::lanes);
  }
};

// What a row, or a segment of one, adds to the sums of d and d * d.
template <typename T>
struct MomentTotals {
  static constexpr int SIZE = LANES<double>;  // doubles of one total
  RowTotal<T> d, dd;

  static FLN_INLINE MomentTotals of(Sums<T> sums) { return {RowTotal<T>::of(sums.d), RowTotal<T>::of(sums.dd)}; }
  FLN_INLINE void add(Sums<T> sums) {
    d.add(sums.d);
    dd.add(sums.dd);
  }
  FLN_INLINE void add(MomentTotals totals) {
    d.add(totals.d);
    dd.add(totals.dd);
  }

  static FLN_INLINE MomentTotals load(const double* p) { return {RowTotal<T>::load(p), RowTotal<T>::load(p + SIZE)}; }
  FLN_INLINE void store(double* p) const {
    d.store(p);
    dd.store(p + SIZE);
  }
};

// The sums over the first COUNT registers of each step of x[0..n), n <= BLOCK, on as many accumulators as the ISA
// has registers for; the others in a sweep of their own over the same block, which is in L1 by then.
template <typename T, int COUNT>
FLN_INLINE Sums<T> block_sums(const T* x, ptrdiff_t n, T shift) {
  if constexpr (COUNT > ACCUMULATORS) {
    constexpr ptrdiff_t half = COUNT / 2 * LANES<T>;
    const Sums<T> low = block_sums<T, COUNT / 2>(x, n, shift);
    return low + block_sums<T, COUNT / 2>(x + half, n - half, shift);
  } else {
    using Step = Vecs<T, COUNT>;
    const Step shifts = Step::splat(shift);
    Step d_sum = Step::splat(0), dd_sum = Step::splat(0);
    while (n >= Step::lanes) {
      const Step d = Step::load(x) - shifts;
      d_sum = d_sum + d;
      dd_sum = fma(d, d, dd_sum);
      x += STEP<T>;
      n -= STEP<T>;
    }
    if (n > 0) {  // the lanes past the end count as x == shift
      const Step d = Step::load_first(x, n, shifts) - shifts;
      d_sum = d_sum + d;
      dd_sum = fma(d, d, dd_sum);
    }
    return {fold<T, COUNT>(d_sum), fold<T, COUNT>(dd_sum)};
  }
}

template <typename T>
struct LongRow {
  static constexpr bool is_short = false;
  using Lanes = typename RowTotal<T>::Lanes;
  using Any = LongRow;

  static FLN_INLINE Vec<T> sample(const T* x, ptrdiff_t cols, T origin) {
    const Vec<T> origins = Vec<T>::splat(origin);
    Vec<T> run[STEP_VECS];
    for (int i = 0; i < STEP_VECS; ++i) run[i] = Vec<T>::load(x + i * (cols / STEP_VECS)) - origins;
    return fold<STEP_VECS>(run);
  }
  static FLN_INLINE double inv_sample(double) { return 1.0 / STEP<T>; }

  static FLN_INLINE void sums(const T* x, ptrdiff_t cols, T shift, Lanes& d_sum, Lanes& dd_sum) {
    const MomentTotals<T> totals = cols <= SEGMENT_COLS ? segment(x, cols, shift) : all_segments(x, cols, shift);
    d_sum = totals.d.folded();
    dd_sum = totals.dd.folded();
  }

  // Of n <= SEGMENT_COLS columns.
  static FLN_INLINE MomentTotals<T> segment(const T* x, ptrdiff_t n, T shift) {
    auto totals = MomentTotals<T>::of(block_sums<T, STEP_VECS>(x, n < BLOCK<T> ? n : BLOCK<T>, shift));
    for (ptrdiff_t i = BLOCK<T>; i < n; i += BLOCK<T>) {
      const ptrdiff_t left = n - i;
      totals.add(block_sums<T, STEP_VECS>(x + i, left < BLOCK<T> ? left : BLOCK<T>, shift));
    }
    return totals;
  }

  static __attribute__((noinline)) MomentTotals<T> all_segments(const T* x, ptrdiff_t cols, T shift) {
    MomentTotals<T> totals = segment(x, SEGMENT_COLS, shift);
    for (ptrdiff_t i = SEGMENT_COLS; i < cols; i += SEGMENT_COLS) {
      const ptrdiff_t left = cols - i;
      totals.add(segment(x + i, left < SEGMENT_COLS ? left : SEGMENT_COLS, shift));
    }
    return totals;
  }
};

// A row of at most one step, in VECS registers. It is its own sample, and its sums need no more than T's precision.
// WHOLE: none of them is cut short by the row's end.
template <typename T, int COUNT, bool WHOLE_ROW = false>
struct ShortRow {
  static constexpr bool is_short = true, WHOLE = WHOLE_ROW;
  static constexpr int VECS = COUNT;
  using Lanes = Vec<T>;
  using Any = ShortRow<T, VECS>;  // of as many registers

  // x - center; zero in the lanes past the end.
  static FLN_INLINE void centered(const T* x, ptrdiff_t cols, T center, Vec<T>* d) {
    const Vec<T> centers = Vec<T>::splat(center);
    constexpr ptrdiff_t last = (VECS - 1) * LANES<T>;
    for (int i = 0; i < VECS - 1; ++i) d[i] = Vec<T>::load(x + i * LANES<T>) - centers;
    d[VECS - 1] = (WHOLE ? Vec<T>::load(x + last) : Vec<T>::load_first(x + last, cols - last, centers)) - centers;
  }

  static FLN_INLINE Vec<T> sample(const T* x, ptrdiff_t cols, T origin) {
    Vec<T> d[VECS];
    centered(x, cols, origin, d);
    return fold<VECS>(d);
  }
  static FLN_INLINE double inv_sample(double inv_cols) { return inv_cols; }

  static FLN_INLINE void sums(const T* x, ptrdiff_t cols, T shift, Lanes& d_sum, Lanes& dd_sum) {
    Vec<T> d[VECS], dd[(VECS + 1) / 2];
    centered(x, cols, shift, d);
    for (int i = 0; i < VECS; i += 2) dd[i / 2] = d[i] * d[i];
    for (int i = 1; i < VECS; i += 2) dd[i / 2] = fma(d[i], d[i], dd[i / 2]);
    d_sum = fold<VECS>(d);
    dd_sum = fold<(VECS + 1) / 2>(dd);
  }
};

template <typename T, int ROWS>
struct Moments {
  T shift[ROWS];     // the mean, high part
  PerRow<ROWS> lo;   // the mean, low part
  PerRow<ROWS> var;  // biased, as layer norm has it

  FLN_INLINE PerRow<ROWS> mean() const {
    PerRow<ROWS> high;
    read(high, shift);
    return high + lo;
  }

  // From the sums of d and d * d.
  template <typename S>
  FLN_INLINE void set(const S* d_sums, const S* dd_sums, double inv_cols) {
    const PerRow<ROWS> inv = PerRow<ROWS>::splat(inv_cols);
    PerRow<ROWS> d, dd;
    read(d, d_sums);
    read(dd, dd_sums);
    lo = d * inv;
    var = dd * inv - lo * lo;
  }

  // Whether shift is near enough to the mean: |lo| <= std / 2.
  FLN_INLINE bool is_centered() const { return all_le(lo * lo * PerRow<ROWS>::splat(4), var); }
};

// As many rows as are reduced at once.
template <int ROWS>
constexpr int REDUCED = ROWS < GROUP ? ROWS : GROUP;

// Row is how a row is read: ShortRow<T, VECS> or LongRow<T>.
template <typename Row, int ROWS, typename T>
FLN_INLINE void find_moments(Moments<T, ROWS>& m, const T* x, ptrdiff_t stride, ptrdiff_t cols, double inv_cols) {
  typename Row::Lanes::value_type d_sums[ROWS], dd_sums[ROWS];
#pragma GCC unroll 4
  for (int g = 0; g < ROWS; g += REDUCED<ROWS>) {
    if (g > 0) keep_order();
    typename Row::Lanes d[REDUCED<ROWS>], dd[REDUCED<ROWS>];
#pragma GCC unroll 4
    for (int r = 0; r < REDUCED<ROWS>; ++r) Row::sums(x + (g + r) * stride, cols, m.shift[g + r], d[r], dd[r]);
    sum_rows<REDUCED<ROWS>>(d, d_sums + g);
    sum_rows<REDUCED<ROWS>>(dd, dd_sums + g);
  }
  m.set(d_sums, dd_sums, inv_cols);
}

// The shift is the mean of a sample: of all the row if it is short, else of four runs spread over it, so that a trend
// along the row does not mislead. It is taken around x[0], since then the shift of a constant row is exactly its value.
template <typename Row, int ROWS, typename T>
FLN_INLINE void find_shift(Moments<T, ROWS>& m, const T* x, ptrdiff_t stride, ptrdiff_t cols, double inv_cols) {
  const T inv_sample = static_cast<T>(Row::inv_sample(inv_cols));
#pragma GCC unroll 4
  for (int g = 0; g < ROWS; g += REDUCED<ROWS>) {
    if (g > 0) keep_order();
    const T* const row = x + g * stride;
    Vec<T> lanes[REDUCED<ROWS>];
    T sums[REDUCED<ROWS>];
#pragma GCC unroll 4
    for (int r = 0; r < REDUCED<ROWS>; ++r) lanes[r] = Row::sample(row + r * stride, cols, row[r * stride]);
    sum_rows<REDUCED<ROWS>>(lanes, sums);
#pragma GCC unroll 4
    for (int r = 0; r < REDUCED<ROWS>; ++r) m.shift[g + r] = row[r * stride] + sums[r] * inv_sample;
  }
}

// Of one row, whatever it holds. Around the mean that the first sweep found, a second one is well centered: |lo| is
// at most half the spacing of T there. (A third is for a row whose first sum overflowed.)
template <typename Row, typename T>
__attribute__((noinline)) Moments<T, 1> centered_moments(const T* x, ptrdiff_t cols, double inv_cols) {
  Moments<T, 1> m;
  find_shift<Row>(m, x, 0, cols, inv_cols);
  find_moments<Row>(m, x, 0, cols, inv_cols);
  for (int again = 0; again < 2 && !m.is_centered(); ++again) {
    write(m.mean(), m.shift);
    find_moments<Row>(m, x, 0, cols, inv_cols);
  }
  return m;
}
