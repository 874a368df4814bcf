// Stores that go past the cache: worth it where what is written would push out of the cache what is still to be read.
// They save the read of each line before it is written, too. The caller decides (args.stream), since it knows the size
// of all arrays; here is what makes it possible. Measured on Zen 4 with 32 MB of L3 (float32, one thread): backward
// 4096x768 took 0.65 of the time and 256x65536 0.8, but 1024x768, which fits, 1.3; forward 8192x4096 0.94 and
// 256x65536 0.89, but 4096x1024 1.05 to 1.7.
#pragma once

#include "vec.h"

constexpr ptrdiff_t LINE = 64;  // bytes

// From this many bytes a row, the first register is cut short so that the stores that follow do not straddle cache
// lines (NumPy's arrays start 16 bytes into one): 4096x768 f32 took 1.19 times as long without.
constexpr ptrdiff_t ALIGN_FROM = 1024;

// How far ahead of the stores the backward pass asks memory for what it will read, in whole rows: the hardware's own
// prefetching stops at the end of each page. 4096x768 took 0.8 of the time; the forward pass gained nothing by it.
constexpr ptrdiff_t PREFETCH_BYTES = 4096;

// Elements before the first cache line that starts in a row of n.
template <typename T>
FLN_INLINE ptrdiff_t head_cols(const T* row, ptrdiff_t n) {
  if (n * static_cast<ptrdiff_t>(sizeof(T)) < ALIGN_FROM) return 0;
  return static_cast<ptrdiff_t>(-reinterpret_cast<uintptr_t>(row) % LINE / sizeof(T));
}

// Whether the head of one row is that of the others, so that all registers after it are whole lines. Short rows have no
// head: they must be whole lines themselves.
template <typename T>
FLN_INLINE bool can_stream(const T* row, ptrdiff_t cols, ptrdiff_t stride) {
  const ptrdiff_t size = static_cast<ptrdiff_t>(sizeof(T));
  if (stride * size % LINE != 0) return false;
  return cols * size >= ALIGN_FROM || (cols % LANES<T> == 0 && reinterpret_cast<uintptr_t>(row) % LINE == 0);
}

// How many rows ahead PREFETCH_BYTES are.
template <typename T>
FLN_INLINE ptrdiff_t rows_ahead(ptrdiff_t cols) {
  return 2 + PREFETCH_BYTES / (cols * static_cast<ptrdiff_t>(sizeof(T)));
}

template <typename T>
FLN_INLINE void prefetch_cols(const T* from, ptrdiff_t n) {
  for (ptrdiff_t i = 0; i < n; i += LANES<T>) __builtin_prefetch(from + i, 0, 2);
}

// Of a row that will be streamed, its end: a line that it shares with the next row, and that is stored as usual.
template <typename T>
FLN_INLINE void prefetch_row_end(const T* row, ptrdiff_t cols) {
  __builtin_prefetch(row + cols - 1, 1);
}
