// The last steps of a sum over lanes on x86: lane i plus lane i + half, until one is left.
#pragma once

FLN_INLINE float sum_of_4(__m128 v) {
  v = _mm_add_ps(v, _mm_movehl_ps(v, v));
  return _mm_cvtss_f32(_mm_add_ss(v, _mm_shuffle_ps(v, v, 1)));
}

FLN_INLINE double sum_of_2(__m128d v) { return _mm_cvtsd_f64(_mm_add_sd(v, _mm_unpackhi_pd(v, v))); }
