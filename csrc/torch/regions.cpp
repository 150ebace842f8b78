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
    case at::kComplexHalf:
      return DType::f16;
    case at::kBFloat16:
      return DType::bf16;
    case at::kFloat8_e4m3fn:
      return DType::f8_e4m3fn;
    case at::kFloat8_e4m3fnuz:
      return DType::f8_e4m3fnuz;
    case at::kFloat8_e5m2:
      return DType::f8_e5m2;
    case at::kFloat8_e5m2fnuz:
      return DType::f8_e5m2fnuz;
    default:
      return DType::f32;
  }
}

at::ScalarType arithmetic_of(const at::Tensor& self) {
  const bool wide = dtype_of(self) == DType::f64;
  if (self.is_complex()) return wide ? at::kComplexDouble : at::kComplexFloat;
  return wide ? at::kDouble : at::kFloat;
}

std::optional<std::vector<size_t>> runs_of(at::IntArrayRef sizes, const Part& part) {
  std::vector<size_t> begin{0};
  for (const int64_t size : sizes) {
    size_t run = begin.back();
    int64_t left = size;
    do {
      if (run == part.length.size()) return std::nullopt;
      left -= part.length[run++];
    } while (left > 0);
    if (left < 0) return std::nullopt;
    begin.push_back(run);
  }
  if (begin.back() != part.length.size()) return std::nullopt;
  return begin;
}

Region region_of(at::IntArrayRef sizes, at::IntArrayRef strides, at::IntArrayRef shape,
                 at::IntArrayRef offset) {
  Region region{};
  // Built from the last dimension outwards, then turned round.
  int64_t index_stride = 1;
  for (size_t d = sizes.size(); d-- > 0; index_stride *= shape[d]) {
    if (!offset.empty()) region.first_index += static_cast<uint64_t>(offset[d] * index_stride);
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

namespace {

// The boxes of a part: one for each choice of a run of every dimension.
class Boxes {
 public:
  Boxes(at::IntArrayRef sizes, at::IntArrayRef strides, const Part& part)
      : strides_(strides),
        part_(part),
        begin_(runs_of(sizes, part).value()),
        sizes_(sizes.size()),
        offset_(sizes.size()) {}

  // Calls f(first element in memory, sizes, offset in the whole) for each.
  template <class F>
  void visit(const F& f, size_t d = 0, int64_t memory = 0) {
    if (d == sizes_.size()) return f(memory, sizes_, offset_);
    for (size_t run = begin_[d]; run < begin_[d + 1]; ++run) {
      sizes_[d] = part_.length[run];
      offset_[d] = part_.first[run];
      visit(f, d + 1, memory);
      memory += sizes_[d] * strides_[d];
    }
  }

 private:
  at::IntArrayRef strides_;
  const Part& part_;
  std::vector<size_t> begin_;
  std::vector<int64_t> sizes_, offset_;
};

}  // namespace

fastinit_fill plain(const Region& region, void* data, DType dtype,
                    const fastinit_distribution& distribution) {
  return {static_cast<int32_t>(dtype), region.dims,        region.sizes, region.strides,
          region.index_strides,        region.first_index, data,         distribution};
}

void fill(const at::Tensor& self, const Draw& draw, const fastinit_distribution& distribution,
          const Part& part) {
  if (self.numel() == 0) return;
  const DType dtype = dtype_of(self);
  // Real and imaginary parts are neighbours, in memory and by index. (No copy of self: to give one up takes the GIL.)
  const at::Tensor parts = self.is_complex() ? at::view_as_real(self) : at::Tensor();
  const at::Tensor& numbers = self.is_complex() ? parts : self;
  const at::IntArrayRef sizes = numbers.sizes(), strides = numbers.strides();
  auto* const data = static_cast<char*>(numbers.data_ptr());
  const auto fill_box = [&](int64_t memory, at::IntArrayRef box, at::IntArrayRef shape,
                            at::IntArrayRef offset) {
    const Region region = region_of(box, strides, shape, offset);
    const fastinit_fill fill =
        plain(region, data + memory * static_cast<int64_t>(numbers.itemsize()), dtype, distribution);
    const Draw::Members& members = draw.members;
    if (members.keys.defined()) {
      draw.on.fill_members(fill, members.keys, members.stride * (self.is_complex() ? 2 : 1), self.device());
    } else {
      draw.on.fill(fill, draw.key, self.device());
    }
  };
  if (part.whole()) return fill_box(0, sizes, sizes, {});
  std::vector<int64_t> shape = part.shape.vec(), first = part.first.vec(), length = part.length.vec();
  if (part.flat(self.sizes())) shape = {c10::multiply_integers(part.shape)};
  if (self.is_complex()) {
    shape.push_back(2);
    first.push_back(0);
    length.push_back(2);
  }
  const Part runs{shape, first, length};
  Boxes boxes(sizes, strides, runs);
  boxes.visit([&](int64_t memory, at::IntArrayRef box, at::IntArrayRef offset) {
    fill_box(memory, box, shape, offset);
  });
}

}  // namespace fastinit
