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
    TORCH_CHECK_VALUE(
        key->scalar_type() == at::kLong && key->dim() <= self.dim() &&
            key->sizes() == self.sizes().slice(0, static_cast<size_t>(key->dim())),
        "fastinit.", op,
        ": key must be one int64, or one for each index of the tensor's first dimensions, but has "
        "dtype ",
        key->scalar_type(), " and shape ", key->sizes());
    TORCH_CHECK(key->device().is_cpu() || key->device() == self.device(), "fastinit.", op,
                ": key must be on the CPU or on the tensor's device ", self.device(), ", but is on ",
                key->device());
  }
}

at::Tensor KeySource::member(const at::Tensor& self) const {
  if (!key.has_value() || key->dim() == 0) return self;
  const auto dims = static_cast<size_t>(key->dim());
  return self.as_strided(self.sizes().slice(dims), self.strides().slice(dims), self.storage_offset());
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

std::vector<TensorKey> each_key(const at::Tensor& keys) {
  std::vector<TensorKey> result;
  if (keys.is_cpu()) {
    const at::Tensor contiguous = keys.contiguous();
    const int64_t* const bits = contiguous.const_data_ptr<int64_t>();
    for (int64_t i = 0; i < keys.numel(); ++i) result.push_back({Key{static_cast<uint64_t>(bits[i])}, {}});
  } else {
    for (int64_t i = 0; i < keys.numel(); ++i) result.push_back({Key{0}, keys.select(0, i)});
  }
  return result;
}

// G. Steele, D. Lea, C. Flood: "Fast splittable pseudorandom number generators", OOPSLA 2014. In torch's operators, which
// have kernels on every device.
at::Tensor member_keys(const at::Tensor& key, int64_t count) {
  const auto number = [](uint64_t bits) { return at::Scalar(static_cast<int64_t>(bits)); };
  const auto shifted = [&](const at::Tensor& x, int bits) {  // in zeros
    return at::bitwise_and(at::bitwise_right_shift(x, number(static_cast<uint64_t>(bits))),
                           number(~uint64_t{0} >> bits));
  };
  std::vector<int64_t> column(static_cast<size_t>(key.dim()) + 1, 1);
  column[0] = count;
  at::Tensor x = at::arange(1, count + 1, key.options()).view(column);
  x = x.mul_(number(0x9E3779B97F4A7C15)) + key;
  x = x.bitwise_xor_(shifted(x, 30)).mul_(number(0xBF58476D1CE4E5B9));
  x = x.bitwise_xor_(shifted(x, 27)).mul_(number(0x94D049BB133111EB));
  return x.bitwise_xor_(shifted(x, 31));
}

at::Tensor as_tensor(const TensorKey& key) {
  return key.device.defined() ? key.device
                              : at::scalar_tensor(static_cast<int64_t>(key.host.bits), at::kLong);
}

void Record::open() {
  outer_ = innermost;
  innermost = this;
}
void Record::close() {
  if (outer_ != nullptr) outer_->began |= began;
  innermost = outer_;
}
Record* Record::current() { return innermost; }

}  // namespace fastinit
