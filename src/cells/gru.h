// The layer-normalized GRU of Ba, Kiros and Hinton, "Layer Normalization" (2016), arXiv:1607.06450, equations 23 to 26,
// with PyTorch's meaning of z, which is 1 minus the paper's:
//
//   (r, z) = LN(W_ih x) + LN(W_hh h) + bias                        each norm over both gates
//   n = tanh(LN(W_ih x) + bias + sigmoid(r) LN(W_hh h))            each norm over this gate alone
//   h = (1 - sigmoid(z)) n + sigmoid(z) h
#pragma once

#include "cell.h"

template <typename T>
struct GRUCell {
  using V = Piece<T>;
  static constexpr int GATES = 3, ROWS_OF_GATES = 2, ROWS_OF_UNITS = 0;
  enum { R, Z, N };

  // Of the first two gates, and of the last one: of W_ih x, or with `side` 1 of W_hh h.
  static FLN_INLINE NormOfRows<T> gates_norm(const fln_cell_parameters& cell, int side) {
    return {cell, side, side, 0, 2 * cell.hidden};
  }
  static FLN_INLINE NormOfRows<T> n_norm(const fln_cell_parameters& cell, int side) {
    return {cell, 2 + side, side, 2 * cell.hidden, cell.hidden};
  }

  struct Gates {
    GateRow<T> ih, hh;
    GateRow<T, const T> bias;
    GateRow<T> gates;
    T* h;
    T* y;

    template <bool ALL>
    FLN_INLINE V given(int gate, ptrdiff_t j, ptrdiff_t n) const {
      const V a = ih.template load<ALL>(gate, j, n);
      return bias.start ? a + bias.template load<ALL>(gate, j, n) : a;
    }
    template <bool ALL>
    FLN_INLINE void units(ptrdiff_t j, ptrdiff_t count) const {
      const V r = sigmoid(given<ALL>(R, j, count) + hh.template load<ALL>(R, j, count));
      const V z = sigmoid(given<ALL>(Z, j, count) + hh.template load<ALL>(Z, j, count));
      const V n = tanh(fma(r, hh.template load<ALL>(N, j, count), given<ALL>(N, j, count)));
      const V result = fma(z, load_lanes<V, ALL>(h + j, count) - n, n);
      store_lanes<ALL>(result, h + j, count);
      if (y) store_lanes<ALL>(result, y + j, count);
      gates.template store<ALL>(r, R, j, count);
      gates.template store<ALL>(z, Z, j, count);
      gates.template store<ALL>(n, N, j, count);
    }
  };

  static FLN_INLINE void forward(const fln_step_args& args, ptrdiff_t row, ptrdiff_t count) {
    const ptrdiff_t hidden = args.cell.hidden, gates = GATES * hidden;
    T* const ih = static_cast<T*>(args.room);
    T* const hh = ih + count * gates;
    const T* const gx = row_of<T>(args.rows.gx, row, gates);
    const T* const gh = row_of<T>(args.rows.gh, row, gates);
    gates_norm(args.cell, 0).forward(args.rows, row, count, gx, gates, ih, gates);
    gates_norm(args.cell, 1).forward(args.rows, row, count, gh, gates, hh, gates);
    n_norm(args.cell, 0).forward(args.rows, row, count, gx, gates, ih, gates);
    n_norm(args.cell, 1).forward(args.rows, row, count, gh, gates, hh, gates);
    for (ptrdiff_t r = 0; r < count; ++r) {
      const ptrdiff_t sequence = args.order[row + r];
      const GateRow<T, const T> bias = {static_cast<const T*>(args.cell.bias), hidden};
      const Gates sweep = {{ih + r * gates, hidden},
                           {hh + r * gates, hidden},
                           bias,
                           {row_of<T>(args.rows.gates, row + r, gates), hidden},
                           row_of<T>(args.h, sequence, hidden),
                           row_of<T>(args.y, sequence, args.y_stride)};
      sweep_units<T>(sweep, hidden);
    }
  }

  // dh becomes what flows into the h before beside W_hh h.
  struct GateGradients {
    GateRow<T> gates;
    const T* normalized;  // W_hh h of n
    const T* before;      // h
    const T* dy;
    T* dh;
    GateRow<T> dih, dhh;

    template <bool ALL>
    FLN_INLINE void units(ptrdiff_t j, ptrdiff_t count) const {
      const V one = V::splat(1), r = gates.template load<ALL>(R, j, count), z = gates.template load<ALL>(Z, j, count);
      const V n = gates.template load<ALL>(N, j, count);
      V d = load_lanes<V, ALL>(dh + j, count);
      if (dy) d = d + load_lanes<V, ALL>(dy + j, count);
      const V dn = d * (one - z) * (one - n * n);
      const V dr = dn * load_lanes<V, ALL>(normalized + j, count) * (r * (one - r));
      const V dz = d * (load_lanes<V, ALL>(before + j, count) - n) * (z * (one - z));
      store_lanes<ALL>(d * z, dh + j, count);
      dih.template store<ALL>(dr, R, j, count);
      dih.template store<ALL>(dz, Z, j, count);
      dih.template store<ALL>(dn, N, j, count);
      dhh.template store<ALL>(dr, R, j, count);
      dhh.template store<ALL>(dz, Z, j, count);
      dhh.template store<ALL>(dn * r, N, j, count);
    }
  };

  static FLN_INLINE void backward(const fln_step_gradient_args& args, ptrdiff_t row, ptrdiff_t count) {
    const ptrdiff_t hidden = args.cell.hidden, gates = GATES * hidden, stride = args.stride;
    T* const hh = static_cast<T*>(args.room);
    const T* const gh = row_of<T>(args.rows.gh, row, gates);
    T* const dhh = row_of<T>(args.dhh, row, stride);
    fln_cell_rows none = {};
    n_norm(args.cell, 1).forward(none, 0, count, gh, gates, hh, gates);
    for (ptrdiff_t r = 0; r < count; ++r) {
      const ptrdiff_t sequence = args.order[row + r];
      const T* const before = row + r < args.before_rows ? row_of<T>(args.before_y, sequence, args.y_stride)
                                                         : row_of<T>(args.h0, sequence, hidden);
      const GateGradients sweep = {{row_of<T>(args.rows.gates, row + r, gates), hidden},
                                   hh + r * gates + 2 * hidden,
                                   before,
                                   row_of<T>(args.dy, sequence, args.dy_stride),
                                   row_of<T>(args.dh, sequence, hidden),
                                   {row_of<T>(args.dih, row + r, stride), hidden},
                                   {dhh + r * stride, hidden}};
      sweep_units<T>(sweep, hidden);
    }
    T* const dgh = row_of<T>(args.dgh, row, stride);
    gates_norm(args.cell, 1).backward(args.rows, row, count, dhh, stride, gh, gates, dgh, stride);
    n_norm(args.cell, 1).backward(args.rows, row, count, dhh, stride, gh, gates, dgh, stride);
  }
};
