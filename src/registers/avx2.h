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

// Sums that a product keeps, in virtual registers (cells/product.h): of 16 registers, 12.
constexpr int PRODUCT_ACCUMULATORS = 6;

// Short rows of up to so many registers are taken many at a time (MANY_ROWS). What whole ones of 3 registers gain is
// little (1024x48 float32 and 1024x24 float64 0.95 of the time), of 4 nothing (1024x64 float32 1.05). Those cut short
// by the row's end save masked stores too (700x50 float32 0.88, 1000x20 float64 0.79).
template <typename T, bool WHOLE>
constexpr int MANY_UP_TO = WHOLE ? 2 : 4;

constexpr bool HAS_FMA = true;

// Masks for numbers of 16 bits.
constexpr bool HAS_HALF_MASKS = false;
