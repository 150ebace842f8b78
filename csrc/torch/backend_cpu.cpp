#include "cpu/fill.h"
#include "torch/backend.h"
#include "torch/keys.h"

namespace fastinit {

const Backend cpu_backend{
    [](const Fill& fill, const TensorKey&, const at::Device&) { cpu::fill(fill); },
    [](const Fill& fill, const at::Tensor& keys, int64_t step, const at::Device&) {
      const std::vector<Key> on_host = keys_of(keys);
      cpu::fill(fill, {on_host.data(), keys.numel(), step});
    },
    [](const at::Device&) { return false; },
    nullptr,  // its keys are taken from the generator directly: see KeySource::take
};

}  // namespace fastinit
