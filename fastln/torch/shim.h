// LibTorch's stable C interface, as far as it is used here, found at run time in the library that the process has
// loaded: nothing of PyTorch is needed to compile or link this.
//
// The functions, their signatures and who owns what are documented in PyTorch's headers
// torch/csrc/inductor/aoti_torch/c/shim.h and torch/csrc/stable/c/shim.h, the values of a stack in
// torch/csrc/stable/stableivalue_conversions.h.
#pragma once

#include <dlfcn.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace fastln_torch {

struct TensorOpaque;
struct ListOpaque;
struct LibraryOpaque;
using TensorHandle = TensorOpaque*;
using ListHandle = ListOpaque*;
using LibraryHandle = LibraryOpaque*;
// An argument or a result: a number, a handle, or for what may be None the address of one, 0 for None.
using StackValue = uint64_t;
using BoxedKernel = void(StackValue* stack, uint64_t arguments, uint64_t results);

// The conventions that are followed here are those of PyTorch 2.10, the first that has all that is required.
constexpr uint64_t ABI_VERSION = uint64_t{2} << 56 | uint64_t{10} << 48;

// Functions that return an int return 0 where they succeed.
#define FLN_REQUIRED_OF_TORCH(F)                                                                              \
  F(int32_t, aoti_torch_device_type_cpu, ())                                                                  \
  F(int32_t, aoti_torch_layout_strided, ())                                                                   \
  F(int32_t, aoti_torch_dtype_float32, ())                                                                    \
  F(int32_t, aoti_torch_dtype_float64, ())                                                                    \
  F(int32_t, aoti_torch_dtype_float16, ())                                                                    \
  F(int32_t, aoti_torch_dtype_bfloat16, ())                                                                   \
  F(int32_t, aoti_torch_is_defined, (TensorHandle, bool*))                                                    \
  F(int32_t, aoti_torch_get_device_type, (TensorHandle, int32_t*))                                            \
  F(int32_t, aoti_torch_get_layout, (TensorHandle, int32_t*))                                                 \
  F(int32_t, aoti_torch_get_dtype, (TensorHandle, int32_t*))                                                  \
  F(int32_t, aoti_torch_get_dim, (TensorHandle, int64_t*))                                                    \
  F(int32_t, aoti_torch_get_sizes, (TensorHandle, int64_t**))                                                 \
  F(int32_t, aoti_torch_get_strides, (TensorHandle, int64_t**))                                               \
  F(int32_t, torch_get_const_data_ptr, (TensorHandle, const void**))                                          \
  F(int32_t, torch_get_mutable_data_ptr, (TensorHandle, void**))                                              \
  F(int32_t, aoti_torch_empty_strided,                                                                        \
    (int64_t, const int64_t*, const int64_t*, int32_t, int32_t, int32_t, TensorHandle*))                      \
  F(int32_t, aoti_torch_new_uninitialized_tensor, (TensorHandle*))                                            \
  F(int32_t, aoti_torch_copy_, (TensorHandle, TensorHandle, int32_t))                                         \
  F(int32_t, aoti_torch_delete_tensor_object, (TensorHandle))                                                 \
  F(int32_t, torch_list_size, (ListHandle, size_t*))                                                          \
  F(int32_t, torch_list_get_item, (ListHandle, size_t, StackValue*))                                          \
  F(int32_t, torch_delete_list, (ListHandle))                                                                 \
  F(int32_t, torch_call_dispatcher, (const char*, const char*, StackValue*, uint64_t))                        \
  F(int32_t, torch_get_num_threads, (uint32_t*))                                                              \
  F(int32_t, aoti_torch_library_init_impl, (const char*, const char*, const char*, uint32_t, LibraryHandle*)) \
  F(int32_t, torch_library_impl, (LibraryHandle, const char*, BoxedKernel*, uint64_t))                        \
  F(int32_t, aoti_torch_delete_library_object, (LibraryHandle))

// Since PyTorch 2.13.
#define FLN_OPTIONAL_OF_TORCH(F)                        \
  F(int32_t, torch_delete_stable_ivalue, (StackValue*)) \
  F(const char*, torch_exception_get_what_without_backtrace, ())

struct Torch {
#define FLN_DECLARE(RESULT, NAME, ARGUMENTS) RESULT(*NAME) ARGUMENTS = nullptr;
  FLN_REQUIRED_OF_TORCH(FLN_DECLARE)
  FLN_OPTIONAL_OF_TORCH(FLN_DECLARE)
#undef FLN_DECLARE
};

inline Torch torch;  // filled in once, by load_torch

// The functions that fastln needs and the library lacks, none where `name` is at the end of the list.
inline const char* const required_names[] = {
#define FLN_NAME(RESULT, NAME, ARGUMENTS) #NAME,
    FLN_REQUIRED_OF_TORCH(FLN_NAME)
#undef FLN_NAME
        nullptr};

// Finds them in the library of this file name, which must be loaded already. Returns nullptr, or the first that is
// missing: the library's name, or a function's.
inline const char* load_torch(const char* library) noexcept {
  void* const loaded = dlopen(library, RTLD_NOLOAD | RTLD_LAZY);
  if (loaded == nullptr) return library;
  Torch found;
#define FLN_FIND(RESULT, NAME, ARGUMENTS) found.NAME = reinterpret_cast<decltype(found.NAME)>(dlsym(loaded, #NAME));
#define FLN_REQUIRE(RESULT, NAME, ARGUMENTS) \
  FLN_FIND(RESULT, NAME, ARGUMENTS)          \
  if (found.NAME == nullptr) return #NAME;
  FLN_REQUIRED_OF_TORCH(FLN_REQUIRE)
  FLN_OPTIONAL_OF_TORCH(FLN_FIND)
#undef FLN_REQUIRE
#undef FLN_FIND
  torch = found;
  return nullptr;
}

template <typename T>
T number_of(StackValue value) noexcept {
  T number;
  std::memcpy(&number, &value, sizeof(T));
  return number;
}

template <typename Handle>
Handle handle_of(StackValue value) noexcept {
  return reinterpret_cast<Handle>(static_cast<uintptr_t>(value));
}

// A tensor that is this object's.
class Tensor {
 public:
  Tensor() = default;
  Tensor(const Tensor&) = delete;
  Tensor& operator=(const Tensor&) = delete;
  ~Tensor() {
    if (handle_ != nullptr) torch.aoti_torch_delete_tensor_object(handle_);
  }

  TensorHandle get() const { return handle_; }

  // For a function that makes one.
  TensorHandle* place() { return &handle_; }

  // As a result, which is PyTorch's from then on; an undefined tensor where there is none.
  StackValue release() noexcept {
    TensorHandle handle = handle_;
    if (handle == nullptr) torch.aoti_torch_new_uninitialized_tensor(&handle);
    handle_ = nullptr;
    return static_cast<StackValue>(reinterpret_cast<uintptr_t>(handle));
  }

 private:
  TensorHandle handle_ = nullptr;
};

// What a stack holds.
enum Kind { NUMBER, TENSOR, LIST, OPTIONAL_NUMBER, OPTIONAL_TENSOR };

// The value of what may be None: false, it is.
inline bool value_of(StackValue optional, StackValue* value) noexcept {
  const auto* place = handle_of<const StackValue*>(optional);
  if (place == nullptr) return false;
  *value = *place;
  return true;
}

// Gives back what a kernel has been given.
inline void discard(Kind kind, StackValue value) noexcept {
  StackValue inner;
  switch (kind) {
    case NUMBER:
      break;
    case TENSOR:
      torch.aoti_torch_delete_tensor_object(handle_of<TensorHandle>(value));
      break;
    case LIST:
      torch.torch_delete_list(handle_of<ListHandle>(value));
      break;
    case OPTIONAL_NUMBER:
    case OPTIONAL_TENSOR:
      if (!value_of(value, &inner)) break;
      if (kind == OPTIONAL_TENSOR) discard(TENSOR, inner);
      if (torch.torch_delete_stable_ivalue != nullptr) {
        torch.torch_delete_stable_ivalue(handle_of<StackValue*>(value));
      } else {
        delete handle_of<StackValue*>(value);
      }
      break;
  }
}

}  // namespace fastln_torch
