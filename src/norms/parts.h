// How the gradients' sums over rows are divided into chunks and blocks, and their totals over more than a block.
//
// dweight and dbias are summed in T over a block of BLOCK_ROWS rows (block_sums.h), the blocks of a chunk in their
// order, in more precision, and the chunks in their order. All of that depends on the number of rows alone, so the bits
// do not depend on the threads, each of which takes chunks, or columns of all chunks.
#pragma once

#include "../rows/source.h"
#include "../registers/totals.h"

constexpr ptrdiff_t BLOCK_ROWS = 8;

// No more chunks than MOST_CHUNKS, since each has totals of its own; no fewer rows than SMALLEST_CHUNK, so that adding
// them up is little work next to the rows themselves.
constexpr ptrdiff_t MOST_CHUNKS = 32, SMALLEST_CHUNK = 8 * BLOCK_ROWS;

// What the second sweep needs of the rows of a block.
template <typename T>
struct BlockTerms {
  T offset[BLOCK_ROWS];   // x_hat - z
  T mean_g[BLOCK_ROWS];   // sum(g) / cols
  T mean_gx[BLOCK_ROWS];  // sum(g * x_hat) / cols
};

constexpr ptrdiff_t blocks_of(ptrdiff_t rows) { return (rows + BLOCK_ROWS - 1) / BLOCK_ROWS; }

// Of a chunk: whole blocks, as many in each chunk but the last.
constexpr ptrdiff_t chunk_rows(ptrdiff_t rows) {
  const ptrdiff_t blocks = blocks_of((rows + MOST_CHUNKS - 1) / MOST_CHUNKS);
  return blocks * BLOCK_ROWS < SMALLEST_CHUNK ? SMALLEST_CHUNK : blocks * BLOCK_ROWS;
}

// Doubles that hold the total of a column: one for float, a pair for double.
template <typename T>
constexpr ptrdiff_t DOUBLES_PER_TOTAL = sizeof(T) / sizeof(float);

// A single block needs no totals: its sums are the result.
constexpr bool have_totals(ptrdiff_t rows) { return rows > BLOCK_ROWS; }

// Sums over rows for each column, of dweight or dbias: either the result or, of a chunk, the totals so far. The other
// is NULL. Of what nobody asks for, the result may be NULL as well.
template <typename T>
struct ColumnSums {
  T* result;
  double* totals;
};

// Rows first <= row < last, and where their sums go.
template <typename T>
struct Chunk {
  ptrdiff_t first, last;
  ColumnSums<T> dweight, dbias;

  static FLN_INLINE Chunk of(const fln_backward_args& args, ptrdiff_t chunk) {
    const ptrdiff_t size = chunk_rows(args.rows), first = chunk * size;
    return {first, first + size < args.rows ? first + size : args.rows,
            sums(args, chunk, args.dweight, args.dweight_totals), sums(args, chunk, args.dbias, args.dbias_totals)};
  }

 private:
  static FLN_INLINE ColumnSums<T> sums(const fln_backward_args& args, ptrdiff_t chunk, void* result, double* totals) {
    if (!have_totals(args.rows) || !totals) return {static_cast<T*>(result), nullptr};
    return {nullptr, totals + chunk * DOUBLES_PER_TOTAL<T> * args.cols};
  }
};

// Adds the sums of a block to totals. Those of float are doubles; those of double are pairs, whose low doubles stand
// `cols` further on. The first block of a chunk (`fresh`) replaces what was there.
template <bool ALL, typename V>
FLN_INLINE void add_to_totals(V sum, double* high, ptrdiff_t n, ptrdiff_t cols, bool fresh) {
  if constexpr (sizeof(typename V::value_type) == sizeof(float)) {
    using W = decltype(widen(sum));
    W total = widen(sum);
    if (!fresh) total = load_lanes<W, ALL>(high, n) + total;
    store_lanes<ALL>(total, high, n);
  } else {
    auto total = Compensated<V>::of(sum);
    if (!fresh) {
      total = {load_lanes<V, ALL>(high, n), load_lanes<V, ALL>(high + cols, n)};
      total.add(sum);
    }
    store_lanes<ALL>(total.high, high, n);
    store_lanes<ALL>(total.low, high + cols, n);
  }
}

// Adds up the totals of all chunks, and rounds once.
template <typename T, bool ALL>
FLN_INLINE void merge_lanes(const double* totals, ptrdiff_t chunks, ptrdiff_t cols, T* result, ptrdiff_t n) {
  using V = Vec<double>;
  auto sum = Compensated<V>::of(V::splat(0));
  for (ptrdiff_t chunk = 0; chunk < chunks; ++chunk, totals += DOUBLES_PER_TOTAL<T> * cols) {
    sum.add(load_lanes<V, ALL>(totals, n));
    if (DOUBLES_PER_TOTAL<T> == 2) sum.low = sum.low + load_lanes<V, ALL>(totals + cols, n);
  }
  double lane[LANES<double>];
  sum.folded().store(lane);
  for (ptrdiff_t i = 0; i < n; ++i) result[i] = static_cast<T>(lane[i]);
}

template <typename T>
void merge_totals(const double* totals, ptrdiff_t chunks, ptrdiff_t cols, T* result) {
  ptrdiff_t i = 0;
  for (; i + LANES<double> <= cols; i += LANES<double>) {
    merge_lanes<T, true>(totals + i, chunks, cols, result + i, LANES<double>);
  }
  if (i < cols) merge_lanes<T, false>(totals + i, chunks, cols, result + i, cols - i);
}

template <typename S>
void divide(ptrdiff_t rows, ptrdiff_t cols, fln_backward_parts* parts) {
  using T = Computed<S>;
  const ptrdiff_t size = chunk_rows(rows);
  parts->chunks = (rows + size - 1) / size;
  parts->blocks = blocks_of(rows);
  parts->totals = have_totals(rows) ? DOUBLES_PER_TOTAL<T> * cols : 0;
  parts->terms = static_cast<size_t>(parts->blocks) * sizeof(BlockTerms<T>);
}

template <typename S>
void merge(const fln_backward_args* args) {
  using T = Computed<S>;
  if (args->rows > 0 && !have_totals(args->rows)) return;  // the kernels have written the results
  const ptrdiff_t size = chunk_rows(args->rows), chunks = (args->rows + size - 1) / size;
  T* const dweight = static_cast<T*>(args->dweight);
  T* const dbias = static_cast<T*>(args->dbias);
  if (dweight) merge_totals(args->dweight_totals, chunks, args->cols, dweight);  // of no rows, zeros
  if (dbias) merge_totals(args->dbias_totals, chunks, args->cols, dbias);
}
