#include "torch/keys.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include <mutex>

#include "torch/backend.h"

namespace fastinit {
namespace {

thread_local Record* innermost = nullptr;

}  // namespace

void KeySource::check(const char* op, const at::Tensor& self) const {
  if (generator.has_value() && generator->defined()) {
    const at::Device device = generator->device();
    TORCH_CHECK(device.is_cpu() || device.type() == self.device().type(), "fastinit.", op,
                ": generator must be on the CPU or on the tensor's device ", self.device(), ", but is on ",
                device);
  }
  if (key.has_value()) {
    TORCH_CHECK_VALUE(key->scalar_type() == at::kLong && key->numel() == 1, "fastinit.", op,
                      ": key must be one int64, but has dtype ", key->scalar_type(), " and shape ",
                      key->sizes());
    TORCH_CHECK(key->device().is_cpu() || key->device() == self.device(), "fastinit.", op,
                ": key must be on the CPU or on the tensor's device ", self.device(), ", but is on ",
                key->device());
  }
}

TensorKey KeySource::take(const Backend& on, const at::Tensor& self) const {
  if (key.has_value()) {
    if (key->device().is_cpu()) return {Key{static_cast<uint64_t>(key->item<int64_t>())}, {}};
    return {Key{0}, *key};
  }
  const bool given = generator.has_value() && generator->defined();
  if (!self.is_cpu() && !(given && generator->device().is_cpu())) return on.draw_key(self, generator);
  TORCH_CHECK(!on.capturing(self.device()),
              "fastinit: a CUDA graph would repeat the values of a CPU generator in each of its replays; "
              "give it one of the tensor's device, or none");
  auto* const cpu =
      at::get_generator_or_default<at::CPUGeneratorImpl>(generator, at::detail::getDefaultCPUGenerator());
  const std::lock_guard<std::mutex> lock(cpu->mutex_);
  return {Key{cpu->random64()}, {}};
}

at::Tensor as_tensor(const TensorKey& key) {
  return key.device.defined() ? key.device
                              : at::scalar_tensor(static_cast<int64_t>(key.host.bits), at::kLong);
}

void Record::open() {
  outer_ = innermost;
  innermost = this;
}
void Record::close() { innermost = outer_; }
Record* Record::current() { return innermost; }

}  // namespace fastinit
