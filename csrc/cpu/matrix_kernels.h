// The loops of cpu/matrix_kernels.cpp, compiled once per instruction set.
#pragma once

#include "cpu/matrix.h"

namespace fastinit {
namespace cpu {

// The terms k_begin .. k_end - 1 of each sum of a product. The result is made of tiles; a tile is a panel of a, of
// tile_rows rows, times a panel of b, of tile_cols columns. The panels are packed, from a's panel a_first and b's panel
// b_first on.
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

}  // namespace cpu

#define FASTINIT_DECLARE(TARGET)                                                                    \
  namespace TARGET {                                                                                \
  template <class T>                                                                                \
  int64_t tile_rows();                                                                              \
  template <class T>                                                                                \
  int64_t tile_cols(bool narrow);                                                                   \
  template <class T>                                                                                \
  void pack_a(const cpu::Product<T>& p, int64_t panel, int64_t panel_end);                          \
  template <class T>                                                                                \
  void pack_b(const cpu::Product<T>& p, int64_t panel, int64_t panel_end);                          \
  /* The tiles of a's panels i .. i_end - 1 and b's panels j .. j_end - 1. */                       \
  template <class T>                                                                                \
  void multiply(const cpu::Product<T>& p, int64_t i, int64_t i_end, int64_t j, int64_t j_end);      \
  /* For each column, the sum of the squares in rows begin .. end - 1 on and below the diagonal. */ \
  template <class T>                                                                                \
  void lower_squares(const cpu::Matrix<T>& a, int64_t begin, int64_t end, double* sums);            \
  }
FASTINIT_DECLARE(baseline)
#if defined(__x86_64__)
FASTINIT_DECLARE(avx2)
FASTINIT_DECLARE(avx512)
#endif
#undef FASTINIT_DECLARE

}  // namespace fastinit
