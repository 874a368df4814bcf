// Code for AVX-512 on a CPU that has AVX2 and FMA only: the source EMULATED, its intrinsics replaced by those of SIMDe
// (https://github.com/simd-everywhere/simde). test_emulated.py builds the kernels with it, test_registers.py the checks
// of the register layer.
//
// Built with -mavx2 -mfma, SIMDe makes two 256-bit instructions of each operation, so fma is rounded once.
#include <cstdint>
#include <cstring>

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>

#include "target.h"

static_assert(SIMDE_NATURAL_VECTOR_SIZE == 256, "build with -mavx2 -mfma and without AVX-512");

// What SIMDe 0.7.4 lacks, lane by lane. A kernel that uses an intrinsic that is not here either does not compile
// ("target specific option mismatch"): the compiler's own needs a CPU with AVX-512.
namespace emulated {

template <typename V, typename T>
V load(V fill, unsigned mask, const T* p) {
  for (unsigned i = 0; i < sizeof(V) / sizeof(T); ++i)
    if (mask >> i & 1) fill[i] = p[i];
  return fill;
}

template <typename V, typename T>
void store(T* p, unsigned mask, V a) {
  for (unsigned i = 0; i < sizeof(V) / sizeof(T); ++i)
    if (mask >> i & 1) p[i] = a[i];
}

// Traps where the instruction does, at an address that is not a multiple of 64.
template <typename V, typename T>
void stream(T* p, V a) {
  if (reinterpret_cast<uintptr_t>(p) % sizeof a) __builtin_trap();
  std::memcpy(p, &a, sizeof a);
}

// Two blocks of 128 bits from a, then two from b.
template <typename V>
V shuffle_blocks(V a, V b, unsigned select) {
  V blocks;
  for (unsigned i = 0; i < 4; ++i) {
    const V& source = i < 2 ? a : b;
    std::memcpy(reinterpret_cast<char*>(&blocks) + 16 * i,
                reinterpret_cast<const char*>(&source) + 16 * (select >> 2 * i & 3), 16);
  }
  return blocks;
}

// In each pair of lanes, one of a, then one of b.
inline __m512d shuffle_pairs(__m512d a, __m512d b, unsigned select) {
  __m512d pairs = a;
  for (unsigned i = 0; i < 8; ++i) pairs[i] = (i & 1 ? b : a)[(i & ~1u) + (select >> i & 1)];
  return pairs;
}

inline __m256 upper_half(__m512 a) {
  __m256 half;
  std::memcpy(&half, reinterpret_cast<const char*>(&a) + sizeof half, sizeof half);
  return half;
}

inline __m512d widen(__m256 a) {
  __m512d wide = _mm512_setzero_pd();
  for (unsigned i = 0; i < 8; ++i) wide[i] = static_cast<double>(a[i]);
  return wide;
}

inline __m256 narrow(__m512d a) {
  __m256 narrowed = _mm256_setzero_ps();
  for (unsigned i = 0; i < 8; ++i) narrowed[i] = static_cast<float>(a[i]);
  return narrowed;
}

inline __m512 join(__m256 low, __m256 high) {
  __m512 both;
  std::memcpy(&both, &low, sizeof low);
  std::memcpy(reinterpret_cast<char*>(&both) + sizeof low, &high, sizeof high);
  return both;
}

inline __m512 widen_halves(__m256i a) {
  return join(_mm256_cvtph_ps(_mm256_castsi256_si128(a)), _mm256_cvtph_ps(_mm256_extracti128_si256(a, 1)));
}

inline __m256i narrow_to_halves(__m512 a) {
  const __m128i low = _mm256_cvtps_ph(_mm512_castps512_ps256(a), _MM_FROUND_TO_NEAREST_INT);
  return _mm256_set_m128i(_mm256_cvtps_ph(upper_half(a), _MM_FROUND_TO_NEAREST_INT), low);
}

// Sixteen numbers of 16 bits, of which no vector type of GCC knows the lanes.
struct Shorts {
  uint16_t lane[16];

  static Shorts of(__m256i a) {
    Shorts shorts;
    std::memcpy(&shorts, &a, sizeof a);
    return shorts;
  }
  __m256i vector() const {
    __m256i a;
    std::memcpy(&a, this, sizeof a);
    return a;
  }
};

inline __m256i load_shorts(unsigned mask, const void* p) {
  Shorts shorts = {};
  for (unsigned i = 0; i < 16; ++i)
    if (mask >> i & 1) std::memcpy(shorts.lane + i, static_cast<const char*>(p) + 2 * i, 2);
  return shorts.vector();
}

inline void store_shorts(void* p, unsigned mask, __m256i a) {
  const Shorts shorts = Shorts::of(a);
  for (unsigned i = 0; i < 16; ++i)
    if (mask >> i & 1) std::memcpy(static_cast<char*>(p) + 2 * i, shorts.lane + i, 2);
}

inline __m512i widen_shorts(__m256i a) {
  const Shorts shorts = Shorts::of(a);
  uint32_t wide[16];
  for (unsigned i = 0; i < 16; ++i) wide[i] = shorts.lane[i];
  return _mm512_loadu_si512(wide);
}

inline __m256i narrow_to_shorts(__m512i a) {
  uint32_t wide[16];
  _mm512_storeu_si512(wide, a);
  Shorts shorts;
  for (unsigned i = 0; i < 16; ++i) shorts.lane[i] = static_cast<uint16_t>(wide[i]);
  return shorts.vector();
}

}  // namespace emulated

#undef _mm512_mask_loadu_ps
#undef _mm512_mask_loadu_pd
#undef _mm512_mask_storeu_ps
#undef _mm512_mask_storeu_pd
#undef _mm512_stream_ps
#undef _mm512_stream_pd
#undef _mm512_shuffle_f32x4
#undef _mm512_shuffle_f64x2
#undef _mm512_shuffle_pd
#undef _mm512_permute_pd
#undef _mm512_extractf32x8_ps
#undef _mm512_cvtps_pd
#undef _mm512_cvtpd_ps
#undef _mm512_cvtph_ps
#undef _mm512_cvtps_ph
#undef _mm512_cvtepu16_epi32
#undef _mm512_cvtepi32_epi16
#undef _mm256_maskz_loadu_epi16
#undef _mm256_mask_storeu_epi16
#define _mm512_mask_loadu_ps(fill, mask, p) emulated::load(fill, mask, p)
#define _mm512_mask_loadu_pd(fill, mask, p) emulated::load(fill, mask, p)
#define _mm512_mask_storeu_ps(p, mask, a) emulated::store(p, mask, a)
#define _mm512_mask_storeu_pd(p, mask, a) emulated::store(p, mask, a)
#define _mm512_stream_ps(p, a) emulated::stream(p, a)
#define _mm512_stream_pd(p, a) emulated::stream(p, a)
#define _mm512_shuffle_f32x4(a, b, select) emulated::shuffle_blocks(a, b, select)
#define _mm512_shuffle_f64x2(a, b, select) emulated::shuffle_blocks(a, b, select)
#define _mm512_shuffle_pd(a, b, select) emulated::shuffle_pairs(a, b, select)
#define _mm512_permute_pd(a, select) emulated::shuffle_pairs(a, a, select)
#define _mm512_extractf32x8_ps(a, half) ((half) ? emulated::upper_half(a) : _mm512_castps512_ps256(a))
#define _mm512_cvtps_pd(a) emulated::widen(a)
#define _mm512_cvtpd_ps(a) emulated::narrow(a)
#define _mm512_cvtph_ps(a) emulated::widen_halves(a)
#define _mm512_cvtps_ph(a, rounding) emulated::narrow_to_halves(a)
#define _mm512_cvtepu16_epi32(a) emulated::widen_shorts(a)
#define _mm512_cvtepi32_epi16(a) emulated::narrow_to_shorts(a)
#define _mm256_maskz_loadu_epi16(mask, p) emulated::load_shorts(mask, p)
#define _mm256_mask_storeu_epi16(p, mask, a) emulated::store_shorts(p, mask, a)

// The code without the features that this CPU may not have.
#undef FLN_TARGET_BEGIN
#undef FLN_TARGET_END
#define FLN_TARGET_BEGIN(isa)
#define FLN_TARGET_END
#include EMULATED
