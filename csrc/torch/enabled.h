// The calls of `fastinit.enabled()` that are simple: a plain tensor in plain circumstances. Everything else is left to Python
// (python/fastinit/_enabled/patch.py), which decides what to do and does the same for these.
#pragma once

#include <pybind11/pybind11.h>

namespace fastinit {

void define_enabled(pybind11::module_& m);

}  // namespace fastinit
