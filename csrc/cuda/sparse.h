// Normal values with an exact number of zeros in each column.
#pragma once

#include <numeric>

#include "cuda/elementwise.h"

namespace fastinit::cuda {

// The zeros in the columns of one block, row by row: ZeroStrip on the CPU. What a column's Philox words say is computed
// once for many rows, and kept in shared memory: word i of all columns is words[i * stride].
template <class R>
class ZeroColumns {
 public:
  static constexpr int width = elements_per_block<R>;
  using U32 = Array<uint32_t, width>;
  struct alignas(4 * width) Word {
    uint32_t of[width];
  };
  static constexpr uint32_t words_of_column = 2 * Sparse<R>::most_rounds;

  FASTINIT_INLINE ZeroColumns(const Sparse<R>& d, const Keys& key, Word* words, uint32_t stride)
      : d_(d), key_(key), words_(words), stride_(stride) {}

  // Which of the `width` numbers from `column` on, going round at the end of a row, are zero in this row. Rows had better
  // come in rising order.
  FASTINIT_INLINE Array<bool, width> zero(uint64_t row, uint64_t column) {
    if (column != column_ || row + 1 < next_row_) restart(column);
    if (d_.selects()) {
      FASTINIT_NO_UNROLL
      for (; next_row_ <= row; ++next_row_) select_row();
      return zero_;
    }
    return d_.rounds == 6 ? permute<6>(row) : permute<8>(row);
  }

 private:
  FASTINIT_INLINE void restart(uint64_t column) {
    column_ = column;
    next_row_ = 0;
    if (d_.selects()) {
      left_ = U32(d_.zeros);
    } else {
      FASTINIT_NO_UNROLL
      for (int draw = 0; 4 * draw < 2 * d_.rounds; ++draw) load_words(draw, 4 * draw);
    }
  }

  // Words to .. to + 3 of the columns: those of their block `draw`.
  FASTINIT_INLINE void load_words(int draw, int to) {
    Word words[4];
    uint64_t number = column_;
    FASTINIT_UNROLL
    for (int i = 0; i < width; ++i) {
      using U64 = Lanes::U64;
      const uint64_t column = d_.parts == 2 ? number / 2 : number;
      const auto w = words_of<Lanes>(U64(column), U64(column >> 32), static_cast<uint32_t>(draw),
                                     Purpose::columns, key_);
      FASTINIT_UNROLL
      for (int j = 0; j < 4; ++j) words[j].of[i] = static_cast<uint32_t>(w.w[j].v[0]);
      number = number + 1 == d_.columns ? 0 : number + 1;
    }
    FASTINIT_UNROLL
    for (int j = 0; j < 4; ++j) words_[static_cast<uint32_t>(to + j) * stride_] = words[j];
  }
  FASTINIT_INLINE U32 word(int i) const {
    const Word word = words_[static_cast<uint32_t>(i) * stride_];
    U32 r;
    FASTINIT_UNROLL
    for (int j = 0; j < width; ++j) r.v[j] = word.of[j];
    return r;
  }

  FASTINIT_INLINE void select_row() {
    const int i = static_cast<int>(next_row_ % 4);
    if (i == 0) load_words(static_cast<int>(next_row_ / 4), 0);
    zero_ = d_.selected(next_row_, word(i), left_);
    left_ = left_ - select(zero_, U32(1u), U32(0u));
  }

  template <int Rounds>
  FASTINIT_INLINE Array<bool, width> permute(uint64_t row) const {
    const auto cell = d_.cell(row);
    const U32 first = d_.template shift<Sparse<R>::Grid::ragged>(U32(cell.high), word(0), word(1));
    return d_.template permuted_to_zero<Sparse<R>::Grid::ragged, Rounds>(cell, first,
                                                                         [&](int i) { return word(i); });
  }

  const Sparse<R>& d_;
  const Keys& key_;
  Word* words_;
  uint32_t stride_;
  uint64_t column_ = ~uint64_t{0}, next_row_ = 0;
  U32 left_ = U32(0u);                                   // zeros still to come (selection)
  Array<bool, width> zero_ = Array<bool, width>(false);  // in the row before next_row_ (selection)
};

// The order in which a thread goes through the packs of a sparse matrix: down the rows, in the same columns, and then on
// to other columns. Pack (row, other) has the number row * stride + other % stride + other / stride * stride * rows.
struct Walk {
  uint32_t stride, rows, others;
  // Threads share the rows of the same columns, or other columns, as many at a time.
  uint32_t rows_at_once, others_at_once;
  bool rows_first;  // threads with neighbouring numbers differ in the row

  FASTINIT_INLINE uint32_t threads() const { return rows_at_once * others_at_once; }
  FASTINIT_INLINE uint32_t first_row(uint32_t thread) const {
    return rows_first ? thread % rows_at_once : thread / others_at_once;
  }
  FASTINIT_INLINE uint32_t first_other(uint32_t thread) const {
    return rows_first ? thread / rows_at_once : thread % others_at_once;
  }
  FASTINIT_INLINE uint32_t pack(uint32_t row, uint32_t other) const {
    const uint32_t beyond = other / stride;
    return row * stride + (other - beyond * stride) + beyond * stride * rows;
  }

  Walk(uint32_t stride, uint32_t rows, uint32_t others, uint32_t all_threads)
      : stride(stride), rows(rows), others(others), rows_first(stride == 1 && rows > 1) {
    const auto at_most = [](uint32_t a, uint32_t b) { return a < b ? a : b; };
    others_at_once = at_most(others, rows_first ? (all_threads + lanes - 1) / lanes : all_threads);
    rows_at_once = at_most(rows, all_threads / others_at_once);
    if (rows_at_once == 0) rows_at_once = 1;
  }
};

template <class T, class R>
Walk walk_of(const Contiguous<T, 1>& map, const Sparse<R>& d, uint32_t all_threads) {
  // After so many packs the columns are the same again.
  const uint64_t period = d.columns / std::gcd(d.columns, uint64_t{Contiguous<T, 1>::P::size});
  if (period >= map.packs) return Walk(map.packs, 1, map.packs, all_threads);
  const uint32_t stride = static_cast<uint32_t>(period);
  return Walk(stride, (map.packs + stride - 1) / stride, stride, all_threads);
}
template <class T, class R>
Walk walk_of(const Strided<T>& map, const Sparse<R>& d, uint32_t all_threads) {
  uint32_t stride = 1;
  for (int i = 0; i < map.dims; stride *= map.dim[i++].size) {
    const uint32_t rows = map.dim[i].size;
    if (i != map.row && static_cast<uint64_t>(map.dim[i].index_stride) == d.columns) {
      return Walk(stride, rows, map.packs / rows, all_threads);
    }
  }
  return Walk(map.packs, 1, map.packs, all_threads);  // right, but in no good order
}

// One thread's share.
template <class Map, class R>
FASTINIT_INLINE void fill_sparse(const Map& map, const Walk& walk, uint32_t thread, const Keys& key,
                                 const Sparse<R>& d, ZeroColumns<R> columns) {
  static_assert(Map::blocks == 1);
  constexpr int width = ZeroColumns<R>::width;
  for (uint32_t other = walk.first_other(thread); other < walk.others; other += walk.others_at_once) {
    for (uint32_t down = walk.first_row(thread); down < walk.rows; down += walk.rows_at_once) {
      const uint32_t number = walk.pack(down, other);
      if (number >= map.packs) break;
      const auto spot = map.spot(number);
      if (spot.from >= spot.to) continue;
      const uint64_t index = (spot.block.low | static_cast<uint64_t>(spot.block.high) << 32) * width;
      uint64_t row = index / d.columns;
      const uint64_t column = index - row * d.columns;
      auto pack = draw(map, spot.block, key, d.normal);
      uint64_t rest = d.columns - column;  // of the row
      FASTINIT_NO_UNROLL
      for (int begin = 0; begin < width;
           ++row, rest = d.columns) {  // once, unless a row ends within the block
        const int end = rest < static_cast<uint64_t>(width - begin) ? begin + static_cast<int>(rest) : width;
        const auto zero = columns.zero(row, column);
        FASTINIT_UNROLL
        for (int i = 0; i < width; ++i) {
          if (i >= begin && i < end && zero.v[i]) pack.clear(i);
        }
        begin = end;
      }
      put(spot, pack);
    }
  }
}

}  // namespace fastinit::cuda
