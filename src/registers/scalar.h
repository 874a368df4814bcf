// Plain C++, one element a register.
#pragma once

#include "single.h"

template <typename T>
FLN_INLINE void sums_of_4(Single<T> a, Single<T> b, Single<T> c, Single<T> d, T* sums) {
  sums[0] = a.v;
  sums[1] = b.v;
  sums[2] = c.v;
  sums[3] = d.v;
}

using Quad = Doubled<Doubled<Single<double>>>;

FLN_INLINE Quad load_widened(const float* p) { return {{{p[0]}, {p[1]}}, {{p[2]}, {p[3]}}}; }
FLN_INLINE void store_narrowed(Quad a, float* p) {
  p[0] = static_cast<float>(a.low.low.v);
  p[1] = static_cast<float>(a.low.high.v);
  p[2] = static_cast<float>(a.high.low.v);
  p[3] = static_cast<float>(a.high.high.v);
}

template <typename T>
struct NativeOf {
  using type = Single<T>;
};

constexpr int ACCUMULATORS = 1;

// Sums that a product keeps, in virtual registers (cells/product.h).
constexpr int PRODUCT_ACCUMULATORS = 1;

// See avx2.h: not measured here.
template <typename T, bool WHOLE>
constexpr int MANY_UP_TO = 0;

constexpr bool HAS_FMA = false;

// Masks for numbers of 16 bits.
constexpr bool HAS_HALF_MASKS = false;

// There are no stores that go past the cache: stream() is store().
constexpr bool HAS_STREAMS = false;
FLN_INLINE void stream_fence() {}
