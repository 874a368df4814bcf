// x86-64's baseline, 128 bits. There is no fused multiply-add: results are as accurate, but have their own last bits.
#pragma once

#include "by_lanes.h"
#include "doubled.h"
#include "x86.h"

// Four numbers of 16 bits, widened to float and rounded; for half precision there are no instructions.
FLN_INLINE __m128 widened(const BF16* p) {
  const __m128i a = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
  return _mm_castsi128_ps(_mm_unpacklo_epi16(_mm_setzero_si128(), a));
}
FLN_INLINE __m128 widened(const F16* p) {
  return _mm_setr_ps(static_cast<float>(p[0]), static_cast<float>(p[1]), static_cast<float>(p[2]),
                     static_cast<float>(p[3]));
}
FLN_INLINE void store_narrowed(__m128 a, BF16* p) {
  const __m128i bits = _mm_castps_si128(a);
  const __m128i odd = _mm_and_si128(_mm_srli_epi32(bits, 16), _mm_set1_epi32(1));
  const __m128i up = _mm_add_epi32(_mm_add_epi32(bits, _mm_set1_epi32(0x7fff)), odd);
  const __m128i quiet = _mm_or_si128(bits, _mm_set1_epi32(0x00400000));
  const __m128i nan = _mm_castps_si128(_mm_cmpunord_ps(a, a));
  const __m128i rounded = _mm_or_si128(_mm_and_si128(nan, quiet), _mm_andnot_si128(nan, up));
  const __m128i upper = _mm_srai_epi32(rounded, 16);  // signed, as they are packed
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packs_epi32(upper, upper));
}
FLN_INLINE void store_narrowed(__m128 a, F16* p) {
  float lane[4];
  _mm_storeu_ps(lane, a);
  for (int i = 0; i < 4; ++i) p[i] = static_cast<F16>(lane[i]);
}

struct F32x4 {
  using value_type = float;
  static constexpr int lanes = 4;
  __m128 v;

  static FLN_INLINE F32x4 splat(float a) { return {_mm_set1_ps(a)}; }
  static FLN_INLINE F32x4 load(const float* p) { return {_mm_loadu_ps(p)}; }
  FLN_INLINE void store(float* p) const { _mm_storeu_ps(p, v); }
  FLN_INLINE void stream(float* p) const { _mm_stream_ps(p, v); }
  FLN_INLINE float sum() const { return sum_of_4(v); }

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
  __m128d v;

  static FLN_INLINE F64x2 splat(double a) { return {_mm_set1_pd(a)}; }
  static FLN_INLINE F64x2 load(const double* p) { return {_mm_loadu_pd(p)}; }
  static FLN_INLINE F64x2 load_first(const double* p, ptrdiff_t n, F64x2 fill) {
    return n >= lanes ? load(p) : n > 0 ? F64x2{_mm_loadl_pd(fill.v, p)} : fill;
  }
  FLN_INLINE void store(double* p) const { _mm_storeu_pd(p, v); }
  FLN_INLINE void stream(double* p) const { _mm_stream_pd(p, v); }
  FLN_INLINE void store_first(double* p, ptrdiff_t n) const {
    if (n >= lanes) {
      store(p);
    } else if (n > 0) {
      _mm_storel_pd(p, v);
    }
  }
  FLN_INLINE double sum() const { return sum_of_2(v); }
};

FLN_INLINE F32x4 operator+(F32x4 a, F32x4 b) { return {_mm_add_ps(a.v, b.v)}; }
FLN_INLINE F32x4 operator-(F32x4 a, F32x4 b) { return {_mm_sub_ps(a.v, b.v)}; }
FLN_INLINE F32x4 operator*(F32x4 a, F32x4 b) { return {_mm_mul_ps(a.v, b.v)}; }
FLN_INLINE F32x4 fma(F32x4 a, F32x4 b, F32x4 c) { return {_mm_add_ps(_mm_mul_ps(a.v, b.v), c.v)}; }
FLN_INLINE F64x2 operator+(F64x2 a, F64x2 b) { return {_mm_add_pd(a.v, b.v)}; }
FLN_INLINE F64x2 operator-(F64x2 a, F64x2 b) { return {_mm_sub_pd(a.v, b.v)}; }
FLN_INLINE F64x2 operator*(F64x2 a, F64x2 b) { return {_mm_mul_pd(a.v, b.v)}; }
FLN_INLINE F64x2 operator/(F64x2 a, F64x2 b) { return {_mm_div_pd(a.v, b.v)}; }
FLN_INLINE F64x2 sqrt(F64x2 a) { return {_mm_sqrt_pd(a.v)}; }
FLN_INLINE F64x2 fused(F64x2 a, F64x2 b, F64x2 c) {
  double x[2], y[2], z[2];
  a.store(x);
  b.store(y);
  c.store(z);
  return {_mm_setr_pd(std::fma(x[0], y[0], z[0]), std::fma(x[1], y[1], z[1]))};
}
FLN_INLINE bool all_le(F64x2 a, F64x2 b) { return _mm_movemask_pd(_mm_cmple_pd(a.v, b.v)) == 3; }
FLN_INLINE F64x2 fma(F64x2 a, F64x2 b, F64x2 c) { return {_mm_add_pd(_mm_mul_pd(a.v, b.v), c.v)}; }

FLN_INLINE F32x4 operator/(F32x4 a, F32x4 b) { return {_mm_div_ps(a.v, b.v)}; }
FLN_INLINE F32x4 larger(F32x4 a, F32x4 b) { return {_mm_max_ps(a.v, b.v)}; }
FLN_INLINE F32x4 lesser(F32x4 a, F32x4 b) { return {_mm_min_ps(a.v, b.v)}; }
FLN_INLINE F32x4 absolute(F32x4 a) { return {_mm_andnot_ps(_mm_set1_ps(-0.0f), a.v)}; }
FLN_INLINE F32x4 with_sign_of(F32x4 a, F32x4 b) { return {_mm_or_ps(a.v, _mm_and_ps(b.v, _mm_set1_ps(-0.0f)))}; }
FLN_INLINE F32x4 as_exponent(F32x4 a) { return {_mm_castsi128_ps(_mm_slli_epi32(_mm_castps_si128(a.v), 23))}; }
FLN_INLINE F64x2 larger(F64x2 a, F64x2 b) { return {_mm_max_pd(a.v, b.v)}; }
FLN_INLINE F64x2 lesser(F64x2 a, F64x2 b) { return {_mm_min_pd(a.v, b.v)}; }
FLN_INLINE F64x2 absolute(F64x2 a) { return {_mm_andnot_pd(_mm_set1_pd(-0.0), a.v)}; }
FLN_INLINE F64x2 with_sign_of(F64x2 a, F64x2 b) { return {_mm_or_pd(a.v, _mm_and_pd(b.v, _mm_set1_pd(-0.0)))}; }
FLN_INLINE F64x2 as_exponent(F64x2 a) { return {_mm_castsi128_pd(_mm_slli_epi64(_mm_castpd_si128(a.v), 52))}; }

// The four sums, in the order of sum(), by transposing rather than one after the other.
FLN_INLINE void sums_of_4(F32x4 a, F32x4 b, F32x4 c, F32x4 d, float* sums) {
  _MM_TRANSPOSE4_PS(a.v, b.v, c.v, d.v);
  _mm_storeu_ps(sums, _mm_add_ps(_mm_add_ps(a.v, c.v), _mm_add_ps(b.v, d.v)));
}
FLN_INLINE void sums_of_4(F64x2 a, F64x2 b, F64x2 c, F64x2 d, double* sums) {
  _mm_storeu_pd(sums, _mm_add_pd(_mm_unpacklo_pd(a.v, b.v), _mm_unpackhi_pd(a.v, b.v)));
  _mm_storeu_pd(sums + 2, _mm_add_pd(_mm_unpacklo_pd(c.v, d.v), _mm_unpackhi_pd(c.v, d.v)));
}

FLN_INLINE Doubled<F64x2> widen(F32x4 a) { return {{_mm_cvtps_pd(a.v)}, {_mm_cvtps_pd(_mm_movehl_ps(a.v, a.v))}}; }
FLN_INLINE Doubled<F64x2> load_widened(const float* p) { return widen(F32x4::load(p)); }
FLN_INLINE void store_narrowed(Doubled<F64x2> a, float* p) {
  _mm_storeu_ps(p, _mm_movelh_ps(_mm_cvtpd_ps(a.low.v), _mm_cvtpd_ps(a.high.v)));
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

constexpr int ACCUMULATORS = 1;

// Sums that a product keeps, in virtual registers (cells/product.h): of 16 registers, 8.
constexpr int PRODUCT_ACCUMULATORS = 2;

// See avx2.h: not measured here.
template <typename T, bool WHOLE>
constexpr int MANY_UP_TO = 0;

constexpr bool HAS_FMA = false;

// Masks for numbers of 16 bits.
constexpr bool HAS_HALF_MASKS = false;
