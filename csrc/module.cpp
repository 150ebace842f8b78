// fastinit._C: what Python calls. The fills go through torch's dispatcher, but not through its Python front end,
// which would cost more than filling a small tensor does.
#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <pybind11/stl.h>
#include <torch/csrc/utils/pybind.h>

#include <algorithm>
#include <array>
#include <string>

#include "core/elementary.h"
#include "core/philox.h"
#include "cpu/fill.h"
#include "tensors.h"

namespace fastinit {
namespace {

namespace py = pybind11;
using namespace pybind11::literals;
using at::Tensor;
using Generator = std::optional<at::Generator>;

// Calls fastinit::NAME with the tensor, the numbers and the generator. The GIL is released meanwhile.
template <class... Numbers>
auto caller(const char* name) {
  const auto op = c10::Dispatcher::singleton()
                      .findSchemaOrThrow((std::string("fastinit::") + name).c_str(), "")
                      .typed<void(const Tensor&, Numbers..., Generator)>();
  return [op](const Tensor& tensor, Numbers... numbers, const Generator& generator) {
    const py::gil_scoped_release no_gil;
    op.call(tensor, numbers..., generator);
  };
}

// Under no_grad, which costs Python more than filling a small tensor does.
template <class Value>
void constant_fill(const Tensor& tensor, const Value& value) {
  const py::gil_scoped_release no_gil;
  const at::NoGradGuard no_grad;
  tensor.fill_(value);
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
  std::vector<std::string> capabilities{"default"};
#if defined(__x86_64__)
  capabilities.insert(capabilities.end(), {"avx2", "avx512"});
#endif
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
  for (const cpu::Capability c : cpu::available()) {
    if (wanted == cpu::name(c)) return cpu::name(cpu::set_active(c));
  }
  throw std::invalid_argument("no such CPU capability here: " + wanted);
}

// ---- For the tests: what a number is, one word at a time. ---------------------------------------------------------

using One = Portable<1>;

std::array<uint32_t, 4> philox(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  using U64 = One::U64;
  const auto words = philox4x32_10<One>(U64(counter[0]), U64(counter[1]), U64(counter[2]), U64(counter[3]),
                                        Key{key[0] | static_cast<uint64_t>(key[1]) << 32});
  std::array<uint32_t, 4> result;
  for (int i = 0; i < 4; ++i) result[i] = static_cast<uint32_t>(words.w[i].v[0]);
  return result;
}

// (-2 ln u, x, y) of each word: int64 in, float64 out; `bits` is 32 or 64 and chooses the arithmetic.
std::array<Tensor, 3> elementary(const Tensor& words, int bits) {
  const Tensor in = words.to(at::kLong).contiguous();
  std::array<Tensor, 3> out;
  for (Tensor& t : out) t = at::empty(in.sizes(), in.options().dtype(at::kDouble));
  const int64_t* const w = in.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < in.numel(); ++i) {
    const auto put = [&](auto log, auto turn) {
      const double sign = turn.negative.v[0] != 0 ? -1 : 1;
      out[0].mutable_data_ptr<double>()[i] = log.v[0];
      out[1].mutable_data_ptr<double>()[i] = sign * turn.x.v[0];
      out[2].mutable_data_ptr<double>()[i] = sign * turn.y.v[0];
    };
    if (bits == 32) {
      const One::U32 x(static_cast<uint32_t>(w[i]));
      put(minus_two_log<One>(x), turn<One>(x));
    } else {
      const One::U64 x(static_cast<uint64_t>(w[i]));
      put(minus_two_log<One>(x), turn<One>(x));
    }
  }
  return out;
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.def("uniform_", caller<double, double>("uniform_"));
  m.def("normal_", caller<double, double>("normal_"));
  m.def("trunc_normal_", caller<double, double, double, double>("trunc_normal_"));
  m.def("sparse_", caller<double, double>("sparse_"));
  m.def("orthogonal_", caller<double>("orthogonal_"));
  // The value as Python has it: an integer stays exact in an integer tensor.
  m.def("fill_", constant_fill<int64_t>);
  m.def("fill_", constant_fill<double>);
  m.def("fill_", constant_fill<c10::complex<double>>);
  m.def("fill_", constant_fill<Tensor>);
  m.def("zero_", [](const Tensor& tensor) {
    const py::gil_scoped_release no_gil;
    const at::NoGradGuard no_grad;
    tensor.zero_();
  });

  m.def("check_writable",
        [](const std::string& op, const Tensor& tensor) { check_writable(op.c_str(), tensor); });

  m.def("build_info", build_info);
  m.def("cpu_capability", [] { return std::string(cpu::name(cpu::active())); });
  m.def("set_cpu_capability", set_cpu_capability);
  m.def("philox4x32_10", philox, "counter"_a, "key"_a);
  m.def("elementary", elementary, "words"_a, "bits"_a);
  cpu::active();  // an environment that asks for what cannot be had fails here, on import
}

}  // namespace fastinit
