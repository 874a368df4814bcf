// The first lanes of a register number by number, for ISAs that have no masks.
#pragma once

template <typename V, typename S>
FLN_INLINE V load_first_by_lanes(const S* p, ptrdiff_t n, V fill) {
  using T = typename V::value_type;
  T lane[V::lanes];
  fill.store(lane);
  for (ptrdiff_t i = 0; i < n && i < V::lanes; ++i) lane[i] = static_cast<T>(p[i]);
  return V::load(lane);
}

template <typename V, typename S>
FLN_INLINE void store_first_by_lanes(V a, S* p, ptrdiff_t n) {
  typename V::value_type lane[V::lanes];
  a.store(lane);
  for (ptrdiff_t i = 0; i < n && i < V::lanes; ++i) p[i] = static_cast<S>(lane[i]);
}
