// Sums over a row: in T over blocks of columns, and the blocks in more precision, in their order.
//
// A block is summed in one of two ways, which differ in what they lose and in how many registers they take: as a chain,
// each register added to the sum so far; or as a tree, half of the registers plus the other half, down to leaves of two
// registers or one. A tree loses less, and nothing at all of equal numbers, whose sums are doubled at each level.
#pragma once

#include "../registers/totals.h"
#include "source.h"

// Adds the blocks of columns [i, n) to the totals. block.first(i, n) are the sums over the first n <= Block::COLS
// columns from i on. Where it takes a way of its own if n is COLS (Block::WHOLE_APART), whole blocks get a loop of
// their own: trees of 8 registers cost 6 to 14 % less, while the chain is one text for both and would only be compiled
// twice.
template <typename Block, typename T, int COUNT>
FLN_INLINE void add_blocks(Totals<T, COUNT>& totals, const Block& block, ptrdiff_t i, ptrdiff_t n) {
  if constexpr (Block::WHOLE_APART) {
    for (; i + Block::COLS <= n; i += Block::COLS) totals.add(block.whole(i));
  }
  for (; i < n; i += Block::COLS) {
    const ptrdiff_t left = n - i;
    totals.add(block.first(i, left < Block::COLS ? left : Block::COLS));
  }
}

// A tree over COUNT registers from column i on. Leaves says what is summed: for registers V, `lanes` columns apart,
// one(i, n) the sums over the first n columns of the register at column i, and two<ALL>(i, n) those over it and the
// next one, of which without ALL only the first n columns count.
template <int COUNT, typename Leaves>
FLN_INLINE typename Leaves::Sum tree(const Leaves& row, ptrdiff_t i) {
  if constexpr (COUNT == 2) {
    return row.template two<true>(i, Leaves::lanes);
  } else {
    const auto low = tree<COUNT / 2>(row, i);
    if constexpr (Leaves::V::lanes < Leaves::lanes) keep_order();
    return low + tree<COUNT / 2>(row, i + COUNT / 2 * Leaves::lanes);
  }
}

// Of the same tree the first n columns only, 0 < n <= COUNT registers.
template <int COUNT, typename Leaves>
FLN_INLINE typename Leaves::Sum tree_first(const Leaves& row, ptrdiff_t i, ptrdiff_t n) {
  if constexpr (COUNT == 1) {
    return row.one(i, n);
  } else {
    constexpr ptrdiff_t half = COUNT / 2 * Leaves::lanes;
    if (n <= half) return tree_first<COUNT / 2>(row, i, n);
    if constexpr (COUNT == 2) {
      return row.template two<false>(i, n - half);
    } else {
      const auto low = tree<COUNT / 2>(row, i);
      return low + tree_first<COUNT / 2>(row, i + half, n - half);
    }
  }
}

// The same as tree(), by one piece of the virtual registers after the other: a tree keeps all sums of a level, and for
// all pieces at once there are not enough native registers.
template <int COUNT, typename Leaves>
FLN_INLINE typename Leaves::Sum tree_by_pieces(const Leaves& row, ptrdiff_t i) {
  using V = typename Leaves::V;
  if constexpr (V::lanes == Piece<typename V::value_type>::lanes) {
    return tree<COUNT>(row, i);
  } else {
    const auto low = tree_by_pieces<COUNT>(row.half(), i);
    return side_by_side(low, tree_by_pieces<COUNT>(row.half(), i + V::lanes / 2));
  }
}
