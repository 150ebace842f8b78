// Normal values with an exact number of zeros in each column.
#pragma once

#include "cpu/region.h"

namespace fastinit::FASTINIT_TARGET {
namespace {

// The zeros of sparse_ in a strip of columns, of which one bit for each number says where they are. In a window of rows they
// are all found at once, where that is cheaper: the rows that a column's permutation sends to its zeros, or to the
// others if these are fewer. Else they are found row by row, by asking for each number.
template <class R>
class ZeroStrip {
 public:
  static constexpr int64_t width = 256;
  // For bits of whole windows: 64 KiB.
  static constexpr int64_t most_bits = int64_t{1} << 20;

  ZeroStrip(const Sparse<R>& d, const Keys& keys) : d_(d), keys_(keys) {}

  // Which bit of 32 a column has: they stand in their own order, or as a group has its elements, `first` before `second`.
  enum class Order { columns, lanes };

  // Columns from `left` on, at most `width`, and the rows that will be asked for.
  void cover(uint64_t left, int64_t columns, uint64_t first_row, int64_t rows, Order order = Order::columns) {
    left_ = left;
    columns_ = columns;
    next_row_ = 0;
    window_ = 0;
    if (d_.selects()) {
      for (uint32_t& zeros : state_) zeros = d_.zeros;
      return;
    }
    for (int draw = 0; 4 * draw < 2 * d_.rounds; ++draw) load_words(draw, 4 * draw);
    first_row_ = first_row;
    const uint64_t zeros = d_.number({d_.zero_high, d_.zero_low}), few = smaller(zeros, d_.rows - zeros);
    const bool fits = (columns + in_word - 1) / in_word * in_word * rows <= most_bits && d_.rows <= low_half;
    window_ = fits && 2 * few <= static_cast<uint64_t>(rows) ? rows : 0;
    if (window_ == 0) return;
    set_order(order);
    with_permutation([&]<Grid G, int Rounds>() {
      for (int64_t c = 0; c < columns; c += at_once) find<G, Rounds>(c, few == zeros);
    });
  }
  bool knows_all() const { return window_ != 0; }
  bool covers(uint64_t row, uint64_t column) const {
    if (column - left_ >= static_cast<uint64_t>(columns_)) return false;
    return d_.selects() ? row + 1 >= next_row_
                        : window_ == 0 || row - first_row_ < static_cast<uint64_t>(window_);
  }

  // How many columns of those there are from this one on.
  int64_t columns_from(uint64_t column) const { return columns_ - static_cast<int64_t>(column - left_); }

  // Writes the zeros of a row that it covers, from a column on. May rewrite some elements beyond the n.
  template <class T>
  void clear(T* values, uint64_t row, uint64_t column, int64_t n) {
    const uint32_t* const bits =
        bits_ + (window_ != 0 ? static_cast<int64_t>(row - first_row_) : find_row(row));
    const int64_t pitch = window_ + 1;
    for (int64_t c = static_cast<int64_t>(column - left_); n > 0;
         c += at_once, n -= at_once, values += at_once) {
      const uint32_t* const word = bits + c / in_word * pitch;
      const int64_t shift = c % in_word;
      uint32_t zero = word[0] >> shift;
      if (shift > at_once && n > in_word - shift) zero |= word[pitch] << (in_word - shift);
      if (n < at_once) zero &= (uint32_t{1} << n) - 1;
      store_zeros(values, LanesOf16::mask_of([&](int lane) { return zero >> lane; }));
    }
  }

  // Of a group of columns from c on, in a row of the window: which are zeros, in the order of lanes.
  FASTINIT_INLINE Pair<Lanes::M32> zeros_of_group(int64_t row, int64_t c) const {
    const uint32_t* const bits = bits_ + c / in_word * (window_ + 1) + row;
    const auto word = [&](int lane) { return bits[lane / at_once * (window_ + 1)] >> lane % at_once; };
    return {Lanes::mask_of(word), Lanes::mask_of([&](int lane) { return word(lane) >> at_once; })};
  }

 private:
  using Grid = typename Sparse<R>::Grid;
  static constexpr int at_once = 16, in_word = 32;
  static_assert(LanesOf16::U32::lanes == at_once);
  // For a row of many columns.
  using Wide = std::conditional_t<(Lanes::U32::lanes > at_once), Lanes, LanesOf16>;
  using U32 = typename Wide::U32;
  static constexpr int lanes = U32::lanes;

  // Words to .. to + 3 of the columns: those of their block `draw`.
  void load_words(int draw, int to) {
    const uint32_t parts = static_cast<uint32_t>(d_.parts);
    for (int64_t c = 0; c < columns_; c += lanes) {
      const auto every_other = [&](int parity) {
        using U64 = typename Wide::U64;
        uint32_t step[Wide::blocks];
        for (int i = 0; i < Wide::blocks; ++i) step[i] = static_cast<uint32_t>(2 * i + parity) / parts;
        const auto column = U64((left_ + static_cast<uint64_t>(c)) / parts) + U64::load(step);
        return words_of<Wide>(column, shift_right<32>(column), static_cast<uint32_t>(draw), Purpose::columns,
                              keys_);
      };
      const auto even = every_other(0), odd = every_other(1);
      for (int i = 0; i < 4; ++i) store(words_[to + i] + c, interleave(even.w[i], odd.w[i]));
    }
  }

  // Calls f with what is known of the permutation when the code is compiled.
  template <class F>
  void with_permutation(const F& f) const {
    const auto with_rounds = [&]<Grid G>() {
      d_.rounds == 6 ? f.template operator()<G, 6>() : f.template operator()<G, 8>();
    };
    switch (d_.grid()) {
      case Grid::ragged:
        return with_rounds.template operator()<Grid::ragged>();
      case Grid::even:
        return with_rounds.template operator()<Grid::even>();
      case Grid::power_of_two:
        return with_rounds.template operator()<Grid::power_of_two>();
    }
  }

  // The zeros of the window's rows in 16 columns from c on, by a walk over the cells that are zeros, or over the others.
  template <Grid G, int Rounds>
  void find(int64_t c, bool zeros) {
    using U32 = LanesOf16::U32;
    const auto key = [&](int i) __attribute__((always_inline)) { return U32::load(words_[i] + c); };
    uint32_t* const bits = bits_ + c / in_word * (window_ + 1);
    const uint32_t* const bit = bit_ + c % in_word;
    if (c % in_word == 0) {
      for (int64_t i = 0; i < window_; ++i) bits[i] = zeros ? 0 : ~uint32_t{0};
    }
    const U32 first(static_cast<uint32_t>(first_row_)), beyond(static_cast<uint32_t>(window_));
    // Gathered before their bits are changed: a change has to wait for all those before it whose place is not known yet.
    constexpr int depth = 32;
    alignas(64) uint32_t row[depth][at_once];
    int count = 0;
    const auto change = [&]() {
      for (int k = 0; k < count; ++k) {
        FASTINIT_UNROLL
        for (int i = 0; i < at_once; ++i) bits[row[k][i]] ^= bit[i];
      }
      count = 0;
    };
    const uint32_t lows = d_.narrow + (d_.wide != 0 ? 1 : 0);
    for (uint32_t low = 0; low < lows; ++low) {
      const uint32_t highs = low == d_.narrow ? d_.wide : d_.highs();
      const uint32_t split = smaller(d_.zero_high + (low < d_.zero_low ? 1 : 0), highs);
      const U32 last = d_.template flip<G>(U32(low), key(2 * Rounds - 2), key(2 * Rounds - 1));
      const uint32_t end = zeros ? split : highs;
      for (uint32_t high = zeros ? 0 : split; high < end; ++high) {
        store(row[count], min(d_.template row_sent_to<G, Rounds>(high, last, U32(low), key) - first, beyond));
        if (++count == depth) change();
      }
    }
    change();
  }

  void set_order(Order order) {
    using U64 = LanesOf16::U64;
    for (int i = 0; i < in_word; ++i) bit_[i] = uint32_t{1} << i;
    if (order == Order::columns) return;
    const auto block = shift_left<2>(LanesOf16::block_offsets());
    const auto element = [&](uint64_t i) { return block + U64(i); };
    alignas(64) uint32_t first[at_once], second[at_once];
    store(first, interleave(element(0), element(2)));
    store(second, interleave(element(1), element(3)));
    for (int i = 0; i < at_once; ++i) {
      bit_[first[i]] = uint32_t{1} << i;
      bit_[second[i]] = uint32_t{1} << (at_once + i);
    }
  }

  // The zeros of one row: at bits_[0], bits_[1], ... 32 columns each. Returns 0, where they are.
  int64_t find_row(uint64_t row) {
    if (row + 1 == next_row_) return 0;
    if (d_.selects()) {
      while (next_row_ <= row) select_row();
    } else {
      with_permutation([&]<Grid G, int Rounds>() { permute<G, Rounds>(row); });
    }
    return 0;
  }

  template <class M>
  FASTINIT_INLINE void store_bits(int64_t c, M zero) {
    const uint64_t bits = lane_bits(zero);
    for (int64_t i = 0; i < lanes; i += at_once) {
      uint32_t& word = bits_[(c + i) / in_word];
      const uint32_t half = static_cast<uint32_t>(bits >> i) & 0xFFFF;
      word = (c + i) % in_word == 0 ? half : word | half << at_once;
    }
  }

  void select_row() {
    const int word = static_cast<int>(next_row_ % 4);
    if (word == 0) load_words(static_cast<int>(next_row_ / 4), 0);
    for (int64_t c = 0; c < columns_; c += lanes) {
      const U32 left = U32::load(state_ + c);
      const auto zero = d_.selected(next_row_, U32::load(words_[word] + c), left);
      store(state_ + c, left - select(zero, U32(1u), U32(0u)));
      store_bits(c, zero);
    }
    ++next_row_;
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
      store_bits(c, d_.template permuted_to_zero<G, Rounds>(cell, U32::load(state_ + c),
                                                            [&](int i) { return U32::load(words_[i] + c); }));
    }
  }

  const Sparse<R>& d_;
  const Keys& keys_;
  uint64_t left_ = 0, first_row_ = 0;
  int64_t columns_ = 0, window_ = 0;     // rows whose zeros are all found; 0: they are found row by row
  uint64_t next_row_ = 0;                // row by row: after the one whose zeros are found
  typename Sparse<R>::Cell cell_{0, 0};  // of the row before that (permutation)
  alignas(64) uint32_t words_[2 * Sparse<R>::most_rounds][width];
  alignas(64) uint32_t state_[width];  // zeros left (selection), or the first round's shift (permutation)
  // 32 columns each, and for these one row of the window after the other, and a place for the rows outside of it.
  uint32_t bits_[most_bits / in_word + width / in_word];
  uint32_t bit_[in_word];  // of a column
};

// Numbers of a region in rows of the matrix, next to each other or not: from the first to the last one of a row.
inline int64_t span_of(const Region& region, int dim) {
  int64_t span = 1;
  for (int d = dim; d < region.dims; ++d) span += (region.sizes[d] - 1) * region.index_strides[d];
  return span;
}

// Puts the zeros into rows that are drawn.
template <class R>
struct Finish<Sparse<R>> {
  static constexpr bool any = true;

  template <class T>
  Finish(const Task<T, Sparse<R>>& task, int64_t begin, int64_t end)
      : columns_(task.distribution.columns), strip_(task.distribution, task.keys) {
    // Known rows of few columns; else the strips are those that are asked for.
    const Region& region = task.region;
    const int64_t span = region.dims > 1 ? span_of(region, 1) : 0;
    const uint64_t left = region.first_index % columns_;
    if (span == 0 || span > ZeroStrip<R>::width || left + static_cast<uint64_t>(span) > columns_ ||
        static_cast<uint64_t>(region.index_strides[0]) != columns_) {
      return;
    }
    const int64_t in_row = region.elements() / region.sizes[0];
    const int64_t first = begin / in_row, rows = (end - 1) / in_row - first + 1;
    strip_.cover(left, span, region.first_index / columns_ + static_cast<uint64_t>(first), rows);
  }

  template <class T>
  void operator()(T* values, uint64_t index, int64_t n) {
    if (index == index_ + columns_) {
      ++row_;
    } else {
      row_ = index / columns_;
      column_ = index % columns_;
    }
    index_ = index;
    for (uint64_t row = row_, column = column_; n > 0; ++row, column = 0) {
      for (; n > 0 && column < columns_;) {
        if (!strip_.covers(row, column)) {
          strip_.cover(column,
                       static_cast<int64_t>(smaller(uint64_t{ZeroStrip<R>::width}, columns_ - column)), row,
                       1);
        }
        const int64_t part = smaller(n, strip_.columns_from(column));
        strip_.clear(values, row, column, part);
        values += part;
        column += static_cast<uint64_t>(part);
        n -= part;
      }
    }
  }

 private:
  uint64_t columns_, index_ = 0, row_ = 0, column_ = 0;
  ZeroStrip<R> strip_;
};

// Rows of whole groups, where they belong at once: a group's zeros are put in before it is stored. Says whether it could.
template <class T>
bool fill_groups([[maybe_unused]] const Task<T, Sparse<float>>& task, [[maybe_unused]] int64_t begin,
                 [[maybe_unused]] int64_t end) {
  using Strip = ZeroStrip<float>;
  if constexpr (Lanes::U32::lanes % LanesOf16::U32::lanes != 0) {
    return false;
  } else {
    constexpr int group = group_size<float>, per_block = elements_per_block<float>;
    const Region& region = task.region;
    const Sparse<float>& d = task.distribution;
    const int64_t width = task.width(), rows = (end - begin) / width, first_row = begin / width;
    if (region.dims != 2 || task.stride() != 1 || width % group != 0 || begin % width != 0 ||
        end % width != 0 || region.first_index % per_block != 0 || d.columns % per_block != 0) {
      return false;
    }
    T* const out = task.data + first_row * task.down();
    const int64_t row_bytes = task.down() * static_cast<int64_t>(sizeof(T));
    if (task.streaming && (!on_cache_line(out) || row_bytes % 64 != 0)) return false;
    const uint64_t step = d.columns / per_block;
    const uint64_t first = region.first_index / per_block + static_cast<uint64_t>(first_row) * step;
    const uint64_t last =
        first + static_cast<uint64_t>(rows - 1) * step + static_cast<uint64_t>(width / per_block);
    if (first >> 32 != last >> 32) return false;
    Strip strip(d, task.keys);
    strip.cover(region.first_index % d.columns, width,
                region.first_index / d.columns + static_cast<uint64_t>(first_row), rows, Strip::Order::lanes);
    if (!strip.knows_all()) return false;

    const auto fill = [&](auto streaming) {
      using U64 = Lanes::U64;
      const U64 high(first >> 32);
      const Lanes::F32 zero(0.0f);
      for (int64_t row = 0; row < rows; ++row) {
        const uint64_t low = (first & low_half) + static_cast<uint64_t>(row) * step;
        for (int64_t c = 0; c < width; c += group) {
          const U64 block = U64(low + static_cast<uint64_t>(c / per_block)) + Lanes::block_offsets();
          const auto words = words_of<Lanes>(block, high, 0, Purpose::values, task.keys);
          const auto x = d.normal.template values<Lanes>(bits_of<Lanes, float>(words));
          const auto zeros = strip.zeros_of_group(row, c);
          store_pairs<decltype(streaming)::value>(out + row * task.down() + c,
                                                  select(zeros.first, zero, x.first),
                                                  select(zeros.second, zero, x.second));
        }
      }
    };
    task.streaming ? fill(std::true_type()) : fill(std::false_type());
    return true;
  }
}
template <class T>
bool fill_groups(const Task<T, Sparse<double>>&, int64_t, int64_t) {
  return false;
}

// Elements begin .. end - 1 of the rows of a box, strip by strip: a strip's columns for all rows, in windows of them.
template <class T, class R>
void fill_strips(const Task<T, Sparse<R>>& task, int64_t begin, int64_t end) {
  const Region& region = task.region;
  const uint64_t columns = task.distribution.columns, left = region.first_index % columns;
  const int64_t rest = span_of(region, 2);  // of a column: 2 where real and imaginary parts are apart
  if (static_cast<uint64_t>(region.index_strides[0]) != columns || rest > ZeroStrip<R>::width ||
      left + static_cast<uint64_t>(span_of(region, 1)) > columns) {
    return fill_rows(task, begin, end);  // no box of the matrix: right, but not fast
  }
  // Wide enough for whole cache lines; where they go down the columns, as wide as what is written together.
  int64_t width = task.stride() == 1 ? ZeroStrip<R>::width : TileWriter<T, Sparse<R>>::columns;
  while (width > 64 && width * region.sizes[0] > ZeroStrip<R>::most_bits) width /= 2;
  const int64_t window = ZeroStrip<R>::most_bits / width;
  const int64_t step = larger(width - rest, int64_t{0}) / region.index_strides[1] + 1;
  Region strip = region;
  T* data = task.data;
  for (int64_t c = 0; c < region.sizes[1] && end > 0; c += step) {
    strip.sizes[1] = smaller(step, region.sizes[1] - c);
    const int64_t numbers = strip.elements(), in_row = numbers / strip.sizes[0], last = smaller(end, numbers);
    for (int64_t at = larger(begin, int64_t{0}); at < last;) {
      const int64_t next = smaller(last, (at / in_row + window) * in_row);
      const Task<T, Sparse<R>> part{strip, data, task.keys, task.distribution, task.streaming};
      if (!fill_groups(part, at, next)) fill_rows(part, at, next);
      at = next;
    }
    strip.first_index += static_cast<uint64_t>(step * region.index_strides[1]);
    data += step * region.strides[1];
    begin -= numbers;
    end -= numbers;
  }
}

// A run as the end of a row, whole rows, and the beginning of one. The elements are counted strip by strip: they are
// shared among the threads by columns rather than by rows.
template <class T, class R>
void fill_region(const Task<T, Sparse<R>>& task, int64_t begin, int64_t end) {
  const int64_t columns = static_cast<int64_t>(task.distribution.columns);
  with_rows(task.region, [&](const Region& region) {
    if (region.dims > 1) {
      return fill_strips(Task<T, Sparse<R>>{region, task.data, task.keys, task.distribution, task.streaming},
                         begin, end);
    }
    Region box{2, {}, {}, {}, region.first_index};
    T* data = task.data;
    for (int64_t left = region.sizes[0]; left > 0 && end > 0;) {
      const int64_t from = static_cast<int64_t>(box.first_index % task.distribution.columns);
      const bool whole = from == 0 && left >= columns;
      box.sizes[0] = whole ? left / columns : 1;
      box.sizes[1] = whole ? columns : smaller(left, columns - from);
      box.strides[0] = columns * region.strides[0];
      box.strides[1] = region.strides[0];
      box.index_strides[0] = columns;
      box.index_strides[1] = 1;
      const int64_t numbers = box.elements(), first = larger(begin, int64_t{0}), last = smaller(end, numbers);
      if (first < last) {
        fill_strips(Task<T, Sparse<R>>{box, data, task.keys, task.distribution, task.streaming}, first, last);
      }
      data += numbers * region.strides[0];
      box.first_index += static_cast<uint64_t>(numbers);
      left -= numbers;
      begin -= numbers;
      end -= numbers;
    }
  });
}

template <class T, class R>
void fill_segment(T* out, const Scattered<R>& run, const Sparse<R>& d, bool streaming) {
  fill_segment(out, run, d.normal, streaming);
}

}  // namespace
}  // namespace fastinit::FASTINIT_TARGET
