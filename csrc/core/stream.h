// The stream of random bits, by logical index (contract C2).
//
// For float32 arithmetic element i owns word i mod 4 of block i div 4; for float64 the 64 bits of words
// 2 (i mod 2) and 2 (i mod 2) + 1 of block i div 2.
#pragma once

#include "core/lanes.h"
#include "core/philox.h"

namespace fastinit {

template <class R>
constexpr int elements_per_block = 16 / static_cast<int>(sizeof(R));

// The bits of whole blocks, as pairs of neighbouring elements.
template <class L, class R>
FASTINIT_INLINE Pair<Bits<L, R>> bits_of(const Words<L>& words) {
  if constexpr (sizeof(R) == sizeof(double)) {
    return {join(words.w[0], words.w[1]), join(words.w[2], words.w[3])};
  } else {
    return {interleave(words.w[0], words.w[2]), interleave(words.w[1], words.w[3])};
  }
}

// For float32 arithmetic: of each block, the pair of words that this element's is one of.
template <class L, class U64>
FASTINIT_INLINE Pair<U64> pair_of(const Words<L>& words, U64 element) {
  const auto upper = test_bit<1>(element);
  return {select(upper, words.w[2], words.w[0]), select(upper, words.w[3], words.w[1])};
}

}  // namespace fastinit
