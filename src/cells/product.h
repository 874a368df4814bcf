// The product of a few rows with a matrix that is used again and again: packed once, in panels.
//
//   out[row][col] = sum of a[row][k] * panels[k][col] over k < depth
//
// A panel is one virtual register of columns: its numbers for k = 0, 1, ... follow each other in memory, the columns
// past the last one as zeros. Each output is one chain of fma over DEPTH_BLOCK numbers k, and these blocks are added in
// their order, in T. So its bits depend on its row and its column alone: not on how many rows or columns are taken at
// once, nor on the ISA, where there is an fma. (In one chain over 1024 numbers the error would be about twice as
// large.)
#pragma once

#include "../registers/lanes.h"

constexpr ptrdiff_t DEPTH_BLOCK = 256;

// Rows that are taken at once, if there are as many, for each number of panels that are taken side by side.
template <int VECS>
constexpr int TILE_ROWS = PRODUCT_ACCUMULATORS / VECS < 6 ? PRODUCT_ACCUMULATORS / VECS : 6;

// A part of a product: rows of the left factor, whose numbers k lie `step` elements apart, and a block of panels.
template <typename T>
struct Tile {
  const T* const* a;
  ptrdiff_t step;
  const T* panel;
  ptrdiff_t panel_stride;
  ptrdiff_t depth;
  T* const* out;
  ptrdiff_t col, cols;  // the first column, and how many there are
  bool adds;            // to what is in out already
};

// The sum so far plus that of one block, or only its first n columns.
template <bool ALL, typename T>
FLN_INLINE void put(Vec<T> sum, T* out, ptrdiff_t n, bool adds) {
  if (adds) sum = load_lanes<Vec<T>, ALL>(out, n) + sum;
  store_lanes<ALL>(sum, out, n);
}

template <typename T, int ROWS, int VECS>
__attribute__((noinline)) void multiply(const Tile<T>& tile) {
  using V = Vec<T>;
  const T* a[ROWS];
  V sums[ROWS][VECS];
#pragma GCC unroll 6
  for (int r = 0; r < ROWS; ++r) {
    a[r] = tile.a[r];
#pragma GCC unroll 4
    for (int v = 0; v < VECS; ++v) sums[r][v] = V::splat(0);
  }
  const T* panel = tile.panel;
  const ptrdiff_t step = tile.step, panel_stride = tile.panel_stride;
  for (ptrdiff_t k = 0, i = 0; k < tile.depth; ++k, i += step, panel += V::lanes) {
    V numbers[VECS];
#pragma GCC unroll 4
    for (int v = 0; v < VECS; ++v) numbers[v] = V::load(panel + v * panel_stride);
#pragma GCC unroll 6
    for (int r = 0; r < ROWS; ++r) {
      const V factor = V::splat(a[r][i]);
#pragma GCC unroll 4
      for (int v = 0; v < VECS; ++v) sums[r][v] = fma(factor, numbers[v], sums[r][v]);
    }
  }
#pragma GCC unroll 6
  for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < VECS; ++v) {
      const ptrdiff_t left = tile.cols - (tile.col + v * V::lanes);
      T* const out = tile.out[r] + tile.col + v * V::lanes;
      if (left >= V::lanes) {
        put<true>(sums[r][v], out, V::lanes, tile.adds);
      } else {
        put<false>(sums[r][v], out, left, tile.adds);
      }
    }
  }
}

// `rows` of at most ROWS.
template <typename T, int ROWS, int VECS>
FLN_INLINE void multiply_rows(const Tile<T>& tile, ptrdiff_t rows) {
  if constexpr (ROWS > 1) {
    if (rows < ROWS) return multiply_rows<T, ROWS - 1, VECS>(tile, rows);
  }
  multiply<T, ROWS, VECS>(tile);
}

// VECS panels side by side, from the given one on, and all rows: by blocks of k, so that a block of panels stays in the
// cache while it meets the rows, which are divided into parts that are as equal as can be.
template <typename T, int VECS>
FLN_INLINE void multiply_panels(const fln_product_args& args, ptrdiff_t first) {
  const ptrdiff_t depth = args.depth, rows = args.rows, parts = (rows + TILE_ROWS<VECS> - 1) / TILE_ROWS<VECS>;
  Tile<T> tile;
  tile.step = args.step;
  tile.panel_stride = depth * LANES<T>;
  tile.col = first * LANES<T>;
  tile.cols = args.cols;
  for (ptrdiff_t k = 0; k == 0 || k < depth; k += DEPTH_BLOCK) {
    tile.panel = static_cast<const T*>(args.panels) + first * tile.panel_stride + k * LANES<T>;
    tile.depth = depth - k < DEPTH_BLOCK ? depth - k : DEPTH_BLOCK;
    tile.adds = args.adds || k > 0;
    for (ptrdiff_t part = 0; part < parts; ++part) {
      const ptrdiff_t row = part * rows / parts, count = (part + 1) * rows / parts - row;
      const T* a[TILE_ROWS<VECS>];
      for (ptrdiff_t r = 0; r < count; ++r) a[r] = static_cast<const T*>(args.a[row + r]) + k * args.step;
      tile.a = a;
      tile.out = reinterpret_cast<T* const*>(args.out) + row;
      multiply_rows<T, TILE_ROWS<VECS>, VECS>(tile, count);
    }
  }
}

template <typename T, int VECS>
FLN_INLINE void multiply_by(const fln_product_args& args, ptrdiff_t panel, ptrdiff_t last) {
  for (; panel + VECS <= last; panel += VECS) multiply_panels<T, VECS>(args, panel);
  for (; VECS > 1 && panel < last; ++panel) multiply_panels<T, 1>(args, panel);
}

// Few rows take more panels at once, so that there are chains enough to hide the latency of an fma.
template <typename T>
void product(const fln_product_args* args, ptrdiff_t first, ptrdiff_t last) {
  if constexpr (TILE_ROWS<4> > 0) {
    if (args->rows <= TILE_ROWS<4> || TILE_ROWS<4> == 6) return multiply_by<T, 4>(*args, first, last);
  }
  if constexpr (TILE_ROWS<2> > 0) {
    if (args->rows <= TILE_ROWS<2>) return multiply_by<T, 2>(*args, first, last);
  }
  multiply_by<T, 1>(*args, first, last);
}

// A matrix of columns is transposed by squares, of which each is read and written in whole lines: columns may lie pages
// apart, which meet in few places of L1.
template <typename T>
void pack_columns(const void* columns, ptrdiff_t depth, ptrdiff_t cols, void* panels, ptrdiff_t first, ptrdiff_t last) {
  using V = Vec<T>;
  T square[V::lanes][V::lanes];
  for (ptrdiff_t panel = first; panel < last; ++panel) {
    const ptrdiff_t col = panel * V::lanes, count = cols - col < V::lanes ? cols - col : V::lanes;
    T* to = static_cast<T*>(panels) + col * depth;
    for (ptrdiff_t i = count; i < V::lanes; ++i) V::splat(0).store(square[i]);
    for (ptrdiff_t k = 0; k < depth; k += V::lanes) {
      const T* const from = static_cast<const T*>(columns) + col * depth + k;
      const ptrdiff_t some = depth - k < V::lanes ? depth - k : V::lanes;
      for (ptrdiff_t i = 0; i < count; ++i) {
        const T* const column = from + i * depth;
        (some == V::lanes ? V::load(column) : V::load_first(column, some, V::splat(0))).store(square[i]);
      }
      for (ptrdiff_t i = 0; i < some; ++i, to += V::lanes) {
        for (ptrdiff_t j = 0; j < V::lanes; ++j) to[j] = square[j][i];
      }
    }
  }
}

template <typename T>
void pack_rows(const void* const* rows, ptrdiff_t depth, ptrdiff_t cols, void* panels, ptrdiff_t first,
               ptrdiff_t last) {
  using V = Vec<T>;
  for (ptrdiff_t panel = first; panel < last; ++panel) {
    const ptrdiff_t col = panel * V::lanes, left = cols - col;
    T* to = static_cast<T*>(panels) + col * depth;
    for (ptrdiff_t k = 0; k < depth; ++k, to += V::lanes) {
      const T* const from = static_cast<const T*>(rows[k]) + col;
      (left >= V::lanes ? V::load(from) : V::load_first(from, left, V::splat(0))).store(to);
    }
  }
}
