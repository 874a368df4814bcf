// Whole arrays between how numbers are stored and the type that is computed in.
#pragma once

#include "source.h"

template <typename T, typename From, typename To>
FLN_INLINE void convert(const From* from, To* to, ptrdiff_t n) {
  using V = Vec<T>;
  ptrdiff_t i = 0;
  for (; i + V::lanes <= n; i += V::lanes) V::load(from + i).store(to + i);
  if (i < n) store_some(load_some(from + i, n - i, V::splat(0)), to + i, n - i);
}

template <typename S>
void widen_all(const void* from, void* to, ptrdiff_t n) {
  using T = Computed<S>;
  convert<T>(static_cast<const S*>(from), static_cast<T*>(to), n);
}

template <typename S>
void narrow_all(const void* from, void* to, ptrdiff_t n) {
  using T = Computed<S>;
  convert<T>(static_cast<const T*>(from), static_cast<S*>(to), n);
}
