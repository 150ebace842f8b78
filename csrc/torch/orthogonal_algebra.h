// What the reflections of contract C9 need of matrices, twice: Native for real ones on the CPU, Aten for all others. Each has
// a Space, in which its matrices lie.
//
// Of the products, premultiply makes b of a b, and postmultiply c of alpha a b, where c may be a.
#pragma once

#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <ATen/TensorUtils.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <span>
#include <type_traits>
#include <vector>

#include "torch/kernels.h"
#include "torch/regions.h"

namespace fastinit {

using Indices = std::span<const int64_t>;

inline std::vector<int64_t> first_indices(int64_t n) {
  std::vector<int64_t> indices(static_cast<size_t>(n));
  std::iota(indices.begin(), indices.end(), 0);
  return indices;
}

// It goes in with D, unless multiples of it might overflow, or fractions of it be denormal.
struct Gain {
  double value;

  bool ordinary() const { return value == 0 || (std::abs(value) > 1e-20 && std::abs(value) < 1e20); }
  double folded() const { return ordinary() ? value : 1; }
  void finish(const at::Tensor& q) const {
    if (!ordinary()) q.mul_(value);
  }
};

// Reflectors to a block, b. Fewer make thin products, more take memory: Native needs (4 b + n) b numbers for itself and
// (min(m, 4608) + min(n, 4608) + 128) b for the multiplier, which with this b is less than 0.4 m n, or less than
// 400,000. Aten needs no more than 4 m b.
inline int64_t block_size(int64_t m, int64_t n, int64_t least, int64_t most) {
  const int64_t step = 48;  // a tile's columns, of the widest instruction set
  const double size = std::sqrt(static_cast<double>(m) * static_cast<double>(n)) / 10;
  return std::clamp(static_cast<int64_t>(size) / step * step, least, most);
}

// No vector is so short that it could not be reflected, not even one of length zero.
constexpr double shortest = 1e-12;

template <class T>
struct NativeOwned {
  std::unique_ptr<T[]> memory;
  cpu::Matrix<T> matrix;
};

template <class T>
struct NativeSpace {
  NativeSpace<double> wide() const { return {}; }
  bool is_wide() const { return std::is_same_v<T, double>; }
  int64_t block(int64_t m, int64_t n) const { return block_size(m, n, 64, FASTINIT_MOST_TERMS); }
  NativeOwned<T> make(int64_t rows, int64_t cols) const {
    std::unique_ptr<T[]> memory(new T[static_cast<size_t>(rows * cols)]);
    const cpu::Matrix<T> matrix{memory.get(), rows, cols, cols, 1};
    return {std::move(memory), matrix};
  }
  // The box of a Gaussian matrix of that many columns that begins there.
  void draw(const Draw& draw, const cpu::Matrix<T>& x, int64_t row, int64_t col, int64_t cols) const {
    const Region region =
        region_of({x.rows, x.cols}, {x.row_stride, x.col_stride}, {row + x.rows, cols}, {row, col});
    const DType dtype = is_wide() ? DType::f64 : DType::f32;
    draw.on.fill(plain(region, x.data, dtype, kernels::normal(0, 1)), draw.key, at::kCPU);
  }
};

// Native: real ones on the CPU. Every float32 or float64 result is the same to the last bit for any number of threads,
// any strides and any instruction set that has fma, and nothing that the user sets about products has a say in it.
template <class T>
class Native {
 public:
  using Number = T;
  using Matrix = cpu::Matrix<T>;
  using Diagonal = std::vector<T>;
  using Wide = Native<double>;

  using Owned = NativeOwned<T>;
  using Space = NativeSpace<T>;

  static Matrix of(const at::Tensor& t) {
    return {t.mutable_data_ptr<T>(), t.size(0), t.size(1), t.stride(0), t.stride(1)};
  }
  template <class To, class From>
  static void copy(const cpu::Matrix<To>& to, const cpu::Matrix<From>& from) {
    for (int64_t i = 0; i < to.rows; ++i) {
      for (int64_t j = 0; j < to.cols; ++j) to(i, j) = static_cast<To>(from(i, j));
    }
  }

  // For results of m x n.
  Native(const Space&, int64_t m, int64_t n, int64_t block)
      : block_(block),
        wide_(new T[static_cast<size_t>(block * n)]),
        squares_(new T[static_cast<size_t>(block * block * 4)]) {
    multiply_.reserve(m, n, block);
  }

  static Matrix adjoint(const Matrix& a) { return a.transposed(); }

  void multiply(const Matrix& c, const Matrix& a, const Matrix& b, double alpha, bool add) {
    multiply_(c, a, b, static_cast<T>(alpha), add);
  }
  void postmultiply(const Matrix& c, const Matrix& a, const Matrix& b, double alpha) {
    multiply(c, a, b, alpha, false);
  }
  void premultiply(const Matrix& a, const Matrix& b) { multiply(b, a, b, 1, false); }

  Matrix v1(const Matrix& x) {
    const Matrix v = square(0, x.rows);
    for (int64_t i = 0; i < x.rows; ++i) {
      for (int64_t j = 0; j < x.rows; ++j) v(i, j) = j <= i ? x(i, j) : T(0);
    }
    return v;
  }
  Matrix t(const Matrix& v1, const Matrix& x, double gain, Diagonal& d) {
    const int64_t b = v1.rows;
    std::vector<double> half = kernels::lower_squares(x);
    d.resize(static_cast<size_t>(b));
    for (int64_t j = 0; j < b; ++j) {
      const double x0 = v1(j, j), phase = std::copysign(1.0, x0), norm = std::sqrt(half[j]);
      v1(j, j) = static_cast<T>(phase * std::max(std::abs(x0) + norm, shortest));
      const double v0 = v1(j, j);  // as it was rounded: |v|^2 / 2 is of this one
      half[j] = (half[j] - x0 * x0 + v0 * v0) / 2;
      d[j] = static_cast<T>(-gain * phase);
    }
    const Matrix products = square(1, b), inverse = square(2, b), v2 = x.block(b, 0, x.rows - b, b);
    if (b > 1) {  // else there is nothing beside the diagonal
      multiply(products.upper(), v1.lower().transposed(), v1.lower(), 1, false);
      multiply(products.upper(), v2.transposed(), v2, 1, true);
    }
    for (int64_t j = 0; j < b; ++j) products(j, j) = static_cast<T>(half[j]);
    std::fill_n(inverse.data, b * b, T(0));
    invert_upper(inverse, products);
    return inverse;
  }
  Matrix z1(const Matrix& t, const Matrix& v1, const Diagonal& d) {
    const Matrix z = square(1, t.rows);
    multiply(z.upper(), t.upper(), v1.lower().transposed(), 1, false);
    for (int64_t i = 0; i < z.rows; ++i) {
      for (int64_t j = i; j < z.cols; ++j) z(i, j) *= d[j];
    }
    return z;
  }
  Matrix w(const Matrix& like) {  // as q, row by row or column by column
    const bool by_rows = like.col_stride <= like.row_stride;
    return {wide_.get(), like.rows, like.cols, by_rows ? like.cols : 1, by_rows ? 1 : like.rows};
  }
  // Of an upper z, the columns c - begin for the given c: moved to the left.
  static Matrix choose(const Matrix& z, Indices columns, int64_t begin) {
    const auto count = static_cast<int64_t>(columns.size());
    if (count == z.cols) return z.upper();
    for (int64_t j = 0; j < count; ++j) {
      const int64_t from = columns[j] - begin;
      for (int64_t i = 0; i < z.rows; ++i)
        z(i, j) = i <= from ? z(i, from) : T(0);  // below there is no zero in memory
    }
    return z.block(0, 0, z.rows, count);
  }
  // a += D, of whose columns a has those.
  static void add_diagonal(const Matrix& a, const Diagonal& d, Indices columns, int64_t begin) {
    for (int64_t j = 0; j < a.cols; ++j) a(columns[j] - begin, j) += d[columns[j] - begin];
  }
  static void scale_columns(const Matrix& a, const Diagonal& d) {
    for_each_element(a, [&](int64_t i, int64_t j) { a(i, j) *= d[j]; });
  }
  // Those rows of the matrix that has zeros in its first rows, up to `begin`, then v1, then v2.
  static void gather(const Matrix& y, const Matrix& v1, const Matrix& v2, Indices rows, int64_t begin) {
    for_each_element(y, [&](int64_t i, int64_t j) {
      const int64_t row = rows[i] - begin;
      y(i, j) = row < 0 ? T(0) : row < v1.rows ? v1(row, j) : v2(row - v1.rows, j);
    });
  }
  static void set_identity(const Matrix& a, Indices rows) {
    for_each_element(a, [&](int64_t i, int64_t j) { a(i, j) = T(j == rows[i]); });
  }
  // Adds those rows of the identity, from their column `begin` on.
  static void add_identity(const Matrix& a, Indices rows, int64_t begin) {
    for (int64_t i = 0; i < a.rows; ++i) {
      if (rows[i] >= begin && rows[i] < begin + a.cols) a(i, rows[i] - begin) += 1;
    }
  }

 private:
  Matrix square(int64_t number, int64_t b) { return {squares_.get() + number * block_ * block_, b, b, b, 1}; }

  // In the order of memory.
  template <class F>
  static void for_each_element(const Matrix& a, const F& f) {
    if (a.row_stride < a.col_stride) {
      for (int64_t j = 0; j < a.cols; ++j) {
        for (int64_t i = 0; i < a.rows; ++i) f(i, j);
      }
    } else {
      for (int64_t i = 0; i < a.rows; ++i) {
        for (int64_t j = 0; j < a.cols; ++j) f(i, j);
      }
    }
  }

  void invert_upper(const Matrix& inverse, const Matrix& a) {
    const int64_t n = a.rows, h = n / 2;
    if (n > 24) {
      const auto corner = [&](const Matrix& x) { return x.block(h, h, n - h, n - h); };
      invert_upper(inverse.block(0, 0, h, h), a.block(0, 0, h, h));
      invert_upper(corner(inverse), corner(a));
      const Matrix product = square(3, n).block(0, 0, h, n - h);
      multiply(product, a.block(0, h, h, n - h), corner(inverse).upper(), 1, false);
      multiply(inverse.block(0, h, h, n - h), inverse.block(0, 0, h, h).upper(), product, -1, false);
      return;
    }
    for (int64_t j = 0; j < n; ++j) {
      inverse(j, j) = T(1) / a(j, j);
      for (int64_t i = j - 1; i >= 0; --i) {
        T sum = 0;
        for (int64_t k = i + 1; k <= j; ++k) sum += a(i, k) * inverse(k, j);
        inverse(i, j) = -sum * inverse(i, i);
      }
    }
  }

  int64_t block_;
  std::unique_ptr<T[]> wide_, squares_;
  kernels::Multiplier<T> multiply_;
};

// Whether all products are torch's, on the CPU too: for tests of the path that other devices take.
bool multiplied_by_torch();

// Where cuBLASLt is preferred, torch asks the switch to TF32 and not the guard (bgemm_internal_cublaslt in CUDABlas.cpp).
inline bool tf32_without_guard(const at::Tensor& x) {
  at::Context& context = at::globalContext();
  return x.is_cuda() && x.scalar_type() == at::kFloat &&
         context.float32Precision(at::Float32Backend::CUDA, at::Float32Op::MATMUL) ==
             at::Float32Precision::TF32 &&
         context.blasPreferredBackend() == at::BlasBackend::Cublaslt;
}

// a b; in double, if it would be rounded to TF32.
inline at::Tensor full_product(const at::Tensor& a, const at::Tensor& b) {
  if (!tf32_without_guard(a) && !tf32_without_guard(b)) return a.matmul(b);
  return a.to(at::kDouble).matmul(b.to(at::kDouble)).to(at::kFloat);
}

// Aten: complex ones, and those on other devices.
class Aten {
 public:
  struct Matrix {
    at::Tensor t;
    int64_t rows, cols;

    Matrix(at::Tensor x) : t(std::move(x)), rows(t.size(0)), cols(t.size(1)) {}
    Matrix block(int64_t i, int64_t j, int64_t r, int64_t c) const {
      return t.narrow(0, i, r).narrow(1, j, c);
    }
    Matrix transposed() const { return t.t(); }
    const Matrix& lower() const { return *this; }
    const Matrix& upper() const { return *this; }
  };
  using Diagonal = at::Tensor;
  using Wide = Aten;

  struct Owned {
    Matrix matrix;
  };
  struct Space {
    at::TensorOptions options;

    Space wide() const { return {options.dtype(complex() ? at::kComplexDouble : at::kDouble)}; }
    bool is_wide() const { return at::toRealValueType(type()) == at::kDouble; }
    int64_t block(int64_t m, int64_t n) const {
      return block_size(m, n, options.device().is_cpu() ? 64 : 128, 256);
    }
    Owned make(int64_t rows, int64_t cols) const { return {at::empty({rows, cols}, options)}; }
    void draw(const Draw& draw, const Matrix& x, int64_t row, int64_t col, int64_t cols) const {
      fill(x.t, draw, kernels::normal(0, 1), {{row + x.rows, cols}, {row, col}, {x.rows, x.cols}});
    }

   private:
    at::ScalarType type() const { return c10::typeMetaToScalarType(options.dtype()); }
    bool complex() const { return at::isComplexType(type()); }
  };

  static Matrix of(const at::Tensor& t) { return t; }
  static Matrix adjoint(const Matrix& a) { return a.t.mH(); }
  static void copy(const Matrix& to, const Matrix& from) { to.t.copy_(from.t); }

  Aten(Space space, int64_t, int64_t, int64_t) : space_(space) {}

  void multiply(const Matrix& c, const Matrix& a, const Matrix& b, double alpha, bool add) {
    at::Tensor result = c.t;
    if (tf32_without_guard(result)) {
      const at::Tensor product = full_product(a.t, b.t).mul_(alpha);
      add ? result.add_(product) : result.copy_(product);
    } else {
      result.addmm_(a.t, b.t, /*beta=*/add ? 1 : 0, alpha);
    }
  }
  void postmultiply(const Matrix& c, const Matrix& a, const Matrix& b, double alpha) {
    c.t.copy_(full_product(a.t, b.t).mul_(alpha));
  }
  void premultiply(const Matrix& a, const Matrix& b) { b.t.copy_(full_product(a.t, b.t)); }

  Matrix v1(const Matrix& x) { return x.t.tril(); }
  Matrix t(const Matrix& v1, const Matrix& x, double gain, Diagonal& d) {
    const int64_t b = v1.rows;
    const at::Tensor v2 = x.t.narrow(0, b, x.rows - b);
    at::Tensor v0 = v1.t.diagonal();
    const at::ScalarType wide = v0.is_complex() ? at::kComplexDouble : at::kDouble;
    const auto squares = [&](const at::Tensor& v) {
      return at::linalg_vector_norm(v, 2, {0}, false, wide).square_();
    };
    const at::Tensor x0 = v0.to(wide), norm = squares(v1.t).add_(squares(v2));
    const at::Tensor phase = at::sgn(x0).add_(x0 == 0);
    const at::Tensor length = x0.abs();
    v0.copy_(phase * (norm.sqrt() + length).clamp_min_(shortest));
    const at::Tensor half = (norm - length.square() + v0.to(wide).abs().square_()).mul_(0.5);
    d = (phase * -gain).to(v0.scalar_type());

    at::Tensor products = full_product(v1.t.mH(), v1.t).add_(full_product(v2.mH(), v2));
    products.diagonal().copy_(half);
    return at::linalg_solve_triangular(products, at::eye(b, products.options()), /*upper=*/true);
  }
  Matrix z1(const Matrix& t, const Matrix& v1, const Diagonal& d) {
    return full_product(t.t, v1.t.mH()).mul_(d);
  }
  Matrix w(const Matrix& like) { return at::empty_like(like.t); }
  Matrix choose(const Matrix& z, Indices columns, int64_t begin) const {
    return static_cast<int64_t>(columns.size()) == z.cols ? z.t
                                                          : z.t.index_select(1, tensor(columns).sub_(begin));
  }
  void add_diagonal(const Matrix& a, const Diagonal& d, Indices columns, int64_t begin) const {
    if (a.rows == a.cols) return void(a.t.diagonal().add_(d));
    const at::Tensor rows = tensor(columns).sub_(begin);
    a.t.scatter_add_(0, rows.unsqueeze(0), d.index_select(0, rows).unsqueeze(0));
  }
  static void scale_columns(const Matrix& a, const Diagonal& d) { a.t.mul_(d); }
  void gather(const Matrix& y, const Matrix& v1, const Matrix& v2, Indices rows, int64_t begin) const {
    const at::Tensor row = tensor(rows).sub_(begin);
    y.t.copy_(at::cat({v1.t, v2.t}).index_select(0, row.clamp_min(0)).mul_(row.ge(0).unsqueeze(1)));
  }
  void set_identity(const Matrix& a, Indices rows) const {
    a.t.zero_();
    add_identity(a, rows, 0);
  }
  void add_identity(const Matrix& a, Indices rows, int64_t begin) const {
    a.t.add_(tensor(rows).sub_(begin).unsqueeze(1).eq(at::arange(a.cols, index_options())));
  }

 private:
  at::TensorOptions index_options() const { return space_.options.dtype(at::kLong); }
  at::Tensor tensor(Indices indices) const {
    return at::tensor(at::IntArrayRef(indices.data(), indices.size()), at::kLong).to(space_.options.device());
  }

  Space space_;
};

template <class Algebra>
using Kind = std::type_identity<Algebra>;

// Calls f(Kind<Algebra>, space, options of the numbers that are computed with) for the algebra of such a tensor.
template <class F>
void with_algebra(const at::Tensor& self, const F& f) {
  const at::TensorOptions options = self.options().dtype(arithmetic_of(self));
  if (!self.is_cpu() || self.is_complex() || multiplied_by_torch())
    return f(Kind<Aten>(), Aten::Space{options}, options);
  if (dtype_of(self) == DType::f64) return f(Kind<Native<double>>(), Native<double>::Space(), options);
  f(Kind<Native<float>>(), Native<float>::Space(), options);
}

// Whether it has those numbers, in memory that is as it is of those sizes.
inline bool can_be_viewed(const at::Tensor& self, at::IntArrayRef sizes, const at::TensorOptions& options) {
  return self.dtype() == options.dtype() &&
         at::detail::computeStride(self.sizes(), self.strides(), sizes).has_value();
}

}  // namespace fastinit
