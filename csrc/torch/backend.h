// A kind of device: how its memory is filled, and how a key is drawn there. The dispatcher chooses one for each fill.
#pragma once

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>

#include <optional>

#include "core/philox.h"
#include "kernels/interface.h"
#include "torch/keys.h"

namespace fastinit {

struct Backend {
  void (*fill)(const fastinit_fill& fill, const TensorKey& key, const at::Device& device);
  // One fill for each key of a vector of int64, `step` elements apart.
  void (*fill_members)(const fastinit_fill& fill, const at::Tensor& keys, int64_t step,
                       const at::Device& device);
  // Whether what is done now is only recorded, to be repeated later (by a CUDA graph).
  bool (*capturing)(const at::Device& device);
  // One key from a generator of the device (none: its default one).
  TensorKey (*draw_key)(const at::Tensor& self, const std::optional<at::Generator>& generator);
};

extern const Backend cpu_backend;
extern const Backend cuda_backend;  // where the kernels have CUDA

}  // namespace fastinit
