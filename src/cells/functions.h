// The functions of the gates, on registers: polynomials written with fma and one division, so that their bits are the
// same on every ISA that has an fma. Both come from
//
//   exp(y) = 2^n (1 + p)      n = the integer nearest to y / ln 2, p = exp(r) - 1, r = y - n ln 2, |r| <= ln(2) / 2
//
// They are at most 2.5 ulp off, subnormal results included (tests/functions_driver.cpp: each float).
#pragma once

#include "../registers/lanes.h"

template <typename T>
struct Exponential;

// The coefficients of p / r = 1 + r / 2 + ... are minimax ones, by Remez's algorithm: off by 1.4e-8 and 2.5e-17.
template <>
struct Exponential<float> {
  static constexpr float INV_LN2 = 0x1.715476p+0f, LN2_HIGH = 0x1.62e4p-1f, LN2_LOW = 0x1.7f7d1cp-20f;
  static constexpr float INTEGERS = 0x1.8p+23f;  // added to a number, it leaves the nearest integer in the last bits
  static constexpr float BIAS = FLT_MAX_EXP - 1;
  static constexpr int TERMS = 5;
  static constexpr float TERM[TERMS] = {0x1p-1f, 0x1.5554b2p-3f, 0x1.5554c8p-5f, 0x1.1226eep-7f, 0x1.6d7198p-10f};
  // Where tanh is 1 and sigmoid is 1 or 0, in T; a power of two that leaves room for exp of the last one.
  static constexpr float TANH_ENDS = 16, SIGMOID_ENDS = 64, SIGMOID_BEGINS = -105, ROOM = 32;
};
template <>
struct Exponential<double> {
  static constexpr double INV_LN2 = 0x1.71547652b82fep+0, LN2_HIGH = 0x1.62e42fefa3p-1, LN2_LOW = 0x1.3de6af278ece6p-42;
  static constexpr double INTEGERS = 0x1.8p+52;
  static constexpr double BIAS = DBL_MAX_EXP - 1;
  static constexpr int TERMS = 10;
  static constexpr double TERM[TERMS] = {
      0x1p-1,
      0x1.555555555555ap-3,
      0x1.5555555553acep-5,
      0x1.111111110f0c4p-7,
      0x1.6c16c17a15849p-10,
      0x1.a01a01b2be841p-13,
      0x1.a019b34e402c8p-16,
      0x1.71ddf06f1c0cp-19,
      0x1.2897b9c0a41dbp-22,
      0x1.af6d38be523aep-26,
  };
  static constexpr double TANH_ENDS = 32, SIGMOID_ENDS = 64, SIGMOID_BEGINS = -746, ROOM = 64;
};

// 2^(n - down) and p. Of NaN, p is NaN.
template <typename V>
struct Exp {
  using T = typename V::value_type;
  using E = Exponential<T>;
  V power, p;

  FLN_INLINE Exp(V y, T down) {
    const V integers = V::splat(E::INTEGERS + (E::BIAS - down));
    const V sum = fma(y, V::splat(E::INV_LN2), integers);
    const V n = sum - integers;
    const V r = fma(n, V::splat(-E::LN2_LOW), fma(n, V::splat(-E::LN2_HIGH), y));
    V terms = V::splat(E::TERM[E::TERMS - 1]);
#pragma GCC unroll 16
    for (int i = E::TERMS - 2; i >= 0; --i) terms = fma(terms, r, V::splat(E::TERM[i]));
    p = fma(r * r, terms, r);
    power = as_exponent(sum);
  }
};

// With e = exp(-2 |x|) - 1, which is exact to its last bits however small x is: tanh(|x|) = -e / (2 + e).
template <typename V>
FLN_INLINE V tanh(V x) {
  using T = typename V::value_type;
  const T ends = Exponential<T>::TANH_ENDS;
  const Exp<V> exp(larger(V::splat(-2 * ends), absolute(x) * V::splat(-2)), 0);
  const V e = fma(exp.power, exp.p, exp.power - V::splat(1));
  return with_sign_of(absolute(e / (V::splat(-2) - e)), x);
}

// 1 / (1 + exp(-x)), both sides of the fraction divided by 2^ROOM: so exp(-x) has room where the result is subnormal.
template <typename V>
FLN_INLINE V sigmoid(V x) {
  using T = typename V::value_type;
  using E = Exponential<T>;
  const V y = larger(V::splat(-E::SIGMOID_ENDS), lesser(V::splat(-E::SIGMOID_BEGINS), V::splat(0) - x));
  const Exp<V> exp(y, E::ROOM);
  const V one = V::splat(sizeof(T) == sizeof(float) ? 0x1p-32f : static_cast<T>(0x1p-64));
  return one / (one + fma(exp.power, exp.p, exp.power));
}

// Of NaN, NaN.
template <typename V>
FLN_INLINE V relu(V x) {
  return larger(V::splat(0), x);
}

// 1 where relu has let something through, which was h, else 0: times the square of the largest number, any h > 0 is
// more than 1.
template <typename V>
FLN_INLINE V relu_gradient(V h) {
  using T = typename V::value_type;
  const V large = V::splat(std::numeric_limits<T>::max());
  return lesser(V::splat(1), h * large * large);
}
