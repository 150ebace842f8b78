// Normal values with an exact number of zeros in each column (contract C6).
//
// J. Martens: "Deep learning via Hessian-free optimization", ICML 2010.
//
// Which rows of a column are zero is a function of the column's own Philox words (Purpose::columns):
//   up to few_rows   selection sampling: row after row, each with the probability that is left to it.
//                    D. Knuth: The Art of Computer Programming, vol. 2, section 3.4.2, Algorithm S. Exact.
//   above            a row is zero if a keyed permutation sends it below the number of zeros: a Feistel network
//                    (M. Luby, C. Rackoff, 1988) on a ragged grid, which has exactly as many cells as rows.
// The numbers of rounds are the fewest at which tests of single rows, of all pairs and triples of rows, and of the
// differences that such a network preserves longest saw nothing in 10^7 to 10^8 columns, and some to spare.
#pragma once

#include "core/normal.h"

namespace fastinit {

template <class R>
struct Sparse {
  using Arithmetic = R;
  static constexpr const char* op = "sparse_";

  static constexpr uint64_t few_rows = 256;
  static constexpr uint64_t many_rows = 4096;
  static constexpr int most_rounds = 8;

  Normal<R> normal;
  uint64_t rows;
  // Numbers in a row: its elements, or their real and imaginary parts, which share a column's fate.
  uint64_t columns;
  int parts;
  uint32_t zeros;  // in a column; selection sampling only

  // The grid of the permutation: 2^high_bits grid rows, the first `wide` of them narrow + 1 cells long, the others
  // `narrow`. Cells are numbered one grid row after the other; those before (zero_high, zero_low) are the zeros.
  int rounds;
  int high_bits, low_bits;  // low_bits: of narrow, rounded down
  uint32_t narrow, wide;
  uint32_t zero_high, zero_low;

  // What is known of the grid when the code is compiled; each is a case of the one before.
  enum class Grid { ragged, even, power_of_two };

  struct Cell {
    uint32_t high, low;
  };

  // One standard deviation, the tensor's shape, zeros <= rows.
  static Sparse make(double std, uint64_t rows, uint64_t columns, uint64_t zeros, int parts = 1);

  FASTINIT_INLINE bool selects() const { return rows <= few_rows; }
  FASTINIT_INLINE Grid grid() const {
    if (wide != 0) return Grid::ragged;
    return (narrow & (narrow - 1)) != 0 ? Grid::even : Grid::power_of_two;
  }

  FASTINIT_INLINE Cell cell(uint64_t number) const {
    const uint64_t in_wide = (static_cast<uint64_t>(narrow) + 1) * wide;
    if (number < in_wide) {
      return {static_cast<uint32_t>(number / (narrow + 1)), static_cast<uint32_t>(number % (narrow + 1))};
    }
    const uint64_t rest = number - in_wide;
    return {wide + static_cast<uint32_t>(rest / narrow), static_cast<uint32_t>(rest % narrow)};
  }

  FASTINIT_INLINE uint64_t number(Cell c) const {
    return static_cast<uint64_t>(c.high) * narrow + (c.high < wide ? c.high : wide) + c.low;
  }

  // The cell of the next number.
  FASTINIT_INLINE Cell next(Cell c) const {
    const bool last = c.low + 1 == narrow + (c.high < wide ? 1 : 0);
    return {c.high + (last ? 1 : 0), last ? 0 : c.low + 1};
  }

  // One step of selection sampling: `word` is word row mod 4 of the column's block draw = row div 4, and `left` the
  // number of zeros that are still to come, this row included.
  template <class U32>
  FASTINIT_INLINE auto selected(uint64_t row, U32 word, U32 left) const {
    return less(multiply_high(word, U32(static_cast<uint32_t>(rows - row))), left);
  }

  // The permutation. Words 2 i and 2 i + 1 of the column's blocks draw = 0, 1, ... key round i: `add` and `times`.
  //
  // The first round's shift depends on the grid row alone: neighbouring rows share it.
  template <Grid G, class U32>
  FASTINIT_INLINE U32 shift(U32 high, U32 add, U32 times) const {
    const U32 mixed = mix(high, add, times);
    // The product's high half is the width's share of the mixed bits.
    if constexpr (G == Grid::power_of_two) return shift_right(mixed, 32 - low_bits);
    return multiply_high(mixed, width<G>(high));
  }
  // key(i) is word i; `first` is the shift of round 0.
  template <Grid G, int Rounds, class U32, class K>
  FASTINIT_INLINE auto permuted_to_zero(Cell from, U32 first, const K& key) const {
    U32 high(from.high), low = move<G>(high, U32(from.low), first);
    FASTINIT_UNROLL
    for (int i = 1; i < Rounds; ++i) {
      const U32 add = key(2 * i), times = key(2 * i + 1);
      if (i % 2 == 0) {
        low = move<G>(high, low, shift<G>(high, add, times));
      } else {
        high = high ^ flip<G>(low, add, times);
      }
    }
    return less(high, U32(zero_high) + select(less(low, U32(zero_low)), U32(1u), U32(0u)));
  }

  // And back: the row that goes to the cell (to_high, low), where `last` is the last round's flip for this `low`.
  template <Grid G, int Rounds, class U32, class K>
  FASTINIT_INLINE U32 row_sent_to(uint32_t to_high, U32 last, U32 low, const K& key) const {
    U32 high = U32(to_high) ^ last;
    FASTINIT_UNROLL
    for (int i = Rounds - 2; i >= 0; --i) {
      const U32 add = key(2 * i), times = key(2 * i + 1);
      if (i % 2 == 0) {
        low = move_back<G>(high, low, shift<G>(high, add, times));
      } else {
        high = high ^ flip<G>(low, add, times);
      }
    }
    const U32 before = high * U32(narrow) + low;
    if constexpr (G == Grid::ragged) return before + min(high, U32(wide));
    return before;
  }
  // What a round does to `high`. The last column of cells is not complete: there, high stays.
  template <Grid G, class U32>
  FASTINIT_INLINE U32 flip(U32 low, U32 add, U32 times) const {
    const U32 bits = shift_right(mix(low, add, times), 32 - high_bits);
    if constexpr (G == Grid::ragged) return select(less(low, U32(narrow)), bits, U32(0u));
    return bits;
  }
  FASTINIT_INLINE uint64_t zeros_of_column() const {
    return selects() ? zeros : number({zero_high, zero_low});
  }
  FASTINIT_INLINE uint32_t highs() const { return uint32_t{1} << high_bits; }

 private:
  // The high bits depend on all bits of v and of both key words.
  template <class U32>
  static FASTINIT_INLINE U32 mix(U32 v, U32 add, U32 times) {
    const U32 t = v * times + add;
    return t * swap_halves(t);
  }
  template <Grid G, class U32>
  FASTINIT_INLINE U32 width(U32 high) const {
    if constexpr (G == Grid::ragged) return U32(narrow) + select(less(high, U32(wide)), U32(1u), U32(0u));
    return U32(narrow);
  }
  // low + by, modulo the width: the difference wraps to a large number where there is nothing to subtract.
  template <Grid G, class U32>
  FASTINIT_INLINE U32 move(U32 high, U32 low, U32 by) const {
    const U32 sum = low + by;
    if constexpr (G == Grid::power_of_two) return sum & U32(narrow - 1);
    return min(sum, sum - width<G>(high));
  }
  template <Grid G, class U32>
  FASTINIT_INLINE U32 move_back(U32 high, U32 low, U32 by) const {
    const U32 difference = low - by;
    if constexpr (G == Grid::power_of_two) return difference & U32(narrow - 1);
    return min(difference, difference + width<G>(high));
  }
};

template <class R>
Sparse<R> Sparse<R>::make(double std, uint64_t rows, uint64_t columns, uint64_t zeros, int parts) {
  Sparse d{};
  d.normal = {R(0), static_cast<R>(std)};
  d.rows = rows;
  d.columns = columns * static_cast<uint64_t>(parts);
  d.parts = parts;
  if (d.selects()) {
    d.zeros = static_cast<uint32_t>(zeros);
    return d;
  }
  d.rounds = rows < many_rows ? most_rounds : 6;
  int log2 = 0;
  while ((rows >> (log2 + 1)) != 0) ++log2;
  // Grid rows much longer than columns: differences between cells of one grid row show less in the zeros.
  d.high_bits = log2 / 3 + 1;
  d.low_bits = log2 - d.high_bits;
  d.narrow = static_cast<uint32_t>(rows >> d.high_bits);
  d.wide = static_cast<uint32_t>(rows & ((uint64_t{1} << d.high_bits) - 1));
  const Cell end = d.cell(zeros);
  d.zero_high = end.high;
  d.zero_low = end.low;
  return d;
}

}  // namespace fastinit
