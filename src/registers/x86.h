// What the ISAs of x86 share. The last steps of a sum over lanes: lane i plus lane i + half, until one is left.
#pragma once

FLN_INLINE float sum_of_4(__m128 v) {
  v = _mm_add_ps(v, _mm_movehl_ps(v, v));
  return _mm_cvtss_f32(_mm_add_ss(v, _mm_shuffle_ps(v, v, 1)));
}

FLN_INLINE double sum_of_2(__m128d v) { return _mm_cvtsd_f64(_mm_add_sd(v, _mm_unpackhi_pd(v, v))); }

// Orders the streamed stores before those that follow: other threads may read y as soon as they see one of them.
constexpr bool HAS_STREAMS = true;
FLN_INLINE void stream_fence() { _mm_sfence(); }
