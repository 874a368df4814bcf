// AVX-512 (F, BW, DQ, VL), 512 bits: the native register is the virtual one.
#pragma once

#include "x86_256.h"

FLN_INLINE __mmask16 first_lanes(ptrdiff_t n) {
  return static_cast<__mmask16>(_bzhi_u32(0xffff, static_cast<unsigned>(n)));
}

// Sixteen numbers of 16 bits, as S, widened to float and rounded. AVX512-BF16 would take subnormal ones for 0.
FLN_INLINE __m512 widened(__m256i a, F16) { return _mm512_cvtph_ps(a); }
FLN_INLINE __m512 widened(__m256i a, BF16) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(a), 16));
}
FLN_INLINE __m256i narrowed(__m512 a, F16) { return _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT); }
FLN_INLINE __m256i narrowed(__m512 a, BF16) {
  const __m512i bits = _mm512_castps_si512(a);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i up = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
  const __mmask16 nan = _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q);
  const __m512i rounded = _mm512_mask_or_epi32(up, nan, bits, _mm512_set1_epi32(0x00400000));
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16));
}

struct F32x16 {
  using value_type = float;
  static constexpr int lanes = 16;
  __m512 v;

  static FLN_INLINE F32x16 splat(float a) { return {_mm512_set1_ps(a)}; }
  static FLN_INLINE F32x16 load(const float* p) { return {_mm512_loadu_ps(p)}; }
  static FLN_INLINE F32x16 load_first(const float* p, ptrdiff_t n, F32x16 fill) {
    return {_mm512_mask_loadu_ps(fill.v, first_lanes(n), p)};
  }
  FLN_INLINE void store(float* p) const { _mm512_storeu_ps(p, v); }
  FLN_INLINE void stream(float* p) const { _mm512_stream_ps(p, v); }
  FLN_INLINE void store_first(float* p, ptrdiff_t n) const { _mm512_mask_storeu_ps(p, first_lanes(n), v); }
  FLN_INLINE float sum() const {
    const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    return sum_of_4(_mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1)));
  }

  template <typename S>
  static FLN_INLINE F32x16 load(const S* p) {
    return {widened(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)), S())};
  }
  template <typename S>
  static FLN_INLINE F32x16 load_first(const S* p, ptrdiff_t n, F32x16 fill) {
    const __mmask16 first = first_lanes(n);
    return {_mm512_mask_mov_ps(fill.v, first, widened(_mm256_maskz_loadu_epi16(first, p), S()))};
  }
  template <typename S>
  FLN_INLINE void store(S* p) const {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrowed(v, S()));
  }
  template <typename S>
  FLN_INLINE void stream(S* p) const {
    _mm256_stream_si256(reinterpret_cast<__m256i*>(p), narrowed(v, S()));
  }
  template <typename S>
  FLN_INLINE void store_first(S* p, ptrdiff_t n) const {
    _mm256_mask_storeu_epi16(p, first_lanes(n), narrowed(v, S()));
  }
};

struct F64x8 {
  using value_type = double;
  static constexpr int lanes = 8;
  __m512d v;

  static FLN_INLINE F64x8 splat(double a) { return {_mm512_set1_pd(a)}; }
  static FLN_INLINE F64x8 load(const double* p) { return {_mm512_loadu_pd(p)}; }
  static FLN_INLINE F64x8 load_first(const double* p, ptrdiff_t n, F64x8 fill) {
    return {_mm512_mask_loadu_pd(fill.v, static_cast<__mmask8>(first_lanes(n)), p)};
  }
  FLN_INLINE void store(double* p) const { _mm512_storeu_pd(p, v); }
  FLN_INLINE void stream(double* p) const { _mm512_stream_pd(p, v); }
  FLN_INLINE void store_first(double* p, ptrdiff_t n) const {
    _mm512_mask_storeu_pd(p, static_cast<__mmask8>(first_lanes(n)), v);
  }
  FLN_INLINE double sum() const {
    const __m256d half = _mm256_add_pd(_mm512_castpd512_pd256(v), _mm512_extractf64x4_pd(v, 1));
    return sum_of_2(_mm_add_pd(_mm256_castpd256_pd128(half), _mm256_extractf128_pd(half, 1)));
  }
};

FLN_INLINE F32x16 operator+(F32x16 a, F32x16 b) { return {_mm512_add_ps(a.v, b.v)}; }
FLN_INLINE F32x16 operator-(F32x16 a, F32x16 b) { return {_mm512_sub_ps(a.v, b.v)}; }
FLN_INLINE F32x16 operator*(F32x16 a, F32x16 b) { return {_mm512_mul_ps(a.v, b.v)}; }
FLN_INLINE F32x16 fma(F32x16 a, F32x16 b, F32x16 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
FLN_INLINE F64x8 operator+(F64x8 a, F64x8 b) { return {_mm512_add_pd(a.v, b.v)}; }
FLN_INLINE F64x8 operator-(F64x8 a, F64x8 b) { return {_mm512_sub_pd(a.v, b.v)}; }
FLN_INLINE F64x8 operator*(F64x8 a, F64x8 b) { return {_mm512_mul_pd(a.v, b.v)}; }
FLN_INLINE F64x8 fma(F64x8 a, F64x8 b, F64x8 c) { return {_mm512_fmadd_pd(a.v, b.v, c.v)}; }

FLN_INLINE F32x16 operator/(F32x16 a, F32x16 b) { return {_mm512_div_ps(a.v, b.v)}; }
FLN_INLINE F32x16 larger(F32x16 a, F32x16 b) { return {_mm512_max_ps(a.v, b.v)}; }
FLN_INLINE F32x16 lesser(F32x16 a, F32x16 b) { return {_mm512_min_ps(a.v, b.v)}; }
FLN_INLINE F32x16 absolute(F32x16 a) { return {_mm512_abs_ps(a.v)}; }
FLN_INLINE F32x16 with_sign_of(F32x16 a, F32x16 b) {
  return {_mm512_or_ps(a.v, _mm512_and_ps(b.v, _mm512_set1_ps(-0.0f)))};
}
FLN_INLINE F32x16 as_exponent(F32x16 a) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(a.v), 23))};
}
FLN_INLINE F64x8 operator/(F64x8 a, F64x8 b) { return {_mm512_div_pd(a.v, b.v)}; }
FLN_INLINE F64x8 larger(F64x8 a, F64x8 b) { return {_mm512_max_pd(a.v, b.v)}; }
FLN_INLINE F64x8 lesser(F64x8 a, F64x8 b) { return {_mm512_min_pd(a.v, b.v)}; }
FLN_INLINE F64x8 absolute(F64x8 a) { return {_mm512_abs_pd(a.v)}; }
FLN_INLINE F64x8 with_sign_of(F64x8 a, F64x8 b) {
  return {_mm512_or_pd(a.v, _mm512_and_pd(b.v, _mm512_set1_pd(-0.0)))};
}
FLN_INLINE F64x8 as_exponent(F64x8 a) { return {_mm512_castsi512_pd(_mm512_slli_epi64(_mm512_castpd_si512(a.v), 52))}; }

// The four sums, in the order of sum(), by transposing rather than one after the other.
FLN_INLINE void sums_of_4(F32x16 a, F32x16 b, F32x16 c, F32x16 d, float* sums) {
  const __m512 ab = _mm512_add_ps(_mm512_shuffle_f32x4(a.v, b.v, 0x44), _mm512_shuffle_f32x4(a.v, b.v, 0xee));
  const __m512 cd = _mm512_add_ps(_mm512_shuffle_f32x4(c.v, d.v, 0x44), _mm512_shuffle_f32x4(c.v, d.v, 0xee));
  __m512 abcd = _mm512_add_ps(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xdd));
  abcd = _mm512_add_ps(abcd, _mm512_shuffle_ps(abcd, abcd, 0x4e));
  abcd = _mm512_add_ps(abcd, _mm512_shuffle_ps(abcd, abcd, 0xb1));
  const __m512i first = _mm512_setr_epi32(0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12);
  _mm_storeu_ps(sums, _mm512_castps512_ps128(_mm512_permutexvar_ps(first, abcd)));
}
FLN_INLINE void sums_of_4(F64x8 a, F64x8 b, F64x8 c, F64x8 d, double* sums) {
  const __m512d ab = _mm512_add_pd(_mm512_shuffle_f64x2(a.v, b.v, 0x44), _mm512_shuffle_f64x2(a.v, b.v, 0xee));
  const __m512d cd = _mm512_add_pd(_mm512_shuffle_f64x2(c.v, d.v, 0x44), _mm512_shuffle_f64x2(c.v, d.v, 0xee));
  __m512d abcd = _mm512_add_pd(_mm512_shuffle_f64x2(ab, cd, 0x88), _mm512_shuffle_f64x2(ab, cd, 0xdd));
  abcd = _mm512_add_pd(abcd, _mm512_permute_pd(abcd, 0x55));
  const __m512i first = _mm512_setr_epi64(0, 2, 4, 6, 0, 2, 4, 6);
  _mm256_storeu_pd(sums, _mm512_castpd512_pd256(_mm512_permutexvar_pd(first, abcd)));
}

FLN_INLINE Doubled<F64x8> widen(F32x16 a) {
  return {{_mm512_cvtps_pd(_mm512_castps512_ps256(a.v))}, {_mm512_cvtps_pd(_mm512_extractf32x8_ps(a.v, 1))}};
}

FLN_INLINE F64x4 fold_halves(F64x8 a) {
  return {_mm256_add_pd(_mm512_castpd512_pd256(a.v), _mm512_extractf64x4_pd(a.v, 1))};
}
FLN_INLINE F64x8 widen_folded(F32x16 a) {
  return {_mm512_cvtps_pd(_mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1)))};
}

template <typename T>
struct NativeOf;
template <>
struct NativeOf<float> {
  using type = F32x16;
};
template <>
struct NativeOf<double> {
  using type = F64x8;
};
using Quad = F64x4;

constexpr int ACCUMULATORS = 4;

// Sums that a product keeps, in virtual registers (cells/product.h): of 32 registers, 24.
constexpr int PRODUCT_ACCUMULATORS = 24;

// See avx2.h. With a prototype on Zen 4, of the time of groups of 4: float32 131072x16 0.7, 65536x32 1.0, 32768x64 1.5;
// float64 131072x16 0.7 to 0.8, 1024x32 0.7 to 0.8. A row's end costs no more than the rest of it: there are masks.
template <typename T, bool WHOLE>
constexpr int MANY_UP_TO = sizeof(T) == sizeof(float) ? 2 : 4;

constexpr bool HAS_FMA = true;

// Masks for numbers of 16 bits.
constexpr bool HAS_HALF_MASKS = true;
