// Dense real matrices in memory.
#pragma once

#include <cstdint>

#include "core/macros.h"

namespace fastinit::cpu {

// Where a matrix may differ from zero: everywhere, on and below its diagonal, or on and above it.
enum class Part { all, lower, upper };

template <class T>
struct Matrix {
  T* data;
  int64_t rows, cols, row_stride, col_stride;
  Part part = Part::all;

  FASTINIT_INLINE T& operator()(int64_t i, int64_t j) const { return data[i * row_stride + j * col_stride]; }
  FASTINIT_INLINE Matrix block(int64_t i, int64_t j, int64_t r, int64_t c) const {
    return {data + i * row_stride + j * col_stride, r, c, row_stride, col_stride};
  }
  FASTINIT_INLINE Matrix transposed() const {
    const Part swapped = part == Part::lower ? Part::upper : part == Part::upper ? Part::lower : Part::all;
    return {data, cols, rows, col_stride, row_stride, swapped};
  }
  // These say where the zeros are; they must be in memory too.
  FASTINIT_INLINE Matrix lower() const { return {data, rows, cols, row_stride, col_stride, Part::lower}; }
  FASTINIT_INLINE Matrix upper() const { return {data, rows, cols, row_stride, col_stride, Part::upper}; }
};

}  // namespace fastinit::cpu
