// Normal values with an exact number of zeros in each column.
#pragma once

#include "cpu/elementwise.h"

namespace fastinit::FASTINIT_TARGET {
namespace {

// The zeros of sparse_ in a strip of columns, row by row. What the columns' Philox words say is at hand for the whole
// strip, so that a run of many rows computes it once.
template <class R>
class ZeroStrip {
 public:
  static constexpr int64_t width = 256;
  static constexpr int lanes = 2 * Lanes::blocks;

  // `columns` of them, at most `width`.
  ZeroStrip(const Sparse<R>& d, const Keys& keys, uint64_t first_column, int64_t columns)
      : d_(d), keys_(keys), first_column_(first_column), columns_(columns) {
    if (d.selects()) {
      for (uint32_t& left : state_) left = d.zeros;
    } else {
      for (int draw = 0; 4 * draw < 2 * d.rounds; ++draw) load_words(draw, 4 * draw);
    }
  }

  // Finds the zeros of this row. Rows come in rising order.
  void go_to(uint64_t row) {
    if (d_.selects()) {
      for (; next_row_ <= row; ++next_row_) select_row();
    } else {
      switch (d_.grid()) {
        case Grid::ragged:
          return permute<Grid::ragged>(row);
        case Grid::even:
          return permute<Grid::even>(row);
        case Grid::power_of_two:
          return permute<Grid::power_of_two>(row);
      }
    }
  }

  // Writes the zeros among columns from .. from + n - 1 of the strip. May rewrite `lanes` elements beyond them.
  template <class T>
  FASTINIT_INLINE void clear(T* row, int64_t from, int64_t n) const {
    for (int64_t c = 0; c < n; c += lanes) store_zeros(row + c, test_bit<0>(U32::load(zero_ + from + c)));
  }

 private:
  using U32 = Lanes::U32;
  using Grid = typename Sparse<R>::Grid;

  // Words to .. to + 3 of the columns: those of their block `draw`.
  void load_words(int draw, int to) {
    const uint32_t parts = static_cast<uint32_t>(d_.parts);
    for (int64_t c = 0; c < columns_; c += lanes) {
      const auto every_other = [&](int parity) {
        uint32_t step[Lanes::blocks];
        for (int i = 0; i < Lanes::blocks; ++i) step[i] = static_cast<uint32_t>(2 * i + parity) / parts;
        const auto column =
            Lanes::U64((first_column_ + static_cast<uint64_t>(c)) / parts) + Lanes::U64::load(step);
        return words_of<Lanes>(column, shift_right<32>(column), static_cast<uint32_t>(draw), Purpose::columns,
                               keys_);
      };
      const auto even = every_other(0), odd = every_other(1);
      for (int i = 0; i < 4; ++i) store(words_[to + i] + c, interleave(even.w[i], odd.w[i]));
    }
  }

  FASTINIT_INLINE void store_zero(int64_t c, Lanes::M32 mask) {
    store(zero_ + c, select(mask, U32(1u), U32(0u)));
  }

  void select_row() {
    const int word = static_cast<int>(next_row_ % 4);
    if (word == 0) load_words(static_cast<int>(next_row_ / 4), 0);
    for (int64_t c = 0; c < columns_; c += lanes) {
      const U32 left = U32::load(state_ + c);
      const auto zero = d_.selected(next_row_, U32::load(words_[word] + c), left);
      store(state_ + c, left - select(zero, U32(1u), U32(0u)));
      store_zero(c, zero);
    }
  }

  template <Grid G>
  void permute(uint64_t row) {
    d_.rounds == 6 ? permute<G, 6>(row) : permute<G, 8>(row);
  }
  template <Grid G, int Rounds>
  void permute(uint64_t row) {
    const auto cell = next_row_ == row && row != 0 ? d_.next(cell_) : d_.cell(row);
    if (cell.high != cell_.high || next_row_ == 0) {
      for (int64_t c = 0; c < columns_; c += lanes) {
        store(state_ + c,
              d_.template shift<G>(U32(cell.high), U32::load(words_[0] + c), U32::load(words_[1] + c)));
      }
    }
    cell_ = cell;
    next_row_ = row + 1;
    for (int64_t c = 0; c < columns_; c += lanes) {
      store_zero(c, d_.template permuted_to_zero<G, Rounds>(cell, U32::load(state_ + c),
                                                            [&](int i) { return U32::load(words_[i] + c); }));
    }
  }

  const Sparse<R>& d_;
  const Keys& keys_;
  uint64_t first_column_;
  int64_t columns_;
  uint64_t next_row_ = 0;
  typename Sparse<R>::Cell cell_{0, 0};  // of the row before (permutation)
  alignas(64) uint32_t words_[2 * Sparse<R>::most_rounds][width];
  alignas(64) uint32_t state_[width];  // zeros left (selection), or the first round's shift (permutation)
  alignas(64) uint32_t zero_[width + lanes] = {};
};

// Part of a matrix from one index to another, strip by strip: a strip's columns go from `left` to `right`.
template <class T, class R>
void fill_segment(T* out, const Run<R>& run, const Sparse<R>& d, bool streaming) {
  using Strip = ZeroStrip<R>;
  const uint64_t last = run.first + static_cast<uint64_t>(run.n) - 1, columns = d.columns;
  const uint64_t first_row = run.first / columns, first_column = run.first % columns;
  const uint64_t last_row = last / columns, end_column = last % columns + 1;
  const bool one_row = first_row == last_row;
  const uint64_t end = one_row ? end_column : columns;
  alignas(64) T stage[Strip::width + Strip::lanes];
  for (uint64_t left = one_row ? first_column : 0; left < end; left += Strip::width) {
    const uint64_t right = smaller(left + Strip::width, end);
    // The first row and the last one may end before this strip, or begin after it.
    const uint64_t top = right <= first_column ? first_row + 1 : first_row;
    const uint64_t bottom = left < end_column ? last_row + 1 : last_row;
    if (top >= bottom) continue;
    Strip strip(d, run.keys, left, static_cast<int64_t>(right - left));
    for (uint64_t row = top; row < bottom; ++row) {
      const uint64_t from = row == first_row ? larger(left, first_column) : left;
      const uint64_t to = row == last_row ? smaller(right, end_column) : right;
      const uint64_t index = row * columns + from;
      const int64_t n = static_cast<int64_t>(to - from);
      strip.go_to(row);
      fill_elementwise(stage, Run<R>{index, n, run.keys}, d.normal, false);
      strip.clear(stage, static_cast<int64_t>(from - left), n);
      T* const p = out + (index - run.first);
      copy(p, stage, n, streaming && on_cache_line(p));
    }
  }
}

// With the columns' words computed once for all rows, if they are rows of the matrix.
template <class T, class R>
void fill_box(Tile<T>& tile, const Box& box, const Keys& keys, const Sparse<R>& d) {
  // What a row's zeros rewrite beyond its end stays short of the next row.
  static_assert(Tile<T>::width <= ZeroStrip<R>::width && Tile<T>::width % ZeroStrip<R>::lanes == 0);
  const uint64_t row = box.first / d.columns, left = box.first % d.columns;
  const bool of_matrix =
      static_cast<uint64_t>(box.down) == d.columns && left + static_cast<uint64_t>(box.columns) <= d.columns;
  if (!of_matrix) return fill_rows(tile, box, keys, d);
  ZeroStrip<R> strip(d, keys, left, box.columns);
  for (int64_t i = 0; i < box.rows; ++i) {
    T* const out = tile.values + i * tile.pitch;
    strip.go_to(row + static_cast<uint64_t>(i));
    fill_run(out, box.first + static_cast<uint64_t>(i * box.down), box.columns, keys, d.normal, false);
    strip.clear(out, 0, box.columns);
  }
}

}  // namespace
}  // namespace fastinit::FASTINIT_TARGET
