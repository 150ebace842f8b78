// fastinit._C: what Python calls. The fills go through torch's dispatcher, but not through its Python front end,
// which would cost more than filling a small tensor does; and not through pybind11's, for the same reason.
#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <pybind11/stl.h>
#include <torch/csrc/Generator.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/utils/pybind.h>

#include <algorithm>
#include <array>
#include <string>
#include <type_traits>
#include <vector>

#include "torch/enabled.h"
#include "torch/errors.h"
#include "torch/gil.h"
#include "torch/kernels.h"
#include "torch/log.h"
#include "torch/ops.h"
#include "torch/orthogonal.h"

namespace fastinit {
namespace {

namespace py = pybind11;
using namespace pybind11::literals;
using at::Tensor;

// A key in the place of a generator: one int64.
struct PythonKey {
  Tensor value;
};

PyTypeObject* key_type = nullptr;

// ---- Arguments, read as torch reads them: the same types pass, and the same types of error say what does not. -------
// pybind11's own conversions take whatever has a __float__, and its message prints whole tensors.

std::string type_of(py::handle object) { return Py_TYPE(object.ptr())->tp_name; }

const Tensor& tensor_of(const char* op, py::handle object) {
  if (!THPVariable_Check(object.ptr())) {
    throw py::attribute_error("'" + type_of(object) + "' object has no attribute '" + op + "'");
  }
  return THPVariable_Unpack(object.ptr());
}

// Rules for a tensor subclass may have to be registered first, and it may be a shard of which nobody knows where it belongs.
void prepare(const Tensor& self, py::handle object) {
  if (self.key_set().has(c10::DispatchKey::Python)) {
    py::module_::import("fastinit._parts").attr("prepare")(object);
  }
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
    throw py::type_error(std::string(title(op)) + "(): argument '" + name + "' must be float, not " +
                         type_of(object));
  }
  const double value = PyFloat_AsDouble(object.ptr());
  if (value == -1 && PyErr_Occurred() != nullptr) throw py::error_already_set();
  return value;
}

KeySource source_of(const char* op, py::handle object) {
  if (object.is_none()) return {};
  if (Py_TYPE(object.ptr()) == key_type) return {{}, object.cast<const PythonKey&>().value};
  if (THPGenerator_Check(object.ptr())) return {THPGenerator_Unwrap(object.ptr()), {}};
  throw py::type_error(std::string(title(op)) + "(): argument 'generator' must be torch.Generator, not " +
                       type_of(object));
}

// ---- Functions ------------------------------------------------------------------------------------------------------

// Calls f(arguments) and returns None, or sets Python's error. `most` arguments, of which the last `optional` may be left
// away; those are null then.
template <size_t most, size_t optional, class F>
PyObject* call(const char* name, PyObject* const* given, Py_ssize_t count, const F& f) {
  return with_errors([&] {
    const size_t n = static_cast<size_t>(count);
    if (n > most || n + optional < most) {
      throw py::type_error(std::string(name) + "() takes " + std::to_string(most - optional) +
                           " arguments, not " + std::to_string(n));
    }
    std::array<py::handle, most> arguments;
    std::copy_n(given, n, arguments.begin());
    f(arguments);
    return Py_NewRef(Py_None);
  });
}

// The name of the function that Python called, if it gave one.
struct CallerOf : Caller {
  explicit CallerOf(py::handle name) : Caller(name ? PyUnicode_AsUTF8(name.ptr()) : nullptr) {}
};

using Function = PyObject* (*)(PyObject*, PyObject* const*, Py_ssize_t);

void define(py::module_& m, const char* name, Function function) {
  // Python keeps the definition for as long as the function lives.
  auto* const definition = new PyMethodDef{
      name, reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function)), METH_FASTCALL, nullptr};
  m.add_object(name, py::reinterpret_steal<py::object>(
                         PyCFunction_NewEx(definition, nullptr, m.attr("__name__").ptr())));
}

template <size_t>
using Number = double;

// The op, or the one that returns a new tensor.
template <class Op, class Result, class Last, size_t... I>
const auto& handle_of(const char* overload, std::index_sequence<I...>) {
  std::string name = std::string("fastinit::") + Op::name;
  if (!std::is_void_v<Result>) name.pop_back();
  static const auto handle = c10::Dispatcher::singleton()
                                 .findSchemaOrThrow(name.c_str(), overload)
                                 .template typed<Result(const Tensor&, Number<I>..., Last)>();
  return handle;
}

// An op as a function: the tensor, the numbers, the source of the key, and, if that is not the op itself, the name of the
// function that messages are to name. The GIL is released meanwhile, if that takes long.
template <class Op>
PyObject* fill(PyObject*, PyObject* const* given, Py_ssize_t count) {
  constexpr size_t n = Op::arguments.size();
  return call<n + 3, 1>(Op::name, given, count, [](const std::array<py::handle, n + 3>& arguments) {
    [&]<size_t... I>(std::index_sequence<I...> indices) {
      const CallerOf caller(arguments[n + 2]);
      const Tensor& self = tensor_of(Op::name, arguments[0]);
      prepare(self, arguments[0]);
      const std::array<double, n> numbers{number_of(Op::name, Op::arguments[I], arguments[I + 1])...};
      const KeySource source = source_of(Op::name, arguments[n + 1]);
      const auto draw = [&]<class Result>(std::type_identity<Result>) {
        if (source.key.has_value()) {
          return handle_of<Op, Result, const Tensor&>("key", indices).call(self, numbers[I]..., *source.key);
        }
        return handle_of<Op, Result, std::optional<at::Generator>>("", indices)
            .call(self, numbers[I]..., source.generator);
      };
      const auto run = [&] {
        if (!self.key_set().has(c10::DispatchKey::Functionalize)) return draw(std::type_identity<void>());
        const Tensor drawn = draw(std::type_identity<Tensor>());
        const at::NoGradGuard no_grad;
        self.copy_(drawn);
      };
      // A size that is a symbol has no number, and no memory that could be filled.
      const bool soon = Op::elementwise && self.sym_numel().maybe_as_int().value_or(0) < long_fill;
      soon ? run() : without_gil(run);
    }
    (std::make_index_sequence<n>());
  });
}

// Torch's own fills under no_grad, which costs Python more than filling a small tensor does.
template <class Fill>
void fill_plainly(const char* op, py::handle tensor, py::handle caller, const Fill& fill) {
  const CallerOf name(caller);
  const Tensor& self = tensor_of(op, tensor);
  prepare(self, tensor);
  check_one_value_writable(op, self);
  if (Record* const record = Record::current()) record->began = true;
  without_gil([&] {
    const at::NoGradGuard no_grad;
    fill(self);
  });
}

// The value as Python has it: an integer stays exact in an integer tensor.
PyObject* fill_(PyObject*, PyObject* const* given, Py_ssize_t count) {
  return call<3, 1>("fill_", given, count, [](const std::array<py::handle, 3>& arguments) {
    const at::Scalar value = PyLong_Check(arguments[1].ptr()) ? at::Scalar(arguments[1].cast<int64_t>())
                                                              : at::Scalar(arguments[1].cast<double>());
    fill_plainly("fill_", arguments[0], arguments[2], [&](const Tensor& self) { self.fill_(value); });
  });
}
PyObject* zero_(PyObject*, PyObject* const* given, Py_ssize_t count) {
  return call<2, 1>("zero_", given, count, [](const std::array<py::handle, 2>& arguments) {
    fill_plainly("zero_", arguments[0], arguments[1], [](const Tensor& self) { self.zero_(); });
  });
}

// ---- About the build ------------------------------------------------------------------------------------------------

// Python looks for this in the file if the file does not load (_load.py).
[[gnu::used]] const char built_with[] = "fastinit was built with torch " FASTINIT_TORCH_VERSION;

py::dict build_info() {
  const auto list = [](const char* name) { return py::str(fastinit_build_info(name)).attr("split")(); };
  py::dict info("torch_built_with"_a = FASTINIT_TORCH_VERSION,
                "cpu_capabilities"_a = list("instruction_sets"),
                "cuda_architectures"_a = list("cuda_architectures"));
  for (const char* const name : {"version", "compiler", "cuda_toolkit"})
    info[name] = fastinit_build_info(name);
  info["cuda_missing_reason"] = fastinit_build_info("cuda_missing");
  return info;
}

std::string cpu_capability() {
  const char* name = nullptr;
  kernels::check(fastinit_instruction_set(&name));
  return name;
}

std::string set_cpu_capability(const std::string& wanted) {
  const char* before = nullptr;
  kernels::check(fastinit_set_instruction_set(wanted.c_str(), &before));
  return before;
}

py::object key_of(const Record& record) {
  if (!record.key.has_value()) return py::none();
  if (record.key->device.defined()) return py::cast(record.key->device);
  return py::int_(record.key->host.bits);
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  kernels::open();
  for_each_op([&]<class Op>() { define(m, Op::name, fill<Op>); });
  define(m, "fill_", fill_);
  define(m, "zero_", zero_);
  m.def(
      "check_writable",
      [](const char* caller, const Tensor& tensor, bool one_value) {
        one_value ? check_one_value_writable(caller, tensor) : check_writable(caller, tensor);
      },
      "caller"_a, "tensor"_a, "one_value"_a = false);

  py::class_<PythonKey> key(m, "Key", "A key itself, where a generator may stand: 64 bits, or one int64.");
  key.def_readonly("value", &PythonKey::value);
  key.def(py::init([](const Tensor& value) { return PythonKey{value}; }), "value"_a);
  key.def(py::init([](uint64_t bits) {
            return PythonKey{at::scalar_tensor(static_cast<int64_t>(bits), at::kLong)};
          }),
          "value"_a);
  key_type = reinterpret_cast<PyTypeObject*>(key.ptr());

  py::class_<Record>(m, "Record", "What the fills of this thread do in a `with` block.")
      .def(py::init<>())
      .def(
          "__enter__", [](Record& record) -> Record& { return record.open(), record; },
          py::return_value_policy::reference)
      .def("__exit__", [](Record& record, const py::args&) { record.close(); })
      .def_readonly("began", &Record::began)
      .def_property_readonly("key", key_of);

  define_log(m);
  define_enabled(m);
  m.def("build_info", build_info);
  m.def("cpu_capability", cpu_capability);
  m.def("set_cpu_capability", set_cpu_capability);
  m.def("multiply_by_torch", multiply_by_torch);
  cpu_capability();  // an environment that asks for what cannot be had fails here, on import
}

}  // namespace fastinit
