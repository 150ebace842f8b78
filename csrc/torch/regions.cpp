#include "torch/regions.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <vector>

namespace fastinit {

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

Region region_of(at::IntArrayRef sizes, at::IntArrayRef strides, const Part& part) {
  Region region{};
  const at::IntArrayRef shape = part.whole() ? sizes : part.shape;
  // Built from the last dimension outwards, then turned round.
  int64_t index_stride = 1;
  for (size_t d = sizes.size(); d-- > 0; index_stride *= shape[d]) {
    if (!part.whole()) region.first_index += static_cast<uint64_t>(part.offset[d] * index_stride);
    if (sizes[d] == 1) continue;
    const int last = region.dims - 1;
    if (last >= 0 && strides[d] == region.strides[last] * region.sizes[last] &&
        index_stride == region.index_strides[last] * region.sizes[last]) {
      region.sizes[last] *= sizes[d];
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

void fill(const at::Tensor& self, const Draw& draw, const Distribution& distribution, const Part& part) {
  if (self.numel() == 0) return;
  if (self.is_complex()) {  // real and imaginary parts are neighbours, in memory and by index
    const at::Tensor numbers = at::view_as_real(self);
    if (part.whole()) return fill(numbers, draw, distribution);
    std::vector<int64_t> shape = part.shape.vec(), offset = part.offset.vec();
    shape.push_back(2);
    offset.push_back(0);
    return fill(numbers, draw, distribution, {shape, offset});
  }
  draw.on.fill(Fill{region_of(self.sizes(), self.strides(), part), self.data_ptr(), dtype_of(self),
                    draw.key.host, distribution},
               draw.key, self.device());
}

}  // namespace fastinit
