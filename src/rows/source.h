// Where a row's numbers come from. Every sweep reads a source, and computes with its T.
#pragma once

#include "../registers/lanes.h"

// The type that is computed in with numbers stored as S.
template <typename S>
struct ComputedOf {
  using type = S;
};
template <>
struct ComputedOf<BF16> {
  using type = float;
};
template <>
struct ComputedOf<F16> {
  using type = float;
};
template <typename S>
using Computed = typename ComputedOf<S>::type;

// Whether they are widened as they are read, and rounded as they are stored.
template <typename S>
constexpr bool IS_WIDENED = sizeof(S) < sizeof(Computed<S>);

// Whether every way through the rows is compiled that gains anything. Two more elements with all of them would make the
// build take three times as long (AVX2 160 s of one core instead of 48); what is left out is for short rows, for the
// gradients of rows that are not whole lines or have ds added to them, and for parameters that are missing.
template <typename S>
constexpr bool HAS_ALL_WAYS = !IS_WIDENED<S>;

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
    return load_some(start + i, n, fill);
  }
  // With ALL the whole register, else the first n lanes and 0 in the others.
  template <typename V, bool ALL>
  FLN_INLINE V lanes(ptrdiff_t i, ptrdiff_t n) const {
    return load_lanes<V, ALL>(start + i, n);
  }
};

// A row in memory, each number times a power of two, which is exact unless it underflows. For rows that are rare.
template <typename S>
struct Scaled {
  using T = Computed<S>;
  Stored<S> x;
  T factor;

  FLN_INLINE Scaled row(ptrdiff_t r) const { return {x.row(r), factor}; }
  FLN_INLINE Scaled from(ptrdiff_t col) const { return {x.from(col), factor}; }

  FLN_INLINE T number(ptrdiff_t i) const { return x.number(i) * factor; }
  template <typename V>
  FLN_INLINE V load(ptrdiff_t i) const {
    return x.template load<V>(i) * V::splat(factor);
  }
  template <typename V>
  FLN_INLINE V load_first(ptrdiff_t i, ptrdiff_t n, V fill) const {  // `fill` as it is: not scaled back and forth
    T lane[V::lanes];
    lanes<V, false>(i, n).store(lane);
    return V::load_first(lane, n, fill);
  }
  template <typename V, bool ALL>
  FLN_INLINE V lanes(ptrdiff_t i, ptrdiff_t n) const {
    return x.template lanes<V, ALL>(i, n) * V::splat(factor);
  }
};
