// What waits of dweight and dbias until the end of a block of rows, and where it goes then.
//
// They are summed in T as a tree over pairs of rows, which loses less than a chain: pairs, then halves of the block,
// then the block. A sum of a half waits in memory between its pairs.
#pragma once

#include "backward_call.h"

constexpr int HALF_ROWS = BLOCK_ROWS / 2;
static_assert(HALF_ROWS == 4, "two pairs, which a half adds up");

// What the rows of a pair do with their sums of dweight and dbias. The first pair of a half of a block overwrites what
// waits there, the second one adds to it, and the last pair of a whole block adds all that waits to the totals.
enum class Adds { FIRST, MORE, LAST };

// What waits of dweight or dbias, from some column on, and the totals that it will be added to.
template <typename T>
struct WaitingSum {
  T* half[2];      // of each half of a block
  double* totals;  // NULL where the last pair does not add to them

  FLN_INLINE WaitingSum from(ptrdiff_t n) const { return {{half[0] + n, half[1] + n}, totals ? totals + n : totals}; }

  // With the sum over more rows, which are of half `now`.
  template <Adds ADDS, bool ALL, typename V>
  FLN_INLINE V with(V rows, int now, ptrdiff_t i, ptrdiff_t n) const {
    if constexpr (ADDS == Adds::FIRST) return rows;
    const V sum = load_lanes<V, ALL>(half[now] + i, n) + rows;
    return ADDS == Adds::MORE ? sum : load_lanes<V, ALL>(half[0] + i, n) + sum;
  }
};

// What goes with the columns of the second sweep.
template <typename T>
struct SecondCols {
  const T* weight;
  WaitingSum<T> dweight, dbias;
  ptrdiff_t cols;  // of a row
  bool fresh;      // the block is the first one of its chunk
  int now = 0;     // the half of the block that the rows are in

  FLN_INLINE SecondCols from(ptrdiff_t n) const {
    return {weight ? weight + n : weight, dweight.from(n), dbias.from(n), cols, fresh, now};
  }

  template <Adds ADDS, bool ALL, typename V>
  FLN_INLINE void put(V sum, const WaitingSum<T>& to, ptrdiff_t i, ptrdiff_t n) const {
    if constexpr (ADDS == Adds::LAST) {
      add_to_totals<ALL>(sum, to.totals + i, n, cols, fresh);
    } else {
      store_lanes<ALL>(sum, to.half[now] + i, n);
    }
  }
};

// Room for what waits, each sum at its own phase of a page as seen from dx (25 % of the time at 128x768, by luck of the
// stack): see at_phase; and rows of whole pages fill their sets of L1 by themselves. The registers are whole lines.
template <typename T>
class WaitingRoom {
 public:
  // The columns that are swept with those of dx at `place`, of which `head` come before the first whole line.
  template <typename S>
  FLN_INLINE SecondCols<T> cols(const T* weight, const S* place, ptrdiff_t head, double* dweight_totals,
                                double* dbias_totals, ptrdiff_t row_cols, bool fresh) {
    const ptrdiff_t before = -head & (LANES<T> - 1);  // up to a whole register
    T* at[4];
    for (int k = 0; k < 4; ++k) at[k] = at_phase(room[k], place, (k + 1) * PAGE / 5) + before;
    return {weight, {{at[0], at[1]}, dweight_totals}, {{at[2], at[3]}, dbias_totals}, row_cols, fresh};
  }

 private:
  alignas(LINE) T room[4][WAITING_COLS<T> + 2 * LANES<T> + PAGE / sizeof(T)];
};

template <typename Call, typename T>
FLN_INLINE bool last_pair_adds_to_totals(const SecondCols<T>& to) {
  return (Call::DWEIGHT || Call::DBIAS) && (!Call::DWEIGHT || to.dweight.totals) && (!Call::DBIAS || to.dbias.totals);
}

// Adds the sums of a block in n columns from i on to where those of its chunk go.
template <bool ALL, typename T>
FLN_INLINE void add_to(const ColumnSums<T>& to, Vec<T> sum, ptrdiff_t i, ptrdiff_t n, ptrdiff_t cols, bool fresh) {
  if (to.result) {
    store_lanes<ALL>(sum, to.result + i, n);
  } else if (to.totals) {
    add_to_totals<ALL>(sum, to.totals + i, n, cols, fresh);
  }
}

// What waits of a block, of one half or both.
template <int HALVES, bool ALL, typename T>
FLN_INLINE Vec<T> waiting(const WaitingSum<T>& sum, ptrdiff_t k, ptrdiff_t n) {
  const Vec<T> first = load_lanes<Vec<T>, ALL>(sum.half[0] + k, n);
  return HALVES == 1 ? first : first + load_lanes<Vec<T>, ALL>(sum.half[1] + k, n);
}
template <typename Call, int HALVES, bool ALL, typename T>
FLN_INLINE void add_lanes(const Chunk<T>& chunk, const SecondCols<T>& at, ptrdiff_t i, ptrdiff_t k, ptrdiff_t n) {
  if (Call::DWEIGHT) add_to<ALL>(chunk.dweight, waiting<HALVES, ALL>(at.dweight, k, n), i + k, n, at.cols, at.fresh);
  if (Call::DBIAS) add_to<ALL>(chunk.dbias, waiting<HALVES, ALL>(at.dbias, k, n), i + k, n, at.cols, at.fresh);
}
template <typename Call, int HALVES, typename T>
FLN_INLINE void add_halves(const Chunk<T>& chunk, SecondCols<T> at, ptrdiff_t i, ptrdiff_t n) {
  ptrdiff_t k = 0;
  for (; k + LANES<T> <= n; k += LANES<T>) add_lanes<Call, HALVES, true>(chunk, at, i, k, LANES<T>);
  if (k < n) add_lanes<Call, HALVES, false>(chunk, at, i, k, n - k);
}

// Columns [i, i + n) of a block of so many rows, if its last pair has not done it.
template <typename Call, typename T>
void add_block(const Chunk<T>& chunk, int rows, const SecondCols<T>& at, ptrdiff_t i, ptrdiff_t n) {
  if (rows == BLOCK_ROWS && last_pair_adds_to_totals<Call>(at)) return;
  rows <= HALF_ROWS ? add_halves<Call, 1>(chunk, at, i, n) : add_halves<Call, 2>(chunk, at, i, n);
}
