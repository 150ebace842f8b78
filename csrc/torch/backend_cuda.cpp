#include <ATen/ATen.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <limits>
#include <mutex>

#include "core/element.h"
#include "core/lanes.h"
#include "torch/backend.h"
#include "torch/kernels.h"

namespace fastinit {
namespace {

struct Queue {
  int32_t device;
  void* stream;
};

Queue current_queue(const at::Device& device) {
  const c10::impl::VirtualGuardImpl guard(device.type());
  return {device.index(), guard.getStreamNativeHandle(guard.getStream(device))};
}

void fill(const fastinit_fill& fill, const TensorKey& key, const at::Device& device) {
  const c10::DeviceGuard guard(device);
  const auto* const device_key =
      key.device.defined() ? static_cast<const uint64_t*>(key.device.const_data_ptr()) : nullptr;
  const Queue queue = current_queue(device);
  kernels::check(fastinit_fill_on_cuda(&fill, key.host.bits, device_key, queue.device, queue.stream));
}

void fill_members(const fastinit_fill& f, const at::Tensor& keys, int64_t step, const at::Device& device) {
  fastinit_fill one = f;
  const int64_t step_in_bytes = step * size_of(static_cast<DType>(f.dtype));
  const std::vector<TensorKey> each = each_key(keys);
  for (const TensorKey& key : each) {
    fill(one, key, device);
    one.data = static_cast<char*>(one.data) + step_in_bytes;
  }
}

bool capturing(const at::Device& device) {
  const Queue queue = current_queue(device);
  int32_t found = 0;
  kernels::check(fastinit_cuda_is_capturing(queue.device, queue.stream, &found));
  return found != 0;
}

// What random_ draws into one int64, computed here: a launch for it would take longer than that of a small fill. random_ takes
// the first block of the generator's own Philox stream, whose counter is a quarter of the offset, and moves the offset on by 4.
Key next_key(at::Generator generator) {
  const std::lock_guard<std::mutex> lock(generator.mutex());
  const uint64_t offset = generator.get_offset(), block = offset / 4;
  using U64 = Portable<1>::U64;
  const auto words = philox4x32_10<Portable<1>>(U64(block), U64(block >> 32), U64(uint64_t{0}),
                                                U64(uint64_t{0}), Key{generator.current_seed()});
  generator.set_offset(offset + 4);
  return {words.w[0].v[0] << 32 | (words.w[1].v[0] & 0xFFFFFFFFu)};
}

TensorKey draw_key(const at::Tensor& self, const std::optional<at::Generator>& generator) {
  const bool given = generator.has_value() && generator->defined();
  if (!capturing(self.device())) {
    return {next_key(given ? *generator : at::globalContext().defaultGenerator(self.device())), {}};
  }
  // By random_ itself, so that each replay of the graph draws anew.
  const at::Tensor key = at::empty({}, self.options().dtype(at::kLong));
  key.random_(std::numeric_limits<int64_t>::min(), std::nullopt, generator);
  return {Key{0}, key};
}

}  // namespace

const Backend cuda_backend{fill, fill_members, capturing, draw_key};

}  // namespace fastinit
