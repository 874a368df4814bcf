// Where a row's numbers come from. Every sweep reads a source, and computes with its T.
#pragma once

#include "../registers/lanes.h"

// The type that is computed in with numbers stored as S.
template <typename S>
struct ComputedOf {
  using type = S;
};
template <typename S>
using Computed = typename ComputedOf<S>::type;

// Rows in memory, from one of them on: `stride` elements lie between the starts of two.
template <typename S>
struct Stored {
  using T = Computed<S>;
  const S* start;
  ptrdiff_t stride;

  FLN_INLINE Stored row(ptrdiff_t r) const { return {start + r * stride, stride}; }
  FLN_INLINE Stored from(ptrdiff_t col) const { return {start + col, stride}; }

  FLN_INLINE T number(ptrdiff_t i) const { return static_cast<T>(start[i]); }
  template <typename V>
  FLN_INLINE V load(ptrdiff_t i) const {
    return V::load(start + i);
  }
  // Lanes below n come from memory, the others from `fill`.
  template <typename V>
  FLN_INLINE V load_first(ptrdiff_t i, ptrdiff_t n, V fill) const {
    return V::load_first(start + i, n, fill);
  }
  // With ALL the whole register, else the first n lanes and 0 in the others.
  template <typename V, bool ALL>
  FLN_INLINE V lanes(ptrdiff_t i, ptrdiff_t n) const {
    return load_lanes<V, ALL>(start + i, n);
  }
};
