#include "torch/tensors.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/MemoryOverlap.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/InferenceMode.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <algorithm>
#include <limits>
#include <mutex>
#include <numeric>
#include <unordered_map>
#include <vector>

#include "cpu/fill.h"
#if defined(FASTINIT_WITH_CUDA)
#include "cuda/fill.h"
#endif

namespace fastinit {
namespace {

// Whether two elements share memory. at::has_internal_overlap leaves interleaved strides undecided.
bool overlaps(const at::Tensor& self) {
  switch (at::has_internal_overlap(self)) {
    case at::MemOverlap::No:
      return false;
    case at::MemOverlap::Yes:
      return true;
    case at::MemOverlap::TooHard:
      break;
  }
  std::vector<std::pair<int64_t, int64_t>> dims;  // stride, size
  for (int64_t d = 0; d < self.dim(); ++d) {
    if (self.size(d) > 1) dims.emplace_back(self.stride(d), self.size(d));
  }
  std::sort(dims.begin(), dims.end());
  int64_t span = 1;
  bool nested = true;
  for (const auto& [stride, size] : dims) {
    nested = nested && stride >= span;
    span += stride * (size - 1);
  }
  if (nested) return false;
  // Rare: strides that interleave. Mark every offset, if that takes less than 128 MiB.
  if (span > int64_t{1} << 30) return true;
  std::vector<bool> taken(static_cast<size_t>(span));
  std::vector<int64_t> at(dims.size(), 0);
  int64_t offset = 0;
  while (true) {
    if (taken[static_cast<size_t>(offset)]) return true;
    taken[static_cast<size_t>(offset)] = true;
    size_t d = 0;
    for (; d < dims.size(); ++d) {
      offset += dims[d].first;
      if (++at[d] < dims[d].second) break;
      offset -= dims[d].first * dims[d].second;
      at[d] = 0;
    }
    if (d == dims.size()) return false;
  }
}

// Whether the storage, if there is one, reaches to the tensor's last element.
bool has_memory(const at::Tensor& self) {
  if (!self.has_storage() || self.unsafeGetTensorImpl()->has_symbolic_sizes_strides()) return true;
  if (self.numel() == 0) return true;
  int64_t last = self.storage_offset();
  for (int64_t d = 0; d < self.dim(); ++d) last += (self.size(d) - 1) * self.stride(d);
  return static_cast<size_t>(last + 1) * self.itemsize() <= self.storage().nbytes();
}

#if defined(FASTINIT_WITH_CUDA)
cuda::Queue current_queue(const at::Device& device) {
  const c10::impl::VirtualGuardImpl guard(device.type());
  return {device.index(), guard.getStreamNativeHandle(guard.getStream(device))};
}
#endif

// Storages that are being filled, by how many fills, and whether they could be resized before.
struct Pins {
  struct State {
    int count = 0;
    bool resizable = false;
  };
  std::mutex mutex;
  std::unordered_map<c10::StorageImpl*, State> states;

  static Pins& all() {
    static Pins& pins = *new Pins;  // never destroyed: a fill may outlast the interpreter
    return pins;
  }
};

}  // namespace

Pin::Pin(const at::Tensor& tensor) : storage_(tensor.storage()) {
  Pins& pins = Pins::all();
  const std::lock_guard<std::mutex> lock(pins.mutex);
  c10::StorageImpl* const storage = storage_.unsafeGetStorageImpl();
  Pins::State& state = pins.states[storage];
  if (state.count++ == 0) {
    state.resizable = storage->resizable();
    storage->set_resizable(false);
  }
}

Pin::~Pin() {
  Pins& pins = Pins::all();
  const std::lock_guard<std::mutex> lock(pins.mutex);
  c10::StorageImpl* const storage = storage_.unsafeGetStorageImpl();
  const auto found = pins.states.find(storage);
  if (--found->second.count == 0) {
    storage->set_resizable(found->second.resizable);
    pins.states.erase(found);
  }
}

DType dtype_of(const at::Tensor& self) {
  switch (self.scalar_type()) {
    case at::kDouble:
    case at::kComplexDouble:
      return DType::f64;
    case at::kHalf:
      return DType::f16;
    case at::kBFloat16:
      return DType::bf16;
    default:
      return DType::f32;
  }
}

bool uses_double(const at::Tensor& self) { return dtype_of(self) == DType::f64; }

void check_writable(const char* op, const at::Tensor& self) {
  TORCH_CHECK_NOT_IMPLEMENTED(self.layout() == at::kStrided && !self.is_quantized(), "fastinit.", op,
                              ": tensor must be dense and not quantized, but has layout ", self.layout(),
                              " and dtype ", self.scalar_type());
  // Who frees a storage, and keeps the tensors for later (as FSDP does), should not find them filled.
  TORCH_CHECK(self.is_meta() || has_memory(self), "fastinit.", op, ": tensor of sizes ", self.sizes(),
              " and strides ", self.strides(), " goes beyond its storage of ", self.storage().nbytes(),
              " bytes");
  TORCH_CHECK(!overlaps(self), "fastinit.", op, ": tensor has elements that share memory (sizes ",
              self.sizes(), ", strides ", self.strides(), "); clone() it before filling it");
  TORCH_CHECK(!self.is_inference() || c10::InferenceMode::is_enabled(), "fastinit.", op,
              ": tensor is an inference tensor, which can be updated in inference mode only; clone() it");
}

void check_fillable(const char* op, const at::Tensor& self, const KeySource& source) {
  check_writable(op, self);
  if (source.generator.has_value() && source.generator->defined()) {
    const at::Device device = source.generator->device();
    TORCH_CHECK(device.is_cpu() || device.type() == self.device().type(), "fastinit.", op,
                ": generator must be on the CPU or on the tensor's device ", self.device(), ", but is on ",
                device);
  }
  if (source.key.has_value()) {
    TORCH_CHECK_VALUE(source.key->scalar_type() == at::kLong && source.key->numel() == 1, "fastinit.", op,
                      ": key must be one int64, but has dtype ", source.key->scalar_type(), " and shape ",
                      source.key->sizes());
    TORCH_CHECK(source.key->device().is_cpu() || source.key->device() == self.device(), "fastinit.", op,
                ": key must be on the CPU or on the tensor's device ", self.device(), ", but is on ",
                source.key->device());
  }
}

TensorKey KeySource::take(const at::Tensor& self) const {
  if (key.has_value()) {
    if (key->device().is_cpu()) return {Key{static_cast<uint64_t>(key->item<int64_t>())}, {}};
    return {Key{0}, *key};
  }
  const bool given = generator.has_value() && generator->defined();
  if (self.is_cpu() || (given && generator->device().is_cpu())) {
#if defined(FASTINIT_WITH_CUDA)
    TORCH_CHECK(self.is_cpu() || !cuda::capturing(current_queue(self.device())),
                "fastinit: a CUDA graph would repeat the values of a CPU generator in each of its replays; "
                "give it one of the tensor's device, or none");
#endif
    auto* const cpu =
        at::get_generator_or_default<at::CPUGeneratorImpl>(generator, at::detail::getDefaultCPUGenerator());
    const std::lock_guard<std::mutex> lock(cpu->mutex_);
    return {Key{cpu->random64()}, {}};
  }
  // The device's own generator, through ATen: its state advances as for any fill, and graphs may capture it.
  const at::Tensor drawn = at::empty({}, self.options().dtype(at::kLong));
  drawn.random_(std::numeric_limits<int64_t>::min(), std::nullopt, generator);
  return {Key{0}, drawn};
}

Region region_of(at::IntArrayRef sizes, at::IntArrayRef strides) {
  Region region{};
  int64_t index_stride = 1;
  // Built from the last dimension outwards, then turned round.
  for (size_t d = sizes.size(); d-- > 0; index_stride *= sizes[d]) {
    if (sizes[d] == 1) continue;
    const int last = region.dims - 1;
    if (last >= 0 && strides[d] == region.strides[last] * region.sizes[last]) {
      region.sizes[last] *= sizes[d];  // index strides are those of a whole tensor: they always continue
      continue;
    }
    TORCH_CHECK(region.dims < Region::max_dims, "fastinit: more than ", Region::max_dims, " dimensions");
    region.sizes[region.dims] = sizes[d];
    region.strides[region.dims] = strides[d];
    region.index_strides[region.dims] = index_stride;
    ++region.dims;
  }
  if (region.dims == 0) {
    region.dims = 1;
    region.sizes[0] = region.strides[0] = region.index_strides[0] = 1;
  }
  std::reverse(region.sizes, region.sizes + region.dims);
  std::reverse(region.strides, region.strides + region.dims);
  std::reverse(region.index_strides, region.index_strides + region.dims);
  return region;
}

void fill(const at::Tensor& self, const TensorKey& key, const Distribution& distribution,
          uint64_t first_index) {
  if (self.is_complex()) return fill(at::view_as_real(self), key, distribution, 2 * first_index);
  if (self.numel() == 0) return;
  Fill f{region_of(self.sizes(), self.strides()), self.data_ptr(), dtype_of(self), key.host, distribution};
  f.region.first_index = first_index;
  if (self.is_cpu()) return cpu::fill(f);
#if defined(FASTINIT_WITH_CUDA)
  const c10::DeviceGuard guard(self.device());
  const auto* const device_key =
      key.device.defined() ? static_cast<const uint64_t*>(key.device.const_data_ptr()) : nullptr;
  cuda::fill(f, device_key, current_queue(self.device()));
#else
  TORCH_CHECK(false, "unreachable: no kernels for ", self.device());
#endif
}

}  // namespace fastinit
