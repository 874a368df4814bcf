// What the target region of an ISA exports, and the only list of kernels: for each element, those of each norm.
#pragma once

#include "cells/gru.h"
#include "cells/lstm.h"
#include "cells/product.h"
#include "cells/rnn.h"
#include "norms/backward.h"
#include "norms/forward.h"
#include "rows/conversions.h"

template <typename S, typename Norm>
constexpr fln_norm_kernels norm_kernels() {
  return {forward<S, Norm>,  forward_sums<S, Norm>,   forward_columns<S, Norm>,
          backward<S, Norm>, backward_terms<S, Norm>, backward_columns<S, Norm>};
}

template <typename S>
constexpr fln_element_kernels element_kernels() {  // in the order of fln_norm
  return {{norm_kernels<S, LayerNorm>(), norm_kernels<S, RMSNorm>()},
          add<S>,
          divide<S>,
          merge<S>,
          widen_all<S>,
          narrow_all<S>};
}

template <typename T, typename Cell>
constexpr fln_cell_kernels cell_kernels() {
  return {step<T, Cell>, step_gradients<T, Cell>, room_of<T, Cell>};
}

template <typename T>
constexpr fln_recurrence_kernels recurrence_kernels() {  // in the order of fln_cell
  return {pack_columns<T>,
          pack_rows<T>,
          product<T>,
          {cell_kernels<T, RNNCell<T>>(), cell_kernels<T, LSTMCell<T>>(), cell_kernels<T, GRUCell<T>>()}};
}

// In the order of fln_element.
constexpr fln_kernels kernels_of(const char* isa) {
  return {isa,
          {element_kernels<float>(), element_kernels<double>(), element_kernels<BF16>(), element_kernels<F16>()},
          {recurrence_kernels<float>(), recurrence_kernels<double>()}};
}
