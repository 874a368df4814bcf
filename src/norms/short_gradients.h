// The gradients of rows of at most SHORT_VECS registers, which stay there from the first sweep to the second; so do
// their sums of dweight and dbias over a block. 32768x64 float32 took 0.69 of the time of longer rows' way, 131072x16
// 0.54; with 5 to 8 registers there was nothing to gain.
#pragma once

#include "gradients.h"
#include "row_terms.h"

// ADDED: ds is added to dx.
template <typename CallOf, int VECS, bool ADDED>
struct ShortGradients {
  using Call = CallOf;
  using S = typename Call::S;
  using T = typename Call::T;
  using Norm = typename Call::Norm;
  using V = Vec<T>;
  const Call& call;
  V weight[VECS];

  FLN_INLINE explicit ShortGradients(const Call& of) : call(of) {
#pragma GCC unroll 4
    for (int v = 0; v < VECS && Call::WEIGHT; ++v) weight[v] = load(call.weight, v, V::splat(0));
  }

  // One register of a row; past its end, `fill`.
  template <typename P>
  FLN_INLINE V load(const P* row, int v, V fill) const {
    const ptrdiff_t i = v * LANES<T>, n = call.cols - i;
    return v < VECS - 1 || n == LANES<T> ? V::load(row + i) : V::load_first(row + i, n, fill);
  }
  FLN_INLINE void store(V result, S* row, int v) const {
    const ptrdiff_t i = v * LANES<T>, n = call.cols - i;
    v < VECS - 1 || n == LANES<T> ? result.store(row + i) : result.store_first(row + i, n);
  }

  template <int ROWS, Adds ADDS>
  FLN_INLINE void rows(ptrdiff_t row, V* dw, V* db) const {
    V d[ROWS][VECS], dy[ROWS][VECS];
    BlockTerms<T> terms;
    SecondRow<S, V> second[ROWS];
#pragma GCC unroll 4
    for (int r = 0; r < ROWS; ++r) {
      const V center = V::splat(call.mean(row + r)), scale = V::splat(call.rstd[row + r]);
      V z[VECS], g[VECS];
#pragma GCC unroll 4
      for (int v = 0; v < VECS; ++v) {
        d[r][v] = centered<Norm>(load(call.x(row + r), v, center), center);
        z[v] = d[r][v] * scale;
        dy[r][v] = load(call.dy(row + r), v, V::splat(0));
        g[v] = Call::WEIGHT ? dy[r][v] * weight[v] : dy[r][v];
      }
      write_terms(call, sums<VECS>(z, g), terms, r);
    }
#pragma GCC unroll 4
    for (int r = 0; r < ROWS; ++r) second[r] = second_row<V>(call, row, r, terms, 0);
#pragma GCC unroll 4
    for (int v = 0; v < VECS; ++v) {
      V dw_sum, db_sum;
#pragma GCC unroll 4
      for (int r = 0; r < ROWS; ++r) {
        V dx = gradients<Call>(second[r], r == 0, d[r][v], dy[r][v], weight[v], dw_sum, db_sum);
        if (ADDED) dx = dx + load(call.ds(row + r), v, V::splat(0));
        store(dx, second[r].dx, v);
      }
      if (Call::DWEIGHT) dw[v] = ADDS == Adds::FIRST ? dw_sum : dw[v] + dw_sum;
      if (Call::DBIAS) db[v] = ADDS == Adds::FIRST ? db_sum : db[v] + db_sum;
    }
  }

  // The tree of the first sweep over longer rows.
  template <int COUNT>
  static FLN_INLINE TermSums<Norm, V> sums(const V* z, const V* g) {
    if constexpr (COUNT <= 2) {
      return leaf_sums<Norm, COUNT>(z, g);
    } else {
      return leaf_sums<Norm, 2>(z, g) + leaf_sums<Norm, COUNT - 2>(z + 2, g + 2);
    }
  }

  // Half of a block, or as much of it as there is before row `last`.
  FLN_INLINE void half(ptrdiff_t row, ptrdiff_t last, V* dw, V* db) const {
    const ptrdiff_t end = row + HALF_ROWS < last ? row + HALF_ROWS : last;
    if (row + 1 == end) return rows<1, Adds::FIRST>(row, dw, db);
    rows<2, Adds::FIRST>(row, dw, db);
    if (row + 4 == end) return rows<2, Adds::MORE>(row + 2, dw, db);
    if (row + 3 == end) rows<1, Adds::MORE>(row + 2, dw, db);
  }

  void run(const Chunk<T>& chunk) const {
    for (ptrdiff_t block_row = chunk.first; block_row < chunk.last; block_row += BLOCK_ROWS) {
      const ptrdiff_t last = block_row + BLOCK_ROWS < chunk.last ? block_row + BLOCK_ROWS : chunk.last;
      V dw[VECS], db[VECS];
      for (ptrdiff_t row = block_row; row < last; row += HALF_ROWS) {
        V dw_half[VECS], db_half[VECS];
        half(row, last, dw_half, db_half);
#pragma GCC unroll 4
        for (int v = 0; v < VECS && Call::DWEIGHT; ++v) dw[v] = row == block_row ? dw_half[v] : dw[v] + dw_half[v];
#pragma GCC unroll 4
        for (int v = 0; v < VECS && Call::DBIAS; ++v) db[v] = row == block_row ? db_half[v] : db[v] + db_half[v];
      }
      const bool fresh = block_row == chunk.first;
#pragma GCC unroll 4
      for (int v = 0; v < VECS - 1; ++v) add<true>(chunk, dw[v], db[v], v, fresh);
      add<false>(chunk, dw[VECS - 1], db[VECS - 1], VECS - 1, fresh);
    }
  }
  template <bool ALL>
  FLN_INLINE void add(const Chunk<T>& chunk, V dw, V db, int v, bool fresh) const {
    const ptrdiff_t i = v * LANES<T>, n = call.cols - i;
    if (Call::DWEIGHT) add_to<ALL>(chunk.dweight, dw, i, n, call.cols, fresh);
    if (Call::DBIAS) add_to<ALL>(chunk.dbias, db, i, n, call.cols, fresh);
  }
};

template <int VECS, bool ADDED, typename Call, typename T>
__attribute__((noinline)) void short_gradients(const Call& call, const Chunk<T>& chunk) {
  ShortGradients<Call, VECS, ADDED>(call).run(chunk);
}
