// Sums over a row as trees: half of the registers plus the other half, down to leaves of two registers or one.
//
// A tree loses less than a chain, and nothing at all of equal numbers, whose sums are doubled at each level. Leaves
// says what is summed: for registers V, `lanes` columns apart, one<ALL>(i, n) the sum over the register from column i
// on and two<ALL>(i, n) that over it and the next; without ALL, of the last register only the first n columns.
#pragma once

#include "vec.h"

// No load moves past this place: a compiler that takes all loads of a tree to its beginning has no registers left for
// them (AVX2, backward float32 33x1000 0.94, float64 33x77 0.91 of the time with it).
FLN_INLINE void keep_order() { __asm__ volatile("" ::: "memory"); }

// What is put together here is read from memory, each number by a load of its own, not taken apart in registers.
template <typename A>
FLN_INLINE void keep_in_memory(A& a) {
  __asm__ volatile("" : "+m"(a));
}

// Over COUNT registers from column i on.
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
    return row.template one<false>(i, n);
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

// The same as tree(), by one part of the virtual registers after the other: a tree keeps three sums a level, and for
// all parts at once there are not enough native registers.
template <int COUNT, typename Leaves>
FLN_INLINE typename Leaves::Sum tree_by_parts(const Leaves& row, ptrdiff_t i) {
  using V = typename Leaves::V;
  if constexpr (V::lanes == Part<typename V::value_type>::lanes) {
    return tree<COUNT>(row, i);
  } else {
    const auto low = tree_by_parts<COUNT>(row.half(), i);
    return side_by_side(low, tree_by_parts<COUNT>(row.half(), i + V::lanes / 2));
  }
}
