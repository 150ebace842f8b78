// The loops of cpu/product_target.cpp, compiled once per instruction set.
#pragma once

#include "cpu/product.h"

namespace fastinit {
namespace cpu {

// The terms k_begin .. k_end - 1 of each sum of a product. The result is made of tiles; a tile is a panel of a, of tile_rows
// rows, times a panel of b, of tile_cols columns. The panels are packed, from a's panel a_first and b's panel b_first on.
template <class T>
struct Product {
  Matrix<T> c, a, b;
  T alpha;
  bool add;
  bool narrow;  // b has so few columns that it gets narrower tiles
  int64_t k_begin, k_end;
  T* packed_a;
  T* packed_b;
  int64_t a_first, b_first;
};

template <class T>
struct ProductKernels {
  int64_t tile_rows, tile_cols, narrow_tile_cols;
  void (*pack_a)(const Product<T>& p, int64_t panel, int64_t panel_end);
  void (*pack_b)(const Product<T>& p, int64_t panel, int64_t panel_end);
  // The tiles of a's panels i .. i_end - 1 and b's panels j .. j_end - 1.
  void (*multiply)(const Product<T>& p, int64_t i, int64_t i_end, int64_t j, int64_t j_end);
  // For each column, the sum of the squares in rows begin .. end - 1 on and below the diagonal.
  void (*lower_squares)(const Matrix<T>& a, int64_t begin, int64_t end, double* sums);
};

}  // namespace cpu

#define TARGET(NAMESPACE, ...)                                \
  namespace NAMESPACE {                                       \
  const cpu::ProductKernels<float>& product_kernels(float);   \
  const cpu::ProductKernels<double>& product_kernels(double); \
  }
#include "cpu/targets.def"

}  // namespace fastinit
