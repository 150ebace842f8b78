// One fill, as plain data: what to fill, where it lies, its key and its distribution. The same for every device.
#pragma once

#include <cstdint>
#include <variant>

#include "core/element.h"
#include "core/normal.h"
#include "core/philox.h"
#include "core/sparse.h"
#include "core/truncated_normal.h"
#include "core/uniform.h"

namespace fastinit {

// A box of logical indices mapped onto memory.
//
// Elements are enumerated in row-major order over `sizes`. The element at coordinates c lies at memory
// offset sum c[d] * strides[d] (in elements) and has logical index first_index + sum c[d] * index_strides[d].
// A whole contiguous tensor is one dimension with both strides 1; a transposed view differs in `strides`,
// a shard of a larger tensor in `index_strides` and `first_index`.
struct Region {
  static constexpr int max_dims = 64;
  int dims;
  int64_t sizes[max_dims];
  int64_t strides[max_dims];
  int64_t index_strides[max_dims];
  uint64_t first_index;

  FASTINIT_INLINE int64_t elements() const {
    int64_t n = 1;
    for (int d = 0; d < dims; ++d) n *= sizes[d];
    return n;
  }
};

// The list of distributions. Adding one: its header, a line here, its op, its function and its test.
using Distribution = std::variant<                    //
    Uniform<float>, Uniform<double>,                  //
    Normal<float>, Normal<double>,                    //
    TruncatedNormal<float>, TruncatedNormal<double>,  //
    Sparse<float>, Sparse<double>>;

// The dtype's arithmetic is that of the distribution.
struct Fill {
  Region region;
  void* data;
  DType dtype;
  Key key;
  Distribution distribution;
};

}  // namespace fastinit
