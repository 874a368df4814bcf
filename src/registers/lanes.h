// Whole registers of memory, or only their first lanes: one text for the middle of a row and for its end.
#pragma once

#include "vec.h"

// Whether the first lanes of V in memory, numbers stored as S, are left to a call: rows have many ends, and it is long
// where an ISA has no masks for so small numbers.
template <typename V, typename S>
constexpr bool FIRST_APART = sizeof(S) < sizeof(typename V::value_type) && !HAS_HALF_MASKS;

template <typename V, typename S>
__attribute__((noinline)) V load_first_apart(const S* p, ptrdiff_t n, V fill) {
  return V::load_first(p, n, fill);
}
template <typename V, typename S>
__attribute__((noinline)) void store_first_apart(V a, S* p, ptrdiff_t n) {
  a.store_first(p, n);
}

// V::load_first and V::store_first.
template <typename V, typename S>
FLN_INLINE V load_some(const S* p, ptrdiff_t n, V fill) {
  if constexpr (FIRST_APART<V, S>) {
    return load_first_apart(p, n, fill);
  } else {
    return V::load_first(p, n, fill);
  }
}
template <typename V, typename S>
FLN_INLINE void store_some(V a, S* p, ptrdiff_t n) {
  if constexpr (FIRST_APART<V, S>) {
    store_first_apart(a, p, n);
  } else {
    a.store_first(p, n);
  }
}

// With ALL a whole register, else the first n lanes of it and 0 in the others.
template <typename V, bool ALL, typename T>
FLN_INLINE V load_lanes(const T* p, ptrdiff_t n) {
  return ALL ? V::load(p) : load_some(p, n, V::splat(0));
}

// The same for stores. With STREAM past the cache, a whole register at an aligned place.
template <bool ALL, bool STREAM = false, typename V, typename T>
FLN_INLINE void store_lanes(V a, T* p, ptrdiff_t n) {
  if (STREAM) {
    a.stream(p);
  } else if (ALL) {
    a.store(p);
  } else {
    store_some(a, p, n);
  }
}

// Rounded to how S stores numbers.
template <typename S, typename V>
FLN_INLINE V rounded(V a) {
  S stored[V::lanes];
  a.store(stored);
  return V::load(stored);
}

// fma() where two roundings would take the results of ordinary rows past 2 eps: in double, where no wider type helps.
template <typename V>
FLN_INLINE V accurate_fma(V a, V b, V c) {
  if constexpr (sizeof(typename V::value_type) == sizeof(double) && !HAS_FMA) {
    return fused(a, b, c);
  } else {
    return fma(a, b, c);
  }
}

// No load moves past this place: a compiler that takes all loads of a tree to its beginning has no registers left for
// them (AVX2, backward float32 33x1000 0.94, float64 33x77 0.91 of the time with it).
FLN_INLINE void keep_order() { __asm__ volatile("" ::: "memory"); }

// What is put together here is read from memory, each number by a load of its own, not taken apart in registers.
template <typename A>
FLN_INLINE void keep_in_memory(A& a) {
  __asm__ volatile("" : "+m"(a));
}
