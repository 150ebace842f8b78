#if defined(FASTINIT_WITH_CUDA)
#include <ATen/ATen.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <limits>

#include "cuda/fill.h"
#include "torch/backend.h"

namespace fastinit {
namespace {

cuda::Queue current_queue(const at::Device& device) {
  const c10::impl::VirtualGuardImpl guard(device.type());
  return {device.index(), guard.getStreamNativeHandle(guard.getStream(device))};
}

void fill(const Fill& fill, const TensorKey& key, const at::Device& device) {
  const c10::DeviceGuard guard(device);
  const auto* const device_key =
      key.device.defined() ? static_cast<const uint64_t*>(key.device.const_data_ptr()) : nullptr;
  cuda::fill(fill, device_key, current_queue(device));
}

void fill_members(const Fill& f, const at::Tensor& keys, int64_t step, const at::Device& device) {
  Fill one = f;
  const std::vector<TensorKey> each = each_key(keys);
  for (const TensorKey& key : each) {
    one.key = key.host;
    fill(one, key, device);
    one.data = static_cast<char*>(one.data) + step * size_of(f.dtype);
  }
}

bool capturing(const at::Device& device) { return cuda::capturing(current_queue(device)); }

// Through ATen: the generator's state advances as for any fill, and graphs may capture it.
at::Tensor draw_key(const at::Tensor& self, const std::optional<at::Generator>& generator) {
  const at::Tensor key = at::empty({}, self.options().dtype(at::kLong));
  key.random_(std::numeric_limits<int64_t>::min(), std::nullopt, generator);
  return key;
}

}  // namespace

const Backend cuda_backend{fill, fill_members, capturing, draw_key};

}  // namespace fastinit
#endif
