// Several sums at once, in registers; and the same over many registers, in more precision than T has.
#pragma once

#include "vec.h"

// COUNT sums that are found together: what they are of, the user's enum says.
template <typename V, int COUNT>
struct Sums {
  V of[COUNT];
};

template <typename V, int COUNT>
FLN_INLINE Sums<V, COUNT> operator+(const Sums<V, COUNT>& a, const Sums<V, COUNT>& b) {
  Sums<V, COUNT> sums;
#pragma GCC unroll 4
  for (int k = 0; k < COUNT; ++k) sums.of[k] = a.of[k] + b.of[k];
  return sums;
}
template <typename H, int COUNT>
FLN_INLINE Sums<Doubled<H>, COUNT> side_by_side(const Sums<H, COUNT>& low, const Sums<H, COUNT>& high) {
  Sums<Doubled<H>, COUNT> both;
#pragma GCC unroll 4
  for (int k = 0; k < COUNT; ++k) both.of[k] = {low.of[k], high.of[k]};
  return both;
}

// A sum of many V as a pair: `low` collects what rounding `high` lost (Knuth's TwoSum).
template <typename V>
struct Compensated {
  V high, low;

  static FLN_INLINE Compensated of(V a) { return {a, V::splat(0)}; }
  FLN_INLINE void add(V a) {
    const V sum = high + a;
    const V added = sum - high;
    low = low + ((high - (sum - added)) + (a - added));
    high = sum;
  }
  FLN_INLINE V folded() const { return high + low; }
};

// A sum of many Vec<T> over a row, in more than T's precision. The two halves of a register are added up first: half
// the work, for one more level of the tree that comes before.
template <typename T>
struct Total {
  using Lanes = Vec<double>;
  static constexpr int SIZE = LANES<double>;  // doubles, where it is stored
  Lanes lanes;

  static FLN_INLINE Total of(Vec<float> a) { return {widen_folded(a)}; }
  FLN_INLINE void add(Vec<float> a) { lanes = lanes + widen_folded(a); }
  FLN_INLINE void add(const Total& a) { lanes = lanes + a.lanes; }
  FLN_INLINE Lanes folded() const { return lanes; }

  static FLN_INLINE Total load(const double* p) { return {Lanes::load(p)}; }
  FLN_INLINE void store(double* p) const { lanes.store(p); }
};
template <>
struct Total<double> {
  using Lanes = decltype(fold_halves(Vec<double>()));
  static constexpr int SIZE = LANES<double>;
  Compensated<Lanes> lanes;

  static FLN_INLINE Total of(Vec<double> a) { return {Compensated<Lanes>::of(fold_halves(a))}; }
  FLN_INLINE void add(Vec<double> a) { lanes.add(fold_halves(a)); }
  FLN_INLINE void add(const Total& a) {
    lanes.add(a.lanes.high);
    lanes.low = lanes.low + a.lanes.low;
  }
  FLN_INLINE Lanes folded() const { return lanes.folded(); }

  static FLN_INLINE Total load(const double* p) { return {{Lanes::load(p), Lanes::load(p + Lanes::lanes)}}; }
  FLN_INLINE void store(double* p) const {
    lanes.high.store(p);
    lanes.low.store(p + Lanes::lanes);
  }
};

// COUNT of them.
template <typename T, int COUNT>
struct Totals {
  static constexpr int SIZE = COUNT * Total<T>::SIZE;
  using Lanes = typename Total<T>::Lanes;
  Total<T> of_each[COUNT];

  static FLN_INLINE Totals of(const Sums<Vec<T>, COUNT>& sums) {
    Totals totals;
#pragma GCC unroll 4
    for (int k = 0; k < COUNT; ++k) totals.of_each[k] = Total<T>::of(sums.of[k]);
    return totals;
  }
  static FLN_INLINE Totals zero() {
    Totals totals;
#pragma GCC unroll 4
    for (int k = 0; k < COUNT; ++k) totals.of_each[k] = Total<T>::of(Vec<T>::splat(0));
    return totals;
  }
  FLN_INLINE void add(const Sums<Vec<T>, COUNT>& sums) {
#pragma GCC unroll 4
    for (int k = 0; k < COUNT; ++k) of_each[k].add(sums.of[k]);
  }
  FLN_INLINE void add(const Totals& totals) {
#pragma GCC unroll 4
    for (int k = 0; k < COUNT; ++k) of_each[k].add(totals.of_each[k]);
  }
  FLN_INLINE Sums<Lanes, COUNT> folded() const {
    Sums<Lanes, COUNT> sums;
#pragma GCC unroll 4
    for (int k = 0; k < COUNT; ++k) sums.of[k] = of_each[k].folded();
    return sums;
  }

  static FLN_INLINE Totals load(const double* p) {
    Totals totals;
#pragma GCC unroll 4
    for (int k = 0; k < COUNT; ++k) totals.of_each[k] = Total<T>::load(p + k * Total<T>::SIZE);
    return totals;
  }
  FLN_INLINE void store(double* p) const {
#pragma GCC unroll 4
    for (int k = 0; k < COUNT; ++k) of_each[k].store(p + k * Total<T>::SIZE);
  }
};
