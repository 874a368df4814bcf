// One double per row, for a group of rows taken at once: what a row needs once (division, square root) costs a vector
// of rows no more than one row.
#pragma once

#include "single.h"
#include "vec.h"

constexpr int GROUP = 4;

template <int ROWS>
struct PerRowOf {
  using type = Doubled<typename PerRowOf<ROWS / 2>::type>;
};
template <>
struct PerRowOf<1> {
  using type = Single<double>;
};
template <>
struct PerRowOf<GROUP> {
  using type = Quad;
};
template <int ROWS>
using PerRow = typename PerRowOf<ROWS>::type;

FLN_INLINE void read(Quad& to, const float* p) { to = load_widened(p); }
FLN_INLINE void read(Quad& to, const double* p) { to = Quad::load(p); }
template <typename T>
FLN_INLINE void read(Single<double>& to, const T* p) {
  to = {static_cast<double>(*p)};
}

template <typename H, typename T>
FLN_INLINE void read(Doubled<H>& to, const T* p) {
  read(to.low, p);
  read(to.high, p + H::lanes);
}

FLN_INLINE void write(Quad a, float* p) { store_narrowed(a, p); }
FLN_INLINE void write(Quad a, double* p) { a.store(p); }
template <typename T>
FLN_INLINE void write(Single<double> a, T* p) {
  *p = static_cast<T>(a.v);
}
template <typename H, typename T>
FLN_INLINE void write(Doubled<H> a, T* p) {
  write(a.low, p);
  write(a.high, p + H::lanes);
}

// The sum of each row's register.
template <int ROWS, typename V>
FLN_INLINE void sum_rows(const V* lanes, typename V::value_type* sums) {
  if constexpr (ROWS == GROUP) {
    sums_of_4(lanes[0], lanes[1], lanes[2], lanes[3], sums);
  } else {
    for (int r = 0; r < ROWS; ++r) sums[r] = lanes[r].sum();
  }
}
