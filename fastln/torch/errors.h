// An error of PyTorch's own kernel, carried through the kernels here: same type, same message.
//
// A kernel of the stable interface can report what it called as failed, but not how: the type of the error would be
// lost. So PyTorch's own kernels, which are called by way of Python (originals.py), note their error instead.
#pragma once

#include <Python.h>

#include <exception>
#include <stdexcept>
#include <string>
#include <utility>

// PyTorch's bindings translate a C++ exception of this class to the Python type that it names
// (torch/csrc/Exceptions.h). An exception is known by the name of its class and called by way of its table of virtual
// functions; where PyTorch should know this one no longer, it becomes a RuntimeError.
namespace torch {
struct PyTorchError : std::exception {
  explicit PyTorchError(std::string text) : msg(std::move(text)) {}
  virtual PyObject* python_type() = 0;
  const char* what() const noexcept override { return msg.c_str(); }
  std::string msg;
};
}  // namespace torch

namespace fastln_torch {

struct TypedError : torch::PyTorchError {
  TypedError(PyObject* type, std::string text) : PyTorchError(std::move(text)), type_(type) {}
  PyObject* python_type() override { return type_; }

 private:
  PyObject* type_;
};

// The last error of this thread; a type that was once noted lives for ever.
struct Noted {
  PyObject* type = nullptr;
  bool is_runtime_error = false;
  std::string message;
};

inline thread_local Noted noted;

// With the GIL. False: there is no memory for the message.
inline bool note_error(PyObject* type, const char* message) noexcept {
  try {
    noted.message = message;
  } catch (...) {
    return false;
  }
  Py_INCREF(type);
  noted.type = type;
  noted.is_runtime_error = type == PyExc_RuntimeError;
  return true;
}

// Throws what was noted, if anything was.
inline void throw_noted() {
  if (noted.type == nullptr) return;
  PyObject* const type = std::exchange(noted.type, nullptr);
  if (noted.is_runtime_error) throw std::runtime_error(std::move(noted.message));
  throw TypedError(type, std::move(noted.message));
}

}  // namespace fastln_torch
