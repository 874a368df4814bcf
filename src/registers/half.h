// Numbers of 16 bits: stored only, and computed with as float. Here they are converted one by one; the registers of an
// ISA convert many at a time, to the same bits. A float is rounded to the nearest, to even where two are as near, and
// to Inf past the largest; NaN stays NaN.
#pragma once

FLN_INLINE uint32_t bits_of(float a) {
  uint32_t bits;
  std::memcpy(&bits, &a, sizeof bits);
  return bits;
}
FLN_INLINE float float_of(uint32_t bits) {
  float a;
  std::memcpy(&a, &bits, sizeof a);
  return a;
}

// bfloat16: the upper half of a float.
struct BF16 {
  uint16_t bits;

  BF16() = default;
  explicit FLN_INLINE BF16(float a) {
    const uint32_t b = bits_of(a);
    bits = static_cast<uint16_t>((a != a ? b | 0x00400000 : b + 0x7fff + (b >> 16 & 1)) >> 16);
  }
  explicit FLN_INLINE operator float() const { return float_of(static_cast<uint32_t>(bits) << 16); }
};

// IEEE 754's binary16: 5 bits of exponent, 10 of fraction.
struct F16 {
  uint16_t bits;

  F16() = default;
  explicit FLN_INLINE F16(float a) {
    constexpr uint32_t INFINITE = 0x7f800000, TOO_LARGE = 0x477ff000 /* 65520 */, NORMAL = 0x38800000 /* 2^-14 */;
    const uint32_t b = bits_of(a), size = b & 0x7fffffff;
    uint32_t half;
    if (size > INFINITE) {
      half = 0x7e00 | (size >> 13 & 0x1ff);
    } else if (size >= TOO_LARGE) {
      half = 0x7c00;
    } else if (size >= NORMAL) {  // the exponent is biased by 112 less
      half = (size - (112 << 23) + 0xfff + (size >> 13 & 1)) >> 13;
    } else {  // the units of 1/2 in float are those of subnormal halves
      half = bits_of(float_of(size) + 0.5f) - bits_of(0.5f);
    }
    bits = static_cast<uint16_t>(half | (b >> 16 & 0x8000));
  }
  explicit FLN_INLINE operator float() const {
    const uint32_t sign = static_cast<uint32_t>(bits & 0x8000) << 16, size = bits & 0x7fff;
    if (size >= 0x7c00) return float_of(sign | 0x7f800000 | (size & 0x3ff) << 13 | (size > 0x7c00 ? 0x00400000 : 0));
    return float_of(sign | bits_of(float_of(size << 13) * 0x1p112f));
  }
};
