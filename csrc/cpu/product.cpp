#include "cpu/product.h"

#include <algorithm>

#include "cpu/parallel.h"
#include "cpu/product_target.h"
#include "cpu/target.h"

namespace fastinit::cpu {
namespace {

// Calls f(0) .. f(count - 1), each once, on all threads or, if that does not pay, on this one.
template <class F>
void for_each(int64_t count, bool parallel, const F& f) {
  const auto work = [](int64_t begin, int64_t end, void* pointer) {
    for (int64_t i = begin; i < end; ++i) (*static_cast<const F*>(pointer))(i);
  };
  void* const context = const_cast<F*>(&f);
  parallel ? parallel_for(0, count, 1, work, context) : work(0, count, context);
}

// How many parts of at most that size.
int64_t parts(int64_t n, int64_t size) { return (n + size - 1) / size; }

// Those of the instruction set in use.
template <class T>
const ProductKernels<T>& kernels() {
  static constexpr const ProductKernels<T>& (*of_targets[])(T) = {
#define TARGET(NAMESPACE, ...) NAMESPACE::product_kernels,
#include "cpu/targets.def"
  };
  return of_targets[static_cast<int>(active())](T());
}

// Waking threads takes as long as so many multiplications, or reading so many numbers.
constexpr double parallel_multiplications = 1 << 20;
constexpr int64_t parallel_reads = 1 << 15;

// Rows that are summed in one go; a constant, so that sums do not depend on the number of threads.
constexpr int64_t rows_per_sum = 256;

}  // namespace

template <class T>
void Multiplier<T>::reserve(int64_t rows, int64_t cols, int64_t terms) {
  const int64_t tile = 64;  // of any instruction set
  const int64_t size = std::min(terms, chunk) * (std::min(rows, slab) + std::min(cols, slab) + 2 * tile);
  if (size <= size_) return;
  workspace_.reset();
  workspace_.reset(new (std::align_val_t{64}) T[static_cast<size_t>(size)]);
  size_ = size;
}

template <class T>
void Multiplier<T>::operator()(const Matrix<T>& c, const Matrix<T>& a, const Matrix<T>& b, T alpha,
                               bool add) {
  // The kernels want c's rows contiguous.
  if (c.col_stride != 1 && c.row_stride == 1) {
    return (*this)(c.transposed(), b.transposed(), a.transposed(), alpha, add);
  }
  reserve(c.rows, c.cols, a.cols);
  const ProductKernels<T>& k = kernels<T>();
  const bool narrow = c.cols <= k.narrow_tile_cols;
  const int64_t tile_rows = k.tile_rows, tile_cols = narrow ? k.narrow_tile_cols : k.tile_cols;
  const int64_t rows = parts(c.rows, tile_rows), cols = parts(c.cols, tile_cols);
  const int64_t slab_rows = slab / tile_rows, slab_cols = slab / tile_cols;
  const bool parallel =
      static_cast<double>(c.rows) * static_cast<double>(c.cols) * static_cast<double>(a.cols) >
      parallel_multiplications;
  // A task's panels should fit the caches next to its core, but there should be some tasks for each thread.
  const int64_t enough = parallel ? 8 * threads() : 1;
  int64_t tall = 256 / tile_rows, wide = 8;
  while (parts(rows, tall) * parts(cols, wide) < enough && wide > 1) (tall > 8 ? tall : wide) /= 2;

  Product<T> p{c, a, b, alpha, add, narrow, 0, 0, workspace_.get(), nullptr, 0, 0};
  for (p.k_begin = 0; p.k_begin < a.cols; p.k_begin = p.k_end) {
    p.k_end = std::min(p.k_begin + chunk, a.cols);
    p.packed_b = p.packed_a + std::min(rows, slab_rows) * tile_rows * (p.k_end - p.k_begin);
    for (p.b_first = 0; p.b_first < cols; p.b_first += slab_cols) {
      const int64_t b_end = std::min(p.b_first + slab_cols, cols), b_tasks = parts(b_end - p.b_first, wide);
      for (p.a_first = 0; p.a_first < rows; p.a_first += slab_rows) {
        const int64_t a_end = std::min(p.a_first + slab_rows, rows), a_tasks = parts(a_end - p.a_first, tall);
        const auto a_panel = [&](int64_t task) { return std::min(p.a_first + task * tall, a_end); };
        const auto b_panel = [&](int64_t task) { return std::min(p.b_first + task * wide, b_end); };
        for_each(p.a_first == 0 ? a_tasks + b_tasks : a_tasks, parallel, [&](int64_t task) {
          if (task < a_tasks) {
            k.pack_a(p, a_panel(task), a_panel(task + 1));
          } else {
            k.pack_b(p, b_panel(task - a_tasks), b_panel(task - a_tasks + 1));
          }
        });
        for_each(a_tasks * b_tasks, parallel, [&](int64_t task) {
          const int64_t i = task % a_tasks, j = task / a_tasks;
          k.multiply(p, a_panel(i), a_panel(i + 1), b_panel(j), b_panel(j + 1));
        });
      }
    }
  }
}

template <class T>
std::vector<double> lower_squares(const Matrix<T>& a) {
  const ProductKernels<T>& k = kernels<T>();
  const int64_t tasks = parts(a.rows, rows_per_sum);
  std::vector<double> sums(static_cast<size_t>(tasks * a.cols));
  for_each(tasks, a.rows * a.cols > parallel_reads, [&](int64_t task) {
    const int64_t begin = task * rows_per_sum;
    k.lower_squares(a, begin, std::min(begin + rows_per_sum, a.rows), sums.data() + task * a.cols);
  });
  for (int64_t i = a.cols; i < tasks * a.cols; ++i) sums[i % a.cols] += sums[i];
  sums.resize(static_cast<size_t>(a.cols));
  return sums;
}

template class Multiplier<float>;
template class Multiplier<double>;
template std::vector<double> lower_squares(const Matrix<float>&);
template std::vector<double> lower_squares(const Matrix<double>&);

}  // namespace fastinit::cpu
