#include "torch/backend.h"
#include "torch/kernels.h"
#include "torch/keys.h"

namespace fastinit {

const Backend cpu_backend{
    [](const fastinit_fill& fill, const TensorKey& key, const at::Device&) {
      kernels::check(fastinit_fill_on_cpu(&fill, &key.host.bits, 1, 0));
    },
    [](const fastinit_fill& fill, const at::Tensor& keys, int64_t step, const at::Device&) {
      const at::Tensor contiguous = keys.contiguous();
      const auto* const bits = reinterpret_cast<const uint64_t*>(contiguous.const_data_ptr<int64_t>());
      kernels::check(fastinit_fill_on_cpu(&fill, bits, contiguous.numel(), step));
    },
    [](const at::Device&) { return false; },
    nullptr,  // its keys are taken from the generator directly: see KeySource::take
};

}  // namespace fastinit
