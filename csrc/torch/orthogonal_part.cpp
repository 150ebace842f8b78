// A part of Q without the rest of it, in one of three ways.
//
// Columns are what is left of the whole's algorithm when all others are left out: to the last bit on the CPU, for real
// matrices. A block of reflectors is drawn when its turn comes. Column j takes 4 m j - 2 j^2 multiplications and additions.
//
// Rows are those of the identity, multiplied by one block of reflectors after the other from the right,
//
//   e_i* Q = (... ((e_i* - (e_i* V) T V*) ...) D,
//
// or, in a tall matrix, solved for. A row takes 4 m n - 2 n^2 in the one way and 2 n^2 in the other, besides m n^2 - 2/3 n^3
// for all of them. Their sums are others than the whole's, and agree to rounding.
//
// All rows that are needed means columns; else that is done which takes least. To each come m n b for T, whenever it is made.
//
// Where the part's own memory does not take what is computed (there are numbers of 16 bits, or other columns and rows among
// them), that is made in chunks of 2 b columns or rows; solved for, all at a time. So, besides the part, the memory of m (b + 2 b)
// numbers is needed for a block of reflectors and a chunk, with b as in block_size, and what block_size says; or, besides the
// part in float32, that of 2 (m + n) b.
#include "torch/orthogonal_part.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <functional>
#include <vector>

#include "torch/orthogonal_reflect.h"

namespace fastinit {
namespace {

using at::Tensor;

int64_t number(Indices indices) { return static_cast<int64_t>(indices.size()); }

Tensor as_tensor(Indices indices, const Tensor& like) {
  return at::tensor(at::IntArrayRef(indices.data(), indices.size()), at::kLong).to(like.device());
}

// The corner of short reflectors, in double.
template <class Algebra>
typename Algebra::Wide::Owned draw_corner(const typename Algebra::Space& space, const Gaussian& gaussian,
                                          int64_t k) {
  const auto drawn = space.make(gaussian.m() - k, gaussian.n() - k);
  gaussian.box(space, drawn.matrix, k, k);
  auto corner = space.wide().make(gaussian.m() - k, gaussian.n() - k);
  Algebra::copy(corner.matrix, drawn.matrix);
  return corner;
}

// Makes of q, m x number(columns), those columns of gain times Q.
template <class Algebra>
void make_columns(const typename Algebra::Space& space, const typename Algebra::Matrix& q,
                  const Gaussian& gaussian, Indices columns, double gain) {
  const int64_t m = gaussian.m(), n = gaussian.n(), k = long_reflectors(space, m, n);
  const auto split = std::lower_bound(columns.begin(), columns.end(), k);
  if (split != columns.end()) {
    using Wide = typename Algebra::Wide;
    std::vector<int64_t> of_corner(split, columns.end());
    for (int64_t& column : of_corner) column -= k;
    const auto corner = draw_corner<Algebra>(space, gaussian, k);
    const auto result = space.wide().make(m - k, number(of_corner));
    accumulate<Wide>(space.wide(), result.matrix, of_corner, n - k, gain, corner.matrix);
    Algebra::copy(q.block(k, split - columns.begin(), m - k, number(of_corner)), result.matrix);
  }
  if (k > 0) accumulate<Algebra>(space, q, columns, k, gain, Redrawn<Algebra>(space, gaussian));
}

// How many numbers of a row are needed meanwhile, n of which are the result.
template <class Space>
int64_t row_length(const Space& space, int64_t m, int64_t n) {
  return long_reflectors(space, m, n) == n && n <= space.block(m, n) ? n : m;
}

// Makes of r, number(rows) x row_length, those rows of gain times Q.
template <class Algebra>
void make_rows(const typename Algebra::Space& space, const typename Algebra::Matrix& r,
               const Gaussian& gaussian, Indices rows, double gain) {
  const int64_t m = gaussian.m(), n = gaussian.n(), k = long_reflectors(space, m, n);
  if (k > 0) apply<Algebra>(space, r, rows, k, k < n ? m : n, gain, Redrawn<Algebra>(space, gaussian));
  if (k < n) {
    using Wide = typename Algebra::Wide;
    const auto corner = draw_corner<Algebra>(space, gaussian, k);
    const auto rest = r.block(0, k, r.rows, m - k);
    const auto result = space.wide().make(r.rows, m - k);
    if (k > 0) Algebra::copy(result.matrix, rest);
    apply<Wide>(space.wide(), result.matrix, k > 0 ? Indices() : rows, n - k, n - k, gain, corner.matrix);
    Algebra::copy(rest, result.matrix);
  }
}

enum class Way { columns, rows, solved_rows };

// The cheapest of those that make some rows and columns of the tall matrix.
template <class Space>
Way choose_way(const Space& space, int64_t m, int64_t n, Indices rows, Indices cols) {
  if (number(rows) == m) return Way::columns;
  const auto product = [](int64_t a, int64_t b, int64_t c) {
    return static_cast<double>(a) * static_cast<double>(b) * static_cast<double>(c);
  };
  const int64_t b = space.block(m, n);
  const double triangle = product(m, n, b);  // for all T
  const auto chunks = [&](Indices made) { return static_cast<double>((number(made) + 2 * b - 1) / (2 * b)); };
  double by_columns = chunks(cols) * triangle;
  for (const int64_t j : cols) by_columns += product(1, 2 * m - j, 2 * j);
  const double by_rows =
      chunks(rows) * triangle + product(number(rows), row_length(space, m, n) == n ? n : 2 * m - n, 2 * n);
  const double solved = triangle + product(n, n, m + 2 * number(rows)) - product(n, n, n) * 2 / 3;
  const bool solvable = number(cols) == n && long_reflectors(space, m, n) == n;
  if (solvable && solved < std::min(by_columns, by_rows)) return Way::solved_rows;
  return by_columns <= by_rows ? Way::columns : Way::rows;
}

// Where the values of a part go that does not take them itself: a box of them, and the place of its first one among the
// part's rows and columns.
using Write = std::function<void(const Tensor& values, int64_t row, int64_t col)>;

// Makes those rows and columns of gain times Q: in `memory`, if it is there and takes them as they are made, or else for
// `write`, box by box.
void make_part(const Tensor& self, const Gaussian& gaussian, Indices rows, Indices cols, const Gain& gain,
               const Tensor& memory, const Write& write) {
  with_algebra(self, [&]<class Algebra>(Kind<Algebra>, const auto& space, const at::TensorOptions& options) {
    const bool wide = gaussian.wide();
    const Indices tall_rows = wide ? cols : rows, tall_cols = wide ? rows : cols;
    const int64_t m = gaussian.m(), n = gaussian.n();
    const Way way = choose_way(space, m, n, tall_rows, tall_cols);
    // What is made one after the other, how much of it at a time, and how long it is; and what is kept of that.
    const bool by_columns = way == Way::columns;
    const Indices made = by_columns ? tall_cols : tall_rows, kept = by_columns ? tall_rows : tall_cols;
    const int64_t length = by_columns ? m : way == Way::solved_rows ? n : row_length(space, m, n);
    const bool in_place = memory.defined() && number(kept) == length;
    const int64_t chunk =
        in_place || way == Way::solved_rows ? number(made) : std::min(number(made), 2 * space.block(m, n));

    const auto turned = [&](const Tensor& x) { return wide ? x.t() : x; };
    const Tensor q = turned(in_place             ? memory
                            : by_columns == wide ? at::empty({chunk, length}, options)
                                                 : at::empty({length, chunk}, options));
    const int64_t dim = by_columns ? 1 : 0;
    for (int64_t i = 0; i < number(made); i += chunk) {
      const int64_t count = std::min(chunk, number(made) - i);
      const Indices some = made.subspan(static_cast<size_t>(i), static_cast<size_t>(count));
      const Tensor x = q.narrow(dim, 0, count);
      const auto matrix = Algebra::of(x);
      switch (way) {
        case Way::columns:
          make_columns<Algebra>(space, matrix, gaussian, some, gain.folded());
          break;
        case Way::rows:
          make_rows<Algebra>(space, matrix, gaussian, some, gain.folded());
          break;
        case Way::solved_rows:
          solve<Algebra>(space, matrix, some, gaussian, gain.folded());
      }
      gain.finish(x);
      if (in_place) return;
      const Tensor values = x.narrow(1 - dim, 0, by_columns ? m : n);
      const bool all = number(kept) == values.size(1 - dim);
      write(turned(all ? values : values.index_select(1 - dim, as_tensor(kept, values))),
            by_columns == wide ? i : 0, by_columns == wide ? 0 : i);
    }
  });
}

// Those rows and columns, in a tensor of the rows and any dimensions of the columns.
void fill_box(const Tensor& self, const Gaussian& gaussian, Indices rows, Indices cols, const Gain& gain) {
  if (number(rows) == gaussian.rows && number(cols) == gaussian.cols) return fill_whole(self, gaussian, gain);
  const std::vector<int64_t> sizes{number(rows), number(cols)};
  const bool in_place = can_be_viewed(self, sizes, self.options());
  const Tensor matrix = in_place ? self.view(sizes) : at::empty(sizes, self.options());
  const bool narrow = self.scalar_type() != arithmetic_of(self);
  make_part(self, gaussian, rows, cols, gain, narrow ? Tensor() : matrix,
            [&](const Tensor& values, int64_t row, int64_t col) {
              matrix.narrow(0, row, values.size(0)).narrow(1, col, values.size(1)).copy_(values);
            });
  if (!in_place) self.copy_(matrix.view(self.sizes()));
}

// Consecutive elements of the matrix, by their row-major index, and where they begin in a flat tensor.
struct Segment {
  int64_t first, length, place;
};

void fill_segments(const Tensor& self, const Gaussian& gaussian, const std::vector<Segment>& segments,
                   const Gain& gain) {
  const int64_t cols = gaussian.cols, stride = self.stride(0);
  const auto view = [&](int64_t place, int64_t r, int64_t c) {
    return self.as_strided({r, c}, {cols * stride, stride}, self.storage_offset() + place * stride);
  };
  if (segments[0].length == gaussian.rows * cols) {
    return fill_whole(view(segments[0].place, gaussian.rows, cols), gaussian, gain);
  }
  // A box of a segment: its first row, the rest of them, its last row.
  struct Box {
    int64_t row, rows, col, cols, place;
  };
  std::vector<Box> boxes;
  std::vector<int64_t> rows;
  for (const auto& [first, length, place] : segments) {
    for (int64_t begin = first, end = first + length; begin < end;) {
      const int64_t row = begin / cols, col = begin % cols;
      const Box box = col > 0 || end - begin < cols
                          ? Box{row, 1, col, std::min(cols - col, end - begin), place + begin - first}
                          : Box{row, (end - begin) / cols, 0, cols, place + begin - first};
      boxes.push_back(box);
      for (int64_t i = row; i < row + box.rows; ++i) {
        if (rows.empty() || rows.back() < i) rows.push_back(i);
      }
      begin += box.rows * box.cols;
    }
  }
  make_part(
      self, gaussian, rows, first_indices(cols), gain, {}, [&](const Tensor& values, int64_t i, int64_t j) {
        for (const Box& box : boxes) {
          const int64_t at = std::lower_bound(rows.begin(), rows.end(), box.row) - rows.begin();
          const int64_t top = std::max(at, i), bottom = std::min(at + box.rows, i + values.size(0));
          const int64_t left = std::max(box.col, j), right = std::min(box.col + box.cols, j + values.size(1));
          if (top >= bottom || left >= right) continue;
          view(box.place + (top - at) * cols + left - box.col, bottom - top, right - left)
              .copy_(values.narrow(0, top - i, bottom - top).narrow(1, left - j, right - left));
        }
      });
}

void fill_flat(const Tensor& self, const Gaussian& gaussian, const Gain& gain, const Part& part) {
  const int64_t elements = gaussian.rows * gaussian.cols;
  std::vector<Segment> segments;  // of one matrix of a batch
  int64_t matrix = 0, place = 0;
  const auto fill = [&] {
    if (!segments.empty()) fill_segments(self, gaussian.after(matrix), segments, gain);
    segments.clear();
  };
  for (size_t run = 0; run < part.length.size(); ++run) {
    for (int64_t begin = part.first[run], end = begin + part.length[run]; begin < end;) {
      if (begin / elements != matrix) fill();
      matrix = begin / elements;
      const int64_t length = std::min(end, (matrix + 1) * elements) - begin;
      segments.push_back({begin - matrix * elements, length, place});
      begin += length;
      place += length;
    }
  }
  fill();
}

// The row-major indices of a part along some dimensions of the whole.
std::vector<int64_t> indices(const Part& part, const std::vector<size_t>& begin, size_t first_dim,
                             size_t last_dim) {
  std::vector<int64_t> result{0};
  for (size_t d = first_dim; d <= last_dim; ++d) {
    std::vector<int64_t> longer;
    for (const int64_t index : result) {
      for (size_t run = begin[d]; run < begin[d + 1]; ++run) {
        for (int64_t i = 0; i < part.length[run]; ++i)
          longer.push_back(index * part.shape[d] + part.first[run] + i);
      }
    }
    result = std::move(longer);
  }
  return result;
}

}  // namespace

void fill_part(const Tensor& self, const Gaussian& gaussian, const Gain& gain, const Part& part, bool batch) {
  if (part.flat(self.sizes())) return fill_flat(self, gaussian, gain, part);
  const std::vector<size_t> begin = runs_of(self.sizes(), part).value();
  const size_t dim = batch ? 1 : 0;
  const std::vector<int64_t> rows = indices(part, begin, dim, dim),
                             cols = indices(part, begin, dim + 1, part.shape.size() - 1);
  if (!batch) return fill_box(self, gaussian, rows, cols, gain);
  const bool wholes = number(rows) == gaussian.rows && number(cols) == gaussian.cols;
  for (size_t run = begin[0], place = 0; run < begin[1]; place += static_cast<size_t>(part.length[run++])) {
    const Tensor some = self.narrow(0, static_cast<int64_t>(place), part.length[run]);
    const Gaussian first = gaussian.after(part.first[run]);
    if (wholes && part.length[run] > 0) {
      fill_batch(some, first, gain);
    } else {
      for (int64_t i = 0; i < part.length[run]; ++i) fill_box(some[i], first.after(i), rows, cols, gain);
    }
  }
}

}  // namespace fastinit
