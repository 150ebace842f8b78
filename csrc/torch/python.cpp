// fastinit._C: what Python calls. The fills go through torch's dispatcher, but not through its Python front end,
// which would cost more than filling a small tensor does.
#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <pybind11/stl.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/utils/pybind.h>

#include <algorithm>
#include <array>
#include <string>

#include "cpu/target.h"
#include "torch/tensors.h"

namespace fastinit {
namespace {

namespace py = pybind11;
using at::Tensor;
using Generator = std::optional<at::Generator>;

// ---- Arguments, read as torch reads them: the same types pass, and the same types of error say what does not. -------
// pybind11's own conversions take whatever has a __float__, and its message prints whole tensors.

std::string type_of(py::handle object) { return Py_TYPE(object.ptr())->tp_name; }

const Tensor& tensor_of(const char* op, py::handle object) {
  if (!THPVariable_Check(object.ptr())) {
    throw py::attribute_error("'" + type_of(object) + "' object has no attribute '" + op + "'");
  }
  return THPVariable_Unpack(object.ptr());
}

bool is_numpy_scalar(py::handle object) {
  const py::dict modules = py::module_::import("sys").attr("modules");
  return modules.contains("numpy") && py::isinstance(object, modules["numpy"].attr("generic")) &&
         !PyComplex_Check(object.ptr());
}

// A Python or numpy number, or a tensor that is one.
double number_of(const char* op, const char* name, py::handle object) {
  if (PyFloat_Check(object.ptr())) return PyFloat_AS_DOUBLE(object.ptr());
  const bool a_number =
      THPVariable_Check(object.ptr())
          ? THPVariable_Unpack(object.ptr()).dim() == 0 && !THPVariable_Unpack(object.ptr()).requires_grad()
          : PyLong_Check(object.ptr()) || is_numpy_scalar(object);
  if (!a_number) {
    throw py::type_error(std::string(op) + "(): argument '" + name + "' must be float, not " +
                         type_of(object));
  }
  const double value = PyFloat_AsDouble(object.ptr());
  if (value == -1 && PyErr_Occurred() != nullptr) throw py::error_already_set();
  return value;
}

Generator generator_of(const char* op, py::handle object) {
  if (object.is_none()) return std::nullopt;
  py::detail::make_caster<at::Generator> generator;
  if (!generator.load(object, false)) {
    throw py::type_error(std::string(op) + "(): argument 'generator' must be torch.Generator, not " +
                         type_of(object));
  }
  return py::detail::cast_op<at::Generator>(generator);
}

// Without the GIL. Not by pybind11's guard: a daemon thread that outlives the interpreter ends where it would take the
// GIL again, which the guard's destructor does not let it do.
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

template <size_t>
using Number = double;
template <size_t>
using Object = py::handle;

// Defines NAME, which calls fastinit::NAME with the tensor, the numbers called `names` and the generator. The GIL is
// released meanwhile, if that takes long.
template <size_t... I>
void def_fill(py::module_& m, const char* op, std::array<const char*, sizeof...(I)> names,
              std::index_sequence<I...>) {
  const auto handle = c10::Dispatcher::singleton()
                          .findSchemaOrThrow((std::string("fastinit::") + op).c_str(), "")
                          .typed<void(const Tensor&, Number<I>..., Generator)>();
  const bool fills = std::string(op) != "orthogonal_";  // which multiplies as well
  m.def(op, [=](py::handle tensor, Object<I>... numbers, py::handle generator) {
    const Tensor& self = tensor_of(op, tensor);
    const std::array<double, sizeof...(I)> values{number_of(op, names[I], numbers)...};
    const Generator source = generator_of(op, generator);
    // A size that is a symbol has no number, and no memory that could be filled.
    const bool soon = fills && self.sym_numel().maybe_as_int().value_or(0) < long_fill;
    const auto fill = [&] { handle.call(self, values[I]..., source); };
    soon ? fill() : without_gil(fill);
  });
}

template <class... Names>
void def_fill(py::module_& m, const char* op, Names... names) {
  def_fill(m, op, {names...}, std::index_sequence_for<Names...>());
}

// Torch's own fills under no_grad, which costs Python more than filling a small tensor does.
template <class Fill>
void fill_plainly(const char* op, py::handle tensor, const Fill& fill) {
  const Tensor& self = tensor_of(op, tensor);
  without_gil([&] {
    const at::NoGradGuard no_grad;
    TORCH_CHECK(!self.is_inference() || c10::InferenceMode::is_enabled(), "fastinit.", op,
                ": tensor is an inference tensor, which can be updated in inference mode only; clone() it");
    fill(self);
  });
}

std::string compiler() {
#if defined(__clang__)
  return "clang " __clang_version__;
#else
  return "gcc " __VERSION__;
#endif
}

#if defined(FASTINIT_CUDA_ARCHS)
std::vector<std::string> words(const std::string& text) {
  std::vector<std::string> result;
  size_t at = 0;
  while ((at = text.find_first_not_of(' ', at)) != std::string::npos) {
    const size_t end = std::min(text.find(' ', at), text.size());
    result.push_back(text.substr(at, end - at));
    at = end;
  }
  return result;
}
#endif

py::dict build_info() {
  py::dict info;
  info["version"] = FASTINIT_VERSION;
  info["compiler"] = compiler();
  info["torch_built_with"] = FASTINIT_TORCH_VERSION;
  std::vector<std::string> capabilities;
  for (const cpu::Target t : cpu::built()) capabilities.push_back(cpu::name(t));
  info["cpu_capabilities"] = capabilities;
#if defined(FASTINIT_CUDA_ARCHS)
  info["cuda_architectures"] = words(FASTINIT_CUDA_ARCHS);
#else
  info["cuda_architectures"] = std::vector<std::string>();
#endif
#if defined(FASTINIT_CUDA_TOOLKIT)
  info["cuda_toolkit"] = FASTINIT_CUDA_TOOLKIT;
#endif
#if defined(FASTINIT_CUDA_MISSING)
  info["cuda_missing_reason"] = FASTINIT_CUDA_MISSING;
#endif
  return info;
}

std::string set_cpu_capability(const std::string& wanted) {
  for (const cpu::Target c : cpu::available()) {
    if (wanted == cpu::name(c)) return cpu::name(cpu::set_active(c));
  }
  throw std::invalid_argument("no such CPU capability here: " + wanted);
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  def_fill(m, "uniform_", "a", "b");
  def_fill(m, "normal_", "mean", "std");
  def_fill(m, "trunc_normal_", "mean", "std", "a", "b");
  def_fill(m, "sparse_", "sparsity", "std");
  def_fill(m, "orthogonal_", "gain");
  // The value as Python has it: an integer stays exact in an integer tensor.
  m.def("fill_", [](py::handle tensor, py::int_ value) {
    const at::Scalar scalar = value.cast<int64_t>();
    fill_plainly("fill_", tensor, [&](const Tensor& self) { self.fill_(scalar); });
  });
  m.def("fill_", [](py::handle tensor, py::float_ value) {
    const at::Scalar scalar = static_cast<double>(value);
    fill_plainly("fill_", tensor, [&](const Tensor& self) { self.fill_(scalar); });
  });
  m.def("zero_",
        [](py::handle tensor) { fill_plainly("zero_", tensor, [](const Tensor& self) { self.zero_(); }); });

  m.def("check_writable",
        [](const std::string& op, const Tensor& tensor) { check_writable(op.c_str(), tensor); });

  m.def("build_info", build_info);
  m.def("cpu_capability", [] { return std::string(cpu::name(cpu::active())); });
  m.def("set_cpu_capability", set_cpu_capability);
  cpu::active();  // an environment that asks for what cannot be had fails here, on import
}

}  // namespace fastinit
