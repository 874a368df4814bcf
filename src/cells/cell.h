// What the cells share: rows of a step, normalized by layer norm's own kernels; sweeps over the units of a row; and the
// block of rows that a step takes through all its sweeps while they are in L1.
#pragma once

#include "../norms/backward.h"
#include "../norms/forward.h"
#include "functions.h"

// Of the gates of the rows of a block: of narrow rows several, so that layer norm takes them in groups. LSTM, 128
// units, batch 64, on Zen 5: 1.07 of the time with 4 KiB, 1.01 with 16 KiB.
constexpr ptrdiff_t CELL_BLOCK_BYTES = 8192, MOST_CELL_ROWS = 8;

template <typename T>
FLN_INLINE ptrdiff_t cell_block_rows(ptrdiff_t gates) {
  const ptrdiff_t rows = CELL_BLOCK_BYTES / (gates * static_cast<ptrdiff_t>(sizeof(T)));
  return rows < 1 ? 1 : rows < MOST_CELL_ROWS ? rows : MOST_CELL_ROWS;
}

// Some columns of rows in memory that are normalized together, and the parameters of that.
template <typename T>
struct NormOfRows {
  const fln_cell_parameters& cell;
  int norm;        // of fln_cell_rows, where mean and rstd are
  int parameters;  // of fln_cell_parameters
  ptrdiff_t first, cols;

  FLN_INLINE const T* weight() const { return at(cell.norm_weight[parameters]); }
  FLN_INLINE const T* bias() const { return at(cell.norm_bias[parameters]); }

  // Rows [row, row + count) of the step, in x, to y. With `added`, x + added is written to `sum` and normalized.
  FLN_INLINE void forward(const fln_cell_rows& rows, ptrdiff_t row, ptrdiff_t count, const T* x, ptrdiff_t x_stride,
                          T* y, ptrdiff_t y_stride, const T* added = nullptr, T* sum = nullptr) const {
    fln_forward_args args = {};
    args.x = x + first;
    args.residual = added;
    args.sum = sum;
    args.y = y + first;
    args.weight = weight();
    args.bias = bias();
    args.mean = place(rows.mean[norm], row);
    args.rstd = place(rows.rstd[norm], row);
    args.x_stride = args.residual_stride = args.sum_stride = x_stride;
    args.y_stride = y_stride;
    args.cols = cols;
    args.eps = cell.eps;
    ::forward<T, LayerNorm>(&args, 0, count);
  }

  // Of rows that forward normalized, as they were, in x: the gradient of x from that of the normalized ones.
  FLN_INLINE void backward(const fln_cell_rows& rows, ptrdiff_t row, ptrdiff_t count, const T* dy, ptrdiff_t dy_stride,
                           const T* x, ptrdiff_t x_stride, T* dx, ptrdiff_t dx_stride) const {
    fln_backward_args args = {};
    args.dy = dy + first;
    args.x = x + first;
    args.mean = place(rows.mean[norm], row);
    args.rstd = place(rows.rstd[norm], row);
    args.weight = weight();
    args.dx = dx + first;
    args.dy_stride = dy_stride;
    args.x_stride = x_stride;
    args.dx_stride = dx_stride;
    args.rows = count;
    args.cols = cols;
    ::backward<T, LayerNorm>(&args, 0);
  }

 private:
  FLN_INLINE const T* at(const void* p) const { return p ? static_cast<const T*>(p) + first : nullptr; }
  FLN_INLINE T* place(void* p, ptrdiff_t row) const { return p ? static_cast<T*>(p) + row : nullptr; }
};
static_assert(MOST_CELL_ROWS <= SMALLEST_CHUNK, "the rows of a block are one chunk of the gradients");

// sweep.units<ALL>(j, n): n units of a row from j on, a whole register if ALL.
template <typename T, typename Sweep>
FLN_INLINE void sweep_units(const Sweep& sweep, ptrdiff_t hidden) {
  constexpr ptrdiff_t lanes = Piece<T>::lanes;
  ptrdiff_t j = 0;
  for (; j + lanes <= hidden; j += lanes) sweep.template units<true>(j, lanes);
  if (j < hidden) sweep.template units<false>(j, hidden - j);
}

// One row of the gates: register j of gate `gate`.
template <typename T, typename P = T>
struct GateRow {
  using V = Piece<T>;
  P* start;  // NULL: zeros, and nothing is stored
  ptrdiff_t hidden;

  template <bool ALL>
  FLN_INLINE V load(int gate, ptrdiff_t j, ptrdiff_t n) const {
    return start ? load_lanes<V, ALL>(start + gate * hidden + j, n) : V::splat(0);
  }
  template <bool ALL>
  FLN_INLINE void store(V a, int gate, ptrdiff_t j, ptrdiff_t n) const {
    if (start) store_lanes<ALL>(a, start + gate * hidden + j, n);
  }
};

// Row `row` of an array of rows, NULL where there is none.
template <typename T>
FLN_INLINE T* row_of(void* start, ptrdiff_t row, ptrdiff_t stride) {
  return start ? static_cast<T*>(start) + row * stride : nullptr;
}
template <typename T>
FLN_INLINE const T* row_of(const void* start, ptrdiff_t row, ptrdiff_t stride) {
  return start ? static_cast<const T*>(start) + row * stride : nullptr;
}

// The numbers of room that a cell's steps need: ROWS_OF_GATES and ROWS_OF_UNITS rows for each row of a block.
template <typename T, typename Cell>
ptrdiff_t room_of(ptrdiff_t hidden) {
  const ptrdiff_t gates = Cell::GATES * hidden;
  return cell_block_rows<T>(gates) * (Cell::ROWS_OF_GATES * gates + Cell::ROWS_OF_UNITS * hidden);
}

template <typename T, typename Cell>
void step(const fln_step_args* args, ptrdiff_t first, ptrdiff_t last) {
  const ptrdiff_t together = cell_block_rows<T>(Cell::GATES * args->cell.hidden);
  for (ptrdiff_t row = first; row < last; row += together) {
    Cell::forward(*args, row, row + together < last ? together : last - row);
  }
}

template <typename T, typename Cell>
void step_gradients(const fln_step_gradient_args* args, ptrdiff_t first, ptrdiff_t last) {
  const ptrdiff_t together = cell_block_rows<T>(Cell::GATES * args->cell.hidden);
  for (ptrdiff_t row = first; row < last; row += together) {
    Cell::backward(*args, row, row + together < last ? together : last - row);
  }
}
