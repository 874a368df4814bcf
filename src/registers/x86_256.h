// Registers of 256 bits, with FMA: those of AVX2, and half of AVX-512's.
#pragma once

#include "doubled.h"
#include "x86.h"

FLN_INLINE __m256i first_lanes_f32(ptrdiff_t n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
FLN_INLINE __m256i first_lanes_f64(ptrdiff_t n) {
  return _mm256_cmpgt_epi64(_mm256_set1_epi64x(n), _mm256_setr_epi64x(0, 1, 2, 3));
}

// Eight numbers of 16 bits, as S, widened to float and rounded.
FLN_INLINE __m256 widened(__m128i a, F16) { return _mm256_cvtph_ps(a); }
FLN_INLINE __m256 widened(__m128i a, BF16) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(a), 16));
}
FLN_INLINE __m128i narrowed(__m256 a, F16) { return _mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT); }
FLN_INLINE __m128i narrowed(__m256 a, BF16) {
  const __m256i bits = _mm256_castps_si256(a);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i up = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
  const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x00400000));
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(a, a, _CMP_UNORD_Q));
  const __m256i upper = _mm256_srli_epi32(_mm256_blendv_epi8(up, quiet, nan), 16);
  return _mm256_castsi256_si128(_mm256_permute4x64_epi64(_mm256_packus_epi32(upper, upper), 0x08));
}

// n < 8 numbers of 16 bits from one place to another, in pieces of powers of two.
FLN_INLINE void copy_first_halves(const void* from, void* to, ptrdiff_t n) {
  const char* a = static_cast<const char*>(from);
  char* b = static_cast<char*>(to);
  if (n & 4) std::memcpy(b, a, 8), a += 8, b += 8;
  if (n & 2) std::memcpy(b, a, 4), a += 4, b += 4;
  if (n & 1) std::memcpy(b, a, 2);
}

// The first n of eight numbers of 16 bits, 0 in the places of the others: there are no masks for so small ones.
FLN_INLINE __m128i load_first_halves(const void* from, ptrdiff_t n) {
  if (n >= 8) return _mm_loadu_si128(static_cast<const __m128i*>(from));
  char some[16] = {};
  copy_first_halves(from, some, n);
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(some));
}
FLN_INLINE void store_first_halves(__m128i a, void* to, ptrdiff_t n) {
  if (n >= 8) return _mm_storeu_si128(static_cast<__m128i*>(to), a);
  char all[16];
  _mm_storeu_si128(reinterpret_cast<__m128i*>(all), a);
  copy_first_halves(all, to, n);
}

struct F32x8 {
  using value_type = float;
  static constexpr int lanes = 8;
  __m256 v;

  static FLN_INLINE F32x8 splat(float a) { return {_mm256_set1_ps(a)}; }
  static FLN_INLINE F32x8 load(const float* p) { return {_mm256_loadu_ps(p)}; }
  static FLN_INLINE F32x8 load_first(const float* p, ptrdiff_t n, F32x8 fill) {
    const __m256i mask = first_lanes_f32(n);
    return {_mm256_blendv_ps(fill.v, _mm256_maskload_ps(p, mask), _mm256_castsi256_ps(mask))};
  }
  FLN_INLINE void store(float* p) const { _mm256_storeu_ps(p, v); }
  FLN_INLINE void stream(float* p) const { _mm256_stream_ps(p, v); }
  FLN_INLINE void store_first(float* p, ptrdiff_t n) const { _mm256_maskstore_ps(p, first_lanes_f32(n), v); }
  FLN_INLINE float sum() const { return sum_of_4(_mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1))); }

  template <typename S>
  static FLN_INLINE F32x8 load(const S* p) {
    return {widened(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)), S())};
  }
  template <typename S>
  static FLN_INLINE F32x8 load_first(const S* p, ptrdiff_t n, F32x8 fill) {
    const __m256 some = widened(load_first_halves(p, n), S());
    return {_mm256_blendv_ps(fill.v, some, _mm256_castsi256_ps(first_lanes_f32(n)))};
  }
  template <typename S>
  FLN_INLINE void store(S* p) const {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), narrowed(v, S()));
  }
  template <typename S>
  FLN_INLINE void stream(S* p) const {
    _mm_stream_si128(reinterpret_cast<__m128i*>(p), narrowed(v, S()));
  }
  template <typename S>
  FLN_INLINE void store_first(S* p, ptrdiff_t n) const {
    store_first_halves(narrowed(v, S()), p, n);
  }
};

struct F64x4 {
  using value_type = double;
  static constexpr int lanes = 4;
  __m256d v;

  static FLN_INLINE F64x4 splat(double a) { return {_mm256_set1_pd(a)}; }
  static FLN_INLINE F64x4 load(const double* p) { return {_mm256_loadu_pd(p)}; }
  static FLN_INLINE F64x4 load_first(const double* p, ptrdiff_t n, F64x4 fill) {
    const __m256i mask = first_lanes_f64(n);
    return {_mm256_blendv_pd(fill.v, _mm256_maskload_pd(p, mask), _mm256_castsi256_pd(mask))};
  }
  FLN_INLINE void store(double* p) const { _mm256_storeu_pd(p, v); }
  FLN_INLINE void stream(double* p) const { _mm256_stream_pd(p, v); }
  FLN_INLINE void store_first(double* p, ptrdiff_t n) const { _mm256_maskstore_pd(p, first_lanes_f64(n), v); }
  FLN_INLINE double sum() const { return sum_of_2(_mm_add_pd(_mm256_castpd256_pd128(v), _mm256_extractf128_pd(v, 1))); }
};

FLN_INLINE F32x8 operator+(F32x8 a, F32x8 b) { return {_mm256_add_ps(a.v, b.v)}; }
FLN_INLINE F32x8 operator-(F32x8 a, F32x8 b) { return {_mm256_sub_ps(a.v, b.v)}; }
FLN_INLINE F32x8 operator*(F32x8 a, F32x8 b) { return {_mm256_mul_ps(a.v, b.v)}; }
FLN_INLINE F32x8 fma(F32x8 a, F32x8 b, F32x8 c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
FLN_INLINE F64x4 operator+(F64x4 a, F64x4 b) { return {_mm256_add_pd(a.v, b.v)}; }
FLN_INLINE F64x4 operator-(F64x4 a, F64x4 b) { return {_mm256_sub_pd(a.v, b.v)}; }
FLN_INLINE F64x4 operator*(F64x4 a, F64x4 b) { return {_mm256_mul_pd(a.v, b.v)}; }
FLN_INLINE F64x4 operator/(F64x4 a, F64x4 b) { return {_mm256_div_pd(a.v, b.v)}; }
FLN_INLINE F64x4 sqrt(F64x4 a) { return {_mm256_sqrt_pd(a.v)}; }
FLN_INLINE F64x4 fused(F64x4 a, F64x4 b, F64x4 c) { return {_mm256_fmadd_pd(a.v, b.v, c.v)}; }
FLN_INLINE bool all_le(F64x4 a, F64x4 b) { return _mm256_movemask_pd(_mm256_cmp_pd(a.v, b.v, _CMP_LE_OQ)) == 15; }
FLN_INLINE F64x4 fma(F64x4 a, F64x4 b, F64x4 c) { return {_mm256_fmadd_pd(a.v, b.v, c.v)}; }

FLN_INLINE F32x8 operator/(F32x8 a, F32x8 b) { return {_mm256_div_ps(a.v, b.v)}; }
FLN_INLINE F32x8 larger(F32x8 a, F32x8 b) { return {_mm256_max_ps(a.v, b.v)}; }
FLN_INLINE F32x8 lesser(F32x8 a, F32x8 b) { return {_mm256_min_ps(a.v, b.v)}; }
FLN_INLINE F32x8 absolute(F32x8 a) { return {_mm256_andnot_ps(_mm256_set1_ps(-0.0f), a.v)}; }
FLN_INLINE F32x8 with_sign_of(F32x8 a, F32x8 b) {
  return {_mm256_or_ps(a.v, _mm256_and_ps(b.v, _mm256_set1_ps(-0.0f)))};
}
FLN_INLINE F32x8 as_exponent(F32x8 a) { return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(a.v), 23))}; }
FLN_INLINE F64x4 larger(F64x4 a, F64x4 b) { return {_mm256_max_pd(a.v, b.v)}; }
FLN_INLINE F64x4 lesser(F64x4 a, F64x4 b) { return {_mm256_min_pd(a.v, b.v)}; }
FLN_INLINE F64x4 absolute(F64x4 a) { return {_mm256_andnot_pd(_mm256_set1_pd(-0.0), a.v)}; }
FLN_INLINE F64x4 with_sign_of(F64x4 a, F64x4 b) {
  return {_mm256_or_pd(a.v, _mm256_and_pd(b.v, _mm256_set1_pd(-0.0)))};
}
FLN_INLINE F64x4 as_exponent(F64x4 a) { return {_mm256_castsi256_pd(_mm256_slli_epi64(_mm256_castpd_si256(a.v), 52))}; }

// Of each, the lower plus the upper 128 bits: those of a, then those of b. A blend runs where a shuffle does not.
FLN_INLINE __m256 halves(F32x8 a, F32x8 b) {
  return _mm256_add_ps(_mm256_blend_ps(a.v, b.v, 0xf0), _mm256_permute2f128_ps(a.v, b.v, 0x21));
}
FLN_INLINE __m256d halves(F64x4 a, F64x4 b) {
  return _mm256_add_pd(_mm256_blend_pd(a.v, b.v, 0xc), _mm256_permute2f128_pd(a.v, b.v, 0x21));
}

// The four sums, in the order of sum(), by transposing rather than one after the other.
FLN_INLINE void sums_of_4(F32x8 a, F32x8 b, F32x8 c, F32x8 d, float* sums) {
  const __m256 ab = halves(a, b), cd = halves(c, d);
  const __m256 acbd = _mm256_add_ps(_mm256_blend_ps(ab, cd, 0xcc), _mm256_shuffle_ps(ab, cd, 0x4e));
  const __m256 ac_bd = _mm256_add_ps(_mm256_shuffle_ps(acbd, acbd, 0x88), _mm256_shuffle_ps(acbd, acbd, 0xdd));
  _mm_storeu_ps(sums, _mm_unpacklo_ps(_mm256_castps256_ps128(ac_bd), _mm256_extractf128_ps(ac_bd, 1)));
}
FLN_INLINE void sums_of_4(F64x4 a, F64x4 b, F64x4 c, F64x4 d, double* sums) {
  const __m256d ac = halves(a, c), bd = halves(b, d);
  _mm256_storeu_pd(sums, _mm256_add_pd(_mm256_unpacklo_pd(ac, bd), _mm256_unpackhi_pd(ac, bd)));
}

FLN_INLINE F64x4 load_widened(const float* p) { return {_mm256_cvtps_pd(_mm_loadu_ps(p))}; }
FLN_INLINE void store_narrowed(F64x4 a, float* p) { _mm_storeu_ps(p, _mm256_cvtpd_ps(a.v)); }
FLN_INLINE Doubled<F64x4> widen(F32x8 a) {
  return {{_mm256_cvtps_pd(_mm256_castps256_ps128(a.v))}, {_mm256_cvtps_pd(_mm256_extractf128_ps(a.v, 1))}};
}
