// From tensors to what the kernels understand: dtypes and regions.
#pragma once

#include <ATen/core/Tensor.h>

#include "core/fill.h"
#include "torch/backend.h"
#include "torch/keys.h"

namespace fastinit {

// Where a tensor lies in the whole that it is a part of: at `offset`, one index per dimension. The whole's indices count,
// and its rows and columns (contract C10). Without a shape the tensor is the whole.
struct Part {
  at::IntArrayRef shape, offset;

  bool whole() const { return shape.empty(); }
};

// The type of a tensor's numbers: its elements, or their real and imaginary parts.
DType dtype_of(const at::Tensor& self);

// Fewest dimensions: neighbours are merged where memory and indices allow it.
Region region_of(at::IntArrayRef sizes, at::IntArrayRef strides, const Part& part = {});

// What one fill draws with.
struct Draw {
  const Backend& on;
  TensorKey key;
};

// Fills a tensor that has passed its checks. The distribution's arithmetic must be that of the tensor's dtype.
void fill(const at::Tensor& self, const Draw& draw, const Distribution& distribution, const Part& part = {});

// A fill of fewer elements is over so soon that the GIL is kept meanwhile.
constexpr int64_t long_fill = 1 << 14;

}  // namespace fastinit
