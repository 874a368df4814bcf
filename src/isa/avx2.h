// AVX2 with FMA, 256 bits.
#pragma once

#include "x86_256.h"

template <typename T>
struct NativeOf;
template <>
struct NativeOf<float> {
  using type = F32x8;
};
template <>
struct NativeOf<double> {
  using type = F64x4;
};
using Quad = F64x4;

// 2 vectors of 16 lanes are 4 registers for the sum and 4 for the sum of squares; 4 would need all 16 registers.
constexpr int ACCUMULATORS = 2;

constexpr bool HAS_FMA = true;
