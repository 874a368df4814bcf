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
// dweight and dbias are summed in T over blocks of BLOCK_ROWS rows, by pairs (half as long a chain loses half as much),
// and the blocks in more than T's precision, in the order of the rows. Which columns a call covers changes no bit.
#pragma once

#include "moments.h"
#include "stream.h"

constexpr int BLOCK_ROWS = FLN_BACKWARD_BLOCK_ROWS;

// Registers of a row that are summed as a tree: there, equal numbers lose nothing.
constexpr int TREE = 8;
template <typename T>
constexpr ptrdiff_t TREE_COLS = TREE * LANES<T>;

// Columns whose parts of dweight and dbias wait in cache for the end of a block. A row of no more is swept a second
// time as soon as its pair has been swept once, while it is in L1; longer ones a block and WAITING_COLS at a time.
// 16 KiB: at 2048x4096 float32 1.06 to 1.10 times as fast as 4 or 8 KiB, at 128x768 and 32x65536 the same.
template <typename T>
constexpr ptrdiff_t WAITING_COLS = 16384 / sizeof(T);

// What the second sweep needs of the rows of a block.
template <typename T>
struct BlockTerms {
  T offset[BLOCK_ROWS];   // x_hat - z
  T mean_g[BLOCK_ROWS];   // sum(g) / D
  T mean_gx[BLOCK_ROWS];  // sum(g * x_hat) / D
};
static_assert(sizeof(BlockTerms<float>) == FLN_BACKWARD_TERMS * BLOCK_ROWS * sizeof(float), "as the caller allocates");

// A row in the first sweep.
template <typename T>
struct SummedRow {
  const T* dy;
  const T* x;
  const T* weight;  // or NULL
  T mean, rstd;
};

// Sums over a row.
template <typename V>
struct RowSums {
  V z, g, gz;
};

template <typename V>
FLN_INLINE RowSums<V> operator+(RowSums<V> a, RowSums<V> b) {
  return {a.z + b.z, a.g + b.g, a.gz + b.gz};
}

template <typename T>
struct RowTotals {
  Total<T> z, g, gz;

  static FLN_INLINE RowTotals zero() {
    const Total<T> none = Total<T>::of(Vec<T>::splat(0));
    return {none, none, none};
  }
  FLN_INLINE void add(RowSums<Vec<T>> sums) {
    z.add(sums.z);
    g.add(sums.g);
    gz.add(sums.gz);
  }
  FLN_INLINE RowSums<Vec<double>> folded() const { return {z.folded(), g.folded(), gz.folded()}; }
};

// z and g of one register of columns. Lanes past the end of the row (n < lanes) are 0.
template <bool ALL, bool WEIGHT, typename T>
FLN_INLINE void load_terms(const SummedRow<T>& row, ptrdiff_t i, ptrdiff_t n, Vec<T>& z, Vec<T>& g) {
  using V = Vec<T>;
  const V mean = V::splat(row.mean), zero = V::splat(0);
  z = ((ALL ? V::load(row.x + i) : V::load_first(row.x + i, n, mean)) - mean) * V::splat(row.rstd);
  g = ALL ? V::load(row.dy + i) : V::load_first(row.dy + i, n, zero);
  if (WEIGHT) g = g * (ALL ? V::load(row.weight + i) : V::load_first(row.weight + i, n, zero));
}

// The sums over COUNT registers from column i on.
template <int COUNT, bool WEIGHT, typename T>
FLN_INLINE RowSums<Vec<T>> tree_sums(const SummedRow<T>& row, ptrdiff_t i) {
  if constexpr (COUNT == 1) {
    Vec<T> z, g;
    load_terms<true, WEIGHT>(row, i, LANES<T>, z, g);
    return {z, g, g * z};
  } else if constexpr (COUNT == 2) {
    Vec<T> z[2], g[2];
    load_terms<true, WEIGHT>(row, i, LANES<T>, z[0], g[0]);
    load_terms<true, WEIGHT>(row, i + LANES<T>, LANES<T>, z[1], g[1]);
    return {z[0] + z[1], g[0] + g[1], fma(g[1], z[1], g[0] * z[0])};
  } else {
    const RowSums<Vec<T>> low = tree_sums<COUNT / 2, WEIGHT>(row, i);
    return low + tree_sums<COUNT / 2, WEIGHT>(row, i + COUNT / 2 * LANES<T>);
  }
}

// The same tree over n columns only, 0 < n <= COUNT registers.
template <int COUNT, bool WEIGHT, typename T>
FLN_INLINE RowSums<Vec<T>> tree_sums_first(const SummedRow<T>& row, ptrdiff_t i, ptrdiff_t n) {
  if constexpr (COUNT == 1) {
    Vec<T> z, g;
    load_terms<false, WEIGHT>(row, i, n, z, g);
    return {z, g, g * z};
  } else {
    constexpr ptrdiff_t half = COUNT / 2 * LANES<T>;
    if (n <= half) return tree_sums_first<COUNT / 2, WEIGHT>(row, i, n);
    const RowSums<Vec<T>> low = tree_sums<COUNT / 2, WEIGHT>(row, i);
    return low + tree_sums_first<COUNT / 2, WEIGHT>(row, i + half, n - half);
  }
}

// fma() where an error of two roundings would pass the bound of dweight: in double, where no wider type helps.
template <typename T>
FLN_INLINE Vec<T> accurate_fma(Vec<T> a, Vec<T> b, Vec<T> c) {
  if constexpr (sizeof(T) == sizeof(double) && !HAS_FMA) {
    return fused(a, b, c);
  } else {
    return fma(a, b, c);
  }
}

template <bool ALL, typename T>
FLN_INLINE Vec<T> load_lanes(const T* p, ptrdiff_t n) {
  return ALL ? Vec<T>::load(p) : Vec<T>::load_first(p, n, Vec<T>::splat(0));
}
template <bool ALL, typename V, typename T>
FLN_INLINE void store_lanes(V a, T* p, ptrdiff_t n) {
  ALL ? a.store(p) : a.store_first(p, n);
}

// Totals: a sum over rows for each column, in more than T's precision. Those of float are doubles; those of double are
// pairs, whose low parts stand `cols` further on. The first that is added to `fresh` ones replaces them.
template <bool ALL>
FLN_INLINE void add_to_totals(Vec<float> part, double* high, ptrdiff_t n, ptrdiff_t, bool fresh) {
  Total<float> total = Total<float>::of(part);
  if (!fresh) {
    using W = decltype(widen(part));
    total.lanes = ALL ? W::load(high) : W::load_first(high, n, W::splat(0));
    total.add(part);
  }
  store_lanes<ALL>(total.lanes, high, n);
}
template <bool ALL>
FLN_INLINE void add_to_totals(Vec<double> part, double* high, ptrdiff_t n, ptrdiff_t cols, bool fresh) {
  Total<double> total = Total<double>::of(part);
  if (!fresh) {
    total = {load_lanes<ALL>(high, n), load_lanes<ALL>(high + cols, n)};
    total.add(part);
  }
  store_lanes<ALL>(total.high, high, n);
  store_lanes<ALL>(total.low, high + cols, n);
}

// A row in the second sweep, from some column on.
template <typename T>
struct WrittenRow {
  const T* dy;
  const T* x;
  T* dx;
  Vec<T> mean, rstd, offset, minus_mean_g, minus_mean_gx;
};

// What goes with the columns of the second sweep.
template <typename T>
struct WrittenCols {
  const T* weight;
  T* dweight;  // of the block, as far as it has come
  T* dbias;
  T* first_dweight;  // of the first row of a pair, where the rows of a pair are not swept together
  T* first_dbias;
};

// Rows that are swept together: a pair (or the last of an odd number), or one row of a pair.
enum class Sweep { WHOLE, FIRST, SECOND };

// Room for WrittenCols, each in its own quarter of a page as seen from dx: a load must not wait for a store to the same
// place of another page that is still on its way (25 % of the time at 128x768, by luck of the stack); and rows of whole
// pages fill their sets of L1 by themselves. The registers are whole cache lines.
template <typename T>
class WaitingParts {
 public:
  // n columns, to be swept with those of dx at `place`.
  FLN_INLINE WrittenCols<T> cols(const T* weight, const T* place, ptrdiff_t n) {
    const ptrdiff_t head = head_cols(place, n), before = head > 0 ? LANES<T> - head : 0;
    return {weight, at_phase<1>(place) + before, at_phase<2>(place) + before, at_phase<3>(place) + before,
            at_phase<4>(place) + before};
  }

 private:
  static constexpr ptrdiff_t PAGE = 4096, ROOM = WAITING_COLS<T> + 2 * LANES<T> + PAGE / sizeof(T);

  template <int QUARTER>
  FLN_INLINE T* at_phase(const T* place) {
    T* const first = room[QUARTER - 1];
    const uintptr_t phase = reinterpret_cast<uintptr_t>(place) + QUARTER * PAGE / 4;
    return first + (phase - reinterpret_cast<uintptr_t>(first)) % PAGE / LINE * LANES<T>;
  }

  alignas(LINE) T room[4][ROOM];
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

  FLN_INLINE SummedRow<T> summed_row(ptrdiff_t row) const { return {dy(row), x(row), weight, mean[row], rstd[row]}; }

  // From the sums of a row; `r` is its place in its block. The three sums over lanes share most of their work.
  template <typename V>
  FLN_INLINE void write_terms(RowSums<V> lanes, BlockTerms<T>& terms, int r) const {
    typename V::value_type sums[4];
    sums_of_4(lanes.z, lanes.g, lanes.gz, lanes.gz, sums);
    const double offset = -(sums[0] * inv_cols), sum_g = sums[1], sum_gz = sums[2];
    terms.offset[r] = static_cast<T>(offset);
    terms.mean_g[r] = static_cast<T>(sum_g * inv_cols);
    terms.mean_gx[r] = static_cast<T>((sum_gz + offset * sum_g) * inv_cols);
  }

  FLN_INLINE void find_terms(ptrdiff_t row, BlockTerms<T>& terms, int r) const {
    const SummedRow<T> one = summed_row(row);
    if (cols <= TREE_COLS<T>) {  // no more than T's precision is needed
      return write_terms(tree_sums_first<TREE, WEIGHT>(one, 0, cols), terms, r);
    }
    RowTotals<T> totals = RowTotals<T>::zero();
    ptrdiff_t i = 0;
    for (; i + TREE_COLS<T> <= cols; i += TREE_COLS<T>) totals.add(tree_sums<TREE, WEIGHT>(one, i));
    if (i < cols) totals.add(tree_sums_first<TREE, WEIGHT>(one, i, cols - i));
    write_terms(totals.folded(), terms, r);
  }

  // First sweep over rows [r, end) of the block that starts at `block`.
  __attribute__((noinline)) void first_sweep(ptrdiff_t block, int r, int end, BlockTerms<T>& terms) const {
    if (!DX && !DWEIGHT) return;
    for (; r < end; ++r) find_terms(block + r, terms, r);
  }

  FLN_INLINE WrittenRow<T> written_row(ptrdiff_t block, int r, const BlockTerms<T>& terms, ptrdiff_t i) const {
    using V = Vec<T>;
    const ptrdiff_t row = block + r;
    WrittenRow<T> at;
    at.dy = dy(row) + i;
    if (DX || DWEIGHT) {
      at.x = x(row) + i;
      at.mean = V::splat(mean[row]);
      at.rstd = V::splat(rstd[row]);
      at.offset = V::splat(terms.offset[r]);
    }
    if (DX) {
      at.dx = dx(row) + i;
      at.minus_mean_g = V::splat(-terms.mean_g[r]);
      at.minus_mean_gx = V::splat(-terms.mean_gx[r]);
    }
    return at;
  }

  // Second sweep, over one register of columns of ROWS rows, or only its first n lanes. All is loaded before anything
  // is stored: rows may stand at the same place of different pages, see WaitingParts.
  template <Sweep SWEEP, int ROWS, bool ALL, bool STREAM>
  static FLN_INLINE void write_lanes(const WrittenRow<T>* rows, const WrittenCols<T>& to, ptrdiff_t i, ptrdiff_t n) {
    using V = Vec<T>;
    V dy[ROWS], x[ROWS], dx[ROWS], weight, dw, db, dw_before, db_before;
    for (int k = 0; k < ROWS; ++k) {
      dy[k] = load_lanes<ALL>(rows[k].dy + i, n);
      if (DX || DWEIGHT) x[k] = load_lanes<ALL>(rows[k].x + i, n);
    }
    if (WEIGHT) weight = load_lanes<ALL>(to.weight + i, n);
    constexpr bool FIRST = SWEEP == Sweep::FIRST, SECOND = SWEEP == Sweep::SECOND;
    if (DWEIGHT && SECOND) dw = load_lanes<ALL>(to.first_dweight + i, n);
    if (DBIAS && SECOND) db = load_lanes<ALL>(to.first_dbias + i, n);
    if (DWEIGHT && !FIRST) dw_before = load_lanes<ALL>(to.dweight + i, n);
    if (DBIAS && !FIRST) db_before = load_lanes<ALL>(to.dbias + i, n);
    for (int k = 0; k < ROWS; ++k) {
      if (DBIAS) db = k == 0 && !SECOND ? dy[k] : db + dy[k];
      if (!DX && !DWEIGHT) continue;
      const WrittenRow<T>& row = rows[k];
      const V x_hat = accurate_fma<T>(x[k] - row.mean, row.rstd, row.offset);
      if (DWEIGHT) dw = k == 0 && !SECOND ? dy[k] * x_hat : accurate_fma<T>(dy[k], x_hat, dw);
      const V g = WEIGHT ? fma(dy[k], weight, row.minus_mean_g) : dy[k] + row.minus_mean_g;
      dx[k] = fma(x_hat, row.minus_mean_gx, g) * row.rstd;
    }
    if (DX) {
      for (int k = 0; k < ROWS; ++k) STREAM ? dx[k].stream(rows[k].dx + i) : store_lanes<ALL>(dx[k], rows[k].dx + i, n);
    }
    if (DWEIGHT) store_lanes<ALL>(FIRST ? dw : dw_before + dw, (FIRST ? to.first_dweight : to.dweight) + i, n);
    if (DBIAS) store_lanes<ALL>(FIRST ? db : db_before + db, (FIRST ? to.first_dbias : to.dbias) + i, n);
  }

  // Over columns [i, i + n) of ROWS rows.
  template <Sweep SWEEP, int ROWS, bool STREAM>
  FLN_INLINE void write_rows(ptrdiff_t block, int r, const BlockTerms<T>& terms, const WrittenCols<T>& to, ptrdiff_t i,
                             ptrdiff_t n) const {
    WrittenRow<T> rows[ROWS];
    for (int k = 0; k < ROWS; ++k) rows[k] = written_row(block, r + k, terms, i);
    ptrdiff_t k = head_cols(place(block + r, i), n);
    if (k > 0) write_lanes<SWEEP, ROWS, false, false>(rows, to, 0, k);
    for (; k + LANES<T> <= n; k += LANES<T>) write_lanes<SWEEP, ROWS, true, STREAM>(rows, to, k, LANES<T>);
    if (k < n) write_lanes<SWEEP, ROWS, false, false>(rows, to, k, n - k);
  }

  // Where the second sweep writes most, or reads if it does not write.
  FLN_INLINE const T* place(ptrdiff_t row, ptrdiff_t i) const { return (DX ? dx(row) : dy(row)) + i; }

  FLN_INLINE WrittenCols<T> written_cols(WaitingParts<T>& parts, ptrdiff_t block, ptrdiff_t i, ptrdiff_t n) const {
    return parts.cols(WEIGHT ? weight + i : nullptr, place(block, i), n);
  }

  // Rows [r, end) of the block, r even: by pairs, so that what goes with the columns is loaded once for two rows.
  template <bool STREAM>
  __attribute__((noinline)) void second_sweep(ptrdiff_t block, int r, int end, const BlockTerms<T>& terms,
                                              const WrittenCols<T>& cols_of, ptrdiff_t i, ptrdiff_t n) const {
    const WrittenCols<T> to = cols_of;
    for (; r + 2 <= end; r += 2) write_rows<Sweep::WHOLE, 2, STREAM>(block, r, terms, to, i, n);
    if (r < end) write_rows<Sweep::WHOLE, 1, STREAM>(block, r, terms, to, i, n);
  }

  FLN_INLINE void clear(const WrittenCols<T>& at, ptrdiff_t n) const {
    for (ptrdiff_t i = 0; i < n; i += LANES<T>) {  // a whole register at the end, too: there is room
      if (DWEIGHT) Vec<T>::splat(0).store(at.dweight + i);
      if (DBIAS) Vec<T>::splat(0).store(at.dbias + i);
    }
  }

  // Columns [i, i + n) of the block to the totals of its part of the rows.
  void add_block(const fln_layer_norm_backward_part& part, ptrdiff_t block, const WrittenCols<T>& at, ptrdiff_t i,
                 ptrdiff_t n) const {
    const bool fresh = block == part.first_row;
    ptrdiff_t k = 0;
    for (; k + LANES<T> <= n; k += LANES<T>) add_lanes<true>(part, fresh, at, i, k, LANES<T>);
    if (k < n) add_lanes<false>(part, fresh, at, i, k, n - k);
  }
  template <bool ALL>
  FLN_INLINE void add_lanes(const fln_layer_norm_backward_part& part, bool fresh, const WrittenCols<T>& at, ptrdiff_t i,
                            ptrdiff_t k, ptrdiff_t n) const {
    if (DWEIGHT) add_to<ALL>(part, load_lanes<ALL>(at.dweight + k, n), part.dweight, i + k, n, fresh);
    if (DBIAS) add_to<ALL>(part, load_lanes<ALL>(at.dbias + k, n), part.dbias, i + k, n, fresh);
  }
  template <bool ALL>
  FLN_INLINE void add_to(const fln_layer_norm_backward_part& part, Vec<T> sum, void* to, ptrdiff_t i, ptrdiff_t n,
                         bool fresh) const {
    if (part.is_result) {
      store_lanes<ALL>(sum, static_cast<T*>(to) + i, n);
    } else {
      add_to_totals<ALL>(sum, static_cast<double*>(to) + i, n, cols, fresh);
    }
  }

  // A block of short rows: the two sweeps follow each other pair by pair.
  template <bool STREAM>
  FLN_INLINE void pairs(const fln_layer_norm_backward_part& part, ptrdiff_t block, int rows,
                        WaitingParts<T>& parts) const {
    BlockTerms<T> terms;
    const WrittenCols<T> to = written_cols(parts, block, 0, cols);
    clear(to, cols);
    for (int r = 0; r < rows; r += 2) {
      const int end = r + 2 < rows ? r + 2 : rows;
      first_sweep(block, r, end, terms);
      second_sweep<STREAM>(block, r, end, terms, to, 0, cols);
    }
    add_block(part, block, to, 0, cols);
  }

  // The second sweep over a row and the first one over the next, which needs no more of it than to be there: so memory
  // is read while it is written. Rows ahead of both are asked for, as far as `last`.
  template <Sweep SWEEP>
  __attribute__((noinline)) void write_and_sum(ptrdiff_t block, int r, ptrdiff_t last, BlockTerms<T>& terms,
                                               const WrittenCols<T>& cols_of) const {
    const WrittenRow<T> row = written_row(block, r, terms, 0);
    const WrittenCols<T> to = cols_of;
    const SummedRow<T> next = summed_row(block + r + 1);
    const ptrdiff_t wanted = block + r + rows_ahead<T>(cols), ahead = wanted < last ? wanted : last;
    prefetch_row_end(dx(ahead), cols);
    RowTotals<T> totals = RowTotals<T>::zero();
    ptrdiff_t i = 0, k = head_cols(row.dx, cols);
    if (k > 0) write_lanes<SWEEP, 1, false, false>(&row, to, 0, k);
    for (; i + TREE_COLS<T> <= cols; i += TREE_COLS<T>) {
      totals.add(tree_sums<TREE, WEIGHT>(next, i));
      prefetch_cols(x(ahead) + i, TREE_COLS<T>);
      prefetch_cols(dy(ahead) + i, TREE_COLS<T>);
      for (; k + LANES<T> <= i + TREE_COLS<T>; k += LANES<T>) write_lanes<SWEEP, 1, true, true>(&row, to, k, LANES<T>);
    }
    if (i < cols) totals.add(tree_sums_first<TREE, WEIGHT>(next, i, cols - i));
    for (; k + LANES<T> <= cols; k += LANES<T>) write_lanes<SWEEP, 1, true, true>(&row, to, k, LANES<T>);
    if (k < cols) write_lanes<SWEEP, 1, false, false>(&row, to, k, cols - k);
    write_terms(totals.folded(), terms, (r + 1) % BLOCK_ROWS);
  }

  // Rows that come from memory and go back to it, of more than one tree: row by row, to the last but one.
  FLN_INLINE void stream_rows(const fln_layer_norm_backward_part& part, WaitingParts<T>& parts) const {
    BlockTerms<T> terms;
    const ptrdiff_t last = part.last_row - 1;
    find_terms(part.first_row, terms, 0);
    for (ptrdiff_t block = part.first_row; block <= last; block += BLOCK_ROWS) {
      const WrittenCols<T> to = written_cols(parts, block, 0, cols);
      clear(to, cols);
      for (int r = 0; r < BLOCK_ROWS && block + r <= last; ++r) {
        if (block + r == last) {
          r % 2 ? write_rows<Sweep::SECOND, 1, false>(block, r, terms, to, 0, cols)
                : write_rows<Sweep::WHOLE, 1, false>(block, r, terms, to, 0, cols);
        } else {
          r % 2 ? write_and_sum<Sweep::SECOND>(block, r, last, terms, to)
                : write_and_sum<Sweep::FIRST>(block, r, last, terms, to);
        }
      }
      add_block(part, block, to, 0, cols);
    }
  }

  // A block of any rows, over some of its columns.
  template <bool STREAM>
  FLN_INLINE void columns(const fln_layer_norm_backward_part& part, ptrdiff_t block, int rows,
                          WaitingParts<T>& parts) const {
    BlockTerms<T> own;
    BlockTerms<T>& terms = part.terms ? static_cast<BlockTerms<T>*>(part.terms)[block / BLOCK_ROWS] : own;
    if (!part.terms || part.first_col == part.last_col) first_sweep(block, 0, rows, terms);
    for (ptrdiff_t i = part.first_col; i < part.last_col; i += WAITING_COLS<T>) {
      const ptrdiff_t n = part.last_col - i < WAITING_COLS<T> ? part.last_col - i : WAITING_COLS<T>;
      const WrittenCols<T> to = written_cols(parts, block, i, n);
      clear(to, n);
      if (STREAM && can_stream(dx(block) + i, n, args.dx_stride)) {
        second_sweep<STREAM>(block, 0, rows, terms, to, i, n);
      } else {
        second_sweep<false>(block, 0, rows, terms, to, i, n);
      }
      add_block(part, block, to, i, n);
    }
  }

  template <bool STREAM>
  __attribute__((noinline)) void run_part(const fln_layer_norm_backward_part& part) const {
    WaitingParts<T> parts;
    const bool in_one = !part.terms && cols <= WAITING_COLS<T>;
    if (STREAM && in_one && cols > TREE_COLS<T>) {
      stream_rows(part, parts);
    } else {
      for (ptrdiff_t block = part.first_row; block < part.last_row; block += BLOCK_ROWS) {
        const ptrdiff_t left = part.last_row - block;
        const int rows = left < BLOCK_ROWS ? static_cast<int>(left) : BLOCK_ROWS;
        in_one ? pairs<STREAM>(part, block, rows, parts) : columns<STREAM>(part, block, rows, parts);
      }
    }
    if (STREAM) stream_fence();
  }

  void run(const fln_layer_norm_backward_part& part) const {
    if (part.first_row == part.last_row) return;
    const bool stream = DX && args.stream && can_stream(dx(part.first_row), cols, args.dx_stride);
    stream ? run_part<DX>(part) : run_part<false>(part);
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

template <typename T>
constexpr ptrdiff_t TOTALS = sizeof(T) / sizeof(float);  // doubles a column

// Adds up `chunks` totals in their order, and rounds once.
template <typename T, bool ALL>
FLN_INLINE void merge_lanes(const double* totals, ptrdiff_t chunks, ptrdiff_t cols, T* result, ptrdiff_t n) {
  Total<double> sum = Total<double>::of(Vec<double>::splat(0));
  for (ptrdiff_t chunk = 0; chunk < chunks; ++chunk, totals += TOTALS<T> * cols) {
    sum.add(load_lanes<ALL>(totals, n));
    if (TOTALS<T> == 2) sum.low = sum.low + load_lanes<ALL>(totals + cols, n);
  }
  double lane[LANES<double>];
  sum.folded().store(lane);
  for (ptrdiff_t i = 0; i < n; ++i) result[i] = static_cast<T>(lane[i]);
}

template <typename T>
void layer_norm_backward_merge(const double* totals, ptrdiff_t chunks, ptrdiff_t cols, void* result) {
  T* const to = static_cast<T*>(result);
  ptrdiff_t i = 0;
  for (; i + LANES<double> <= cols; i += LANES<double>) {
    merge_lanes<T, true>(totals + i, chunks, cols, to + i, LANES<double>);
  }
  if (i < cols) merge_lanes<T, false>(totals + i, chunks, cols, to + i, cols - i);
}
