// The kernels that PyTorch's dispatcher calls: they take what is certain, and hand everything else, every error too, to
// PyTorch's own kernel. They hold no GIL and touch no Python.
#pragma once

#include <cfloat>
#include <cmath>
#include <stdexcept>
#include <string>

#include "errors.h"
#include "fastln.h"
#include "shim.h"
#include "switch.h"
#include "tensors.h"

namespace fastln_torch {

// A call as the core takes it (_kernels.pyx). A parameter is stored if it has 16 bits, as x has, and statistics alike:
// the core widens and rounds these.
struct Norm {
  fln_norm norm;
  fln_element element;
  fln_forward_args args;
  ptrdiff_t rows;
  bool is_weight_stored, is_bias_stored, are_stats_stored;
};

struct Gradients {
  fln_norm norm;
  fln_element element;
  fln_backward_args args;
  bool is_weight_stored, is_bias_stored, are_stats_stored;
};

// They return 0, or -1 where there is no memory; nothing has been written to a result that anybody sees then.
struct Core {
  int (*normalize)(const Norm*) = nullptr;
  int (*find_gradients)(const Gradients*) = nullptr;
};

inline Core core;

// Threads that PyTorch would use.
inline int torch_threads() noexcept {
  uint32_t threads = 1;
  return torch.torch_get_num_threads(&threads) == 0 && threads >= 1 ? static_cast<int>(threads) : 1;
}

// x as rows, and what goes with it.
struct Matrix {
  View x;
  int64_t lead;  // dimensions before the normalized ones
  ptrdiff_t rows, cols;
  View weight, bias;
  bool is_mixed;  // x has 16 bits, its parameters have not
};

inline Outcome outcome_of(Look look) noexcept {
  return look == Look::GOOD ? TAKEN : look == Look::OTHER_DTYPE ? DTYPE : LAYOUT;
}

// Whether normalized_shape names the trailing dimensions of x.
inline bool find_lead(StackValue normalized_shape, Matrix* m) noexcept {
  const auto list = handle_of<ListHandle>(normalized_shape);
  size_t count;
  if (torch.torch_list_size(list, &count) != 0 || count == 0 || static_cast<int64_t>(count) > m->x.dim) return false;
  m->lead = m->x.dim - static_cast<int64_t>(count);
  for (size_t i = 0; i < count; ++i) {
    StackValue size;
    if (torch.torch_list_get_item(list, i, &size) != 0) return false;
    if (number_of<int64_t>(size) != m->x.sizes[m->lead + static_cast<int64_t>(i)]) return false;
  }
  return true;
}

// weight or bias: normalized_shape, in one piece, of x's dtype or beside 16 bits of float32.
inline Outcome check_parameter(StackValue given, const Matrix& m, View* parameter) noexcept {
  if (const Look look = look_at_optional(given, parameter); look != Look::GOOD) {
    return look == Look::OTHER_DTYPE ? MIXED_DTYPES : LAYOUT;
  }
  if (parameter->handle == nullptr) return TAKEN;
  if (!has_sizes(*parameter, m.x.sizes + m.lead, m.x.dim - m.lead)) return ARGUMENTS;
  if (!is_in_one_piece(*parameter, 0) || !is_aligned(*parameter)) return LAYOUT;
  const bool fits = parameter->element == m.x.element || parameter->element == computed_of(m.x.element);
  return fits ? TAKEN : MIXED_DTYPES;
}

// x, normalized_shape, weight and bias, which RMS norm has not.
inline Outcome find_matrix(StackValue x, StackValue normalized_shape, StackValue weight, StackValue bias,
                           Matrix* m) noexcept {
  Outcome outcome = outcome_of(look_at(handle_of<TensorHandle>(x), &m->x));
  if (outcome != TAKEN) return outcome;
  if (!find_lead(normalized_shape, m)) return ARGUMENTS;
  m->rows = m->cols = 1;
  for (int64_t i = 0; i < m->lead; ++i) m->rows *= m->x.sizes[i];
  for (int64_t i = m->lead; i < m->x.dim; ++i) m->cols *= m->x.sizes[i];
  if (m->rows == 0 || m->cols == 0) return EMPTY;
  outcome = check_parameter(weight, *m, &m->weight);
  if (outcome != TAKEN) return outcome;
  outcome = check_parameter(bias, *m, &m->bias);
  if (outcome != TAKEN) return outcome;
  const bool has_both = m->weight.handle != nullptr && m->bias.handle != nullptr;
  if (has_both && m->weight.element != m->bias.element) return MIXED_DTYPES;
  const View& parameter = m->weight.handle != nullptr ? m->weight : m->bias;
  m->is_mixed = parameter.handle != nullptr && parameter.element != m->x.element;
  return TAKEN;
}

inline bool is_stored(const Matrix& m, const View& parameter) noexcept {
  return parameter.handle != nullptr && parameter.element != computed_of(m.x.element);
}

// The dtype of mean and rstd: PyTorch keeps those of layer norm in 16 bits where x and its parameters have as many.
inline fln_element stats_element(fln_norm norm, const Matrix& m) noexcept {
  return norm == FLN_LAYER_NORM && !m.is_mixed ? m.x.element : computed_of(m.x.element);
}

inline void find_stats_sizes(const Matrix& m, int64_t* sizes) noexcept {
  for (int64_t i = 0; i < m.x.dim; ++i) sizes[i] = i < m.lead ? m.x.sizes[i] : 1;
}

// Forward. The results are y, mean and rstd; RMS norm has no mean.
inline Outcome normalize(fln_norm norm, const Matrix& m, double eps, Tensor* results) noexcept {
  Norm call = {};
  void* y;
  int64_t sizes[MOST_DIMENSIONS];
  if (!(eps >= 0 && eps <= DBL_MAX)) return ARGUMENTS;
  if (are_rows(m.x, m.lead, &call.args.x_stride)) {
    if (!allocate(m.x.sizes, m.x.dim, m.x.element, &results[0], &y)) return MEMORY;
    call.args.x = m.x.data;
  } else {
    if (!allocate_copy(m.x, &results[0], &y)) return MEMORY;
    call.args.x = y;  // normalized in place
    call.args.x_stride = m.cols;
  }
  if (m.rows == 1) call.args.x_stride = m.cols;
  Tensor* const rstd = norm == FLN_LAYER_NORM ? &results[2] : &results[1];
  find_stats_sizes(m, sizes);
  if (norm == FLN_LAYER_NORM && !allocate(sizes, m.x.dim, stats_element(norm, m), &results[1], &call.args.mean)) {
    return MEMORY;
  }
  if (!allocate(sizes, m.x.dim, stats_element(norm, m), rstd, &call.args.rstd)) return MEMORY;
  call.norm = norm;
  call.element = m.x.element;
  call.args.y = y;
  call.args.y_stride = call.args.cols = m.cols;
  call.args.weight = m.weight.handle != nullptr ? m.weight.data : nullptr;
  call.args.bias = m.bias.handle != nullptr ? m.bias.data : nullptr;
  call.args.eps = eps;
  call.rows = m.rows;
  call.is_weight_stored = is_stored(m, m.weight);
  call.is_bias_stored = is_stored(m, m.bias);
  call.are_stats_stored = stats_element(norm, m) != computed_of(m.x.element);
  return core.normalize(&call) == 0 ? TAKEN : MEMORY;
}

// mean or rstd, as the forward pass returned it.
inline Outcome check_stats(StackValue given, fln_norm norm, const Matrix& m, const void** data) noexcept {
  View stats;
  int64_t sizes[MOST_DIMENSIONS];
  if (const Look look = look_at(handle_of<TensorHandle>(given), &stats); look != Look::GOOD) {
    return look == Look::OTHER_DTYPE ? MIXED_DTYPES : LAYOUT;
  }
  find_stats_sizes(m, sizes);
  if (!has_sizes(stats, sizes, m.x.dim)) return ARGUMENTS;
  if (stats.element != stats_element(norm, m)) return MIXED_DTYPES;
  if (!is_in_one_piece(stats, 0) || !is_aligned(stats)) return LAYOUT;
  *data = stats.data;
  return TAKEN;
}

// A tensor whose rows the kernels cannot use where they are is copied, into `copy`.
inline bool use_rows(const View& view, const Matrix& m, Tensor* copy, const void** data, ptrdiff_t* stride) noexcept {
  *data = view.data;
  if (!are_rows(view, m.lead, stride)) {
    void* copied;
    if (!allocate_copy(view, copy, &copied)) return false;
    *data = copied;
    *stride = m.cols;
  }
  if (m.rows == 1) *stride = m.cols;
  return true;
}

// Which gradients are asked for, of dx, dweight and dbias.
struct Mask {
  bool wants[3] = {};
};

inline bool read_mask(StackValue given, size_t count, Mask* mask) noexcept {
  const auto list = handle_of<ListHandle>(given);
  size_t size;
  if (torch.torch_list_size(list, &size) != 0 || size != count) return false;
  for (size_t i = 0; i < count; ++i) {
    StackValue item;
    if (torch.torch_list_get_item(list, i, &item) != 0) return false;
    mask->wants[i] = number_of<bool>(item);
  }
  return mask->wants[0] || mask->wants[1] || mask->wants[2];
}

// The gradients: dx, dweight and dbias, as far as they are asked for. `call` comes with mean and rstd.
inline Outcome find_gradients(Gradients call, const Matrix& m, StackValue dy_given, const Mask& mask,
                              Tensor* results) noexcept {
  Tensor x_copy, dy_copy;
  View dy;
  const View* const parameters[] = {&m.weight, &m.bias};
  void** const sums[] = {&call.args.dweight, &call.args.dbias};
  if (const Look look = look_at(handle_of<TensorHandle>(dy_given), &dy); look != Look::GOOD) {
    return look == Look::OTHER_DTYPE ? MIXED_DTYPES : LAYOUT;
  }
  if (!has_sizes(dy, m.x.sizes, m.x.dim)) return ARGUMENTS;
  if (dy.element != m.x.element) return MIXED_DTYPES;
  for (int i = 0; i < 2; ++i) {
    if (!mask.wants[i + 1]) continue;
    if (parameters[i]->handle == nullptr) return ARGUMENTS;
    if (!allocate(parameters[i]->sizes, parameters[i]->dim, parameters[i]->element, &results[i + 1], sums[i])) {
      return MEMORY;
    }
  }
  if (mask.wants[0] && !allocate(m.x.sizes, m.x.dim, m.x.element, &results[0], &call.args.dx)) return MEMORY;
  if (!use_rows(m.x, m, &x_copy, &call.args.x, &call.args.x_stride)) return MEMORY;
  if (!use_rows(dy, m, &dy_copy, &call.args.dy, &call.args.dy_stride)) return MEMORY;
  call.element = m.x.element;
  call.args.dx_stride = call.args.cols = m.cols;
  call.args.rows = m.rows;
  call.args.weight = m.weight.handle != nullptr ? m.weight.data : nullptr;
  call.is_weight_stored = is_stored(m, m.weight);
  call.is_bias_stored = is_stored(m, m.bias);
  call.are_stats_stored = stats_element(call.norm, m) != computed_of(m.x.element);
  return core.find_gradients(&call) == 0 ? TAKEN : MEMORY;
}

// The operators. Each reads its stack of arguments, which stay PyTorch's, and fills in the results if it takes the
// call.

constexpr StackValue NONE = 0;

struct NativeLayerNorm {
  static constexpr Operator which = NATIVE_LAYER_NORM;
  static constexpr bool is_switched = true;
  static constexpr const char* name = "native_layer_norm";
  static constexpr const char* original = "fastln::native_layer_norm_of_torch";
  static constexpr Kind arguments[] = {TENSOR, LIST, OPTIONAL_TENSOR, OPTIONAL_TENSOR, NUMBER};
  static constexpr int results = 3;

  static Outcome run(const StackValue* stack, Tensor* results) noexcept {
    Matrix m;
    const Outcome outcome = find_matrix(stack[0], stack[1], stack[2], stack[3], &m);
    return outcome == TAKEN ? normalize(FLN_LAYER_NORM, m, number_of<double>(stack[4]), results) : outcome;
  }
};

struct NativeLayerNormBackward {
  static constexpr Operator which = NATIVE_LAYER_NORM_BACKWARD;
  static constexpr bool is_switched = true;
  static constexpr const char* name = "native_layer_norm_backward";
  static constexpr const char* original = "fastln::native_layer_norm_backward_of_torch";
  static constexpr Kind arguments[] = {TENSOR, TENSOR, LIST, TENSOR, TENSOR, OPTIONAL_TENSOR, OPTIONAL_TENSOR, LIST};
  static constexpr int results = 3;

  static Outcome run(const StackValue* stack, Tensor* results) noexcept {
    Matrix m;
    Gradients call = {};
    Mask mask;
    call.norm = FLN_LAYER_NORM;
    Outcome outcome = find_matrix(stack[1], stack[2], stack[5], stack[6], &m);
    if (outcome == TAKEN) outcome = check_stats(stack[3], call.norm, m, &call.args.mean);
    if (outcome == TAKEN) outcome = check_stats(stack[4], call.norm, m, &call.args.rstd);
    if (outcome != TAKEN) return outcome;
    return read_mask(stack[7], 3, &mask) ? find_gradients(call, m, stack[0], mask, results) : ARGUMENTS;
  }
};

struct FusedRmsNorm {
  static constexpr Operator which = FUSED_RMS_NORM;
  static constexpr bool is_switched = true;
  static constexpr const char* name = "_fused_rms_norm";
  static constexpr const char* original = "fastln::_fused_rms_norm_of_torch";
  static constexpr Kind arguments[] = {TENSOR, LIST, OPTIONAL_TENSOR, OPTIONAL_NUMBER};
  static constexpr int results = 2;

  static Outcome run(const StackValue* stack, Tensor* results) noexcept {
    Matrix m;
    StackValue eps;
    const Outcome outcome = find_matrix(stack[0], stack[1], stack[2], NONE, &m);
    if (outcome != TAKEN) return outcome;
    const double spacing = m.x.element == FLN_F64 ? DBL_EPSILON : FLT_EPSILON;
    return normalize(FLN_RMS_NORM, m, value_of(stack[3], &eps) ? number_of<double>(eps) : spacing, results);
  }
};

// PyTorch has no kernel for it on the CPU, since its own RMS norm is not one operator there. A graph that was made
// while the others were on needs this one whenever it is gone through backward.
struct FusedRmsNormBackward {
  static constexpr Operator which = FUSED_RMS_NORM_BACKWARD;
  static constexpr bool is_switched = false;
  static constexpr const char* name = "_fused_rms_norm_backward";
  static constexpr const char* original = "fastln::_fused_rms_norm_backward_of_torch";
  static constexpr Kind arguments[] = {TENSOR, TENSOR, LIST, TENSOR, OPTIONAL_TENSOR, LIST};
  static constexpr int results = 2;

  static Outcome run(const StackValue* stack, Tensor* results) noexcept {
    Matrix m;
    Gradients call = {};
    Mask mask;
    call.norm = FLN_RMS_NORM;
    Outcome outcome = find_matrix(stack[1], stack[2], stack[4], NONE, &m);
    if (outcome == TAKEN) outcome = check_stats(stack[3], call.norm, m, &call.args.rstd);
    if (outcome != TAKEN) return outcome;
    return read_mask(stack[5], 2, &mask) ? find_gradients(call, m, stack[0], mask, results) : ARGUMENTS;
  }
};

// PyTorch's own kernel, with the stack as it was given: the arguments are consumed, the results are on it.
template <typename Op>
void pass_on(StackValue* stack) {
  noted.type = nullptr;
  if (torch.torch_call_dispatcher(Op::original, "", stack, ABI_VERSION) != 0) {
    // Part of the stack is gone: all that is left is to say so.
    const char* what = nullptr;
    if (torch.torch_exception_get_what_without_backtrace != nullptr) {
      what = torch.torch_exception_get_what_without_backtrace();
    }
    throw std::runtime_error(what != nullptr ? what : std::string("PyTorch failed to call ") + Op::original);
  }
  if (noted.type != nullptr) {
    for (int i = 0; i < Op::results; ++i) discard(TENSOR, stack[i]);
  }
  throw_noted();
}

// Puts the results in the place of the arguments, if it takes the call; else nothing has happened.
template <typename Op>
Outcome take(StackValue* stack) noexcept {
  Tensor results[Op::results];
  const Outcome outcome = Op::run(stack, results);
  if (outcome != TAKEN) return outcome;
  int i = 0;
  for (const Kind kind : Op::arguments) discard(kind, stack[i++]);
  for (i = 0; i < Op::results; ++i) stack[i] = results[i].release();
  return TAKEN;
}

template <typename Op>
void kernel(StackValue* stack, uint64_t, uint64_t) {
  const Inside inside;
  const bool is_on = !Op::is_switched || state.is_on.load(std::memory_order_relaxed);
  const Outcome outcome = is_on ? take<Op>(stack) : SWITCHED_OFF;
  count(Op::which, outcome);
  if (outcome != TAKEN) pass_on<Op>(stack);
}

// The kernels of these operators, until `unregister_kernels`; nullptr where PyTorch refuses one.
template <typename... Ops>
LibraryHandle register_kernels() noexcept {
  LibraryHandle library;
  if (torch.aoti_torch_library_init_impl("aten", "CPU", "fastln", 0, &library) != 0) return nullptr;
  if (((torch.torch_library_impl(library, Ops::name, kernel<Ops>, ABI_VERSION) == 0) && ...)) return library;
  torch.aoti_torch_delete_library_object(library);
  return nullptr;
}

// Those that stay, and those that come and go.
inline LibraryHandle register_lasting() noexcept { return register_kernels<FusedRmsNormBackward>(); }

inline LibraryHandle register_switched() noexcept {
  return register_kernels<NativeLayerNorm, NativeLayerNormBackward, FusedRmsNorm>();
}

inline void unregister_kernels(LibraryHandle library) noexcept { torch.aoti_torch_delete_library_object(library); }

}  // namespace fastln_torch
