// Where a fill's elements lie, in memory and in the whole.
#pragma once

#include <cstdint>

#include "core/macros.h"

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

}  // namespace fastinit
