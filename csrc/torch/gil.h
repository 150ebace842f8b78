// Without the GIL.
#pragma once

#include <Python.h>

namespace fastinit {

// Not by pybind11's guard: a daemon thread that outlives the interpreter ends where it would take the GIL again, which the
// guard's destructor does not let it do.
template <class F>
void without_gil(const F& f) {
  PyThreadState* const state = PyEval_SaveThread();
  try {
    f();
  } catch (...) {
    PyEval_RestoreThread(state);
    throw;
  }
  PyEval_RestoreThread(state);
}

}  // namespace fastinit
