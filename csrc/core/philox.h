// Philox4x32-10: the counter-based generator every value comes from.
//
// J. Salmon, M. Moraes, R. Dror, D. Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC'11.
// The constants are the paper's; tests/vectors/philox.txt holds the published known answers.
#pragma once

#include <cstdint>

#include "core/macros.h"

namespace fastinit {

// What a counter is used for: independent streams under one key (contract C1, counter word 3).
enum class Purpose : uint32_t {
  values = 0,   // the values themselves
  accept = 1,   // the coin of a rejection step
  columns = 2,  // the round keys of sparse_'s column permutations
};

// The 64-bit key of one fill, and what each round makes of it.
struct Key {
  uint64_t bits;

  FASTINIT_INLINE uint32_t first(int round) const {
    return static_cast<uint32_t>(bits) + static_cast<uint32_t>(round) * 0x9E3779B9u;
  }
  FASTINIT_INLINE uint32_t second(int round) const {
    return static_cast<uint32_t>(bits >> 32) + static_cast<uint32_t>(round) * 0xBB67AE85u;
  }
};

// The keys of all rounds, made once. `ready` may move them to where they are at hand.
template <class Word>
struct RoundKeys {
  Word first_[10], second_[10];

  template <class F>
  FASTINIT_INLINE RoundKeys(Key key, const F& ready) {
    FASTINIT_UNROLL
    for (int i = 0; i < 10; ++i) {
      first_[i] = ready(key.first(i));
      second_[i] = ready(key.second(i));
    }
  }
  FASTINIT_INLINE Word first(int round) const { return first_[round]; }
  FASTINIT_INLINE Word second(int round) const { return second_[round]; }
};

// The four 32-bit words of one block, or of Lanes::blocks blocks side by side. Each word stands in the
// low half of a 64-bit lane; the high half is undefined. That is how the multiplier wants its operands
// (32 x 32 -> 64), so no round has to move anything.
template <class Lanes>
struct Words {
  typename Lanes::U64 w[4];
};

// One Philox round per pass; c0..c3 as in Words. K is Key, or what has the keys of all rounds ready. Parts that depend
// only on lane-constant counters are loop invariants of the caller, and compilers hoist them.
template <class Lanes, class K>
FASTINIT_INLINE Words<Lanes> philox4x32_10(typename Lanes::U64 c0, typename Lanes::U64 c1,
                                           typename Lanes::U64 c2, typename Lanes::U64 c3, const K& key) {
  using U64 = typename Lanes::U64;
  const U64 m0(0xD2511F53u), m1(0xCD9E8D57u);
  FASTINIT_UNROLL
  for (int round = 0; round < 10; ++round) {
    const U64 p0 = multiply_low(c0, m0), p1 = multiply_low(c2, m1);
    c0 = xor3(shift_right<32>(p1), c1, U64(key.first(round)));
    c1 = p1;
    c2 = xor3(shift_right<32>(p0), c3, U64(key.second(round)));
    c3 = p0;
  }
  return {{c0, c1, c2, c3}};
}

// The words of blocks that share the high half of their number (contract C1: block low, block high, draw, purpose).
template <class Lanes, class K>
FASTINIT_INLINE Words<Lanes> words_of(typename Lanes::U64 block_low, typename Lanes::U64 block_high,
                                      uint32_t draw, Purpose purpose, const K& key) {
  using U64 = typename Lanes::U64;
  return philox4x32_10<Lanes>(block_low, block_high, U64(draw), U64(static_cast<uint32_t>(purpose)), key);
}

}  // namespace fastinit
