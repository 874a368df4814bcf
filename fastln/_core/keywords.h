// Better words for an unknown keyword and for too many positional arguments, at no cost to any call: the code that
// Cython generates in the including file raises its errors through the function below, which has those two explained
// and passes on all others. A parameter **keywords would have every call make a dict, and would show in the signature.
// Should Cython word it otherwise, then its own words are seen.

#pragma once

#include <Python.h>

#include <cstdarg>
#include <cstring>

namespace {

PyObject* fln_explain = NULL;  // called with the names of the function and the keyword; raises

[[maybe_unused]] PyObject* fln_format_error(PyObject* type, const char* format, ...) {
  va_list values;
  va_start(values, format);
  if (fln_explain != NULL && std::strcmp(format, "%s() got an unexpected keyword argument '%U'") == 0) {
    va_list named;
    va_copy(named, values);
    const char* function = va_arg(named, const char*);
    PyObject* keyword = va_arg(named, PyObject*);
    Py_XDECREF(PyObject_CallFunction(fln_explain, "sO", function, keyword));
    va_end(named);
  }
  if (fln_explain != NULL && std::strcmp(format, "%.200s() takes %.8s %zd positional argument%.1s (%zd given)") == 0) {
    va_list named;
    va_copy(named, values);
    const char* function = va_arg(named, const char*);
    (void)va_arg(named, const char*);  // "at most" or "at least"
    Py_ssize_t bound = va_arg(named, Py_ssize_t);
    (void)va_arg(named, const char*);  // the plural's s
    Py_ssize_t given = va_arg(named, Py_ssize_t);
    if (given > bound) Py_XDECREF(PyObject_CallFunction(fln_explain, "snn", function, bound, given));
    va_end(named);
  }
  if (!PyErr_Occurred()) PyErr_FormatV(type, format, values);
  va_end(values);
  return NULL;
}

[[maybe_unused]] void fln_explain_calls(PyObject* explain) {
  Py_INCREF(explain);
  Py_XSETREF(fln_explain, explain);
}

}  // namespace

#define PyErr_Format fln_format_error
