// The one door to torch: schemas, checks of the arguments, dispatch.
//
// Every random op exists twice: with a generator, from which it takes exactly one key (contract C7), and as `.key`, with
// the key itself in a 0-dimensional int64 tensor. What torch rejects is rejected with the same type of exception;
// what else is nonsense is a ValueError. Nothing is written, and no key taken, before all checks have passed.
#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <torch/csrc/autograd/VariableTypeUtils.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <type_traits>

#include "core/fill.h"
#include "core/floating_point.h"
#include "torch/orthogonal.h"
#include "torch/tensors.h"

namespace fastinit {
namespace {

using at::Tensor;

// float32 arithmetic for everything but float64: a value is checked as it will be used.
bool finite_in(const Tensor& self, double value) {
  return std::isfinite(value) && (uses_double(self) || std::isfinite(static_cast<float>(value)));
}

// Real and imaginary parts share the variance, as in torch.
double part_std(const Tensor& self, double std) { return self.is_complex() ? std / std::sqrt(2.0) : std; }

// The largest number of the tensor's dtype.
double highest(const Tensor& self) {
  double result = 0;
  AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kHalf, at::kBFloat16, c10::toRealValueType(self.scalar_type()), "highest",
      [&] { result = static_cast<double>(std::numeric_limits<scalar_t>::max()); });
  return result;
}

#define FASTINIT_CHECK_FINITE(OP, SELF, VALUE) \
  TORCH_CHECK(finite_in(SELF, VALUE), "fastinit." OP ": " #VALUE " must be finite, but is ", VALUE)

// ---- One struct per op: its arguments, what is wrong with them, and the fill itself. -----------------------------

struct UniformOp {
  static constexpr const char* name = "uniform_";
  static constexpr bool complex = true;
  double a, b;

  void check(const Tensor& self) const {
    const double limit = highest(self);
    TORCH_CHECK(std::abs(a) <= limit, "fastinit.uniform_: a is out of bounds for ", self.scalar_type(), ": ",
                a);
    TORCH_CHECK(std::abs(b) <= limit, "fastinit.uniform_: b is out of bounds for ", self.scalar_type(), ": ",
                b);
    TORCH_CHECK(a <= b, "fastinit.uniform_: a must not be above b, but a=", a, " and b=", b);
    TORCH_CHECK(b - a <= limit, "fastinit.uniform_: b - a is out of bounds for ", self.scalar_type(),
                ": a=", a, " and b=", b);
  }
  template <class R>
  void run(const Tensor& self, const TensorKey& key) const {
    fill(self, key, Uniform<R>::make(a, b, dtype_of(self)));
  }
};

struct NormalOp {
  static constexpr const char* name = "normal_";
  static constexpr bool complex = true;
  double mean, std;

  void check(const Tensor& self) const {
    TORCH_CHECK(std >= 0, "fastinit.normal_: std must not be negative, but is ", std);
    FASTINIT_CHECK_FINITE("normal_", self, mean);
    FASTINIT_CHECK_FINITE("normal_", self, std);
  }
  template <class R>
  void run(const Tensor& self, const TensorKey& key) const {
    fill(self, key, Normal<R>{static_cast<R>(mean), static_cast<R>(part_std(self, std))});
  }
};

struct TruncatedNormalOp {
  static constexpr const char* name = "trunc_normal_";
  static constexpr bool complex = false;
  double mean, std, a, b;

  void check(const Tensor& self) const {
    TORCH_CHECK(std >= 0, "fastinit.trunc_normal_: std must not be negative, but is ", std);
    FASTINIT_CHECK_FINITE("trunc_normal_", self, mean);
    FASTINIT_CHECK_FINITE("trunc_normal_", self, std);
    TORCH_CHECK(!std::isnan(a), "fastinit.trunc_normal_: a must be a number, but is ", a);
    TORCH_CHECK(!std::isnan(b), "fastinit.trunc_normal_: b must be a number, but is ", b);
    const double limit = highest(self);  // some number of the tensor's dtype has to lie within
    TORCH_CHECK(a <= b && a <= limit && b >= -limit,
                "fastinit.trunc_normal_: the interval must not be empty, but a=", a, " and b=", b);
  }
  template <class R>
  void run(const Tensor& self, const TensorKey& key) const {
    // An infinite bound is none. A finite one keeps values finite, if the dtype cannot hold it too.
    const double limit = highest(self);
    const double lower = std::isinf(a) ? a : std::max(a, -limit),
                 upper = std::isinf(b) ? b : std::min(b, limit);
    fill(self, key, TruncatedNormal<R>::make(mean, std, lower, upper, dtype_of(self)));
  }
};

struct SparseOp {
  static constexpr const char* name = "sparse_";
  static constexpr bool complex = true;
  double sparsity, std;

  void check(const Tensor& self) const {
    TORCH_CHECK_VALUE(self.dim() == 2, "fastinit.sparse_: tensor must have 2 dimensions, but has ",
                      self.dim());
    TORCH_CHECK_VALUE(sparsity >= 0 && sparsity <= 1,
                      "fastinit.sparse_: sparsity must lie in [0, 1], but is ", sparsity);
    TORCH_CHECK(std >= 0, "fastinit.sparse_: std must not be negative, but is ", std);
    FASTINIT_CHECK_FINITE("sparse_", self, std);
    TORCH_CHECK(self.size(0) < int64_t{1} << 42,
                "fastinit.sparse_: tensor must have fewer than 2^42 rows, but has ", self.size(0));
  }
  template <class R>
  void run(const Tensor& self, const TensorKey& key) const {
    const auto rows = static_cast<uint64_t>(self.size(0)), columns = static_cast<uint64_t>(self.size(1));
    const auto zeros = static_cast<uint64_t>(std::ceil(sparsity * static_cast<double>(rows)));
    fill(self, key, Sparse<R>::make(part_std(self, std), rows, columns, zeros, self.is_complex() ? 2 : 1));
  }
};

struct OrthogonalOp {
  static constexpr const char* name = "orthogonal_";
  static constexpr bool complex = true;
  double gain;

  void check(const Tensor& self) const {
    TORCH_CHECK_VALUE(self.dim() >= 2,
                      "fastinit.orthogonal_: tensor must have 2 or more dimensions, but has ", self.dim());
    FASTINIT_CHECK_FINITE("orthogonal_", self, gain);
  }
  template <class R>
  void run(const Tensor& self, const TensorKey& key) const {
    orthogonal(self, gain, key);
  }
};

// ---- What all ops share. -----------------------------------------------------------------------------------------

template <class Op>
void check(const Tensor& self, const Op& op, const KeySource& source) {
  const at::ScalarType t = self.scalar_type();
  const bool real = t == at::kFloat || t == at::kDouble || t == at::kHalf || t == at::kBFloat16;
  TORCH_CHECK_NOT_IMPLEMENTED(real || (Op::complex && (t == at::kComplexFloat || t == at::kComplexDouble)),
                              "fastinit.", Op::name, ": not implemented for dtype ", t,
                              " (but for float32, float64, float16, bfloat16",
                              Op::complex ? ", complex64 and complex128)" : ")");
  check_fillable(Op::name, self, source);
  op.check(self);
}

template <class Op>
void run(const Tensor& self, const Op& op, const KeySource& source) {
  const DefaultFloatingPoint guard;  // for the parameters, which are rounded here; the kernels have their own
  check(self, op, source);
  if (self.numel() == 0) return;  // as in torch, nothing is drawn for a tensor without elements
  std::optional<Pin> pin;
  if (self.is_cpu() && (self.numel() >= long_fill || std::is_same_v<Op, OrthogonalOp>)) pin.emplace(self);
  const TensorKey key = source.take(self);
  if (uses_double(self)) {
    op.template run<double>(self, key);
  } else {
    op.template run<float>(self, key);
  }
}

// The kernels of one op. Arguments are what its schema has between the tensor and the generator or key, Last is that.
template <class Op, class Last, class... Arguments>
struct Kernels {
  static KeySource source(const std::optional<at::Generator>& generator) { return {generator, {}}; }
  static KeySource source(const Tensor& key) { return {{}, key}; }

  static void fill(const Tensor& self, Arguments... arguments, Last last) {
    run(self, Op{arguments...}, source(last));
  }
  // No memory, no values, and no key taken.
  static void meta(const Tensor& self, Arguments... arguments, Last last) {
    check(self, Op{arguments...}, source(last));
  }
  // Autograd sees a change in place and nothing else: initialisation is not differentiated, and leaves may be filled.
  static void in_place(c10::DispatchKeySet keys, const Tensor& self, Arguments... arguments, Last last) {
    {
      const at::AutoDispatchBelowADInplaceOrView guard;
      op().redispatch(keys & c10::after_ADInplaceOrView_keyset, self, arguments..., last);
    }
    torch::autograd::increment_version(self);
  }
  // Views that are conjugated or negated when they are read: the memory gets what then reads as the values. (torch's
  // own kernels for these keys take it for granted that an op returns the tensor it changes.)
  static void conjugate(const Tensor& self, Arguments... arguments, Last last) {
    Tensor memory = at::conj(self);
    op().call(memory, arguments..., last);
    memory.conj_physical_();
  }
  static void negative(const Tensor& self, Arguments... arguments, Last last) {
    Tensor memory = at::_neg_view(self);
    op().call(memory, arguments..., last);
    memory.neg_();
  }

 private:
  static const auto& op() {
    static const auto handle = c10::Dispatcher::singleton()
                                   .findSchemaOrThrow((std::string("fastinit::") + Op::name).c_str(),
                                                      std::is_same_v<Last, const Tensor&> ? "key" : "")
                                   .template typed<void(const Tensor&, Arguments..., Last)>();
    return handle;
  }
};

enum class Kind { fill, meta, conjugate, negative, in_place, autograd };

template <class Op, class... Arguments>
void register_op(torch::Library& m, Kind kind) {
  const auto overload = [&](const std::string& name, auto last) {
    using K = Kernels<Op, typename decltype(last)::type, Arguments...>;
    if (kind == Kind::fill) m.impl(name.c_str(), TORCH_FN(K::fill));
    if (kind == Kind::meta) m.impl(name.c_str(), TORCH_FN(K::meta));
    if (kind == Kind::conjugate) m.impl(name.c_str(), TORCH_FN(K::conjugate));
    if (kind == Kind::negative) m.impl(name.c_str(), TORCH_FN(K::negative));
    if (kind == Kind::in_place) m.impl(name.c_str(), TORCH_FN(K::in_place));
    if (kind == Kind::autograd) m.impl(name.c_str(), torch::CppFunction::makeFallthrough());
  };
  overload(Op::name, std::type_identity<std::optional<at::Generator>>());
  overload(std::string(Op::name) + ".key", std::type_identity<const Tensor&>());
}

void register_all(torch::Library& m, Kind kind) {
  register_op<UniformOp, double, double>(m, kind);
  register_op<NormalOp, double, double>(m, kind);
  register_op<TruncatedNormalOp, double, double, double, double>(m, kind);
  register_op<SparseOp, double, double>(m, kind);
  register_op<OrthogonalOp, double>(m, kind);
}

}  // namespace

TORCH_LIBRARY(fastinit, m) {
  const auto def = [&](const std::string& name, const std::string& arguments) {
    m.def((name + "(Tensor(a!) self, " + arguments + ", *, Generator? generator=None) -> ()").c_str(),
          {at::Tag::nondeterministic_seeded, at::Tag::pt2_compliant_tag});
    m.def((name + ".key(Tensor(a!) self, " + arguments + ", *, Tensor key) -> ()").c_str(),
          {at::Tag::pt2_compliant_tag});
  };
  def("uniform_", "float a, float b");
  def("normal_", "float mean, float std");
  def("trunc_normal_", "float mean, float std, float a, float b");
  def("sparse_", "float sparsity, float std");
  def("orthogonal_", "float gain");
}

TORCH_LIBRARY_IMPL(fastinit, CPU, m) { register_all(m, Kind::fill); }
#if defined(FASTINIT_WITH_CUDA)
TORCH_LIBRARY_IMPL(fastinit, CUDA, m) { register_all(m, Kind::fill); }
#endif
TORCH_LIBRARY_IMPL(fastinit, Meta, m) { register_all(m, Kind::meta); }
TORCH_LIBRARY_IMPL(fastinit, Conjugate, m) { register_all(m, Kind::conjugate); }
TORCH_LIBRARY_IMPL(fastinit, Negative, m) { register_all(m, Kind::negative); }
TORCH_LIBRARY_IMPL(fastinit, ADInplaceOrView, m) { register_all(m, Kind::in_place); }
TORCH_LIBRARY_IMPL(fastinit, Autograd, m) { register_all(m, Kind::autograd); }

}  // namespace fastinit
