// Normal values with an exact number of zeros in each column (contract C6).
//
// J. Martens: "Deep learning via Hessian-free optimization", ICML 2010.
//
// Element (row, column) is zero where a keyed permutation of the rows, another one for every column, sends `row`
// below the number of zeros. The permutation is a Feistel network in the manner of Luby and Rackoff (1988),
// whose round keys are the words of the column's own Philox blocks.
#pragma once

#include "core/normal.h"

namespace fastinit {

template <class R>
struct Sparse {
  using Arithmetic = R;

  // Rounds of the permutation: even ones change the high part, odd ones the low part.
  static constexpr int rounds = 7;
  // Philox blocks (of one column, draw = 0, 1, ...) that hold the two key words of every round.
  static constexpr int key_blocks = (2 * rounds + 3) / 4;

  Normal<R> normal;
  // Numbers in a row: its elements, or their real and imaginary parts, which share a column's fate.
  uint64_t columns;
  int parts;
  // A row is split in two, (high, low), high < 2^high_bits; the rows do not fill the rectangle evenly: low < narrow, or
  // low <= narrow where high < wide.
  int high_bits;
  uint32_t narrow, wide;
  // Permuted rows before (zero_high, zero_low), the high part first, are the zeros.
  uint32_t zero_high, zero_low;

  static Sparse make(double std, uint64_t rows, uint64_t columns, uint64_t zeros, int parts = 1);

  struct Row {
    uint32_t high, low;
  };
  FASTINIT_INLINE Row split(uint64_t row) const {
    return {static_cast<uint32_t>(row & ((uint64_t{1} << high_bits) - 1)), static_cast<uint32_t>(row >> high_bits)};
  }

  // Whether the elements of this row are zero, in columns that the lanes stand for: key(i) gives the i-th word of
  // each lane's round keys.
  template <class L, class K>
  FASTINIT_INLINE auto is_zero(Row row, const K& key) const {
    using U32 = typename L::U32;
    U32 high(row.high), low(row.low);
    FASTINIT_UNROLL
    for (int i = 0; i < rounds; ++i) {
      // A word that depends on all bits of the other half: its top bits are the best ones.
      const U32 t = (i % 2 == 0 ? low : high) * key(2 * i) + key(2 * i + 1);
      const U32 mixed = t * swap_halves(t);
      if (i % 2 == 0) {
        // Where low == narrow not every high part exists, and it stays.
        const U32 flipped = high ^ shift_right(mixed, 32 - high_bits);
        high = select(less(low, U32(narrow)), flipped, high);
      } else {
        const U32 size = U32(narrow) + select(less(high, U32(wide)), U32(1u), U32(0u));
        const U32 moved = low + multiply_high(mixed, size);
        low = min(moved, moved - size);  // modulo size: the difference wraps where moved < size
      }
    }
    const U32 below = U32(zero_high) + select(less(low, U32(zero_low)), U32(1u), U32(0u));
    return less(high, below);
  }
};

template <class R>
Sparse<R> Sparse<R>::make(double std, uint64_t rows, uint64_t columns, uint64_t zeros, int parts) {
  Sparse d{};
  d.normal = {R(0), static_cast<R>(std)};
  d.columns = columns * static_cast<uint64_t>(parts);
  d.parts = parts;
  int log2 = 0;
  while (log2 < 63 && (rows >> (log2 + 1)) != 0) ++log2;
  d.high_bits = log2 / 3 + 1;
  const uint64_t highs = uint64_t{1} << d.high_bits;
  d.narrow = static_cast<uint32_t>(rows / highs);
  d.wide = static_cast<uint32_t>(rows % highs);
  // (zero_high, zero_low) counts `zeros` rows: narrow + 1 for each high part below `wide`, narrow for the others.
  const uint64_t in_wide = static_cast<uint64_t>(d.narrow + 1) * d.wide;
  if (zeros < in_wide) {
    d.zero_high = static_cast<uint32_t>(zeros / (d.narrow + 1));
    d.zero_low = static_cast<uint32_t>(zeros % (d.narrow + 1));
  } else if (d.narrow > 0) {
    d.zero_high = d.wide + static_cast<uint32_t>((zeros - in_wide) / d.narrow);
    d.zero_low = static_cast<uint32_t>((zeros - in_wide) % d.narrow);
  } else {
    d.zero_high = d.wide;
  }
  return d;
}

}  // namespace fastinit
