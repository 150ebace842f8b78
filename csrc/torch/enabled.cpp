#include "torch/enabled.h"

#include <ATen/ATen.h>
#include <ATen/PythonTorchFunctionTLS.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/record_function.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <pybind11/stl.h>
#include <torch/csrc/Generator.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/utils/pybind.h>

#include <structmember.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <string>

#include "torch/errors.h"
#include "torch/gil.h"
#include "torch/log.h"
#include "torch/ops.h"

namespace fastinit {
namespace {

namespace py = pybind11;
using namespace pybind11::literals;
using at::Tensor;

// ---- Where we are ---------------------------------------------------------------------------------------------------

PyObject* blocks = nullptr;  // the ContextVar with the reports of the blocks that may be open here
PyObject* log_name = nullptr;
bool program_wide = false;
bool named = false;              // a block of keys_by_name is open somewhere
thread_local bool busy = false;  // within a fill: what that calls is no fill of its own

// The logs of the blocks that are open here.
struct Logs {
  static constexpr size_t most = 8;
  std::array<Log*, most> logs;
  size_t count = 0;
  py::object reports;  // keeps them

  // Whether fastinit fills here, and nobody but these logs has to hear of it.
  bool find() {
    PyObject* value = nullptr;
    if (PyContextVar_Get(blocks, nullptr, &value) < 0) throw py::error_already_set();
    reports = py::reinterpret_steal<py::object>(value);
    if (!reports || !PyTuple_Check(reports.ptr())) return program_wide;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(reports.ptr()); ++i) {
      const auto there =
          py::reinterpret_steal<py::object>(PyObject_GetAttr(PyTuple_GET_ITEM(reports.ptr(), i), log_name));
      if (!there) throw py::error_already_set();
      Log* const log = there.cast<Log*>();
      if (!log->open) continue;
      if (!log->simple || count == most) return false;
      logs[count++] = log;
    }
    return program_wide || count > 0;
  }
};

// No modes, transforms, profilers: what is called here is seen by nobody else.
bool plain_circumstances() {
  const c10::impl::LocalDispatchKeySet keys = c10::impl::tls_local_dispatch_key_set();
  return !busy && !named && keys.included_ == c10::default_included_set &&
         keys.excluded_ == c10::default_excluded_set && at::impl::PythonTorchFunctionTLS::stack_len() == 0 &&
         !at::hasCallbacks();
}

// A tensor in the memory of the CPU or a GPU, and neither a subclass nor a view that changes what is read.
bool plain(PyObject* object) {
  if (!THPVariable_CheckExact(object)) return false;
  using enum c10::DispatchKey;
  static const uint64_t keys =
      c10::DispatchKeySet({CPU, CUDA, ADInplaceOrView, AutogradCPU, AutogradCUDA, AutocastCPU, AutocastCUDA})
          .raw_repr();
  const Tensor& tensor = THPVariable_Unpack(object);
  return (tensor.key_set().raw_repr() & ~keys) == 0 && tensor.numel() > 0;
}

// ---- Arguments: those that are what they mostly are. All others are left to Python. ----------------------------------

bool number(PyObject* object, double& value) {
  if (PyFloat_CheckExact(object)) return value = PyFloat_AS_DOUBLE(object), true;
  if (!PyLong_CheckExact(object)) return false;
  value = PyLong_AsDouble(object);
  return value != -1 || PyErr_Occurred() == nullptr || (PyErr_Clear(), false);
}

bool generator_of(PyObject* object, std::optional<at::Generator>& generator) {
  if (object == Py_None) return true;
  if (!THPGenerator_Check(object)) return false;
  generator = THPGenerator_Unwrap(object);
  return true;
}

// What `calculate_gain` says, or NaN if it is to be asked again. It is slow, and gives the same for the same arguments.
double gain_of(PyObject* nonlinearity, PyObject* argument) {
  struct Known {
    py::object nonlinearity;
    double argument, gain;
  };
  static auto* const known = new std::vector<Known>;  // not freed: the interpreter may be gone by then
  constexpr size_t most = 32;
  double a = 0;
  if (!PyUnicode_CheckExact(nonlinearity) || !number(argument, a)) return NAN;
  if (PyLong_CheckExact(argument) && std::abs(a) > 0x1p26) return NAN;  // Python squares integers exactly
  for (const Known& one : *known) {
    if (one.nonlinearity.ptr() == nonlinearity && one.argument == a) return one.gain;
  }
  const double gain = py::module_::import("fastinit._fans")
                          .attr("calculate_gain")(py::handle(nonlinearity), a)
                          .cast<double>();
  if (known->size() < most) known->push_back({py::reinterpret_borrow<py::object>(nonlinearity), a, gain});
  return gain;
}

struct Fans {
  double in, out;
};
bool fans_of(const Tensor& tensor, Fans& fans) {
  if (tensor.dim() < 2) return false;
  const int64_t positions = c10::multiply_integers(tensor.sizes().slice(2));
  fans = {static_cast<double>(tensor.size(1) * positions), static_cast<double>(tensor.size(0) * positions)};
  return std::max(fans.in, fans.out) < 0x1p52;
}

// ---- The functions --------------------------------------------------------------------------------------------------

enum class Kind {
  uniform,
  normal,
  truncated_normal,
  xavier_uniform,
  xavier_normal,
  kaiming_uniform,
  kaiming_normal,
  constant,
  ones,
  zeros
};

struct Entry {
  const char* name;
  Kind kind;
  Py_ssize_t arguments;  // besides the tensor and the generator
  bool random;
};
constexpr Entry entries[] = {
    {"uniform_", Kind::uniform, 2, true},
    {"normal_", Kind::normal, 2, true},
    {"trunc_normal_", Kind::truncated_normal, 4, true},
    {"xavier_uniform_", Kind::xavier_uniform, 1, true},
    {"xavier_normal_", Kind::xavier_normal, 1, true},
    {"kaiming_uniform_", Kind::kaiming_uniform, 3, true},
    {"kaiming_normal_", Kind::kaiming_normal, 3, true},
    {"constant_", Kind::constant, 1, false},
    {"ones_", Kind::ones, 0, false},
    {"zeros_", Kind::zeros, 0, false},
};

// A function that calls another one, unless it can do itself what that would do.
struct Function {
  Entry entry;
  py::object name, names, otherwise;
};

template <size_t>
using Number = double;

template <class Op, size_t... I>
void draw(const Tensor& self, const std::optional<at::Generator>& generator,
          const std::array<double, sizeof...(I)>& numbers, std::index_sequence<I...>) {
  static const auto op =
      c10::Dispatcher::singleton()
          .findSchemaOrThrow((std::string("fastinit::") + Op::name).c_str(), "")
          .template typed<void(const Tensor&, Number<I>..., std::optional<at::Generator>)>();
  op.call(self, numbers[I]..., generator);
}

class Filling {
 public:
  Filling(const Function& function, PyObject* const* given) : function_(function), given_(given) {}

  // Finds out what is to be done, or that this is none of the simple cases.
  bool read() {
    const Entry& entry = function_.entry;
    if (entry.random && !generator_of(given_[entry.arguments + 1], generator_)) return false;
    const Tensor& self = tensor();
    PyObject* const* const a = given_ + 1;
    Fans fans;
    double x = 0;
    switch (entry.kind) {
      case Kind::uniform:
      case Kind::normal:
        return number(a[0], numbers_[0]) && number(a[1], numbers_[1]);
      case Kind::truncated_normal: {
        for (size_t i = 0; i < 4; ++i) {
          if (!number(a[i], numbers_[i])) return false;
        }
        const auto [mean, std, low, high] = numbers_;
        return std != 0 && mean >= low - 2 * std &&
               mean <= high + 2 * std;  // else there is a warning, or an error
      }
      case Kind::xavier_uniform:
      case Kind::xavier_normal:
        if (!number(a[0], x) || !(x >= 0 && std::isfinite(x)) || !fans_of(self, fans)) return false;
        return scaled(x, (fans.in + fans.out) / 2, entry.kind == Kind::xavier_uniform);
      case Kind::kaiming_uniform:
      case Kind::kaiming_normal: {
        if (!PyUnicode_CheckExact(a[1]) || !fans_of(self, fans)) return false;
        const bool in = PyUnicode_CompareWithASCIIString(a[1], "fan_in") == 0;
        if (!in && PyUnicode_CompareWithASCIIString(a[1], "fan_out") != 0) return false;
        x = gain_of(a[2], a[0]);
        return x > 0 && scaled(x, in ? fans.in : fans.out, entry.kind == Kind::kaiming_uniform);
      }
      case Kind::constant:
        if (PyLong_CheckExact(a[0])) {
          int overflow = 0;
          const int64_t exact = PyLong_AsLongLongAndOverflow(a[0], &overflow);
          value_ = exact;
          return overflow == 0;
        }
        value_ = number(a[0], x) ? x : 0;
        return PyFloat_CheckExact(a[0]);
      case Kind::ones:
        value_ = 1.0;
        return true;
      case Kind::zeros:
        return true;
    }
    return false;
  }

  void run() {
    const Tensor& self = tensor();
    const Caller caller(function_.entry.name);
    const auto fill = [&] {
      switch (function_.entry.kind) {
        case Kind::uniform:
        case Kind::xavier_uniform:
        case Kind::kaiming_uniform:
          return draw<UniformOp>(self, generator_, {numbers_[0], numbers_[1]}, std::make_index_sequence<2>());
        case Kind::normal:
        case Kind::xavier_normal:
        case Kind::kaiming_normal:
          return draw<NormalOp>(self, generator_, {numbers_[0], numbers_[1]}, std::make_index_sequence<2>());
        case Kind::truncated_normal:
          return draw<TruncatedNormalOp>(self, generator_, numbers_, std::make_index_sequence<4>());
        default:
          check_one_value_writable(function_.entry.name, self);
          Record::current()->began = true;
          const at::NoGradGuard no_grad;
          if (function_.entry.kind == Kind::zeros) {
            self.zero_();
          } else {
            self.fill_(value_);
          }
      }
    };
    self.numel() < long_fill ? fill() : without_gil(fill);
  }

  Call call(const std::optional<TensorKey>& key) const {
    Call call{function_.name, function_.names, {}, key, function_.entry.random, {}, {}};
    for (Py_ssize_t i = 0; i < function_.entry.arguments; ++i) {
      call.arguments[static_cast<size_t>(i)] = py::reinterpret_borrow<py::object>(given_[i + 1]);
    }
    return call;
  }

  const Tensor& tensor() const { return THPVariable_Unpack(given_[0]); }

 private:
  // As python/fastinit/_fans.py and init.py have it, to the last bit.
  bool scaled(double gain, double fan, bool uniform) {
    const double std = gain / std::sqrt(fan);
    if (uniform) {
      const double bound = std::sqrt(3.0) * std;
      numbers_ = {-bound, bound};
    } else {
      numbers_ = {0, std};
    }
    return true;
  }

  const Function& function_;
  PyObject* const* const given_;
  std::optional<at::Generator> generator_;
  std::array<double, 4> numbers_{};
  at::Scalar value_;
};

using Clock = std::chrono::steady_clock;

struct RecordHere : Record {
  RecordHere() { open(); }
  ~RecordHere() { close(); }
};

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Draws, and tells the logs, unless the checks refuse it.
bool fill(Filling& filling, const Logs& logs) {
  const Clock::time_point start = logs.count > 0 ? Clock::now() : Clock::time_point();
  RecordHere record;
  try {
    filling.run();
  } catch (const std::exception&) {
    // Once the checks have passed, a key may have been taken and memory written.
    if (record.began) throw;
    return false;
  }
  if (logs.count > 0) {
    const double seconds = seconds_since(start);
    for (size_t i = 0; i < logs.count; ++i) {
      logs.logs[i]->add(filling.call(record.key), filling.tensor(), seconds);
    }
  }
  return true;
}

// Whether the call was simple, and is done.
bool simple(const Function& function, PyObject* const* given, Py_ssize_t count) {
  const Entry& entry = function.entry;
  if (count != entry.arguments + 1 + entry.random || !plain_circumstances() || !plain(given[0])) return false;
  Logs logs;
  if (!logs.find()) return false;
  Filling filling(function, given);
  return filling.read() && fill(filling, logs);
}

PyObject* call(PyObject* self, PyObject* const* given, Py_ssize_t count) {
  return with_errors([&] {
    const auto& function = *static_cast<const Function*>(PyCapsule_GetPointer(self, nullptr));
    if (simple(function, given, count)) return Py_NewRef(given[0]);
    return PyObject_Vectorcall(function.otherwise.ptr(), given, static_cast<size_t>(count), nullptr);
  });
}

const Entry* entry_of(const std::string& name, const py::tuple& names) {
  for (const Entry& entry : entries) {
    if (name == entry.name && static_cast<Py_ssize_t>(names.size()) == entry.arguments) return &entry;
  }
  return nullptr;
}

py::object interned(const std::string& text) {
  return py::reinterpret_steal<py::object>(PyUnicode_InternFromString(text.c_str()));
}

py::object quick(const std::string& name, const py::tuple& names, const py::object& otherwise) {
  const Entry* const entry = entry_of(name, names);
  if (entry == nullptr) return py::none();
  // For as long as the program runs, as functions do whose code is exchanged.
  auto* const function = new Function{*entry, interned(name), names, otherwise};
  static PyMethodDef definition{"quick", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(call)),
                                METH_FASTCALL, nullptr};
  const py::capsule capsule(function);
  return py::reinterpret_steal<py::object>(PyCFunction_NewEx(&definition, capsule.ptr(), nullptr));
}

// ---- The methods ----------------------------------------------------------------------------------------------------

enum class Recorded { draw, zero, fill, copy, clone };

// What stands in front of a method of tensors: a descriptor, like the method itself. Python calls it without binding it first.
// What is not simple is for `otherwise`, a descriptor in Python.
struct Method {
  PyObject_HEAD vectorcallfunc vectorcall;
  Recorded kind;
  Function*
      function;  // what is drawn, or recorded; `otherwise` is null for a method that somebody has replaced
  PyObject* inherited;  // torch's own
  PyObject *otherwise, *name;
};

// The arguments of a drawing method, in the order of the function's. Keywords are those of torch's method.
bool arranged(const Method& method, PyObject* const* given, Py_ssize_t count, PyObject* keywords,
              std::array<PyObject*, 4>& arguments) {
  static PyObject *const zero = PyFloat_FromDouble(0), *const one = PyFloat_FromDouble(1);
  const bool uniform = method.function->entry.kind == Kind::uniform;
  if (count < 1 || count > 3) return false;
  arguments = {given[0], nullptr, nullptr, Py_None};
  for (Py_ssize_t i = 1; i < count; ++i) arguments[static_cast<size_t>(i)] = given[i];
  const Py_ssize_t named_ones = keywords == nullptr ? 0 : PyTuple_GET_SIZE(keywords);
  for (Py_ssize_t i = 0; i < named_ones; ++i) {
    PyObject* const keyword = PyTuple_GET_ITEM(keywords, i);
    const auto is = [&](const char* text) { return PyUnicode_CompareWithASCIIString(keyword, text) == 0; };
    const size_t place = is(uniform ? "from" : "mean") ? 1
                         : is(uniform ? "to" : "std")  ? 2
                         : is("generator")             ? 3
                                                       : 0;
    if (place == 0 || (place < 3 && arguments[place] != nullptr)) return false;
    arguments[place] = given[count + i];
  }
  if (arguments[1] == nullptr) arguments[1] = zero;
  if (arguments[2] == nullptr) arguments[2] = one;
  return true;
}

// The result, or null if the call is not simple.
PyObject* simple(const Method& method, PyObject* const* given, size_t flags, PyObject* keywords) {
  const Py_ssize_t count = PyVectorcall_NARGS(flags);
  if (method.function == nullptr || count < 1 || !plain_circumstances() || !plain(given[0])) return nullptr;
  Logs logs;
  if (!logs.find()) return nullptr;
  const Tensor& self = THPVariable_Unpack(given[0]);
  if (method.kind == Recorded::draw) {
    std::array<PyObject*, 4> arguments;
    if ((self.requires_grad() && at::GradMode::is_enabled()) ||
        !arranged(method, given, count, keywords, arguments)) {
      return nullptr;
    }
    Filling filling(*method.function, arguments.data());
    return filling.read() && fill(filling, logs) ? Py_NewRef(given[0]) : nullptr;
  }
  const auto torchs = [&] { return PyObject_Vectorcall(method.inherited, given, flags, keywords); };
  const auto known = [&](const Tensor& tensor) {
    return std::any_of(logs.logs.begin(), logs.logs.begin() + logs.count,
                       [&](const Log* log) { return log->knows(tensor); });
  };
  if (logs.count == 0) return torchs();
  if (method.kind == Recorded::clone) return known(self) ? nullptr : torchs();
  if (keywords != nullptr && PyTuple_GET_SIZE(keywords) > 0) return nullptr;
  double value = 0;
  if (method.kind == Recorded::fill && (count != 2 || !number(given[1], value))) return nullptr;
  if (method.kind == Recorded::copy &&
      (count != 2 || !plain(given[1]) || known(THPVariable_Unpack(given[1])))) {
    return nullptr;
  }
  const Clock::time_point start = Clock::now();
  PyObject* const result = torchs();
  if (result == nullptr) throw py::error_already_set();
  const double seconds = seconds_since(start);
  for (size_t i = 0; i < logs.count; ++i) {
    Call call{method.function->name, method.function->names, {}, {}, false, {}, {}};
    if (method.kind == Recorded::fill) call.arguments[0] = py::reinterpret_borrow<py::object>(given[1]);
    logs.logs[i]->add(std::move(call), self, seconds);
  }
  return result;
}

PyObject* call_method(PyObject* self, PyObject* const* given, size_t flags, PyObject* keywords) {
  return with_errors([&]() -> PyObject* {
    const auto& method = *reinterpret_cast<const Method*>(self);
    PyObject* const result = simple(method, given, flags, keywords);
    if (result != nullptr || PyErr_Occurred() != nullptr) return result;
    if (PyVectorcall_NARGS(flags) < 1) throw py::type_error("a method of tensors takes a tensor");
    const auto bound = py::reinterpret_steal<py::object>(PyObject_CallMethod(
        method.otherwise, "__get__", "OO", given[0], reinterpret_cast<PyObject*>(Py_TYPE(given[0]))));
    if (!bound) throw py::error_already_set();
    const size_t rest = static_cast<size_t>(PyVectorcall_NARGS(flags)) - 1;
    return PyObject_Vectorcall(bound.ptr(), given + 1, rest, keywords);
  });
}

PyObject* get_method(PyObject* self, PyObject* tensor, PyObject* kind) {
  return with_errors([&]() -> PyObject* {
    const auto& method = *reinterpret_cast<const Method*>(self);
    if (tensor != nullptr && tensor != Py_None && method.function != nullptr && plain_circumstances() &&
        plain(tensor) && Logs().find()) {
      return PyMethod_New(self, tensor);
    }
    return PyObject_CallMethod(method.otherwise, "__get__", "OO", tensor == nullptr ? Py_None : tensor,
                               kind == nullptr ? Py_None : kind);
  });
}

// Its arguments: the method's name; the names of a drawing function's arguments, or None if it is only recorded; torch's own method;
// the descriptor in Python; whether simple calls are done here.
PyObject* new_method(PyTypeObject* type, PyObject* arguments, PyObject*) {
  return with_errors([&]() -> PyObject* {
    const auto [name, names, inherited, otherwise, simply] =
        py::reinterpret_borrow<py::object>(arguments)
            .cast<std::tuple<std::string, py::tuple, py::object, py::object, bool>>();
    auto* const method = reinterpret_cast<Method*>(type->tp_alloc(type, 0));
    if (method == nullptr) throw py::error_already_set();
    method->vectorcall = call_method;
    const Entry* const drawing = entry_of(name, names);
    method->kind = drawing != nullptr && drawing->random ? Recorded::draw
                   : name == "zero_"                     ? Recorded::zero
                   : name == "fill_"                     ? Recorded::fill
                   : name == "copy_"                     ? Recorded::copy
                                                         : Recorded::clone;
    method->function =
        simply ? new Function{drawing != nullptr ? *drawing : Entry{}, interned("Tensor." + name), names, {}}
               : nullptr;
    method->inherited = py::object(inherited).release().ptr();
    method->otherwise = py::object(otherwise).release().ptr();
    method->name = py::str(name).release().ptr();
    return reinterpret_cast<PyObject*>(method);
  });
}

void delete_method(PyObject* self) {
  auto* const method = reinterpret_cast<Method*>(self);
  delete method->function;
  Py_XDECREF(method->inherited);
  Py_XDECREF(method->otherwise);
  Py_XDECREF(method->name);
  PyTypeObject* const type = Py_TYPE(self);
  type->tp_free(self);
  Py_DECREF(type);
}

template <class F>
void* slot(F* function) {
  return reinterpret_cast<void*>(function);
}

PyObject* method_type() {
  static PyMemberDef members[] = {
      {"__vectorcalloffset__", T_PYSSIZET, offsetof(Method, vectorcall), READONLY, nullptr},
      {"__name__", T_OBJECT, offsetof(Method, name), READONLY, nullptr},
      {"otherwise", T_OBJECT, offsetof(Method, otherwise), READONLY, nullptr},
      {nullptr, 0, 0, 0, nullptr}};
  static PyType_Slot slots[] = {{Py_tp_new, slot(new_method)},
                                {Py_tp_dealloc, slot(delete_method)},
                                {Py_tp_descr_get, slot(get_method)},
                                {Py_tp_call, slot(PyVectorcall_Call)},
                                {Py_tp_members, static_cast<void*>(members)},
                                {0, nullptr}};
  static PyType_Spec spec{"fastinit._C.Method", sizeof(Method), 0,
                          Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_VECTORCALL | Py_TPFLAGS_METHOD_DESCRIPTOR,
                          slots};
  return PyType_FromSpec(&spec);
}

}  // namespace

void define_enabled(py::module_& m) {
  log_name = PyUnicode_InternFromString("_log");
  m.add_object("Method", py::reinterpret_steal<py::object>(method_type()));
  m.def("quick", quick, "name"_a, "names"_a, "otherwise"_a);
  m.def("set_blocks", [](const py::object& variable) { blocks = py::object(variable).release().ptr(); });
  m.def("set_program_wide", [](bool on) { program_wide = on; });
  m.def("set_named", [](bool on) { named = on; });
  m.def("set_busy", [](bool on) { busy = on; });
  m.def("is_busy", [] { return busy; });
}

}  // namespace fastinit
