// Where the zeros of sparse_ are.
#pragma once

#include <type_traits>

#include "cpu/run.h"

namespace fastinit::FASTINIT_TARGET {
namespace {

// The zeros of sparse_ in a strip of columns, of which one bit for each number says where they are. In a window of rows they
// are all found at once, where that is cheaper: the rows that a column's permutation sends to its zeros, or to the
// others if these are fewer. Else they are found row by row, by asking for each number.
template <class R>
class ZeroStrip {
 public:
  static constexpr int64_t width = 256;
  // For bits of whole windows: 128 KiB.
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
    if (!finds_all(d_, columns, rows)) return;
    window_ = rows;
    set_order(order);
    with_permutation([&]<Grid G, int Rounds>() {
      for (int64_t c = 0; c < columns; c += at_once) find<G, Rounds>(c, 2 * d_.zeros_of_column() <= d_.rows);
    });
  }
  // Whether all zeros of so many columns and rows are found at once: a walk costs as much as asking for twice as many rows.
  static bool finds_all(const Sparse<R>& d, int64_t columns, int64_t rows) {
    if (d.selects() || d.rows > low_half) return false;
    const uint64_t zeros = d.zeros_of_column(), few = smaller(zeros, d.rows - zeros);
    return 2 * few <= static_cast<uint64_t>(rows) &&
           (columns + in_word - 1) / in_word * in_word * rows <= most_bits;
  }
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
    const int64_t pitch = pitch_of_bits();
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
    const uint32_t* const bits = bits_ + c / in_word * pitch_of_bits() + row;
    const auto word = [&](int lane) { return bits[lane / at_once * pitch_of_bits()] >> lane % at_once; };
    return {Lanes::mask_of(word), Lanes::mask_of([&](int lane) { return word(lane) >> at_once; })};
  }

 private:
  using Grid = typename Sparse<R>::Grid;
  static constexpr int at_once = 16, in_word = 32, spare = 32;
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
    uint32_t* const bits = bits_ + c / in_word * pitch_of_bits();
    const uint32_t* const bit = bit_ + c % in_word;
    if (c % in_word == 0) {
      for (int64_t i = 0; i < pitch_of_bits(); ++i) bits[i] = zeros ? 0 : ~uint32_t{0};
    }
    // Rows outside of the window have some places beyond it. One for all would be changed again before it is there.
    const U32 first(static_cast<uint32_t>(first_row_)), beyond(static_cast<uint32_t>(window_)),
        spread(spare - 1u);
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
        const U32 place = d_.template row_sent_to<G, Rounds>(high, last, U32(low), key) - first;
        store(row[count], min(place, beyond + (place & spread)));
        if (++count == depth) change();
      }
    }
    change();
  }

  int64_t pitch_of_bits() const { return window_ != 0 ? window_ + spare : 1; }

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
  // 32 columns each, and for these one row of the window after the other, and places for the rows outside of it.
  uint32_t bits_[most_bits / in_word + width / in_word * spare];
  uint32_t bit_[in_word];  // of a column
};

}  // namespace
}  // namespace fastinit::FASTINIT_TARGET
