// The Q of a Gaussian matrix, without factorising one (contract C9).
//
// Householder's QR factorisation of a Gaussian matrix meets in its column j a vector x_j, of length m - j, that the
// reflectors before it have left Gaussian and independent of themselves. So the x_j can be drawn, not computed:
//
//   v_j = x_j + phase(x_j0) |x_j| e_0,   H_j = 1 - 2 v_j v_j* / |v_j|^2,   R_jj = -phase(x_j0) |x_j|,
//
// and Q = H_0 H_1 ... H_{n-1} D with D_jj = phase(R_jj) is the Q that goes with a positive diagonal of R, which is
// unique and Haar distributed. The x_j are what normal_ would put on and below the diagonal of the tensor, or of its
// transpose, if that is the taller one.
//
// Several reflectors together are one block reflector 1 - V T V*, where T is the inverse of the upper triangle of V* V
// with half its diagonal. The last block is applied first: so Q grows from its last corner, and what is still zero
// costs nothing. With the rows of V split into a triangle V1 and the rest V2,
//
//                 [ D1   0 ]     [ D1 - V1 Z1      - V1 Z2 ]
//   (1 - V T V*)  [  0   Q ]  =  [    - V2 Z1    Q - V2 Z2 ] ,   Z1 = T V1* D1,   Z2 = T V2* Q.
//
// All this takes 4/3 n^3 multiplications and additions for an n x n matrix, where a product of two takes 2 n^3, and
// geqrf and orgqr take 8/3 n^3. V2 stays where it was drawn, in the tensor's own memory, until -V2 Z1 takes its place.
//
// G. Stewart: "The efficient generation of random orthogonal matrices with an application to condition estimators",
//   SIAM J. Numer. Anal. 17 (1980).
// C. Puglisi: "Modification of the Householder method based on the compact WY representation", SIAM J. Sci. Stat.
//   Comput. 13 (1992), for T as an inverse.
// F. Mezzadri: "How to generate random matrices from the classical compact groups", Notices of the AMS 54 (2007).
#include "torch/orthogonal.h"

#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <ATen/TensorUtils.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <memory>
#include <type_traits>
#include <vector>

#include "core/normal.h"
#include "cpu/product.h"

namespace fastinit {
namespace {

using at::Tensor;

// No vector is so short that it could not be reflected, not even one of length zero.
constexpr double shortest = 1e-12;

// Two classes have what the algorithm needs of matrices. Of these, premultiply makes b of a b, postmultiply a of alpha a b.
//
// Native: real ones on the CPU. Every float32 or float64 result is the same to the last bit for any number of threads,
// any strides and any instruction set that has fma, and nothing that the user sets about products has a say in it.
template <class T>
class Native {
 public:
  using Matrix = cpu::Matrix<T>;
  using Diagonal = std::vector<T>;

  Native(int64_t m, int64_t n, int64_t block)
      : block_(block),
        wide_(new T[static_cast<size_t>(block * n)]),
        squares_(new T[static_cast<size_t>(block * block * 4)]) {
    multiply_.reserve(m, n, block);
  }

  static Matrix adjoint(const Matrix& a) { return a.transposed(); }

  void multiply(const Matrix& c, const Matrix& a, const Matrix& b, double alpha, bool add) {
    multiply_(c, a, b, static_cast<T>(alpha), add);
  }
  void postmultiply(const Matrix& a, const Matrix& b, double alpha) { multiply(a, a, b, alpha, false); }
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
    std::vector<double> half = lower_squares(x);
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
  void add_diagonal(const Matrix& a, const Diagonal& d) {
    for (int64_t j = 0; j < a.cols; ++j) a(j, j) += d[j];
  }

 private:
  Matrix square(int64_t number, int64_t b) { return {squares_.get() + number * block_ * block_, b, b, b, 1}; }

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
  cpu::Multiplier<T> multiply_;
};

// Aten: complex ones, and those on other devices.
class Aten {
 public:
  struct Matrix {
    Tensor t;
    int64_t rows, cols;

    Matrix(Tensor x) : t(std::move(x)), rows(t.size(0)), cols(t.size(1)) {}
    Matrix block(int64_t i, int64_t j, int64_t r, int64_t c) const {
      return t.narrow(0, i, r).narrow(1, j, c);
    }
    const Matrix& lower() const { return *this; }
    const Matrix& upper() const { return *this; }
  };
  using Diagonal = Tensor;

  static Matrix adjoint(const Matrix& a) { return a.t.mH(); }

  void multiply(const Matrix& c, const Matrix& a, const Matrix& b, double alpha, bool add) {
    Tensor result = c.t;
    result.addmm_(a.t, b.t, /*beta=*/add ? 1 : 0, alpha);
  }
  void postmultiply(const Matrix& a, const Matrix& b, double alpha) {
    a.t.copy_(a.t.matmul(b.t).mul_(alpha));
  }
  void premultiply(const Matrix& a, const Matrix& b) { b.t.copy_(a.t.matmul(b.t)); }

  Matrix v1(const Matrix& x) { return x.t.tril(); }
  Matrix t(const Matrix& v1, const Matrix& x, double gain, Diagonal& d) {
    const int64_t b = v1.rows;
    const Tensor v2 = x.t.narrow(0, b, x.rows - b);
    Tensor v0 = v1.t.diagonal();
    const at::ScalarType wide = v0.is_complex() ? at::kComplexDouble : at::kDouble;
    const auto squares = [&](const Tensor& v) {
      return at::linalg_vector_norm(v, 2, {0}, false, wide).square_();
    };
    const Tensor x0 = v0.to(wide), norm = squares(v1.t).add_(squares(v2));
    const Tensor phase = at::sgn(x0).add_(x0 == 0);
    const Tensor length = x0.abs();
    v0.copy_(phase * (norm.sqrt() + length).clamp_min_(shortest));
    const Tensor half = (norm - length.square() + v0.to(wide).abs().square_()).mul_(0.5);
    d = (phase * -gain).to(v0.scalar_type());

    Tensor products = v1.t.mH().matmul(v1.t).addmm_(v2.mH(), v2);
    products.diagonal().copy_(half);
    return at::linalg_solve_triangular(products, at::eye(b, products.options()), /*upper=*/true);
  }
  Matrix z1(const Matrix& t, const Matrix& v1, const Diagonal& d) { return t.t.matmul(v1.t.mH()).mul_(d); }
  Matrix w(const Matrix& like) { return at::empty_like(like.t); }
  void add_diagonal(const Matrix& a, const Diagonal& d) { a.t.diagonal().add_(d); }
};

// Makes gain times Q of what was drawn in q. To the right of the first `cols` columns it is done already: the corner
// below them has a Q of its own.
template <class Algebra>
void accumulate(Algebra on, const typename Algebra::Matrix& q, int64_t cols, double gain, int64_t block) {
  typename Algebra::Diagonal d;
  for (int64_t k = cols; k > 0;) {
    const int64_t b = std::min(block, k);
    k -= b;
    const int64_t below = q.rows - k - b, right = q.cols - k - b;
    const auto x = q.block(k, k, b + below, b), v2 = x.block(b, 0, below, b);
    const auto v1 = on.v1(x.block(0, 0, b, b));
    const auto t = on.t(v1, x, gain, d);
    if (right > 0) {
      const auto q12 = q.block(k, k + b, b, right), q22 = q.block(k + b, k + b, below, right);
      const auto z2 = on.w(q12);
      on.multiply(z2, on.adjoint(v2), q22, 1, false);
      on.premultiply(t.upper(), z2);
      on.multiply(q12, v1.lower(), z2, -1, false);
      on.multiply(q22, v2, z2, -1, true);
    }
    const auto z1 = on.z1(t, v1, d);
    const auto q11 = q.block(k, k, b, b);
    on.multiply(q11, v1.lower(), z1.upper(), -1, false);
    on.add_diagonal(q11, d);
    on.postmultiply(v2, z1.upper(), -1);
  }
}

// Reflectors to a block, b. Fewer make thin products, more take memory: Native needs (4 b + n) b numbers for itself and
// (min(m, 4608) + min(n, 4608) + 128) b for the multiplier, which with this b is less than 0.4 m n, or less than
// 400,000. Aten needs no more than 4 m b.
int64_t block_size(int64_t m, int64_t n, int64_t least, int64_t most) {
  const int64_t step = 48;  // a tile's columns, of the widest instruction set
  const double size = std::sqrt(static_cast<double>(m) * static_cast<double>(n)) / 10;
  return std::clamp(static_cast<int64_t>(size) / step * step, least, most);
}

template <class T>
void accumulate_native(const Tensor& q, int64_t cols, double gain) {
  const int64_t m = q.size(0), n = q.size(1);
  int64_t block = std::min(cols, block_size(m, n, 64, cpu::Multiplier<T>::chunk));
  const cpu::Matrix<T> matrix{q.mutable_data_ptr<T>(), m, n, q.stride(0), q.stride(1)};
  accumulate(Native<T>(m, n, block), matrix, cols, gain, block);
}

std::atomic<bool> torch_multiplies{false};

// Where cuBLASLt is preferred, torch asks the switch to TF32 and not the guard (bgemm_internal_cublaslt in CUDABlas.cpp).
bool tf32_without_guard(const Tensor& q) {
  at::Context& context = at::globalContext();
  return q.is_cuda() && q.scalar_type() == at::kFloat &&
         context.float32Precision(at::Float32Backend::CUDA, at::Float32Op::MATMUL) ==
             at::Float32Precision::TF32 &&
         context.blasPreferredBackend() == at::BlasBackend::Cublaslt;
}

void accumulate(const Tensor& q, int64_t cols, double gain) {
  if (cols == 0) return;
  if (q.is_cpu() && !torch_multiplies) {
    if (q.scalar_type() == at::kFloat) return accumulate_native<float>(q, cols, gain);
    if (q.scalar_type() == at::kDouble) return accumulate_native<double>(q, cols, gain);
  }
  if (tf32_without_guard(q)) {
    const Tensor wide = q.to(at::kDouble);
    accumulate(wide, cols, gain);
    q.copy_(wide);
    return;
  }
  // The switch to TF32 is global, but this guard is the thread's own. Complex products on the CPU have no such switch.
  const at::NoTF32Guard full_precision;
  // torch.autocast would round the operands of some products to 16 bits, and not those of others.
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  accumulate(Aten(), q, cols, gain, block_size(q.size(0), q.size(1), q.is_cpu() ? 64 : 128, 256));
}

// Reflectors of no more than this length are computed in double. In short ones a single number has most of the length,
// and float32's rounding of it shows: otherwise errors in Q* Q of 1e-6 are rare, but do occur.
constexpr int64_t short_reflector = 64;

// Whether x's memory, as it is, is that of a matrix of rows x cols.
bool is_matrix(const Tensor& x, int64_t rows, int64_t cols) {
  return at::detail::computeStride(x.sizes(), x.strides(), at::IntArrayRef({rows, cols})).has_value();
}

}  // namespace

bool multiply_by_torch(bool always) { return torch_multiplies.exchange(always); }

template <class R>
void orthogonal(const Tensor& self, double gain, const Draw& draw) {
  if (self.numel() == 0) return;
  const int64_t rows = self.size(0), cols = self.numel() / rows;
  const bool narrow = self.scalar_type() == at::kHalf || self.scalar_type() == at::kBFloat16;
  const bool in_place = !narrow && is_matrix(self, rows, cols);
  const Tensor matrix =
      in_place ? self.view({rows, cols})
               : at::empty({rows, cols}, self.options().dtype(narrow ? at::kFloat : self.scalar_type()));
  fill(matrix, draw, Normal<R>{0, 1});

  // The gain goes in with D, unless multiples of it might overflow, or fractions of it be denormal.
  const bool ordinary = gain == 0 || (std::abs(gain) > 1e-20 && std::abs(gain) < 1e20);
  const double folded = ordinary ? gain : 1;
  const Tensor q = rows < cols ? matrix.t() : matrix;
  const int64_t m = q.size(0), n = q.size(1);
  if (std::is_same_v<R, double>) {
    accumulate(q, n, folded);
  } else {
    const int64_t k = std::clamp<int64_t>(m - short_reflector, 0, n);
    if (k < n) {
      const Tensor corner = q.narrow(0, k, m - k).narrow(1, k, n - k);
      const Tensor wide = corner.to(corner.is_complex() ? at::kComplexDouble : at::kDouble);
      accumulate(wide, n - k, folded);
      corner.copy_(wide);
    }
    accumulate(q, k, folded);
  }
  if (!ordinary) q.mul_(gain);
  if (!in_place) self.copy_(matrix.view(self.sizes()));
}

template void orthogonal<float>(const Tensor&, double, const Draw&);
template void orthogonal<double>(const Tensor&, double, const Draw&);

}  // namespace fastinit
