// The stream of random bits, by logical index (contract C2).
//
// For float32 arithmetic element i owns word i mod 4 of block i div 4; for float64 the 64 bits of words
// 2 (i mod 2) and 2 (i mod 2) + 1 of block i div 2.
#pragma once

#include "core/lanes.h"
#include "core/philox.h"

namespace fastinit {

template <class R>
constexpr int elements_per_block = 16 / static_cast<int>(sizeof(R) == 4 ? 4 : 8);

// The bits of whole blocks, as pairs of neighbouring elements.
template <class L, class R>
FASTINIT_INLINE Pair<Bits<L, R>> bits_of(const Words<L>& words);

template <class L>
struct BitsOf {
  static FASTINIT_INLINE Pair<typename L::U32> get(const Words<L>& words, float) {
    return {interleave(words.w[0], words.w[2]), interleave(words.w[1], words.w[3])};
  }
  static FASTINIT_INLINE Pair<typename L::U64> get(const Words<L>& words, double) {
    return {join(words.w[0], words.w[1]), join(words.w[2], words.w[3])};
  }
};

template <class L, class R>
FASTINIT_INLINE Pair<Bits<L, R>> bits_of(const Words<L>& words) {
  return BitsOf<L>::get(words, R());
}

}  // namespace fastinit
