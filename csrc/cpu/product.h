// Dense real matrices on the CPU: products that know where their factors are zero.
//
// Why not ATen's. A float32 product there obeys torch.set_float32_matmul_precision and its kin, which are global to
// the process: it could be protected from them only by changing them under other threads. Its last bits depend on the
// library, the processor, the strides and the number of threads. Here an element is one sum of fused multiply-adds in
// one order, whatever these are, on every processor that has fma; and a triangular factor costs half.
#pragma once

#include <cstdint>
#include <memory>
#include <new>
#include <vector>

#include "cpu/matrix.h"

namespace fastinit::cpu {

// Multiplies on all threads, and keeps its workspace from one product to the next.
template <class T>
class Multiplier {
 public:
  // The most terms that are summed before the sum is added to the result.
  static constexpr int64_t chunk = 384;
  // The most rows, or columns, that are worked on at a time.
  static constexpr int64_t slab = 4608;

  // Room for products of that size. The workspace has min(terms, chunk) * (min(rows, slab) + min(cols, slab)) numbers,
  // with rows and cols rounded up a little.
  void reserve(int64_t rows, int64_t cols, int64_t terms);

  // c = alpha a b, or c += alpha a b. Of a c that is lower or upper only that part is written, and the rest of the tiles
  // on its diagonal. c may be a, or b, in the same memory, if the sums have at most `chunk` terms and the other one of
  // them has at most `slab` columns, or rows.
  void operator()(const Matrix<T>& c, const Matrix<T>& a, const Matrix<T>& b, T alpha, bool add);

 private:
  struct Free {
    void operator()(T* p) const { ::operator delete[](p, std::align_val_t{64}); }
  };
  std::unique_ptr<T[], Free> workspace_;
  int64_t size_ = 0;
};

// The sum of the squares of each column, from the diagonal down.
template <class T>
std::vector<double> lower_squares(const Matrix<T>& a);

}  // namespace fastinit::cpu
