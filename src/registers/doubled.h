// A register twice as wide as H, made of two of them.
//
// Every kernel is written for virtual registers of a fixed width (vec.h), which each ISA builds out of its own by
// doubling. So each sum runs over the same lanes in the same order everywhere, and the result has the same bits.
//
// In memory the numbers are of type S: that of the lanes, or one of half.h, from which they are widened and to which
// they are rounded.
#pragma once

#include "half.h"

template <typename H>
struct Doubled {
  using T = typename H::value_type;
  using value_type = T;
  static constexpr int lanes = 2 * H::lanes;
  H low, high;

  static FLN_INLINE Doubled splat(T a) { return {H::splat(a), H::splat(a)}; }
  template <typename S>
  static FLN_INLINE Doubled load(const S* p) {
    return {H::load(p), H::load(p + H::lanes)};
  }

  // Lanes below n come from memory, the others from `fill`; 0 <= n <= lanes. Memory past p + n is not touched.
  template <typename S>
  static FLN_INLINE Doubled load_first(const S* p, ptrdiff_t n, Doubled fill) {
    if (n < H::lanes) return {H::load_first(p, n, fill.low), fill.high};
    return {H::load(p), H::load_first(p + H::lanes, n - H::lanes, fill.high)};
  }

  template <typename S>
  FLN_INLINE void store(S* p) const {
    low.store(p);
    high.store(p + H::lanes);
  }

  // As store(), past the cache; p is aligned to the whole. stream_fence() ends a run of these.
  template <typename S>
  FLN_INLINE void stream(S* p) const {
    low.stream(p);
    high.stream(p + H::lanes);
  }

  // Writes the lanes below n only; 0 <= n <= lanes.
  template <typename S>
  FLN_INLINE void store_first(S* p, ptrdiff_t n) const {
    if (n < H::lanes) {
      low.store_first(p, n);
    } else {
      low.store(p);
      high.store_first(p + H::lanes, n - H::lanes);
    }
  }

  // Lane i plus lane i + lanes / 2, until one is left.
  FLN_INLINE T sum() const { return (low + high).sum(); }
};

template <typename H>
FLN_INLINE Doubled<H> operator+(Doubled<H> a, Doubled<H> b) {
  return {a.low + b.low, a.high + b.high};
}
template <typename H>
FLN_INLINE Doubled<H> operator-(Doubled<H> a, Doubled<H> b) {
  return {a.low - b.low, a.high - b.high};
}
template <typename H>
FLN_INLINE Doubled<H> operator*(Doubled<H> a, Doubled<H> b) {
  return {a.low * b.low, a.high * b.high};
}
template <typename H>
FLN_INLINE Doubled<H> operator/(Doubled<H> a, Doubled<H> b) {
  return {a.low / b.low, a.high / b.high};
}
template <typename H>
FLN_INLINE Doubled<H> sqrt(Doubled<H> a) {
  return {sqrt(a.low), sqrt(a.high)};
}
template <typename H>
FLN_INLINE bool all_le(Doubled<H> a, Doubled<H> b) {
  return all_le(a.low, b.low) & all_le(a.high, b.high);
}
template <typename H>
FLN_INLINE Doubled<H> fma(Doubled<H> a, Doubled<H> b, Doubled<H> c) {
  return {fma(a.low, b.low, c.low), fma(a.high, b.high, c.high)};
}
template <typename H>
FLN_INLINE Doubled<H> fused(Doubled<H> a, Doubled<H> b, Doubled<H> c) {
  return {fused(a.low, b.low, c.low), fused(a.high, b.high, c.high)};
}

// a where it is larger (less) than b, else b, which is what comes of a NaN in either.
template <typename H>
FLN_INLINE Doubled<H> larger(Doubled<H> a, Doubled<H> b) {
  return {larger(a.low, b.low), larger(a.high, b.high)};
}
template <typename H>
FLN_INLINE Doubled<H> lesser(Doubled<H> a, Doubled<H> b) {
  return {lesser(a.low, b.low), lesser(a.high, b.high)};
}
template <typename H>
FLN_INLINE Doubled<H> absolute(Doubled<H> a) {
  return {absolute(a.low), absolute(a.high)};
}
// a, whose sign bit is not set, with that of b.
template <typename H>
FLN_INLINE Doubled<H> with_sign_of(Doubled<H> a, Doubled<H> b) {
  return {with_sign_of(a.low, b.low), with_sign_of(a.high, b.high)};
}
// The last bits of a moved to where sign and exponent stand, and zeros behind them.
template <typename H>
FLN_INLINE Doubled<H> as_exponent(Doubled<H> a) {
  return {as_exponent(a.low), as_exponent(a.high)};
}

// n elements in a register, for work on each by itself: if they are half a register or more, its halves begin and end
// where they do, and what is between may be in both. So nothing is masked, where the ISA has no masks of its own.
template <typename V, typename T>
FLN_INLINE V load_ends(const T* p, ptrdiff_t n, V fill) {
  return V::load_first(p, n, fill);
}
template <typename V, typename T>
FLN_INLINE void store_ends(V a, T* p, ptrdiff_t n) {
  a.store_first(p, n);
}
template <typename H, typename T>
FLN_INLINE Doubled<H> load_ends(const T* p, ptrdiff_t n, Doubled<H> fill) {
  if (n < H::lanes) return {H::load_first(p, n, fill.low), fill.high};
  return {H::load(p), H::load(p + n - H::lanes)};
}
template <typename H, typename T>
FLN_INLINE void store_ends(Doubled<H> a, T* p, ptrdiff_t n) {
  if (n < H::lanes) {
    a.low.store_first(p, n);
  } else {
    a.low.store(p);
    a.high.store(p + n - H::lanes);
  }
}

// sum() of four registers at once: transposed, they share most of the work.
template <typename H, typename T>
FLN_INLINE void sums_of_4(Doubled<H> a, Doubled<H> b, Doubled<H> c, Doubled<H> d, T* sums) {
  sums_of_4(a.low + a.high, b.low + b.high, c.low + c.high, d.low + d.high, sums);
}

// The same lanes in double.
template <typename H>
FLN_INLINE auto widen(Doubled<H> a) -> Doubled<decltype(widen(a.low))> {
  return {widen(a.low), widen(a.high)};
}

// Lane i plus lane i + lanes / 2, in half a register; and that in double, in a whole one.
template <typename H>
FLN_INLINE H fold_halves(Doubled<H> a) {
  return a.low + a.high;
}
template <typename H>
FLN_INLINE auto widen_folded(Doubled<H> a) -> decltype(widen(a.low)) {
  return widen(a.low + a.high);
}
