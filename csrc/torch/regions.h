// From tensors to what the kernels understand: dtypes and regions.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/accumulate.h>

#include <optional>
#include <vector>

#include "core/element.h"
#include "core/region.h"
#include "torch/backend.h"
#include "torch/keys.h"

namespace fastinit {

// Where a tensor lies in the whole that it is a part of (contract C10): the whole's indices count, and its rows and columns.
//
// Each dimension of the tensor holds runs of the whole's indices along it: run i has length[i] of them, from first[i] on. The
// runs of all dimensions stand one after the other. A dimension has at least one, and as many as its size takes. Or the
// tensor is flat, the whole is not, and the only run is one of the whole's row-major indices. Without a shape the tensor is
// the whole.
struct Part {
  at::IntArrayRef shape, first, length;

  bool whole() const { return shape.empty(); }
  bool flat(at::IntArrayRef sizes) const { return sizes.size() == 1 && shape.size() != 1; }
  // The whole's, for this tensor.
  at::IntArrayRef shape_for(const at::Tensor& self) const { return whole() ? self.sizes() : shape; }
};

// Where the runs of each dimension of a tensor with these sizes begin in part.first, and where those of the last one end;
// nothing if they do not fit the sizes.
std::optional<std::vector<size_t>> runs_of(at::IntArrayRef sizes, const Part& part);

// The type of a tensor's numbers: its elements, or their real and imaginary parts.
DType dtype_of(const at::Tensor& self);
// What they are computed in.
at::ScalarType arithmetic_of(const at::Tensor& self);

// A box of a whole of that shape, from `offset` on (none: from its beginning). Fewest dimensions: neighbours are merged where
// memory and indices allow it.
Region region_of(at::IntArrayRef sizes, at::IntArrayRef strides, at::IntArrayRef shape,
                 at::IntArrayRef offset);

// What one fill draws with.
struct Draw {
  const Backend& on;
  TensorKey key;
  // If there are keys here, the tensor is the first of as many, `stride` elements apart, and each is filled with its own.
  struct Members {
    at::Tensor keys;
    int64_t stride = 0;
  } members = {};
};

// The region as the kernels' interface takes it, by reference.
fastinit_fill plain(const Region& region, void* data, DType dtype, const fastinit_distribution& distribution);

// Fills a tensor that has passed its checks.
void fill(const at::Tensor& self, const Draw& draw, const fastinit_distribution& distribution,
          const Part& part = {});

// A fill of fewer elements is over so soon that the GIL is kept meanwhile.
constexpr int64_t long_fill = 1 << 14;

}  // namespace fastinit
