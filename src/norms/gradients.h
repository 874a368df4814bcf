// The second sweep of the gradients: dx, and what a block of rows adds to dweight and dbias.
//
//   dx = rstd * (g - mean_g - x_hat * mean_gx), g = dy * weight; without a mean, mean_g is left out. If there is ds it
//        is added to that
//   dweight = sum of dy * x_hat, dbias = sum of dy, over rows
//
// dweight and dbias are summed in T over a block of rows, as a tree over pairs of rows (which loses less than a chain).
// Which columns are swept together changes no bit.
#pragma once

#include "block_sums.h"

// A row in the second sweep, from some column on, in registers V.
template <typename S, typename V>
struct SecondRow {
  const S* dy;
  const S* x;
  S* dx;
  V mean, rstd, offset, minus_mean_g, minus_mean_gx;

  // The row from `n` columns further on, with another place for dx.
  FLN_INLINE SecondRow from(ptrdiff_t n, S* to) const {
    SecondRow rest = *this;
    rest.dy = dy + n;
    rest.x = x + n;
    rest.dx = to;
    return rest;
  }
};

template <typename V, typename Call, typename T = typename Call::T>
FLN_INLINE SecondRow<typename Call::S, V> second_row(const Call& call, ptrdiff_t block_row, int r,
                                                     const BlockTerms<T>& terms, ptrdiff_t i) {
  using Norm = typename Call::Norm;
  const ptrdiff_t row = block_row + r;
  SecondRow<typename Call::S, V> at;
  at.dy = call.dy(row) + i;
  at.x = call.x(row) + i;
  if (Call::DX || Call::DWEIGHT) {
    at.rstd = V::splat(call.rstd[row]);
    if constexpr (Norm::HAS_MEAN) {
      at.mean = V::splat(call.mean(row));
      at.offset = V::splat(terms.offset[r]);
    }
  }
  if (Call::DX) {
    at.dx = call.dx(row) + i;
    if constexpr (Norm::HAS_MEAN) at.minus_mean_g = V::splat(-terms.mean_g[r]);
    at.minus_mean_gx = V::splat(-terms.mean_gx[r]);
  }
  return at;
}

// x_hat from d, which is x - mean or, without a mean, x.
template <typename Norm, typename Row, typename V>
FLN_INLINE V x_hat_of(const Row& row, V d) {
  if constexpr (Norm::HAS_MEAN) return accurate_fma(d, row.rstd, row.offset);
  return d * row.rstd;
}

// g - mean_g.
template <typename Call, typename Row, typename V>
FLN_INLINE V centered_g(const Row& row, V dy, V weight) {
  if constexpr (!Call::Norm::HAS_MEAN) return Call::WEIGHT ? dy * weight : dy;
  return Call::WEIGHT ? fma(dy, weight, row.minus_mean_g) : dy + row.minus_mean_g;
}

// One register of a row, as d: dx, and the row added to what its pair adds to dweight and dbias.
template <typename Call, typename Row, typename V>
FLN_INLINE V gradients(const Row& row, bool is_first, V d, V dy, V weight, V& dw, V& db) {
  if (Call::DBIAS) db = is_first ? dy : db + dy;
  if (!Call::DX && !Call::DWEIGHT) return dy;  // nobody asks for it
  const V x_hat = x_hat_of<typename Call::Norm>(row, d);
  if (Call::DWEIGHT) dw = is_first ? dy * x_hat : accurate_fma(dy, x_hat, dw);
  return fma(x_hat, row.minus_mean_gx, centered_g<Call>(row, dy, weight)) * row.rstd;
}

// How dx is stored: in the cache or past it, with ds added to it or not.
enum class Stores { CACHED, ADDED, STREAMED, ADDED_STREAMED, STAGED };

constexpr bool is_added(Stores how) { return how == Stores::ADDED || how == Stores::ADDED_STREAMED; }
constexpr bool is_streamed(Stores how) { return how == Stores::STREAMED || how == Stores::ADDED_STREAMED; }
constexpr bool is_past_cache(Stores how) { return is_streamed(how) || how == Stores::STAGED; }

// What whole rows pass through.
template <typename S, Stores HOW>
struct ExitOf {
  struct None {
    void close() {}
  };
  using type = None;
};
template <typename S>
struct ExitOf<S, Stores::STREAMED> {
  using type = Seams<S>;
};
template <typename S>
struct ExitOf<S, Stores::ADDED_STREAMED> {
  using type = Seams<S>;
};
template <typename S>
struct ExitOf<S, Stores::STAGED> {
  using type = Stage<S, 2 * WAITING_COLS<Computed<S>>>;
};
template <typename S, Stores HOW>
using Exit = typename ExitOf<S, HOW>::type;

template <Stores HOW, typename S>
FLN_INLINE ptrdiff_t head_of(const S* to, ptrdiff_t n) {
  return HOW == Stores::STAGED ? 0 : head_cols<is_streamed(HOW)>(to, n);
}

// The second sweep over ROWS rows, by registers that are pieces of virtual ones.
template <typename CallOf, int ROWS, Adds ADDS, Stores HOW>
struct SecondSweep {
  using Call = CallOf;
  using S = typename Call::S;
  using T = typename Call::T;
  using V = Piece<T>;
  using Row = SecondRow<S, V>;
  const Call& call;
  const SecondCols<T>& to;
  Row rows[ROWS];
  const S* ds[ROWS];  // where it is added

  // One register of columns, or only its first n lanes. All is loaded before anything is stored: rows may stand at the
  // same place of different pages, see WaitingRoom.
  template <bool ALL, bool STREAM>
  static FLN_INLINE void write_register(const Row* rows, const S* const* ds, const SecondCols<T>& to, ptrdiff_t i,
                                        ptrdiff_t n) {
    V dy[ROWS], x[ROWS], dx[ROWS], weight, dw, db;
    for (int k = 0; k < ROWS; ++k) {
      dy[k] = load_lanes<V, ALL>(rows[k].dy + i, n);
      if (Call::DX || Call::DWEIGHT) x[k] = load_lanes<V, ALL>(rows[k].x + i, n);
    }
    if (Call::WEIGHT) weight = load_lanes<V, ALL>(to.weight + i, n);
    for (int k = 0; k < ROWS; ++k) {
      const V d = Call::DX || Call::DWEIGHT ? centered<typename Call::Norm>(x[k], rows[k].mean) : dy[k];
      dx[k] = gradients<Call>(rows[k], k == 0, d, dy[k], weight, dw, db);
    }
    // In T, before dx is rounded: in float and double that is the sum that NumPy would give of the two.
    for (int k = 0; is_added(HOW) && k < ROWS; ++k) dx[k] = dx[k] + load_lanes<V, ALL>(ds[k] + i, n);
    if (Call::DWEIGHT) dw = to.dweight.template with<ADDS, ALL>(dw, to.now, i, n);
    if (Call::DBIAS) db = to.dbias.template with<ADDS, ALL>(db, to.now, i, n);
    if (Call::DX) {
      for (int k = 0; k < ROWS; ++k) store_lanes<ALL, STREAM>(dx[k], rows[k].dx + i, n);
    }
    if (Call::DWEIGHT) to.template put<ADDS, ALL>(dw, to.dweight, i, n);
    if (Call::DBIAS) to.template put<ADDS, ALL>(db, to.dbias, i, n);
  }

  // Over n columns, at most those of a virtual register: in pieces of it, since two rows of those are all that there is
  // room for (AVX2, 128x768: float32 0.94, float64 0.96 of the time of two rows of whole ones).
  template <bool ALL, bool STREAM>
  static FLN_INLINE void write_lanes(const Row* rows, const S* const* ds, const SecondCols<T>& to, ptrdiff_t i,
                                     ptrdiff_t n) {
#pragma GCC unroll 16
    for (int piece = 0; piece < LANES<T>; piece += V::lanes) {
      if (ALL) {
        write_register<true, STREAM>(rows, ds, to, i + piece, V::lanes);
      } else if (piece < n) {
        const ptrdiff_t left = n - piece;
        write_register<false, STREAM>(rows, ds, to, i + piece, left < V::lanes ? left : V::lanes);
      }
    }
  }

  template <bool STREAM>
  FLN_INLINE void whole(ptrdiff_t i) const {
    write_lanes<true, STREAM>(rows, ds, to, i, LANES<T>);
  }
  FLN_INLINE void some(const Places<S, ROWS>& places, ptrdiff_t i, ptrdiff_t n) const {
    Row some[ROWS];
    const S* ds_of_some[ROWS];
    for (int q = 0; q < ROWS; ++q) {
      some[q] = rows[q].from(i, places.at[q]);
      if (is_added(HOW)) ds_of_some[q] = ds[q] + i;
    }
    write_lanes<false, false>(some, ds_of_some, to.from(i), 0, n);
  }
  // Of x too if rows are long: of these, the first sweep reads nothing else and leaves it to the hardware (with what it
  // asked for ahead, 64x65536 float64 took 1.14 times as long).
  FLN_INLINE void prefetch(ptrdiff_t i) const {
    for (int q = 0; q < ROWS; ++q) {
      prefetch_ahead(rows[q].dy + i, LINE_COLS<S>);
      if (is_added(HOW)) prefetch_ahead(ds[q] + i, LINE_COLS<S>);
      if (!call.in_one) prefetch_ahead(rows[q].x + i, LINE_COLS<S>);
    }
  }
  FLN_INLINE S* row(ptrdiff_t q) const { return rows[q].dx; }
};

// Columns [i, i + n) of ROWS rows from the `r`-th of the block on; `exit` is for whole rows, else NULL.
template <int ROWS, Adds ADDS, Stores HOW, typename Call, typename T = typename Call::T>
FLN_INLINE void sweep_rows(const Call& call, ptrdiff_t block_row, int r, const BlockTerms<T>& terms,
                           const SecondCols<T>& to, ptrdiff_t i, ptrdiff_t n, Exit<typename Call::S, HOW>* exit) {
  using S = typename Call::S;
  SecondSweep<Call, ROWS, ADDS, HOW> sweep = {call, to, {}, {}};
  for (int q = 0; q < ROWS; ++q) {
    sweep.rows[q] = second_row<Piece<T>>(call, block_row, r + q, terms, i);
    if constexpr (is_added(HOW)) sweep.ds[q] = call.ds(block_row + r + q) + i;
    if constexpr (HOW == Stores::STAGED) sweep.rows[q].dx = exit->room_for(sweep.rows[q].dx, n);
  }
  Seams<S>* seams = nullptr;
  if constexpr (is_streamed(HOW)) seams = exit;
  const ptrdiff_t head = head_of<HOW>(call.written(block_row + r, i), n);
  sweep_columns<ROWS, is_past_cache(HOW), is_streamed(HOW)>(sweep, sweep, head, n, seams);
  if constexpr (HOW == Stores::STAGED) exit->flush();
}

// Over columns [i, i + n) of rows [r, end) of the block, r even: by pairs, so that what goes with the columns is loaded
// once for two rows.
template <Stores HOW, typename Call, typename T = typename Call::T>
__attribute__((noinline)) void second_sweep(const Call& call, ptrdiff_t block_row, int r, int end,
                                            const BlockTerms<T>& terms, const SecondCols<T>& cols_of, ptrdiff_t i,
                                            ptrdiff_t n, Exit<typename Call::S, HOW>* exit) {
  SecondCols<T> to = cols_of;
  for (; r + 2 <= end; r += 2) {
    to.now = r / HALF_ROWS;
    if (r % HALF_ROWS == 0) {
      sweep_rows<2, Adds::FIRST, HOW>(call, block_row, r, terms, to, i, n, exit);
    } else if (r + 2 == BLOCK_ROWS && last_pair_adds_to_totals<Call>(to)) {
      sweep_rows<2, Adds::LAST, HOW>(call, block_row, r, terms, to, i, n, exit);
    } else {
      sweep_rows<2, Adds::MORE, HOW>(call, block_row, r, terms, to, i, n, exit);
    }
  }
  if (r == end) return;
  to.now = r / HALF_ROWS;
  if (r % HALF_ROWS == 0) {
    sweep_rows<1, Adds::FIRST, HOW>(call, block_row, r, terms, to, i, n, exit);
  } else {
    sweep_rows<1, Adds::MORE, HOW>(call, block_row, r, terms, to, i, n, exit);
  }
}
