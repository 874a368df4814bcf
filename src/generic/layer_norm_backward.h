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
// dweight and dbias are summed in T over blocks of BLOCK_ROWS rows, as a tree over pairs of rows (which loses less than
// a chain), and the blocks in more than T's precision, in their order. Which columns a call covers changes no bit.
#pragma once

#include "moments.h"
#include "stream.h"
#include "tree.h"

constexpr int BLOCK_ROWS = FLN_BACKWARD_BLOCK_ROWS;
constexpr int HALF_ROWS = BLOCK_ROWS / 2;
static_assert(HALF_ROWS == 4, "two pairs, which a half adds up");

// A row of no more registers stays in them.
constexpr int SHORT_VECS = 4;

// Registers of a row that are summed as a tree: there, equal numbers lose nothing.
constexpr int TREE = 8;
template <typename T>
constexpr ptrdiff_t TREE_COLS = TREE * LANES<T>;

// Columns whose parts of dweight and dbias wait in cache for the end of a block. A row of no more is swept a second
// time as soon as its pair has been swept once, while it is in L1; longer ones a block and WAITING_COLS at a time.
// 16 KiB: at 2048x4096 float32 1.06 to 1.10 times as fast as 4 or 8 KiB, at 128x768 and 32x65536 the same.
template <typename T>
constexpr ptrdiff_t WAITING_COLS = 16384 / sizeof(T);

// Rows of at most so many bytes are swept a block at a time, which hides the latency of a row's sums behind the next
// row, unless they come from far: x, dy and dx of so many bytes. Of the time pair by pair, on AVX2: float32 2000x100
// 0.91, 4000x100 0.95, 500x128 0.91, 777x200 1.0, float64 500x128 0.95, 2000x100 0.99; but float32 12000x100 1.07,
// float64 4000x100 (9.6 MB) up to 1.12.
constexpr ptrdiff_t NARROW_BYTES = 1024, TOGETHER_BYTES = 6 << 20;

// What the second sweep needs of the rows of a block.
template <typename T>
struct BlockTerms {
  T offset[BLOCK_ROWS];   // x_hat - z
  T mean_g[BLOCK_ROWS];   // sum(g) / D
  T mean_gx[BLOCK_ROWS];  // sum(g * x_hat) / D
};
static_assert(sizeof(BlockTerms<float>) == FLN_BACKWARD_TERMS * BLOCK_ROWS * sizeof(float), "as the caller allocates");

// Sums over a row.
template <typename V>
struct RowSums {
  V z, g, gz;
};

template <typename V>
FLN_INLINE RowSums<V> operator+(RowSums<V> a, RowSums<V> b) {
  return {a.z + b.z, a.g + b.g, a.gz + b.gz};
}
template <typename H>
FLN_INLINE RowSums<Doubled<H>> side_by_side(RowSums<H> low, RowSums<H> high) {
  return {{low.z, high.z}, {low.g, high.g}, {low.gz, high.gz}};
}

template <typename T>
struct RowTotals {
  using Lanes = typename RowTotal<T>::Lanes;
  RowTotal<T> z, g, gz;

  static FLN_INLINE RowTotals zero() {
    const RowTotal<T> none = RowTotal<T>::of(Vec<T>::splat(0));
    return {none, none, none};
  }
  FLN_INLINE void add(RowSums<Vec<T>> sums) {
    z.add(sums.z);
    g.add(sums.g);
    gz.add(sums.gz);
  }
  FLN_INLINE RowSums<Lanes> folded() const { return {z.folded(), g.folded(), gz.folded()}; }
};

// The sums over one register or two.
template <int COUNT, typename V>
FLN_INLINE RowSums<V> leaf_sums(const V* z, const V* g) {
  if constexpr (COUNT == 1) {
    return {z[0], g[0], g[0] * z[0]};
  } else {
    return {z[0] + z[1], g[0] + g[1], fma(g[1], z[1], g[0] * z[0])};
  }
}

// A row in the first sweep: the leaves of its trees, in registers R, which are virtual ones or parts of them.
template <typename R, bool WEIGHT>
struct SummedRow {
  using V = R;
  using T = typename V::value_type;
  using Sum = RowSums<V>;
  static constexpr ptrdiff_t lanes = LANES<T>;
  const T* dy;
  const T* x;
  const T* weight;  // or NULL
  T mean, rstd;

  FLN_INLINE auto half() const { return SummedRow<decltype(V::low), WEIGHT>{dy, x, weight, mean, rstd}; }

  template <bool ALL>
  FLN_INLINE Sum one(ptrdiff_t i, ptrdiff_t n) const {
    V z, g;
    load<ALL>(i, n, z, g);
    return leaf_sums<1>(&z, &g);
  }
  template <bool ALL>
  FLN_INLINE Sum two(ptrdiff_t i, ptrdiff_t n) const {
    V z[2], g[2];
    load<true>(i, lanes, z[0], g[0]);
    load<ALL>(i + lanes, n, z[1], g[1]);
    return leaf_sums<2>(z, g);
  }

  // z and g of one register of columns. Lanes past the end of the row are 0.
  template <bool ALL>
  FLN_INLINE void load(ptrdiff_t i, ptrdiff_t n, V& z, V& g) const {
    const V means = V::splat(mean), zero = V::splat(0);
    z = ((ALL ? V::load(x + i) : V::load_first(x + i, n, means)) - means) * V::splat(rstd);
    g = ALL ? V::load(dy + i) : V::load_first(dy + i, n, zero);
    if (WEIGHT) g = g * (ALL ? V::load(weight + i) : V::load_first(weight + i, n, zero));
  }
};

// fma() where two roundings would take dweight of ordinary rows past 2 eps: in double, where no wider type helps.
template <typename V>
FLN_INLINE V accurate_fma(V a, V b, V c) {
  if constexpr (sizeof(typename V::value_type) == sizeof(double) && !HAS_FMA) {
    return fused(a, b, c);
  } else {
    return fma(a, b, c);
  }
}

template <bool ALL, typename T, typename V = Vec<T>>
FLN_INLINE V load_lanes(const T* p, ptrdiff_t n) {
  return ALL ? V::load(p) : V::load_first(p, n, V::splat(0));
}
template <bool ALL, typename V, typename T>
FLN_INLINE void store_lanes(V a, T* p, ptrdiff_t n) {
  ALL ? a.store(p) : a.store_first(p, n);
}

// Totals: a sum over rows for each column, in more than T's precision. Those of float are doubles; those of double are
// pairs, whose low parts stand `cols` further on. The first that is added to `fresh` ones replaces them.
template <bool ALL, typename V>
FLN_INLINE void add_to_totals(V part, double* high, ptrdiff_t n, ptrdiff_t cols, bool fresh) {
  if constexpr (sizeof(typename V::value_type) == sizeof(float)) {
    using W = decltype(widen(part));
    W total = widen(part);
    if (!fresh) total = load_lanes<ALL, double, W>(high, n) + total;
    store_lanes<ALL>(total, high, n);
  } else {
    auto total = Compensated<V>::of(part);
    if (!fresh) {
      total = {load_lanes<ALL, double, V>(high, n), load_lanes<ALL, double, V>(high + cols, n)};
      total.add(part);
    }
    store_lanes<ALL>(total.high, high, n);
    store_lanes<ALL>(total.low, high + cols, n);
  }
}

// A row in the second sweep, from some column on, in registers V.
template <typename V>
struct WrittenRow {
  using T = typename V::value_type;
  const T* dy;
  const T* x;
  T* dx;
  V mean, rstd, offset, minus_mean_g, minus_mean_gx;

  // The row from `n` columns further on, with another place for dx.
  FLN_INLINE WrittenRow from(ptrdiff_t n, T* to) const {
    WrittenRow rest = *this;
    rest.dy = dy + n;
    rest.x = x + n;
    rest.dx = to;
    return rest;
  }
};

// What rows add to: nothing yet, what their half of the block has so far, or, as the last of a whole block, the totals
// together with the rest of it.
enum class Adds { FIRST, MORE, LAST };

// Sums over rows, of dweight or dbias, from some column on.
template <typename T>
struct RowsSum {
  T* half[2];      // over the halves of a block
  double* totals;  // over the blocks so far; or NULL

  FLN_INLINE RowsSum from(ptrdiff_t n) const { return {{half[0] + n, half[1] + n}, totals ? totals + n : totals}; }

  // With that over more rows, which are of half `now`.
  template <Adds ADDS, bool ALL, typename V>
  FLN_INLINE V with(V rows, int now, ptrdiff_t i, ptrdiff_t n) const {
    if constexpr (ADDS == Adds::FIRST) return rows;
    const V sum = load_lanes<ALL, T, V>(half[now] + i, n) + rows;
    return ADDS == Adds::MORE ? sum : load_lanes<ALL, T, V>(half[0] + i, n) + sum;
  }
};

// What goes with the columns of the second sweep.
template <typename T>
struct WrittenCols {
  const T* weight;
  RowsSum<T> dweight, dbias;
  ptrdiff_t cols;  // of a row
  bool fresh;      // the block is the first one
  int now = 0;     // the half of the block that they are in

  FLN_INLINE WrittenCols from(ptrdiff_t n) const {
    return {weight ? weight + n : weight, dweight.from(n), dbias.from(n), cols, fresh, now};
  }

  template <Adds ADDS, bool ALL, typename V>
  FLN_INLINE void put(V sum, const RowsSum<T>& to, ptrdiff_t i, ptrdiff_t n) const {
    if constexpr (ADDS == Adds::LAST) {
      add_to_totals<ALL>(sum, to.totals + i, n, cols, fresh);
    } else {
      store_lanes<ALL>(sum, to.half[now] + i, n);
    }
  }
};

// Room for what waits of dweight and dbias, each at its own phase of a page as seen from dx (25 % of the time at
// 128x768, by luck of the stack): see at_phase; and rows of whole pages fill their sets of L1 by themselves. The
// registers are whole cache lines.
template <typename T>
class WaitingParts {
 public:
  // Columns to be swept with those of dx at `place`, of which `head` come before the first whole line.
  FLN_INLINE WrittenCols<T> cols(const T* weight, const T* place, ptrdiff_t head, double* dweight_totals,
                                 double* dbias_totals, ptrdiff_t row_cols, bool fresh) {
    const ptrdiff_t before = head > 0 ? LANES<T> - head : 0;
    T* at[4];
    for (int k = 0; k < 4; ++k) at[k] = at_phase(room[k], place, (k + 1) * PAGE / 5) + before;
    return {weight, {{at[0], at[1]}, dweight_totals}, {{at[2], at[3]}, dbias_totals}, row_cols, fresh};
  }

 private:
  alignas(LINE) T room[4][WAITING_COLS<T> + 2 * LANES<T> + PAGE / sizeof(T)];
};

// How dx is stored; the last two go past the cache.
enum class Stores { CACHED, STREAMED, STAGED };

// What whole rows pass through.
template <typename T, Stores HOW>
struct ExitOf {
  struct None {
    void close() {}
  };
  using type = None;
};
template <typename T>
struct ExitOf<T, Stores::STREAMED> {
  using type = Seams<T>;
};
template <typename T>
struct ExitOf<T, Stores::STAGED> {
  using type = Stage<T, 2 * WAITING_COLS<T>>;
};
template <typename T, Stores HOW>
using Exit = typename ExitOf<T, HOW>::type;

template <typename T, bool DX, bool DWEIGHT, bool DBIAS, bool WEIGHT>
struct LayerNormBackward {
  const fln_layer_norm_backward_args& args;
  const ptrdiff_t cols = args.cols;
  const double inv_cols = 1.0 / static_cast<double>(cols);
  const bool in_one = cols <= WAITING_COLS<T>;
  const ptrdiff_t bytes = cols * static_cast<ptrdiff_t>(sizeof(T));  // of a row
  // Rows that are swept once before any of them is swept again.
  const int together = bytes <= NARROW_BYTES && 3 * args.rows * bytes <= TOGETHER_BYTES ? BLOCK_ROWS : 2;
  const T* const weight = static_cast<const T*>(args.weight);
  const T* const mean = static_cast<const T*>(args.mean);
  const T* const rstd = static_cast<const T*>(args.rstd);
  using P = Part<T>;

  FLN_INLINE const T* x(ptrdiff_t row) const { return static_cast<const T*>(args.x) + row * args.x_stride; }
  FLN_INLINE const T* dy(ptrdiff_t row) const { return static_cast<const T*>(args.dy) + row * args.dy_stride; }
  FLN_INLINE T* dx(ptrdiff_t row) const { return static_cast<T*>(args.dx) + row * args.dx_stride; }

  // From the sums of a row; `r` is its place in its block. The three sums over lanes share most of their work.
  template <typename V>
  FLN_INLINE void write_terms(RowSums<V> lanes, BlockTerms<T>& terms, int r) const {
    using S = typename V::value_type;
    S sums[4];
    sums_of_4(lanes.z, lanes.g, lanes.gz, lanes.gz, sums);
    const S inv = static_cast<S>(inv_cols), offset = -(sums[0] * inv);
    terms.offset[r] = static_cast<T>(offset);
    terms.mean_g[r] = static_cast<T>(sums[1] * inv);
    terms.mean_gx[r] = static_cast<T>((sums[2] + offset * sums[1]) * inv);
  }

  template <bool STREAM>
  FLN_INLINE void find_terms(ptrdiff_t row, BlockTerms<T>& terms, int r) const {
    const SummedRow<Vec<T>, WEIGHT> one = {dy(row), x(row), weight, mean[row], rstd[row]};
    if (cols <= TREE_COLS<T>) {  // no more than T's precision is needed
      if (STREAM) prefetch_ahead(one.x, cols);
      return write_terms(tree_first<TREE>(one, 0, cols), terms, r);
    }
    RowTotals<T> totals = RowTotals<T>::zero();
    ptrdiff_t i = 0;
    for (; i + TREE_COLS<T> <= cols; i += TREE_COLS<T>) {
      if (STREAM && in_one) prefetch_ahead(one.x + i, TREE_COLS<T>);
      totals.add(tree_by_parts<TREE>(one, i));
    }
    if (i < cols) {
      if (STREAM && in_one) prefetch_ahead(one.x + i, cols - i);
      totals.add(tree_first<TREE>(one, i, cols - i));
    }
    write_terms(totals.folded(), terms, r);
  }

  // First sweep over rows [r, end) of the block that starts at `block`.
  template <bool STREAM>
  __attribute__((noinline)) void first_sweep(ptrdiff_t block, int r, int end, BlockTerms<T>& terms) const {
    if (!DX && !DWEIGHT) return;
    for (; r < end; ++r) find_terms<STREAM>(block + r, terms, r);
  }

  template <typename V>
  FLN_INLINE WrittenRow<V> written_row(ptrdiff_t block, int r, const BlockTerms<T>& terms, ptrdiff_t i) const {
    const ptrdiff_t row = block + r;
    WrittenRow<V> at;
    at.dy = dy(row) + i;
    at.x = x(row) + i;
    if (DX || DWEIGHT) {
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

  // One register of a row in the second sweep, d = x - mean: dx, and the row added to what its pair adds to dweight and
  // dbias.
  template <typename V>
  static FLN_INLINE V gradients(const WrittenRow<V>& row, bool is_first, V d, V dy, V weight, V& dw, V& db) {
    if (DBIAS) db = is_first ? dy : db + dy;
    if (!DX && !DWEIGHT) return dy;  // nobody asks for it
    const V x_hat = accurate_fma(d, row.rstd, row.offset);
    if (DWEIGHT) dw = is_first ? dy * x_hat : accurate_fma(dy, x_hat, dw);
    const V g = WEIGHT ? fma(dy, weight, row.minus_mean_g) : dy + row.minus_mean_g;
    return fma(x_hat, row.minus_mean_gx, g) * row.rstd;
  }

  // Second sweep, over one register of columns of ROWS rows, or only its first n lanes. All is loaded before anything
  // is stored: rows may stand at the same place of different pages, see WaitingParts.
  template <int ROWS, Adds ADDS, bool ALL, bool STREAM>
  static FLN_INLINE void write_register(const WrittenRow<P>* rows, const WrittenCols<T>& to, ptrdiff_t i, ptrdiff_t n) {
    using V = P;
    V dy[ROWS], x[ROWS], dx[ROWS], weight, dw, db;
    for (int k = 0; k < ROWS; ++k) {
      dy[k] = load_lanes<ALL, T, V>(rows[k].dy + i, n);
      if (DX || DWEIGHT) x[k] = load_lanes<ALL, T, V>(rows[k].x + i, n);
    }
    if (WEIGHT) weight = load_lanes<ALL, T, V>(to.weight + i, n);
    for (int k = 0; k < ROWS; ++k) {
      const V d = DX || DWEIGHT ? x[k] - rows[k].mean : dy[k];
      dx[k] = gradients(rows[k], k == 0, d, dy[k], weight, dw, db);
    }
    if (DWEIGHT) dw = to.dweight.template with<ADDS, ALL>(dw, to.now, i, n);
    if (DBIAS) db = to.dbias.template with<ADDS, ALL>(db, to.now, i, n);
    if (DX) {
      for (int k = 0; k < ROWS; ++k) STREAM ? dx[k].stream(rows[k].dx + i) : store_lanes<ALL>(dx[k], rows[k].dx + i, n);
    }
    if (DWEIGHT) to.template put<ADDS, ALL>(dw, to.dweight, i, n);
    if (DBIAS) to.template put<ADDS, ALL>(db, to.dbias, i, n);
  }

  // Over n columns, at most those of a virtual register: in parts of it, since two rows of those are all that there is
  // room for (AVX2, 128x768: float32 0.94, float64 0.96 of the time of two rows of whole ones).
  template <int ROWS, Adds ADDS, bool ALL, bool STREAM>
  static FLN_INLINE void write_lanes(const WrittenRow<P>* rows, const WrittenCols<T>& to, ptrdiff_t i, ptrdiff_t n) {
#pragma GCC unroll 16
    for (int part = 0; part < LANES<T>; part += P::lanes) {
      if (ALL) {
        write_register<ROWS, ADDS, true, STREAM>(rows, to, i + part, P::lanes);
      } else if (part < n) {
        const ptrdiff_t left = n - part;
        write_register<ROWS, ADDS, false, STREAM>(rows, to, i + part, left < P::lanes ? left : P::lanes);
      }
    }
  }

  // Of x too if rows are long: of these, the first sweep reads nothing else and leaves it to the hardware (with what it
  // asked for ahead, 64x65536 float64 took 1.14 times as long).
  FLN_INLINE void prefetch_row(const WrittenRow<P>& row, ptrdiff_t i) const {
    prefetch_ahead(row.dy + i, LANES<T>);
    if (!in_one) prefetch_ahead(row.x + i, LANES<T>);
  }

  // Over columns [i, i + n) of ROWS rows; `exit` is for whole rows, else NULL.
  template <int ROWS, Adds ADDS, Stores HOW>
  FLN_INLINE void write_rows(ptrdiff_t block, int r, const BlockTerms<T>& terms, const WrittenCols<T>& to, ptrdiff_t i,
                             ptrdiff_t n, Exit<T, HOW>* exit) const {
    constexpr bool PREFETCH = HOW != Stores::CACHED, STREAM = HOW == Stores::STREAMED;
    WrittenRow<P> rows[ROWS];
    for (int q = 0; q < ROWS; ++q) {
      rows[q] = written_row<P>(block, r + q, terms, i);
      if constexpr (HOW == Stores::STAGED) rows[q].dx = exit->place(rows[q].dx, n);
    }
    const ptrdiff_t head = head_of<HOW>(place(block + r, i), n);
    if (head > 0) write_head<ROWS, ADDS, HOW>(rows, to, head, exit);
    ptrdiff_t k = head;
    for (; k + LANES<T> <= n; k += LANES<T>) {
      for (int q = 0; PREFETCH && q < ROWS; ++q) prefetch_row(rows[q], k);
      write_lanes<ROWS, ADDS, true, STREAM>(rows, to, k, LANES<T>);
    }
    if (k < n) {
      for (int q = 0; PREFETCH && q < ROWS; ++q) prefetch_row(rows[q], k);  // and the line of the next row's head
      write_end<ROWS, ADDS, HOW>(rows, to, k, n, exit);
    }
    if constexpr (HOW == Stores::STAGED) exit->leave();
  }

  template <Stores HOW>
  static FLN_INLINE ptrdiff_t head_of(const T* to, ptrdiff_t n) {
    return HOW == Stores::STAGED ? 0 : head_cols<HOW == Stores::STREAMED>(to, n);
  }

  // The columns before the first whole line, and those after the last one.
  template <int ROWS, Adds ADDS, Stores HOW>
  static FLN_INLINE void write_head(const WrittenRow<P>* rows, const WrittenCols<T>& to, ptrdiff_t head,
                                    Exit<T, HOW>* exit) {
    if constexpr (HOW == Stores::STREAMED) {
      if (exit) {
        WrittenRow<P> starts[ROWS];
        for (int q = 0; q < ROWS; ++q) starts[q] = rows[q].from(0, exit->start(q, head));
        write_lanes<ROWS, ADDS, false, false>(starts, to, 0, head);
        return exit->close_before(rows[0].dx, head);
      }
    }
    write_lanes<ROWS, ADDS, false, false>(rows, to, 0, head);
  }
  template <int ROWS, Adds ADDS, Stores HOW>
  static FLN_INLINE void write_end(const WrittenRow<P>* rows, const WrittenCols<T>& to, ptrdiff_t k, ptrdiff_t n,
                                   Exit<T, HOW>* exit) {
    if constexpr (HOW == Stores::STREAMED) {
      if (exit) {
        WrittenRow<P> ends[ROWS];
        for (int q = 0; q < ROWS; ++q) ends[q] = rows[q].from(k, exit->end(q, ROWS));
        write_lanes<ROWS, ADDS, false, false>(ends, to.from(k), 0, n - k);
        for (int q = 0; q < ROWS; ++q) exit->leave(q, ROWS, rows[q].dx + k, n - k);
        return;
      }
    }
    write_lanes<ROWS, ADDS, false, false>(rows, to, k, n - k);
  }

  // Where the second sweep writes most, or reads if it does not write.
  FLN_INLINE const T* place(ptrdiff_t row, ptrdiff_t i) const { return (DX ? dx(row) : dy(row)) + i; }

  // Columns [i, i + n) of a block, for the second sweep.
  template <Stores HOW>
  FLN_INLINE WrittenCols<T> written_cols(WaitingParts<T>& parts, const fln_layer_norm_backward_part& part,
                                         ptrdiff_t block, ptrdiff_t i, ptrdiff_t n) const {
    const T* const at = place(block, i);
    return parts.cols(WEIGHT ? weight + i : nullptr, at, head_of<HOW>(at, n), totals(part, part.dweight, i),
                      totals(part, part.dbias, i), cols, block == part.first_row);
  }
  // Where the last pair of a block adds its columns from i on, or NULL: a sweep of its own over them took longer, of
  // 128x768 3 to 8 % (float32) or 7 to 10 % (float64). Not of long rows, whose totals have no room in L1 beside the
  // rows (2048x4096 float64 streamed 1.35 times as long).
  FLN_INLINE double* totals(const fln_layer_norm_backward_part& part, void* to, ptrdiff_t i) const {
    return part.is_result || !in_one || !to ? nullptr : static_cast<double*>(to) + i;
  }

  // Rows [r, end) of the block, r even: by pairs, so that what goes with the columns is loaded once for two rows.
  template <Stores HOW>
  __attribute__((noinline)) void second_sweep(ptrdiff_t block, int r, int end, const BlockTerms<T>& terms,
                                              const WrittenCols<T>& cols_of, ptrdiff_t i, ptrdiff_t n,
                                              Exit<T, HOW>* exit) const {
    WrittenCols<T> to = cols_of;
    for (; r + 2 <= end; r += 2) {
      to.now = r / HALF_ROWS;
      if (r % HALF_ROWS == 0) {
        write_rows<2, Adds::FIRST, HOW>(block, r, terms, to, i, n, exit);
      } else if (r + 2 == BLOCK_ROWS && has_totals(to)) {
        write_rows<2, Adds::LAST, HOW>(block, r, terms, to, i, n, exit);
      } else {
        write_rows<2, Adds::MORE, HOW>(block, r, terms, to, i, n, exit);
      }
    }
    if (r == end) return;
    to.now = r / HALF_ROWS;
    if (r % HALF_ROWS == 0) {
      write_rows<1, Adds::FIRST, HOW>(block, r, terms, to, i, n, exit);
    } else {
      write_rows<1, Adds::MORE, HOW>(block, r, terms, to, i, n, exit);
    }
  }
  static FLN_INLINE bool has_totals(const WrittenCols<T>& to) {
    return (DWEIGHT || DBIAS) && (!DWEIGHT || to.dweight.totals) && (!DBIAS || to.dbias.totals);
  }

  // Columns [i, i + n) of a block of so many rows to where they belong, if its last pair has not done it.
  void add_block(const fln_layer_norm_backward_part& part, int rows, const WrittenCols<T>& at, ptrdiff_t i,
                 ptrdiff_t n) const {
    if (rows == BLOCK_ROWS && has_totals(at)) return;
    rows <= HALF_ROWS ? add_halves<1>(part, at, i, n) : add_halves<2>(part, at, i, n);
  }
  template <int HALVES>
  FLN_INLINE void add_halves(const fln_layer_norm_backward_part& part, WrittenCols<T> at, ptrdiff_t i,
                             ptrdiff_t n) const {
    ptrdiff_t k = 0;
    for (; k + LANES<T> <= n; k += LANES<T>) add_lanes<HALVES, true>(part, at, i, k, LANES<T>);
    if (k < n) add_lanes<HALVES, false>(part, at, i, k, n - k);
  }
  template <int HALVES, bool ALL>
  FLN_INLINE void add_lanes(const fln_layer_norm_backward_part& part, const WrittenCols<T>& at, ptrdiff_t i,
                            ptrdiff_t k, ptrdiff_t n) const {
    if (DWEIGHT) add_to<ALL>(part, halves<HALVES, ALL>(at.dweight, k, n), part.dweight, i + k, n, at.fresh);
    if (DBIAS) add_to<ALL>(part, halves<HALVES, ALL>(at.dbias, k, n), part.dbias, i + k, n, at.fresh);
  }
  template <int HALVES, bool ALL>
  static FLN_INLINE Vec<T> halves(const RowsSum<T>& sum, ptrdiff_t k, ptrdiff_t n) {
    const Vec<T> first = load_lanes<ALL>(sum.half[0] + k, n);
    return HALVES == 1 ? first : first + load_lanes<ALL>(sum.half[1] + k, n);
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

  // One register of a short row; past its end, `fill`.
  template <int VECS>
  FLN_INLINE Vec<T> short_load(const T* row, int v, Vec<T> fill) const {
    const T* const p = row + v * LANES<T>;
    const ptrdiff_t n = cols - v * LANES<T>;
    return v < VECS - 1 || n == LANES<T> ? Vec<T>::load(p) : Vec<T>::load_first(p, n, fill);
  }

  // ROWS rows of VECS registers, which stay there from the first sweep to the second; so do dw and db over a block.
  // 32768x64 float32 took 0.69 of the time and 131072x16 0.54; with 5 to 8 registers there was nothing to gain.
  template <int VECS, int ROWS, Adds ADDS>
  FLN_INLINE void short_rows(ptrdiff_t row, const Vec<T>* w, Vec<T>* dw, Vec<T>* db) const {
    using V = Vec<T>;
    V d[ROWS][VECS], dy_of[ROWS][VECS];
    BlockTerms<T> terms;
    WrittenRow<V> rows[ROWS];
    for (int r = 0; r < ROWS; ++r) {
      const V center = V::splat(mean[row + r]), scale = V::splat(rstd[row + r]);
      V z[VECS], g[VECS];
      for (int v = 0; v < VECS; ++v) {
        d[r][v] = short_load<VECS>(x(row + r), v, center) - center;
        z[v] = d[r][v] * scale;
        dy_of[r][v] = short_load<VECS>(dy(row + r), v, V::splat(0));
        g[v] = WEIGHT ? dy_of[r][v] * w[v] : dy_of[r][v];
      }
      write_terms(short_sums<VECS>(z, g), terms, r);
    }
    for (int r = 0; r < ROWS; ++r) rows[r] = written_row<V>(row, r, terms, 0);
    for (int v = 0; v < VECS; ++v) {
      V dw_sum, db_sum;
      for (int r = 0; r < ROWS; ++r) {
        const V result = gradients(rows[r], r == 0, d[r][v], dy_of[r][v], w[v], dw_sum, db_sum);
        const ptrdiff_t n = cols - v * LANES<T>;
        T* const to = rows[r].dx + v * LANES<T>;
        v < VECS - 1 || n == LANES<T> ? result.store(to) : result.store_first(to, n);
      }
      if (DWEIGHT) dw[v] = ADDS == Adds::FIRST ? dw_sum : dw[v] + dw_sum;
      if (DBIAS) db[v] = ADDS == Adds::FIRST ? db_sum : db[v] + db_sum;
    }
  }

  // The tree of the first sweep over longer rows.
  template <int VECS>
  static FLN_INLINE RowSums<Vec<T>> short_sums(const Vec<T>* z, const Vec<T>* g) {
    if constexpr (VECS <= 2) {
      return leaf_sums<VECS>(z, g);
    } else {
      return leaf_sums<2>(z, g) + leaf_sums<VECS - 2>(z + 2, g + 2);
    }
  }

  // A part whose rows are that short.
  template <int VECS>
  __attribute__((noinline)) void short_part(const fln_layer_norm_backward_part& part) const {
    using V = Vec<T>;
    V w[VECS];
    for (int v = 0; v < VECS && WEIGHT; ++v) w[v] = short_load<VECS>(weight, v, V::splat(0));
    for (ptrdiff_t block = part.first_row; block < part.last_row; block += BLOCK_ROWS) {
      const ptrdiff_t last = block + BLOCK_ROWS < part.last_row ? block + BLOCK_ROWS : part.last_row;
      V dw[VECS], db[VECS];
      for (ptrdiff_t row = block; row < last; row += HALF_ROWS) {
        V dw_half[VECS], db_half[VECS];
        short_half<VECS>(row, last, w, dw_half, db_half);
        for (int v = 0; v < VECS && DWEIGHT; ++v) dw[v] = row == block ? dw_half[v] : dw[v] + dw_half[v];
        for (int v = 0; v < VECS && DBIAS; ++v) db[v] = row == block ? db_half[v] : db[v] + db_half[v];
      }
      const bool fresh = block == part.first_row;
      for (int v = 0; v < VECS - 1; ++v) add_short<true>(part, dw[v], db[v], v, fresh);
      add_short<false>(part, dw[VECS - 1], db[VECS - 1], VECS - 1, fresh);
    }
  }
  // Half of a block, or as much of it as there is.
  template <int VECS>
  FLN_INLINE void short_half(ptrdiff_t row, ptrdiff_t last, const Vec<T>* w, Vec<T>* dw, Vec<T>* db) const {
    const ptrdiff_t end = row + HALF_ROWS < last ? row + HALF_ROWS : last;
    if (row + 1 == end) return short_rows<VECS, 1, Adds::FIRST>(row, w, dw, db);
    short_rows<VECS, 2, Adds::FIRST>(row, w, dw, db);
    if (row + 4 == end) return short_rows<VECS, 2, Adds::MORE>(row + 2, w, dw, db);
    if (row + 3 == end) short_rows<VECS, 1, Adds::MORE>(row + 2, w, dw, db);
  }
  template <bool ALL>
  FLN_INLINE void add_short(const fln_layer_norm_backward_part& part, Vec<T> dw, Vec<T> db, int v, bool fresh) const {
    const ptrdiff_t i = v * LANES<T>, n = cols - i;
    if (DWEIGHT) add_to<ALL>(part, dw, part.dweight, i, n, fresh);
    if (DBIAS) add_to<ALL>(part, db, part.dbias, i, n, fresh);
  }

  // A block of rows of which two fit L1: the two sweeps follow each other pair by pair, or block by block.
  template <Stores HOW>
  FLN_INLINE void pair_by_pair(const fln_layer_norm_backward_part& part, ptrdiff_t block, int rows,
                               WaitingParts<T>& parts, Exit<T, HOW>& exit) const {
    BlockTerms<T> terms;
    const WrittenCols<T> to = written_cols<HOW>(parts, part, block, 0, cols);
    for (int r = 0, end; r < rows; r = end) {
      end = r + together < rows ? r + together : rows;
      first_sweep<HOW != Stores::CACHED>(block, r, end, terms);
      second_sweep<HOW>(block, r, end, terms, to, 0, cols, &exit);
    }
    add_block(part, rows, to, 0, cols);
  }

  // A block of any rows, over some of its columns.
  template <Stores HOW>
  FLN_INLINE void columns(const fln_layer_norm_backward_part& part, ptrdiff_t block, int rows,
                          WaitingParts<T>& parts) const {
    BlockTerms<T> own;
    BlockTerms<T>& terms = part.terms ? static_cast<BlockTerms<T>*>(part.terms)[block / BLOCK_ROWS] : own;
    if (!part.terms || part.first_col == part.last_col) first_sweep<HOW != Stores::CACHED>(block, 0, rows, terms);
    for (ptrdiff_t i = part.first_col, n; i < part.last_col; i += n) {
      n = waiting_cols(block, i, part.last_col);
      const WrittenCols<T> to = written_cols<HOW>(parts, part, block, i, n);
      if (HOW == Stores::STREAMED && can_stream(dx(block) + i, n)) {
        second_sweep<HOW>(block, 0, rows, terms, to, i, n, nullptr);
      } else {
        second_sweep<Stores::CACHED>(block, 0, rows, terms, to, i, n, nullptr);
      }
      add_block(part, rows, to, i, n);
    }
  }

  // Columns from i on that are swept together: as many as may wait, to the end of a line if the row goes on.
  FLN_INLINE ptrdiff_t waiting_cols(ptrdiff_t block, ptrdiff_t i, ptrdiff_t last) const {
    if (last - i <= WAITING_COLS<T>) return last - i;
    return WAITING_COLS<T> - cols_into_line(place(block, i + WAITING_COLS<T>));
  }

  template <Stores HOW>
  __attribute__((noinline)) void run_part(const fln_layer_norm_backward_part& part) const {
    WaitingParts<T> parts;
    Exit<T, HOW> exit;
    for (ptrdiff_t block = part.first_row; block < part.last_row; block += BLOCK_ROWS) {
      const ptrdiff_t left = part.last_row - block;
      const int rows = left < BLOCK_ROWS ? static_cast<int>(left) : BLOCK_ROWS;
      if (HOW == Stores::STAGED || (in_one && !part.terms)) {
        pair_by_pair<HOW>(part, block, rows, parts, exit);
      } else if constexpr (HOW != Stores::STAGED) {
        columns<HOW>(part, block, rows, parts);
      }
    }
    exit.close();
    if (HOW != Stores::CACHED) stream_fence();
  }

  // Past the cache go arrays in one piece, since reading ahead and joining the ends of rows take the next row to
  // follow. Of short rows the work is more than the traffic.
  FLN_INLINE Stores stores(const fln_layer_norm_backward_part& part) const {
    const bool one_piece = args.dx_stride == cols && args.x_stride == cols && args.dy_stride == cols;
    if (!args.stream || !one_piece || cols <= SHORT_VECS * LANES<T>) return Stores::CACHED;
    if (cols % LANES<T> == 0) return Stores::STREAMED;
    return in_one && !part.terms ? Stores::STAGED : Stores::CACHED;
  }

  void run(const fln_layer_norm_backward_part& part) const {
    if (part.first_row == part.last_row) return;
    if constexpr (DX && DWEIGHT == DBIAS) {  // the usual masks; the others take the general way to the same bits
      if (!part.terms) {
        if (cols <= LANES<T>) return short_part<1>(part);
        if (cols <= 2 * LANES<T>) return short_part<2>(part);
        if (cols <= 3 * LANES<T>) return short_part<3>(part);
        if (cols <= 4 * LANES<T>) return short_part<4>(part);
      }
    }
    if constexpr (DX) {
      const Stores how = stores(part);
      if (how == Stores::STREAMED) return run_part<Stores::STREAMED>(part);
      if (how == Stores::STAGED) return run_part<Stores::STAGED>(part);
    }
    run_part<Stores::CACHED>(part);
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
  auto sum = Compensated<Vec<double>>::of(Vec<double>::splat(0));
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
