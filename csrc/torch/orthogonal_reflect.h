// Q as a product of block reflectors (the formulas are in orthogonal.cpp): some of its columns from the last reflector to the
// first, or some of its rows from the first to the last.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "torch/orthogonal_algebra.h"

namespace fastinit {

// A Gaussian matrix, by its place: the rows of a tensor of that many columns, from first_row on. It is seen as a tall one, of
// m x n, which is its transpose if it has more columns than rows.
struct Gaussian {
  const Draw& draw;
  int64_t first_row, rows, cols;
  bool own =
      false;  // each matrix of a batch has its own key: `draw` is the first one's, and the others follow it

  bool wide() const { return rows < cols; }
  int64_t m() const { return std::max(rows, cols); }
  int64_t n() const { return std::min(rows, cols); }
  // The i-th one after this, in a batch.
  Gaussian after(int64_t i) const {
    if (own) return {*(&draw + i), first_row, rows, cols, own};
    return {draw, first_row + i * rows, rows, cols};
  }

  // The tall one's box that begins at (i, j).
  template <class Space, class Matrix>
  void box(const Space& space, const Matrix& x, int64_t i, int64_t j) const {
    if (wide()) {
      space.draw(draw, x.transposed(), first_row + j, i, cols);
    } else {
      space.draw(draw, x, first_row + i, j, cols);
    }
  }
};

// Reflectors of no more than this length are computed in double. In short ones a single number has most of the length,
// and float32's rounding of it shows: otherwise errors in Q* Q of 1e-6 are rare, but do occur.
constexpr int64_t short_reflector = 64;

// How many of n reflectors come before those.
template <class Space>
int64_t long_reflectors(const Space& space, int64_t m, int64_t n) {
  return space.is_wide() ? n : std::clamp<int64_t>(m - short_reflector, 0, n);
}

// The numbers of a Gaussian matrix, drawn block by block in the memory of one; that of a block of reflectors, if nothing else
// is said.
template <class Algebra>
class Redrawn {
 public:
  using Space = typename Algebra::Space;

  Redrawn(const Space& space, const Gaussian& gaussian)
      : Redrawn(space, gaussian, gaussian.m(),
                std::min(gaussian.n(), space.block(gaussian.m(), gaussian.n()))) {}
  Redrawn(const Space& space, const Gaussian& gaussian, int64_t most_rows, int64_t most_cols)
      : rows(gaussian.m()),
        cols(gaussian.n()),
        space_(space),
        gaussian_(gaussian),
        memory_(gaussian.wide() ? space.make(most_cols, most_rows) : space.make(most_rows, most_cols)) {}

  typename Algebra::Matrix block(int64_t i, int64_t j, int64_t r, int64_t c) const {
    const auto x =
        gaussian_.wide() ? memory_.matrix.block(0, 0, c, r).transposed() : memory_.matrix.block(0, 0, r, c);
    gaussian_.box(space_, x, i, j);
    return x;
  }

  const int64_t rows, cols;

 private:
  const Space& space_;
  const Gaussian& gaussian_;
  typename Algebra::Owned memory_;
};

// Makes of q the columns of gain times Q that have those numbers. In those from the `count`th on it has the product of the
// reflectors from the `count`th on, in the others nothing yet. `numbers` is the Gaussian matrix, perhaps in the memory of q.
//
// An element's sums do not depend on which other columns are asked for.
template <class Algebra, class Numbers>
void accumulate(const typename Algebra::Space& space, const typename Algebra::Matrix& q, Indices columns,
                int64_t count, double gain, const Numbers& numbers) {
  const int64_t block = std::min(count, space.block(numbers.rows, numbers.cols));
  Algebra on(space, q.rows, q.cols, block);
  typename Algebra::Diagonal d;
  const auto before = [&](int64_t k) {
    return std::lower_bound(columns.begin(), columns.end(), k) - columns.begin();
  };
  for (int64_t k = count; k > 0;) {
    const int64_t b = std::min(block, k);
    k -= b;
    const int64_t below = q.rows - k - b, left = before(k), here = before(k + b) - left,
                  right = q.cols - left - here;
    if (here + right == 0) continue;
    const auto x = numbers.block(k, k, b + below, b), v2 = x.block(b, 0, below, b);
    const auto v1 = on.v1(x.block(0, 0, b, b));
    const auto t = on.t(v1, x, gain, d);
    if (right > 0) {
      const auto q12 = q.block(k, left + here, b, right), q22 = q.block(k + b, left + here, below, right);
      const auto z2 = on.w(q12);
      on.multiply(z2, on.adjoint(v2), q22, 1, false);
      on.premultiply(t.upper(), z2);
      on.multiply(q12, v1.lower(), z2, -1, false);
      on.multiply(q22, v2, z2, -1, true);
    }
    if (here > 0) {
      const Indices chosen = columns.subspan(left, here);
      const auto z1 = on.choose(on.z1(t, v1, d), chosen, k);
      const auto q11 = q.block(k, left, b, here);
      on.multiply(q11, v1.lower(), z1, -1, false);
      on.add_diagonal(q11, d, chosen, k);
      on.postmultiply(q.block(k + b, left, below, here), v2, z1, -1);
    }
  }
}

// Multiplies rows r from the right by `count` reflectors, and by gain D. If `rows` are given, it begins with those of the
// identity. The last block need not make columns after the first `wanted`.
template <class Algebra, class Numbers>
void apply(const typename Algebra::Space& space, const typename Algebra::Matrix& r, Indices rows,
           int64_t count, int64_t wanted, double gain, const Numbers& numbers) {
  const int64_t length = numbers.rows, block = std::min(count, space.block(length, numbers.cols));
  Algebra on(space, length, r.rows, block);
  typename Algebra::Diagonal d;
  if (!rows.empty()) on.set_identity(r, rows);
  for (int64_t k = 0; k < count; k += block) {
    const int64_t b = std::min(block, count - k), below = length - k - b;
    const auto x = numbers.block(k, k, b + below, b), v2 = x.block(b, 0, below, b);
    const auto v1 = on.v1(x.block(0, 0, b, b));
    const auto t = on.t(v1, x, gain, d);
    const auto r1 = r.block(0, k, r.rows, b);
    const auto y = on.w(r1);
    if (k == 0 && !rows.empty()) {
      on.gather(y, v1, v2, rows, 0);
    } else {
      on.multiply(y, r1, v1.lower(), 1, false);
      if (below > 0) on.multiply(y, r.block(0, k + b, r.rows, below), v2, 1, true);
    }
    on.postmultiply(y, y, t.upper(), 1);
    on.multiply(r1, y, on.adjoint(v1.lower()), -1, true);
    on.scale_columns(r1, d);
    const int64_t rest = (k + b < count ? length : wanted) - k - b;
    if (rest > 0) {
      on.multiply(r.block(0, k + b, r.rows, rest), y, on.adjoint(v2.block(0, 0, rest, b)), -1, true);
    }
  }
}

// Makes of r those rows of gain times Q = 1 - Y V*, Y = V T, without anything that is as long as the reflectors are:
//
//   Y_k = (V_k - sum over l < k of Y_l (V_l* V_k)) T_kk
//
// for each block k of columns. Takes m n^2 - 2/3 n^3 for the inner products, however many rows, and 2 n^2 for each.
template <class Algebra>
void solve(const typename Algebra::Space& space, const typename Algebra::Matrix& r, Indices rows,
           const Gaussian& gaussian, double gain) {
  using Matrix = typename Algebra::Matrix;
  const int64_t m = gaussian.m(), n = gaussian.n(), block = std::min(n, space.block(m, n));
  const int64_t height = std::max(block, m * block / n);
  const Redrawn<Algebra> numbers(space, gaussian), strips(space, gaussian, height, n);
  const auto products = space.make(n, block), heads = space.make(n, block);
  std::vector<typename Algebra::Diagonal> diagonals;
  Algebra on(space, m, r.rows, block);
  for (int64_t k = 0; k < n; k += block) {
    const int64_t b = std::min(block, n - k), below = m - k - b;
    const Matrix x = numbers.block(k, k, b + below, b), v2 = x.block(b, 0, below, b);
    const Matrix v1 = on.v1(x.block(0, 0, b, b));
    const Matrix t = on.t(v1, x, gain, diagonals.emplace_back());
    const Matrix y = r.block(0, k, r.rows, b);
    on.gather(y, v1, v2, rows, k);
    if (k >
        0) {  // what stands in these rows to the left is as it was drawn: V differs on its diagonal and above
      const Matrix product = products.matrix.block(0, 0, k, b);
      for (int64_t i = k; i < m; i += height) {
        const int64_t count = std::min(height, m - i), head = i == k ? b : 0;
        const Matrix left = strips.block(i, 0, count, k);
        if (head > 0) on.multiply(product, on.adjoint(left.block(0, 0, b, k)), v1.lower(), 1, false);
        on.multiply(product, on.adjoint(left.block(head, 0, count - head, k)),
                    v2.block(i + head - k - b, 0, count - head, b), 1, true);
      }
      on.multiply(y, r.block(0, 0, r.rows, k), product, -1, true);
    }
    on.postmultiply(y, y, t.upper(), 1);
    Algebra::copy(heads.matrix.block(k, 0, b, b), v1);
  }
  for (int64_t k = (n - 1) / block * block; k >= 0; k -= block) {
    const int64_t b = std::min(block, n - k);
    const Matrix y = r.block(0, k, r.rows, b);
    on.postmultiply(y, y, on.adjoint(heads.matrix.block(k, 0, b, b).lower()), -1);
    if (k > 0) on.multiply(y, r.block(0, 0, r.rows, k), on.adjoint(strips.block(k, 0, b, k)), -1, true);
    on.add_identity(y, rows, k);
    on.scale_columns(y, diagonals[static_cast<size_t>(k / block)]);
  }
}

}  // namespace fastinit
