// AArch64 Advanced SIMD, 128 bits, with fused multiply-add.
#pragma once

#include "by_lanes.h"
#include "doubled.h"

// Four numbers of 16 bits, widened to float and rounded.
FLN_INLINE float32x4_t widened(const F16* p) {
  return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(reinterpret_cast<const uint16_t*>(p))));
}
FLN_INLINE float32x4_t widened(const BF16* p) {
  return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(reinterpret_cast<const uint16_t*>(p)), 16));
}
FLN_INLINE void store_narrowed(float32x4_t a, F16* p) {
  vst1_u16(reinterpret_cast<uint16_t*>(p), vreinterpret_u16_f16(vcvt_f16_f32(a)));
}
FLN_INLINE void store_narrowed(float32x4_t a, BF16* p) {
  const uint32x4_t bits = vreinterpretq_u32_f32(a);
  const uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
  const uint32x4_t up = vaddq_u32(vaddq_u32(bits, vdupq_n_u32(0x7fff)), odd);
  const uint32x4_t quiet = vorrq_u32(bits, vdupq_n_u32(0x00400000));
  vst1_u16(reinterpret_cast<uint16_t*>(p), vshrn_n_u32(vbslq_u32(vceqq_f32(a, a), up, quiet), 16));
}

struct F32x4 {
  using value_type = float;
  static constexpr int lanes = 4;
  float32x4_t v;

  static FLN_INLINE F32x4 splat(float a) { return {vdupq_n_f32(a)}; }
  static FLN_INLINE F32x4 load(const float* p) { return {vld1q_f32(p)}; }
  FLN_INLINE void store(float* p) const { vst1q_f32(p, v); }
  FLN_INLINE void stream(float* p) const { store(p); }
  FLN_INLINE float sum() const {  // lane i plus lane i + 2, then the two that are left
    const float32x2_t half = vadd_f32(vget_low_f32(v), vget_high_f32(v));
    return vget_lane_f32(vpadd_f32(half, half), 0);
  }

  template <typename S>
  static FLN_INLINE F32x4 load(const S* p) {
    return {widened(p)};
  }
  template <typename S>
  static FLN_INLINE F32x4 load_first(const S* p, ptrdiff_t n, F32x4 fill) {
    return load_first_by_lanes(p, n, fill);
  }
  template <typename S>
  FLN_INLINE void store(S* p) const {
    store_narrowed(v, p);
  }
  template <typename S>
  FLN_INLINE void stream(S* p) const {
    store(p);
  }
  template <typename S>
  FLN_INLINE void store_first(S* p, ptrdiff_t n) const {
    store_first_by_lanes(*this, p, n);
  }
};

struct F64x2 {
  using value_type = double;
  static constexpr int lanes = 2;
  float64x2_t v;

  static FLN_INLINE F64x2 splat(double a) { return {vdupq_n_f64(a)}; }
  static FLN_INLINE F64x2 load(const double* p) { return {vld1q_f64(p)}; }
  static FLN_INLINE F64x2 load_first(const double* p, ptrdiff_t n, F64x2 fill) {
    return n >= lanes ? load(p) : n > 0 ? F64x2{vsetq_lane_f64(*p, fill.v, 0)} : fill;
  }
  FLN_INLINE void store(double* p) const { vst1q_f64(p, v); }
  FLN_INLINE void stream(double* p) const { store(p); }
  FLN_INLINE void store_first(double* p, ptrdiff_t n) const {
    if (n >= lanes) {
      store(p);
    } else if (n > 0) {
      *p = vgetq_lane_f64(v, 0);
    }
  }
  FLN_INLINE double sum() const { return vpaddd_f64(v); }
};

FLN_INLINE F32x4 operator+(F32x4 a, F32x4 b) { return {vaddq_f32(a.v, b.v)}; }
FLN_INLINE F32x4 operator-(F32x4 a, F32x4 b) { return {vsubq_f32(a.v, b.v)}; }
FLN_INLINE F32x4 operator*(F32x4 a, F32x4 b) { return {vmulq_f32(a.v, b.v)}; }
FLN_INLINE F32x4 fma(F32x4 a, F32x4 b, F32x4 c) { return {vfmaq_f32(c.v, a.v, b.v)}; }
FLN_INLINE F64x2 operator+(F64x2 a, F64x2 b) { return {vaddq_f64(a.v, b.v)}; }
FLN_INLINE F64x2 operator-(F64x2 a, F64x2 b) { return {vsubq_f64(a.v, b.v)}; }
FLN_INLINE F64x2 operator*(F64x2 a, F64x2 b) { return {vmulq_f64(a.v, b.v)}; }
FLN_INLINE F64x2 operator/(F64x2 a, F64x2 b) { return {vdivq_f64(a.v, b.v)}; }
FLN_INLINE F64x2 sqrt(F64x2 a) { return {vsqrtq_f64(a.v)}; }
FLN_INLINE F64x2 fused(F64x2 a, F64x2 b, F64x2 c) { return {vfmaq_f64(c.v, a.v, b.v)}; }
FLN_INLINE bool all_le(F64x2 a, F64x2 b) {
  const uint64x2_t le = vcleq_f64(a.v, b.v);
  return (vgetq_lane_u64(le, 0) & vgetq_lane_u64(le, 1)) != 0;
}
FLN_INLINE F64x2 fma(F64x2 a, F64x2 b, F64x2 c) { return {vfmaq_f64(c.v, a.v, b.v)}; }

FLN_INLINE F32x4 operator/(F32x4 a, F32x4 b) { return {vdivq_f32(a.v, b.v)}; }
FLN_INLINE F32x4 larger(F32x4 a, F32x4 b) { return {vbslq_f32(vcgtq_f32(a.v, b.v), a.v, b.v)}; }
FLN_INLINE F32x4 lesser(F32x4 a, F32x4 b) { return {vbslq_f32(vcltq_f32(a.v, b.v), a.v, b.v)}; }
FLN_INLINE F32x4 absolute(F32x4 a) { return {vabsq_f32(a.v)}; }
FLN_INLINE F32x4 with_sign_of(F32x4 a, F32x4 b) { return {vbslq_f32(vdupq_n_u32(0x80000000), b.v, a.v)}; }
FLN_INLINE F32x4 as_exponent(F32x4 a) { return {vreinterpretq_f32_u32(vshlq_n_u32(vreinterpretq_u32_f32(a.v), 23))}; }
FLN_INLINE F64x2 larger(F64x2 a, F64x2 b) { return {vbslq_f64(vcgtq_f64(a.v, b.v), a.v, b.v)}; }
FLN_INLINE F64x2 lesser(F64x2 a, F64x2 b) { return {vbslq_f64(vcltq_f64(a.v, b.v), a.v, b.v)}; }
FLN_INLINE F64x2 absolute(F64x2 a) { return {vabsq_f64(a.v)}; }
FLN_INLINE F64x2 with_sign_of(F64x2 a, F64x2 b) { return {vbslq_f64(vdupq_n_u64(0x8000000000000000), b.v, a.v)}; }
FLN_INLINE F64x2 as_exponent(F64x2 a) { return {vreinterpretq_f64_u64(vshlq_n_u64(vreinterpretq_u64_f64(a.v), 52))}; }

// The four sums, in the order of sum().
FLN_INLINE float32x2_t halves(F32x4 a) { return vadd_f32(vget_low_f32(a.v), vget_high_f32(a.v)); }
FLN_INLINE void sums_of_4(F32x4 a, F32x4 b, F32x4 c, F32x4 d, float* sums) {
  vst1q_f32(sums, vcombine_f32(vpadd_f32(halves(a), halves(b)), vpadd_f32(halves(c), halves(d))));
}
FLN_INLINE void sums_of_4(F64x2 a, F64x2 b, F64x2 c, F64x2 d, double* sums) {
  vst1q_f64(sums, vpaddq_f64(a.v, b.v));
  vst1q_f64(sums + 2, vpaddq_f64(c.v, d.v));
}

FLN_INLINE Doubled<F64x2> widen(F32x4 a) { return {{vcvt_f64_f32(vget_low_f32(a.v))}, {vcvt_high_f64_f32(a.v)}}; }
FLN_INLINE Doubled<F64x2> load_widened(const float* p) { return widen(F32x4::load(p)); }
FLN_INLINE void store_narrowed(Doubled<F64x2> a, float* p) {
  vst1q_f32(p, vcvt_high_f32_f64(vcvt_f32_f64(a.low.v), a.high.v));
}

template <typename T>
struct NativeOf;
template <>
struct NativeOf<float> {
  using type = F32x4;
};
template <>
struct NativeOf<double> {
  using type = F64x2;
};
using Quad = Doubled<F64x2>;

// 2 vectors of 16 lanes are 8 registers for the sum and 8 for the sum of squares, of 32.
constexpr int ACCUMULATORS = 2;

// Sums that a product keeps, in virtual registers (cells/product.h): of 32 registers, 24.
constexpr int PRODUCT_ACCUMULATORS = 6;

// See avx2.h: not measured here.
template <typename T, bool WHOLE>
constexpr int MANY_UP_TO = 0;

constexpr bool HAS_FMA = true;

// Masks for numbers of 16 bits.
constexpr bool HAS_HALF_MASKS = false;

// There are no stores that go past the cache, only hints (STNP): stream() is store().
constexpr bool HAS_STREAMS = false;
FLN_INLINE void stream_fence() {}
