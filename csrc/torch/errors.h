// What C++ throws, as Python's errors.
#pragma once

#include <pybind11/pybind11.h>
#include <torch/csrc/Exceptions.h>

#include <exception>

namespace fastinit {

// What f returns; or null, with Python's error set.
template <class F>
PyObject* with_errors(const F& f) try {
  return f();
} catch (const pybind11::builtin_exception& error) {
  error.set_error();
  return nullptr;
} catch (pybind11::error_already_set& error) {
  error.restore();
  return nullptr;
} catch (const std::exception&) {
  torch::translate_exception_to_python(std::current_exception());
  return nullptr;
}

}  // namespace fastinit
