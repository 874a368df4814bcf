// One number in the interface of a register: the register of the scalar ISA, and what stands for a row on its own.
#pragma once

#include "doubled.h"

template <typename T>
struct Single {
  using value_type = T;
  static constexpr int lanes = 1;
  T v;

  static FLN_INLINE Single splat(T a) { return {a}; }
  template <typename S>
  static FLN_INLINE Single load(const S* p) {
    return {static_cast<T>(*p)};
  }
  template <typename S>
  static FLN_INLINE Single load_first(const S* p, ptrdiff_t n, Single fill) {
    return n > 0 ? load(p) : fill;
  }
  template <typename S>
  FLN_INLINE void store(S* p) const {
    *p = static_cast<S>(v);
  }
  template <typename S>
  FLN_INLINE void stream(S* p) const {
    store(p);
  }
  template <typename S>
  FLN_INLINE void store_first(S* p, ptrdiff_t n) const {
    if (n > 0) store(p);
  }
  FLN_INLINE T sum() const { return v; }
};

template <typename T>
FLN_INLINE Single<T> operator+(Single<T> a, Single<T> b) {
  return {a.v + b.v};
}
template <typename T>
FLN_INLINE Single<T> operator-(Single<T> a, Single<T> b) {
  return {a.v - b.v};
}
template <typename T>
FLN_INLINE Single<T> operator*(Single<T> a, Single<T> b) {
  return {a.v * b.v};
}
template <typename T>
FLN_INLINE Single<T> operator/(Single<T> a, Single<T> b) {
  return {a.v / b.v};
}
template <typename T>
FLN_INLINE Single<T> sqrt(Single<T> a) {
  return {std::sqrt(a.v)};
}
template <typename T>
FLN_INLINE bool all_le(Single<T> a, Single<T> b) {
  return a.v <= b.v;
}
template <typename T>
FLN_INLINE Single<T> fma(Single<T> a, Single<T> b, Single<T> c) {
  return {a.v * b.v + c.v};
}
template <typename T>
FLN_INLINE Single<T> larger(Single<T> a, Single<T> b) {
  return {a.v > b.v ? a.v : b.v};
}
template <typename T>
FLN_INLINE Single<T> lesser(Single<T> a, Single<T> b) {
  return {a.v < b.v ? a.v : b.v};
}
template <typename T>
FLN_INLINE Single<T> absolute(Single<T> a) {
  return {std::fabs(a.v)};
}
template <typename T>
FLN_INLINE Single<T> with_sign_of(Single<T> a, Single<T> b) {
  return {std::copysign(a.v, b.v)};
}
FLN_INLINE Single<float> as_exponent(Single<float> a) {
  uint32_t bits;
  std::memcpy(&bits, &a.v, sizeof bits);
  bits <<= FLT_MANT_DIG - 1;
  std::memcpy(&a.v, &bits, sizeof bits);
  return a;
}
FLN_INLINE Single<double> as_exponent(Single<double> a) {
  uint64_t bits;
  std::memcpy(&bits, &a.v, sizeof bits);
  bits <<= DBL_MANT_DIG - 1;
  std::memcpy(&a.v, &bits, sizeof bits);
  return a;
}
// Rounded once, on every ISA: fma() may round twice where there is no instruction for it.
template <typename T>
FLN_INLINE Single<T> fused(Single<T> a, Single<T> b, Single<T> c) {
  return {std::fma(a.v, b.v, c.v)};
}
FLN_INLINE Single<double> widen(Single<float> a) { return {a.v}; }
