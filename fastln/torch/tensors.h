// What the kernels see of a tensor, and the tensors that they make.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "fastln.h"
#include "shim.h"

namespace fastln_torch {

constexpr int64_t MOST_DIMENSIONS = 64;

// Values of PyTorch's enumerations, and the dtype of each element.
struct Values {
  int32_t cpu, strided;
  int32_t dtypes[FLN_ELEMENTS];
};

inline Values values;

inline void read_values() noexcept {
  values.cpu = torch.aoti_torch_device_type_cpu();
  values.strided = torch.aoti_torch_layout_strided();
  values.dtypes[FLN_F32] = torch.aoti_torch_dtype_float32();
  values.dtypes[FLN_F64] = torch.aoti_torch_dtype_float64();
  values.dtypes[FLN_BF16] = torch.aoti_torch_dtype_bfloat16();
  values.dtypes[FLN_F16] = torch.aoti_torch_dtype_float16();
}

inline bool element_of(int32_t dtype, fln_element* element) noexcept {
  for (int i = 0; i < FLN_ELEMENTS; ++i) {
    if (values.dtypes[i] != dtype) continue;
    *element = static_cast<fln_element>(i);
    return true;
  }
  return false;
}

inline fln_element computed_of(fln_element element) noexcept { return element == FLN_F64 ? FLN_F64 : FLN_F32; }

inline ptrdiff_t size_of(fln_element element) noexcept { return element == FLN_F64 ? 8 : element == FLN_F32 ? 4 : 2; }

// A tensor of somebody else's, as long as its handle is there. One that is absent has no handle.
struct View {
  TensorHandle handle = nullptr;
  fln_element element;
  int64_t dim;
  const int64_t* sizes;
  const int64_t* strides;
  const void* data;
};

// Why a tensor is not for the kernels, or that it is.
enum class Look { GOOD, OTHER_DTYPE, OTHER_LAYOUT };

inline Look look_at(TensorHandle handle, View* view) noexcept {
  int32_t device, layout, dtype;
  int64_t *sizes, *strides;
  if (torch.aoti_torch_get_device_type(handle, &device) != 0 || device != values.cpu ||
      torch.aoti_torch_get_layout(handle, &layout) != 0 || layout != values.strided ||
      torch.aoti_torch_get_dtype(handle, &dtype) != 0) {
    return Look::OTHER_LAYOUT;
  }
  if (!element_of(dtype, &view->element)) return Look::OTHER_DTYPE;
  if (torch.aoti_torch_get_dim(handle, &view->dim) != 0 || view->dim > MOST_DIMENSIONS ||
      torch.aoti_torch_get_sizes(handle, &sizes) != 0 || torch.aoti_torch_get_strides(handle, &strides) != 0 ||
      torch.torch_get_const_data_ptr(handle, &view->data) != 0) {
    return Look::OTHER_LAYOUT;
  }
  const bool is_empty = std::find(sizes, sizes + view->dim, 0) != sizes + view->dim;
  if (view->data == nullptr && !is_empty) return Look::OTHER_LAYOUT;  // its memory was given back
  view->handle = handle;
  view->sizes = sizes;
  view->strides = strides;
  return Look::GOOD;
}

// Of an argument that may be None, or an undefined tensor, which stands for None where autograd calls.
inline Look look_at_optional(StackValue optional, View* view) noexcept {
  StackValue value;
  bool is_defined = false;
  if (!value_of(optional, &value)) return Look::GOOD;
  const auto handle = handle_of<TensorHandle>(value);
  if (torch.aoti_torch_is_defined(handle, &is_defined) != 0) return Look::OTHER_LAYOUT;
  return is_defined ? look_at(handle, view) : Look::GOOD;
}

inline bool is_aligned(const View& view) noexcept {
  return reinterpret_cast<uintptr_t>(view.data) % static_cast<uintptr_t>(size_of(view.element)) == 0;
}

inline bool has_sizes(const View& view, const int64_t* sizes, int64_t dim) noexcept {
  return view.dim == dim && std::equal(sizes, sizes + dim, view.sizes);
}

// Whether its dimensions from `first` on are one piece of memory.
inline bool is_in_one_piece(const View& view, int64_t first) noexcept {
  int64_t step = 1;
  for (int64_t i = view.dim - 1; i >= first; --i) {
    if (view.sizes[i] != 1 && view.strides[i] != step) return false;
    step *= view.sizes[i];
  }
  return true;
}

// Whether the kernels can use its rows where they are: each in one piece, all at one stride, which is noted. `lead` of
// its dimensions count rows.
inline bool are_rows(const View& view, int64_t lead, ptrdiff_t* stride) noexcept {
  int64_t rows = 1, step = 0;
  if (!is_in_one_piece(view, lead) || !is_aligned(view)) return false;
  for (int64_t i = lead - 1; i >= 0; --i) {
    if (view.sizes[i] == 1) continue;
    if (rows == 1) {
      step = view.strides[i];
    } else if (view.strides[i] != step * rows) {
      return false;
    }
    rows *= view.sizes[i];
  }
  *stride = step;
  return true;
}

// A new tensor in one piece. False: there is no memory for it, or none that can be had.
inline bool allocate(const int64_t* sizes, int64_t dim, fln_element element, Tensor* to, void** data) noexcept {
  int64_t strides[MOST_DIMENSIONS];
  int64_t step = 1;
  for (int64_t i = dim - 1; i >= 0; --i) {
    strides[i] = step;
    step *= std::max<int64_t>(sizes[i], 1);
  }
  return torch.aoti_torch_empty_strided(dim, sizes, strides, values.dtypes[element], values.cpu, 0, to->place()) == 0 &&
         torch.torch_get_mutable_data_ptr(to->get(), data) == 0;
}

// The same with the numbers of another tensor.
inline bool allocate_copy(const View& view, Tensor* to, void** data) noexcept {
  return allocate(view.sizes, view.dim, view.element, to, data) &&
         torch.aoti_torch_copy_(to->get(), view.handle, 0) == 0;
}

}  // namespace fastln_torch
