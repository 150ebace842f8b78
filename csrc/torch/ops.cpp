// The door to torch: every op of the table under every dispatch key that has a say in it.
//
// A random op exists three times: with a generator, from which it takes exactly one key (contract C7); as `.key`, with the
// key itself in a 0-dimensional int64 tensor; and as `.part`, for a tensor that is a part of a larger one (C10). What torch
// rejects is rejected with the same type of exception; what else is nonsense is a ValueError. Nothing is written, and no
// key taken, before all checks have passed.
#include "torch/ops.h"

#include <ATen/ATen.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <torch/csrc/autograd/VariableTypeUtils.h>
#include <torch/library.h>

#include <optional>
#include <string>

#include "core/floating_point.h"

namespace fastinit {
namespace {

using at::Tensor;

template <class Op>
void check_dtype(const Tensor& self) {
  const at::ScalarType t = self.scalar_type();
  TORCH_CHECK_NOT_IMPLEMENTED(t != at::kFloat8_e8m0fnu, "fastinit.", title(Op::name),
                              ": not implemented for dtype ", t,
                              ", which holds scales: powers of two, neither zero nor negative");
  const bool complex = t == at::kComplexFloat || t == at::kComplexDouble || t == at::kComplexHalf;
  TORCH_CHECK_NOT_IMPLEMENTED(
      complex ? Op::complex : at::isFloatingType(t) && (self.itemsize() > 1 || is_float8(dtype_of(self))),
      "fastinit.", title(Op::name), ": not implemented for dtype ", t,
      " (but for float32, float64, float16, bfloat16, float8_e4m3fn, float8_e4m3fnuz, float8_e5m2, "
      "float8_e5m2fnuz",
      Op::complex ? ", complex64, complex128, complex32)" : ")");
}

template <class Op>
void check(const Tensor& self, const Op& op, const KeySource& source, const Part& part) {
  check_dtype<Op>(self);
  check_writable(Op::name, self);
  source.check(title(Op::name), self);
  const Tensor one = source.member(self);
  check_part(Op::name, one, part);
  op.check(one, part);
}

// The key of one fill, for which the way is free.
TensorKey take_key(const Backend& on, const Tensor& self, const KeySource& source) {
  Record* const record = Record::current();
  if (record != nullptr) record->began = true;
  const TensorKey key = source.take(on, self);
  // Each replay of a captured graph draws another one.
  const bool captured = key.device.defined() && on.capturing(self.device());
  if (record != nullptr && !captured) record->key = key;
  return key;
}

// Each index of the first dimensions with its own key, all those of the last of them together.
template <class Op>
void draw_members(const Backend& on, const Tensor& self, const Op& op, const Tensor& keys, const Part& part) {
  if (keys.numel() == 0) return;
  if (keys.dim() > 1) {
    for (int64_t i = 0; i < keys.size(0); ++i) {
      draw_members(on, self.select(0, i), op, keys.select(0, i), part);
    }
  } else {
    op.fill(self.select(0, 0), {on, {}, {keys, self.stride(0)}}, part);
  }
}

template <class Op>
void run(const Backend& on, const Tensor& self, const Op& op, const KeySource& source, const Part& part) {
  const DefaultFloatingPoint
      guard;  // for what is computed from the parameters here; the kernels have their own
  check(self, op, source, part);
  // As in torch, nothing is drawn for a tensor without elements. A part without elements draws with all other parts.
  if (c10::multiply_integers(part.shape_for(self)) == 0) return;
  const at::Storage memory = self.storage();  // whoever resizes or replaces it meanwhile does not free it
  if (source.key.has_value() && source.key->dim() > 0) {
    if (Record* const record = Record::current()) record->began = true;
    return draw_members(on, self, op, *source.key, part);
  }
  op.fill(self, {on, take_key(on, self, source)}, part);
}

// ---- The overloads: what a schema has after the numbers. ------------------------------------------------------------

template <class... T>
struct Types {};

struct FromGenerator {
  static constexpr const char* suffix = "";
  static constexpr const char* schema = "*, Generator? generator=None";
  static constexpr bool draws = true;
  using Tail = Types<std::optional<at::Generator>>;
  static KeySource source(const std::optional<at::Generator>& generator) { return {generator, {}}; }
  static Part part(const std::optional<at::Generator>&) { return {}; }
};
struct FromKey {
  static constexpr const char* suffix = "key";
  static constexpr const char* schema = "*, Tensor key";
  static constexpr bool draws = false;
  using Tail = Types<const Tensor&>;
  static KeySource source(const Tensor& key) { return {{}, key}; }
  static Part part(const Tensor&) { return {}; }
};
struct OfPart {
  static constexpr const char* suffix = "part";
  static constexpr const char* schema =
      "*, int[] shape, int[] first, int[] length, Generator? generator=None, Tensor? key=None";
  static constexpr bool draws = true;
  using Tail = Types<at::IntArrayRef, at::IntArrayRef, at::IntArrayRef, std::optional<at::Generator>,
                     const std::optional<Tensor>&>;
  static KeySource source(at::IntArrayRef, at::IntArrayRef, at::IntArrayRef,
                          const std::optional<at::Generator>& generator, const std::optional<Tensor>& key) {
    return {generator, key};
  }
  static Part part(at::IntArrayRef shape, at::IntArrayRef first, at::IntArrayRef length,
                   const std::optional<at::Generator>&, const std::optional<Tensor>&) {
    return {shape, first, length};
  }
};

// ---- The kernels of one overload of one op. -------------------------------------------------------------------------

template <size_t>
using Number = double;

template <class Op, class Overload, class Numbers = std::make_index_sequence<Op::arguments.size()>,
          class Tail = typename Overload::Tail>
struct Kernels;

template <class Op, class Overload, size_t... I, class... Tail>
struct Kernels<Op, Overload, std::index_sequence<I...>, Types<Tail...>> {
  static constexpr bool draws = Overload::draws;
  static std::string name() {
    return Op::name + std::string(*Overload::suffix != '\0' ? "." : "") + Overload::suffix;
  }
  static std::string schema() { return name() + "(Tensor(a!) self, " + arguments() + ") -> ()"; }
  // The op that draws a new tensor has the name without the underscore.
  static std::string name_of_drawn() { return name().erase(std::string_view(Op::name).size() - 1, 1); }
  static std::string schema_of_drawn() {
    return name_of_drawn() + "(Tensor self, " + arguments() + ") -> Tensor";
  }

  template <const Backend& on>
  static void fill(const Tensor& self, Number<I>... numbers, Tail... tail) {
    run(on, self, Op{numbers...}, Overload::source(tail...), Overload::part(tail...));
  }
  // No memory, no values, and no key taken.
  static void meta(const Tensor& self, Number<I>... numbers, Tail... tail) {
    check(self, Op{numbers...}, Overload::source(tail...), Overload::part(tail...));
  }
  // Every device and layout that has no kernel of its own.
  static void refuse(const Tensor& self, Number<I>... numbers, Tail... tail) {
    meta(self, numbers..., tail...);  // layouts, dtypes
    TORCH_CHECK_NOT_IMPLEMENTED(
        !self.is_cuda(), "fastinit.", title(Op::name),
        ": this build has no CUDA kernels (`python -m fastinit info` says why); build it again "
        "where nvcc is found");
    TORCH_CHECK_NOT_IMPLEMENTED(false, "fastinit.", title(Op::name), ": no kernels for a tensor on ",
                                self.device(), " with layout ", self.layout());
  }
  // Autograd sees a change in place and nothing else: initialisation is not differentiated, and leaves may be filled.
  // What was drawn depends on nothing, so a forward-mode tangent becomes zero.
  static void in_place(c10::DispatchKeySet keys, const Tensor& self, Number<I>... numbers, Tail... tail) {
    {
      const at::AutoDispatchBelowADInplaceOrView guard;
      op().redispatch(keys & c10::after_ADInplaceOrView_keyset, self, numbers..., tail...);
    }
    torch::autograd::increment_version(self);
    if (const Tensor& tangent = self._fw_grad(/*level=*/0); tangent.defined()) tangent.zero_();
  }
  // Views that are conjugated or negated when they are read: the memory gets what then reads as the values. (torch's
  // own kernels for these keys take it for granted that an op returns the tensor it changes.)
  static void conjugate(const Tensor& self, Number<I>... numbers, Tail... tail) {
    Tensor memory = at::conj(self);
    op().call(memory, numbers..., tail...);
    memory.conj_physical_();
  }
  static void negative(const Tensor& self, Number<I>... numbers, Tail... tail) {
    Tensor memory = at::_neg_view(self);
    op().call(memory, numbers..., tail...);
    memory.neg_();
  }
  // Within vmap, and not one of its batches, for which python/fastinit/_vmap.py has the rules. Whether all samples may see the
  // same values is torch's own question, which it answers for a fill without elements; with a key nothing is drawn.
  static void vmap(const Tensor& self, Number<I>... numbers, Tail... tail) {
    const bool batched = self.key_set().has(c10::DispatchKey::FuncTorchBatched);
    if (!batched && !Overload::source(tail...).key.has_value()) at::empty({0}).normal_();
    const c10::impl::ExcludeDispatchKeyGuard guard(c10::DispatchKey::FuncTorchVmapMode);
    op().call(self, numbers..., tail...);
  }
  // A new tensor like this one. torch.func.functionalize needs it: it takes no op of others that changes a tensor.
  static Tensor drawn(const Tensor& self, Number<I>... numbers, Tail... tail) {
    if (!self.key_set().has(c10::DispatchKey::FuncTorchBatched)) check_writable(Op::name, self);
    const Tensor result = at::empty_like(self);
    op().call(result, numbers..., tail...);
    return result;
  }

 private:
  static std::string arguments() {
    return ((std::string("float ") + Op::arguments[I] + ", ") + ...) + Overload::schema;
  }
  static const auto& op() {
    static const auto handle =
        c10::Dispatcher::singleton()
            .findSchemaOrThrow((std::string("fastinit::") + Op::name).c_str(), Overload::suffix)
            .template typed<void(const Tensor&, Number<I>..., Tail...)>();
    return handle;
  }
};

template <class F>
void for_each_overload(const F& f) {
  for_each_op([&]<class Op>() {
    f.template operator()<Kernels<Op, FromGenerator>>();
    f.template operator()<Kernels<Op, FromKey>>();
    f.template operator()<Kernels<Op, OfPart>>();
  });
}

// Taking the key and filling apart: so that a compiler, which may drop a fill that nobody reads, keeps the key it takes.
template <const Backend& on>
Tensor take_key_op(const Tensor& self, std::optional<at::Generator> generator) {
  const KeySource source{generator, {}};
  source.check("take_key", self);
  return as_tensor(take_key(on, self, source)).to(self.device());
}
Tensor take_key_meta(const Tensor& self, std::optional<at::Generator>) {
  return at::empty({}, self.options().dtype(at::kLong));
}
Tensor take_key_vmap(const Tensor& self, std::optional<at::Generator> generator) {
  if (!self.key_set().has(c10::DispatchKey::FuncTorchBatched)) at::empty({0}).normal_();
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("fastinit::take_key", "")
                             .typed<Tensor(const Tensor&, std::optional<at::Generator>)>();
  const c10::impl::ExcludeDispatchKeyGuard guard(c10::DispatchKey::FuncTorchVmapMode);
  return op.call(self, generator);
}

}  // namespace

#define FASTINIT_IMPL(KEY, FUNCTION)                                                           \
  TORCH_LIBRARY_IMPL(fastinit, KEY, m) {                                                       \
    for_each_overload([&]<class K>() { m.impl(K::name().c_str(), TORCH_FN((K::FUNCTION))); }); \
  }

TORCH_LIBRARY(fastinit, m) {
  const std::vector<at::Tag> pure{at::Tag::pt2_compliant_tag};
  const std::vector<at::Tag> random{at::Tag::pt2_compliant_tag, at::Tag::nondeterministic_seeded};
  for_each_overload([&]<class K>() { m.def(K::schema().c_str(), K::draws ? random : pure); });
  for_each_overload([&]<class K>() { m.def(K::schema_of_drawn().c_str(), K::draws ? random : pure); });
  m.def("take_key(Tensor self, *, Generator? generator=None) -> Tensor", random);
  m.def("member_keys(Tensor key, int count) -> Tensor", pure);
}

FASTINIT_IMPL(CPU, template fill<cpu_backend>)
TORCH_LIBRARY_IMPL(fastinit, CPU, m) { m.impl("take_key", TORCH_FN(take_key_op<cpu_backend>)); }
TORCH_LIBRARY_IMPL(fastinit, CUDA, m) {
  if (!kernels::have_cuda()) return;
  for_each_overload(
      [&]<class K>() { m.impl(K::name().c_str(), TORCH_FN((K::template fill<cuda_backend>))); });
  m.impl("take_key", TORCH_FN(take_key_op<cuda_backend>));
}
FASTINIT_IMPL(Meta, meta)
TORCH_LIBRARY_IMPL(fastinit, Meta, m) { m.impl("take_key", TORCH_FN(take_key_meta)); }
FASTINIT_IMPL(CompositeExplicitAutograd, refuse)
FASTINIT_IMPL(NestedTensorCPU, refuse)
FASTINIT_IMPL(NestedTensorCUDA, refuse)
FASTINIT_IMPL(Conjugate, conjugate)
FASTINIT_IMPL(Negative, negative)
FASTINIT_IMPL(ADInplaceOrView, in_place)
FASTINIT_IMPL(FuncTorchVmapMode, vmap)
TORCH_LIBRARY_IMPL(fastinit, FuncTorchVmapMode, m) { m.impl("take_key", TORCH_FN(take_key_vmap)); }
TORCH_LIBRARY_IMPL(fastinit, CompositeExplicitAutograd, m) {
  for_each_overload([&]<class K>() { m.impl(K::name_of_drawn().c_str(), TORCH_FN(K::drawn)); });
  m.impl("member_keys", TORCH_FN(member_keys));
}
TORCH_LIBRARY_IMPL(fastinit, FuncTorchBatched, m) {
  for_each_overload([&]<class K>() { m.impl(K::name_of_drawn().c_str(), TORCH_FN(K::drawn)); });
}
TORCH_LIBRARY_IMPL(fastinit, Autograd, m) {
  for_each_overload([&]<class K>() { m.impl(K::name().c_str(), torch::CppFunction::makeFallthrough()); });
  for_each_overload(
      [&]<class K>() { m.impl(K::name_of_drawn().c_str(), torch::CppFunction::makeFallthrough()); });
  m.impl("take_key", torch::CppFunction::makeFallthrough());
  m.impl("member_keys", torch::CppFunction::makeFallthrough());
}

}  // namespace fastinit
