// The layer-normalized RNN of Ba, Kiros and Hinton, "Layer Normalization" (2016), arXiv:1607.06450, equation 4:
//
//   h = f(LN(a) + bias), a = W_hh h + W_ih x          f = tanh or relu
#pragma once

#include "cell.h"

template <typename T>
struct RNNCell {
  using V = Piece<T>;
  static constexpr int GATES = 1, ROWS_OF_GATES = 2, ROWS_OF_UNITS = 0;

  static FLN_INLINE NormOfRows<T> norm(const fln_cell_parameters& cell) { return {cell, 0, 0, 0, cell.hidden}; }

  // h from the normalized sum.
  struct Activation {
    const T* sum;
    const T* bias;
    T* h;
    T* y;
    bool relu;

    template <bool ALL>
    FLN_INLINE void units(ptrdiff_t j, ptrdiff_t n) const {
      V a = load_lanes<V, ALL>(sum + j, n);
      if (bias) a = a + load_lanes<V, ALL>(bias + j, n);
      const V result = relu ? ::relu(a) : tanh(a);
      store_lanes<ALL>(result, h + j, n);
      if (y) store_lanes<ALL>(result, y + j, n);
    }
  };

  static FLN_INLINE void forward(const fln_step_args& args, ptrdiff_t row, ptrdiff_t count) {
    const ptrdiff_t hidden = args.cell.hidden;
    T* const normalized = static_cast<T*>(args.room);
    T* const sums = args.rows.inner ? row_of<T>(args.rows.inner, row, hidden) : normalized + count * hidden;
    norm(args.cell).forward(args.rows, row, count, row_of<T>(args.rows.gx, row, hidden), hidden, normalized, hidden,
                            row_of<T>(args.rows.gh, row, hidden), sums);
    for (ptrdiff_t r = 0; r < count; ++r) {
      const ptrdiff_t sequence = args.order[row + r];
      const Activation sweep = {normalized + r * hidden, static_cast<const T*>(args.cell.bias),
                                row_of<T>(args.h, sequence, hidden), row_of<T>(args.y, sequence, args.y_stride),
                                args.cell.relu != 0};
      sweep_units<T>(sweep, hidden);
    }
  }

  // The gradient of the normalized sum: f' from f, 1 - h^2 or whether h > 0.
  struct ActivationGradient {
    const T* y;
    const T* dy;
    T* dh;
    T* dih;
    bool relu;

    template <bool ALL>
    FLN_INLINE void units(ptrdiff_t j, ptrdiff_t n) const {
      const V h = load_lanes<V, ALL>(y + j, n), one = V::splat(1);
      V d = load_lanes<V, ALL>(dh + j, n);
      if (dy) d = d + load_lanes<V, ALL>(dy + j, n);
      store_lanes<ALL>(relu ? d * relu_gradient(h) : d * (one - h * h), dih + j, n);
    }
  };

  static FLN_INLINE void backward(const fln_step_gradient_args& args, ptrdiff_t row, ptrdiff_t count) {
    const ptrdiff_t hidden = args.cell.hidden;
    T* const dih = row_of<T>(args.dih, row, args.stride);
    for (ptrdiff_t r = 0; r < count; ++r) {
      const ptrdiff_t sequence = args.order[row + r];
      const ActivationGradient sweep = {
          row_of<T>(args.y, sequence, args.y_stride), row_of<T>(args.dy, sequence, args.dy_stride),
          row_of<T>(args.dh, sequence, hidden), dih + r * args.stride, args.cell.relu != 0};
      sweep_units<T>(sweep, hidden);
    }
    norm(args.cell).backward(args.rows, row, count, dih, args.stride, row_of<T>(args.rows.inner, row, hidden), hidden,
                             row_of<T>(args.dgh, row, args.stride), args.stride);
  }
};
