// Gradients of y = x_hat * weight + bias, x_hat = (x - mean) * rstd, with g = dy * weight and D columns:
//
//   dx      = rstd * (g - sum(g) / D - x_hat * sum(g * x_hat) / D)     over each row
//   dweight = sum of dy * x_hat, dbias = sum of dy                     over the rows
//
// Ba, Kiros and Hinton, "Layer Normalization" (2016), arXiv:1607.06450, differentiated.
//
// Two sweeps: the first finds the sums of a row, the second writes dx and adds to dweight and dbias while x and dy are
// still in cache. The saved mean is rounded to T; z = (x - mean) * rstd differs from x_hat by a constant that the first
// sweep finds too: x_hat = z + offset, offset = -sum(z) / D.
//
// dweight and dbias are summed in T over blocks of BLOCK_ROWS rows, and the blocks in more than T's precision, in the
// order of the rows. Which columns a call covers changes no bit.
#pragma once

#include "moments.h"
#include "normalize.h"

// As few as BLOCK_STEPS, for the same reason: what equal numbers in a column lose adds up.
constexpr int BLOCK_ROWS = FLN_BACKWARD_BLOCK_ROWS;

// What the second sweep needs of the rows of a block.
template <typename T>
struct BlockTerms {
  T offset[BLOCK_ROWS];   // x_hat - z
  T mean_g[BLOCK_ROWS];   // sum(g) / D
  T mean_gx[BLOCK_ROWS];  // sum(g * x_hat) / D
};
static_assert(sizeof(BlockTerms<float>) == FLN_BACKWARD_TERMS * BLOCK_ROWS * sizeof(float), "as the caller allocates");

// high + low += a, exactly but for the last bits of low (Knuth).
FLN_INLINE void two_sum(double& high, double& low, double a) {
  const double sum = high + a, added = sum - high;
  low += (high - (sum - added)) + (a - added);
  high = sum;
}

// sum(x) - cols * mean, nearly exact: dweight may have a column in which x_hat is near 0 in each row that counts, and
// its bound is relative to that. (With the sums in T, 4 times the bound for rows that are ramps.)
template <int ROWS>
FLN_INLINE PerRow<ROWS> residuals(const Total<float>* sums, ptrdiff_t cols, const float* mean) {
  Vec<double> lanes[ROWS];
  for (int r = 0; r < ROWS; ++r) lanes[r] = sums[r].folded();
  PerRow<ROWS> means;
  read(means, mean);
  return sums_per_row<ROWS>(lanes) - PerRow<ROWS>::splat(static_cast<double>(cols)) * means;
}

template <int ROWS>
FLN_INLINE PerRow<ROWS> residuals(const Total<double>* sums, ptrdiff_t, const double*) {
  double result[ROWS];
  for (int r = 0; r < ROWS; ++r) {  // the sums are of x - mean already: see add_element
    double lane[LANES<double>], high = 0, low = sums[r].low.sum();
    sums[r].high.store(lane);
    for (int i = 0; i < LANES<double>; ++i) two_sum(high, low, lane[i]);
    result[r] = high + low;
  }
  PerRow<ROWS> to;
  read(to, result);
  return to;
}

FLN_INLINE void add_element(Total<float>& sum, Vec<float> x, Vec<float>) { sum.add(x); }

// x - mean and what rounding that lost: sum(x) itself might overflow.
FLN_INLINE void add_element(Total<double>& sum, Vec<double> x, Vec<double> mean) {
  const Vec<double> d = x - mean, taken = x - d;
  sum.low = sum.low + ((x - (d + taken)) - (mean - taken));
  sum.add(d);
}

template <typename T>
FLN_INLINE void add_elements(Total<T>& sum, const T* x, ptrdiff_t n, T mean) {
  const Vec<T> means = Vec<T>::splat(mean), past_end = Vec<T>::splat(sizeof(T) == sizeof(double) ? mean : 0);
  ptrdiff_t i = 0;
  for (; i + LANES<T> <= n; i += LANES<T>) add_element(sum, Vec<T>::load(x + i), means);
  if (i < n) add_element(sum, Vec<T>::load_first(x + i, n - i, past_end), means);
}

// Registers of the sums over a row: of g and g * z.
template <typename V>
struct RowSums {
  V g, gz;
};

template <typename V>
FLN_INLINE RowSums<V> operator+(RowSums<V> a, RowSums<V> b) {
  return {a.g + b.g, a.gz + b.gz};
}

template <typename T>
struct BackwardRow {
  const T* dy;
  const T* x;
  const T* weight;  // or NULL
  T mean, rstd;
};

// Adds a register of each, at i. Lanes past the end of the row (n < lanes) add 0.
template <bool ALL, bool WEIGHT, typename V, typename T>
FLN_INLINE void add_part(RowSums<V>& sums, const BackwardRow<T>& row, ptrdiff_t i, ptrdiff_t n) {
  const V mean = V::splat(row.mean), zero = V::splat(0);
  V g = ALL ? V::load(row.dy + i) : V::load_first(row.dy + i, n, zero);
  if (WEIGHT) g = g * (ALL ? V::load(row.weight + i) : V::load_first(row.weight + i, n, zero));
  const V z = ((ALL ? V::load(row.x + i) : V::load_first(row.x + i, n, mean)) - mean) * V::splat(row.rstd);
  sums.g = sums.g + g;
  sums.gz = fma(g, z, sums.gz);
}

// As block_sums in moments.h, of columns [i, i + n).
template <bool WEIGHT, int COUNT, typename T>
FLN_INLINE RowSums<Vec<T>> backward_block_sums(const BackwardRow<T>& row, ptrdiff_t i, ptrdiff_t n) {
  if constexpr (COUNT > ACCUMULATORS) {
    constexpr ptrdiff_t half = COUNT / 2 * LANES<T>;
    const RowSums<Vec<T>> low = backward_block_sums<WEIGHT, COUNT / 2>(row, i, n);
    return low + backward_block_sums<WEIGHT, COUNT / 2>(row, i + half, n - half);
  } else {
    using Step = Vecs<T, COUNT>;
    const Step zero = Step::splat(0);
    RowSums<Step> sums = {zero, zero};
    for (; n >= Step::lanes; i += STEP<T>, n -= STEP<T>) add_part<true, WEIGHT>(sums, row, i, n);
    if (n > 0) add_part<false, WEIGHT>(sums, row, i, n);
    return {fold<T, COUNT>(sums.g), fold<T, COUNT>(sums.gz)};
  }
}

template <typename T>
struct LongBackwardRow {
  using Lanes = Vec<double>;

  template <bool WEIGHT>
  static FLN_INLINE RowSums<Lanes> sums(const BackwardRow<T>& row, ptrdiff_t cols, Total<T>& x_sum) {
    Total<T> g = Total<T>::of(Vec<T>::splat(0)), gz = g;
    for (ptrdiff_t i = 0; i < cols; i += BLOCK<T>) {
      const ptrdiff_t n = cols - i < BLOCK<T> ? cols - i : BLOCK<T>;
      const RowSums<Vec<T>> next = backward_block_sums<WEIGHT, STEP_VECS>(row, i, n);
      add_elements(x_sum, row.x + i, n, row.mean);
      g.add(next.g);
      gz.add(next.gz);
    }
    return {g.folded(), gz.folded()};
  }
};

template <typename T>
struct ShortBackwardRow {  // at most one step
  using Lanes = Vec<T>;

  template <bool WEIGHT>
  static FLN_INLINE RowSums<Lanes> sums(const BackwardRow<T>& row, ptrdiff_t cols, Total<T>& x_sum) {
    const Lanes zero = Lanes::splat(0);
    RowSums<Lanes> sums = {zero, zero};
    ptrdiff_t i = 0;
    for (; i + LANES<T> <= cols; i += LANES<T>) add_part<true, WEIGHT>(sums, row, i, LANES<T>);
    if (i < cols) add_part<false, WEIGHT>(sums, row, i, cols - i);
    add_elements(x_sum, row.x, cols, row.mean);
    return sums;
  }
};

// fma() where an error of two roundings would pass the bound of dweight: in double, where no wider type helps.
template <typename T, typename V>
FLN_INLINE V accurate_fma(V a, V b, V c) {
  if constexpr (sizeof(T) == sizeof(double) && !HAS_FMA) {
    return fused(a, b, c);
  } else {
    return fma(a, b, c);
  }
}

// A sum over rows for each column, in more than T's precision: float is summed in double; double as a pair, whose low
// parts stand `cols` further on.
template <typename T>
struct ColumnTotals {
  double* high;

  template <bool ALL, typename V>
  FLN_INLINE void add(V part, ptrdiff_t i, ptrdiff_t n, ptrdiff_t cols) const {
    if constexpr (sizeof(T) == sizeof(float)) {
      const auto wide = widen(part);
      using W = decltype(widen(part));
      const W zero = W::splat(0);
      const W sum = (ALL ? W::load(high + i) : W::load_first(high + i, n, zero)) + wide;
      ALL ? sum.store(high + i) : sum.store_first(high + i, n);
    } else {
      const V zero = V::splat(0);
      double* const low = high + cols;
      const V before = ALL ? V::load(high + i) : V::load_first(high + i, n, zero);
      const V rest = ALL ? V::load(low + i) : V::load_first(low + i, n, zero);
      const V sum = before + part;
      const V added = sum - before;
      const V lost = (before - (sum - added)) + (part - added);
      ALL ? sum.store(high + i) : sum.store_first(high + i, n);
      ALL ? (rest + lost).store(low + i) : (rest + lost).store_first(low + i, n);
    }
  }
};

template <typename T, bool DX, bool DWEIGHT, bool DBIAS, bool WEIGHT>
struct LayerNormBackward {
  const fln_layer_norm_backward_args& args;
  const ptrdiff_t cols = args.cols;
  const double inv_cols = 1.0 / static_cast<double>(cols);
  const T* const weight = static_cast<const T*>(args.weight);
  const T* const mean = static_cast<const T*>(args.mean);
  const T* const rstd = static_cast<const T*>(args.rstd);

  FLN_INLINE const T* x(ptrdiff_t row) const { return static_cast<const T*>(args.x) + row * args.x_stride; }
  FLN_INLINE const T* dy(ptrdiff_t row) const { return static_cast<const T*>(args.dy) + row * args.dy_stride; }
  FLN_INLINE T* dx(ptrdiff_t row) const { return static_cast<T*>(args.dx) + row * args.dx_stride; }

  // First sweep, over ROWS rows; `r` is the place of the first in its block.
  template <typename Row, int ROWS>
  FLN_INLINE void row_terms(ptrdiff_t row, BlockTerms<T>& terms, int r) const {
    typename Row::Lanes g[ROWS], gz[ROWS];
    Total<T> x_sum[ROWS];
    for (int k = 0; k < ROWS; ++k) {
      const BackwardRow<T> one = {dy(row + k), x(row + k), weight, mean[row + k], rstd[row + k]};
      x_sum[k] = Total<T>::of(Vec<T>::splat(0));
      const RowSums<typename Row::Lanes> sums = Row::template sums<WEIGHT>(one, cols, x_sum[k]);
      g[k] = sums.g;
      gz[k] = sums.gz;
    }
    using P = PerRow<ROWS>;
    const P inv = P::splat(inv_cols);
    P scale;
    read(scale, rstd + row);
    const P offset = P::splat(0) - residuals<ROWS>(x_sum, cols, mean + row) * inv * scale;
    write(offset, terms.offset + r);
    if (!DX) return;
    const P sum_g = sums_per_row<ROWS>(g);
    write(sum_g * inv, terms.mean_g + r);
    write((sums_per_row<ROWS>(gz) + offset * sum_g) * inv, terms.mean_gx + r);
  }

  template <typename Row>
  __attribute__((noinline)) void block_terms_as(ptrdiff_t row, int rows, BlockTerms<T>& terms) const {
    int r = 0;
    for (; r + GROUP <= rows; r += GROUP) row_terms<Row, GROUP>(row + r, terms, r);
    for (; r < rows; ++r) row_terms<Row, 1>(row + r, terms, r);
  }

  FLN_INLINE void block_terms(ptrdiff_t row, int rows, BlockTerms<T>& terms) const {
    if (!DX && !DWEIGHT) return;
    if (cols > STEP<T>) {
      block_terms_as<LongBackwardRow<T>>(row, rows, terms);
    } else {
      block_terms_as<ShortBackwardRow<T>>(row, rows, terms);
    }
  }

  // Second sweep, over one tile of columns of one row: COUNT registers, or only their first n lanes.
  template <bool ALL, typename V>
  FLN_INLINE void tile_row(ptrdiff_t row, int r, const BlockTerms<T>& terms, ptrdiff_t i, ptrdiff_t n, V& dw,
                           V& db) const {
    const V zero = V::splat(0);
    const T* const dy_at = dy(row + r) + i;
    const V dy_part = ALL ? V::load(dy_at) : V::load_first(dy_at, n, zero);
    if (DBIAS) db = db + dy_part;
    if (!DX && !DWEIGHT) return;
    const T* const x_at = x(row + r) + i;
    const V scale = V::splat(rstd[row + r]);
    const V d = (ALL ? V::load(x_at) : V::load_first(x_at, n, zero)) - V::splat(mean[row + r]);
    const V x_hat = accurate_fma<T>(d, scale, V::splat(terms.offset[r]));
    if (DWEIGHT) dw = accurate_fma<T>(dy_part, x_hat, dw);
    if (!DX) return;
    const T* const w_at = weight + i;
    const V g = !WEIGHT ? dy_part : dy_part * (ALL ? V::load(w_at) : V::load_first(w_at, n, zero));
    const V result = fma(x_hat, V::splat(-terms.mean_gx[r]), g - V::splat(terms.mean_g[r])) * scale;
    T* const dx_at = dx(row + r) + i;
    ALL ? result.store(dx_at) : result.store_first(dx_at, n);
  }

  // Over the rows of a block. Odd and even rows are summed apart: half as long a chain loses half as much.
  template <int COUNT, bool ALL>
  FLN_INLINE void tile(ptrdiff_t row, int rows, const BlockTerms<T>& terms, ptrdiff_t i, ptrdiff_t n,
                       ColumnTotals<T> dweight, ColumnTotals<T> dbias) const {
    using V = Vecs<T, COUNT>;
    const V zero = V::splat(0);
    V dw[2] = {zero, zero}, db[2] = {zero, zero};
    int r = 0;
    for (; r + 2 <= rows; r += 2) {
      tile_row<ALL>(row, r, terms, i, n, dw[0], db[0]);
      tile_row<ALL>(row, r + 1, terms, i, n, dw[1], db[1]);
    }
    if (r < rows) tile_row<ALL>(row, r, terms, i, n, dw[0], db[0]);
    if (DWEIGHT) dweight.template add<ALL>(dw[0] + dw[1], i, n, cols);
    if (DBIAS) dbias.template add<ALL>(db[0] + db[1], i, n, cols);
  }

  __attribute__((noinline)) void second_sweep(ptrdiff_t row, int rows, const BlockTerms<T>& terms, ptrdiff_t i,
                                              ptrdiff_t end, ColumnTotals<T> dweight, ColumnTotals<T> dbias) const {
    constexpr ptrdiff_t wide = BACKWARD_TILE * LANES<T>, narrow = LANES<T>;
    if ((end - i) * static_cast<ptrdiff_t>(sizeof(T)) >= ALIGN_FROM) {  // as in the forward pass
      const uintptr_t place = reinterpret_cast<uintptr_t>(DX ? dx(row) + i : dy(row) + i);
      const ptrdiff_t head = static_cast<ptrdiff_t>(-place % 64 / sizeof(T));
      if (head > 0) tile<1, false>(row, rows, terms, i, head, dweight, dbias);
      i += head;
    }
    for (; i + wide <= end; i += wide) tile<BACKWARD_TILE, true>(row, rows, terms, i, wide, dweight, dbias);
    for (; i + narrow <= end; i += narrow) tile<1, true>(row, rows, terms, i, narrow, dweight, dbias);
    if (i < end) tile<1, false>(row, rows, terms, i, end - i, dweight, dbias);
  }

  void run(const fln_layer_norm_backward_part& part) const {
    BlockTerms<T> own;
    for (ptrdiff_t row = part.first_row; row < part.last_row; row += BLOCK_ROWS) {
      const ptrdiff_t left = part.last_row - row;
      const int rows = left < BLOCK_ROWS ? static_cast<int>(left) : BLOCK_ROWS;
      BlockTerms<T>* const saved = static_cast<BlockTerms<T>*>(part.terms) + row / BLOCK_ROWS;
      BlockTerms<T>& terms = part.terms ? *saved : own;
      if (!part.terms || part.first_col == part.last_col) block_terms(row, rows, terms);
      second_sweep(row, rows, terms, part.first_col, part.last_col, {part.dweight}, {part.dbias});
    }
  }
};

template <typename T, bool DX, bool WEIGHT>
FLN_INLINE void backward_parameters(const fln_layer_norm_backward_args* args,
                                    const fln_layer_norm_backward_part* part) {
  if (part->dweight && part->dbias) {
    LayerNormBackward<T, DX, true, true, WEIGHT>{*args}.run(*part);
  } else if (part->dweight) {
    LayerNormBackward<T, DX, true, false, WEIGHT>{*args}.run(*part);
  } else if (part->dbias) {
    LayerNormBackward<T, DX, false, true, WEIGHT>{*args}.run(*part);
  } else if (DX) {
    LayerNormBackward<T, DX, false, false, WEIGHT>{*args}.run(*part);
  }
}

template <typename T>
void layer_norm_backward(const fln_layer_norm_backward_args* args, const fln_layer_norm_backward_part* part) {
  if (!args->dx) {
    backward_parameters<T, false, false>(args, part);
  } else if (args->weight) {
    backward_parameters<T, true, true>(args, part);
  } else {
    backward_parameters<T, true, false>(args, part);
  }
}

// Adds up `chunks` totals (each 2 * cols doubles, as ColumnTotals has them) in their order, and rounds once.
template <typename T>
void layer_norm_backward_merge(const double* totals, ptrdiff_t chunks, ptrdiff_t cols, void* result) {
  for (ptrdiff_t i = 0; i < cols; ++i) {
    double high = 0, low = 0;
    for (ptrdiff_t chunk = 0; chunk < chunks; ++chunk) {
      const double* const total = totals + chunk * 2 * cols;
      two_sum(high, low, total[i]);
      if (sizeof(T) == sizeof(double)) low += total[cols + i];
    }
    static_cast<T*>(result)[i] = static_cast<T>(high + low);
  }
}
