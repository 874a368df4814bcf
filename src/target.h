// A target region: everything between FLN_TARGET_BEGIN(isa) and FLN_TARGET_END is compiled for those CPU features,
// while the file itself keeps the baseline flags. With per-file flags, inline functions of system headers would be
// compiled for the wide ISA too, and the linker may keep that copy for everybody (numpy#25274).
//
// Rules inside a region: every system header is included before it (this file includes them all), one anonymous
// namespace, no lambdas, no static data, no std containers.
#pragma once

#include "isas.h"

#include <cfloat>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>

#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#if defined(__clang__)
// Two comparisons are joined by & where a second branch would cost more than the second comparison.
#if __has_warning("-Wbitwise-instead-of-logical")
#pragma clang diagnostic ignored "-Wbitwise-instead-of-logical"
#endif
#elif defined(__GNUC__)
// GCC 12 calls the undefined pass-through operands of its own AVX-512 intrinsics uninitialized (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#define FLN_PRAGMA(text) _Pragma(#text)
#define FLN_FIRST(feature) feature
#define FLN_NEXT(feature) "," feature
#define FLN_TARGET_BEGIN(isa) FLN_REGION_BEGIN(isa(FLN_FIRST, FLN_NEXT, FLN_NEXT))
#if defined(__clang__)
#define FLN_REGION_BEGIN(features) \
  FLN_PRAGMA(clang attribute push(__attribute__((target(features))), apply_to = function))
#define FLN_TARGET_END FLN_PRAGMA(clang attribute pop)
#else
#define FLN_REGION_BEGIN(features) FLN_PRAGMA(GCC push_options) FLN_PRAGMA(GCC target(features))
#define FLN_TARGET_END FLN_PRAGMA(GCC pop_options)
#endif

#ifndef FLN_INLINE
#define FLN_INLINE inline __attribute__((always_inline))
#endif
