// The layer-normalized LSTM of Ba, Kiros and Hinton, "Layer Normalization" (2016), arXiv:1607.06450, equations 20 to
// 22:
//
//   (i, f, g, o) = LN(W_ih x) + LN(W_hh h) + bias          each norm over all four gates
//   c = sigmoid(f) c + sigmoid(i) tanh(g)                  h = sigmoid(o) tanh(LN(c))
//
// What the next step gets as c is c, or LN(c) as some implementations have it.
#pragma once

#include "cell.h"

template <typename T>
struct LSTMCell {
  using V = Piece<T>;
  static constexpr int GATES = 4, ROWS_OF_GATES = 2, ROWS_OF_UNITS = 1;
  enum { I, F, G, O };

  static FLN_INLINE NormOfRows<T> ih_norm(const fln_cell_parameters& cell) { return {cell, 0, 0, 0, 4 * cell.hidden}; }
  static FLN_INLINE NormOfRows<T> hh_norm(const fln_cell_parameters& cell) { return {cell, 1, 1, 0, 4 * cell.hidden}; }
  static FLN_INLINE NormOfRows<T> c_norm(const fln_cell_parameters& cell) { return {cell, 2, 2, 0, cell.hidden}; }

  // The gates and the new c. That of o is left where o of `hh` begins with i, which nobody needs any more.
  struct Gates {
    GateRow<T> ih, hh;
    GateRow<T, const T> bias;
    GateRow<T> gates;
    T* c;
    T* inner;
    bool carries_normalized;

    template <bool ALL>
    FLN_INLINE V sum(int gate, ptrdiff_t j, ptrdiff_t n) const {
      const V both = ih.template load<ALL>(gate, j, n) + hh.template load<ALL>(gate, j, n);
      return bias.start ? both + bias.template load<ALL>(gate, j, n) : both;
    }
    template <bool ALL>
    FLN_INLINE void units(ptrdiff_t j, ptrdiff_t n) const {
      const V i = sigmoid(sum<ALL>(I, j, n)), f = sigmoid(sum<ALL>(F, j, n));
      const V g = tanh(sum<ALL>(G, j, n)), o = sigmoid(sum<ALL>(O, j, n));
      const V next = fma(f, load_lanes<V, ALL>(c + j, n), i * g);
      store_lanes<ALL>(next, inner + j, n);
      if (!carries_normalized) store_lanes<ALL>(next, c + j, n);
      hh.template store<ALL>(o, 0, j, n);
      gates.template store<ALL>(i, I, j, n);
      gates.template store<ALL>(f, F, j, n);
      gates.template store<ALL>(g, G, j, n);
      gates.template store<ALL>(o, O, j, n);
    }
  };

  // h from the normalized c.
  struct Output {
    const T* o;
    const T* normalized;
    T* c;  // or NULL
    T* h;
    T* y;

    template <bool ALL>
    FLN_INLINE void units(ptrdiff_t j, ptrdiff_t n) const {
      const V carried = load_lanes<V, ALL>(normalized + j, n);
      const V result = load_lanes<V, ALL>(o + j, n) * tanh(carried);
      if (c) store_lanes<ALL>(carried, c + j, n);
      store_lanes<ALL>(result, h + j, n);
      if (y) store_lanes<ALL>(result, y + j, n);
    }
  };

  static FLN_INLINE void forward(const fln_step_args& args, ptrdiff_t row, ptrdiff_t count) {
    const ptrdiff_t hidden = args.cell.hidden, gates = GATES * hidden;
    const bool carries_normalized = args.cell.carries_normalized != 0;
    T* const ih = static_cast<T*>(args.room);
    T* const hh = ih + count * gates;
    T* const inner = args.rows.inner ? row_of<T>(args.rows.inner, row, hidden) : hh + count * gates;
    ih_norm(args.cell).forward(args.rows, row, count, row_of<T>(args.rows.gx, row, gates), gates, ih, gates);
    hh_norm(args.cell).forward(args.rows, row, count, row_of<T>(args.rows.gh, row, gates), gates, hh, gates);
    for (ptrdiff_t r = 0; r < count; ++r) {
      const GateRow<T, const T> bias = {static_cast<const T*>(args.cell.bias), hidden};
      const Gates sweep = {{ih + r * gates, hidden},
                           {hh + r * gates, hidden},
                           bias,
                           {row_of<T>(args.rows.gates, row + r, gates), hidden},
                           row_of<T>(args.c, args.order[row + r], hidden),
                           inner + r * hidden,
                           carries_normalized};
      sweep_units<T>(sweep, hidden);
    }
    c_norm(args.cell).forward(args.rows, row, count, inner, hidden, ih, gates);
    for (ptrdiff_t r = 0; r < count; ++r) {
      const ptrdiff_t sequence = args.order[row + r];
      const Output sweep = {hh + r * gates, ih + r * gates,
                            carries_normalized ? row_of<T>(args.c, sequence, hidden) : nullptr,
                            row_of<T>(args.h, sequence, hidden), row_of<T>(args.y, sequence, args.y_stride)};
      sweep_units<T>(sweep, hidden);
    }
  }

  // What flows into h, and into the normalized c through it.
  struct OutputGradient {
    GateRow<T> gates;
    const T* normalized;
    const T* dy;
    const T* dh;
    const T* dc;  // of the normalized c, or NULL
    T* dnormalized;
    GateRow<T> dih;

    template <bool ALL>
    FLN_INLINE void units(ptrdiff_t j, ptrdiff_t n) const {
      const V one = V::splat(1), o = gates.template load<ALL>(O, j, n), t = tanh(load_lanes<V, ALL>(normalized + j, n));
      V d = load_lanes<V, ALL>(dh + j, n);
      if (dy) d = d + load_lanes<V, ALL>(dy + j, n);
      const V through = d * o * (one - t * t);
      store_lanes<ALL>(dc ? through + load_lanes<V, ALL>(dc + j, n) : through, dnormalized + j, n);
      dih.template store<ALL>(d * t * (o * (one - o)), O, j, n);
    }
  };

  // From the gradient of c those of the other gates, and of the c before.
  struct GateGradients {
    GateRow<T> gates;
    const T* before;
    const T* dinner;
    T* dc;
    bool adds;  // what flows into c beside the norm
    GateRow<T> dih;

    template <bool ALL>
    FLN_INLINE void units(ptrdiff_t j, ptrdiff_t n) const {
      const V one = V::splat(1), i = gates.template load<ALL>(I, j, n), f = gates.template load<ALL>(F, j, n);
      const V g = gates.template load<ALL>(G, j, n);
      V d = load_lanes<V, ALL>(dinner + j, n);
      if (adds) d = d + load_lanes<V, ALL>(dc + j, n);
      dih.template store<ALL>(d * g * (i * (one - i)), I, j, n);
      dih.template store<ALL>(d * load_lanes<V, ALL>(before + j, n) * (f * (one - f)), F, j, n);
      dih.template store<ALL>(d * i * (one - g * g), G, j, n);
      store_lanes<ALL>(d * f, dc + j, n);
    }
  };

  static FLN_INLINE void backward(const fln_step_gradient_args& args, ptrdiff_t row, ptrdiff_t count) {
    const ptrdiff_t hidden = args.cell.hidden, gates = GATES * hidden, stride = args.stride;
    const bool carries_normalized = args.cell.carries_normalized != 0;
    T* const normalized = static_cast<T*>(args.room);
    T* const dinner = normalized + count * hidden;
    T* const carried = dinner + count * hidden;
    const T* const inner = row_of<T>(args.rows.inner, row, hidden);
    T* const dnormalized = row_of<T>(args.dinner, row, hidden);
    T* const dih = row_of<T>(args.dih, row, stride);
    fln_cell_rows none = {};
    c_norm(args.cell).forward(none, 0, count, inner, hidden, normalized, hidden);
    for (ptrdiff_t r = 0; r < count; ++r) {
      const ptrdiff_t sequence = args.order[row + r];
      const OutputGradient sweep = {{row_of<T>(args.rows.gates, row + r, gates), hidden},
                                    normalized + r * hidden,
                                    row_of<T>(args.dy, sequence, args.dy_stride),
                                    row_of<T>(args.dh, sequence, hidden),
                                    carries_normalized ? row_of<T>(args.dc, sequence, hidden) : nullptr,
                                    dnormalized + r * hidden,
                                    {dih + r * stride, hidden}};
      sweep_units<T>(sweep, hidden);
    }
    c_norm(args.cell).backward(args.rows, row, count, dnormalized, hidden, inner, hidden, dinner, hidden);
    const ptrdiff_t left = args.before_rows - row, known = left < 0 ? 0 : left < count ? left : count;
    const T* before = row_of<T>(args.before_inner, row, hidden);
    if (carries_normalized && known > 0) {
      c_norm(args.cell).forward(none, 0, known, before, hidden, carried, hidden);
      before = carried;
    }
    for (ptrdiff_t r = 0; r < count; ++r) {
      const ptrdiff_t sequence = args.order[row + r];
      const GateGradients sweep = {{row_of<T>(args.rows.gates, row + r, gates), hidden},
                                   r < known ? before + r * hidden : row_of<T>(args.c0, sequence, hidden),
                                   dinner + r * hidden,
                                   row_of<T>(args.dc, sequence, hidden),
                                   !carries_normalized,
                                   {dih + r * stride, hidden}};
      sweep_units<T>(sweep, hidden);
    }
    hh_norm(args.cell).backward(args.rows, row, count, dih, stride, row_of<T>(args.rows.gh, row, gates), gates,
                                row_of<T>(args.dgh, row, stride), stride);
  }
};
