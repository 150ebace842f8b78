// Portable lanes: the plain C++ meaning of every lane operation.
//
// A distribution in core/ is written once, over a lane type that holds `blocks` Philox blocks side by
// side. A block has two pairs of 32-bit words, (0,1) and (2,3). The float32 side works on 2 * blocks
// lanes: one vector of the pairs' first words (0 and 2 of each block in turn), one of their second words
// (1 and 3). The float64 side joins two words to 64 bits and works on `blocks` lanes.
//
// Portable<1> is a GPU thread, Portable<n> a CPU without vector instructions. cpu/lanes_avx2.h,
// cpu/lanes_avx512.h and cpu/lanes_neon.h are the same operations over intrinsics, equal bit for bit.
#pragma once

#include <math.h>

#include <cstdint>

#include "core/element.h"
#include "core/macros.h"

namespace fastinit {

template <class T, int N>
struct Array {
  static constexpr int lanes = N;
  T v[N];
  Array() = default;
  static FASTINIT_INLINE Array load(const uint32_t* p) {
    Array a;
    FASTINIT_UNROLL
    for (int i = 0; i < N; ++i) a.v[i] = static_cast<T>(p[i]);
    return a;
  }
  FASTINIT_INLINE explicit Array(T x) {
    FASTINIT_UNROLL
    for (int i = 0; i < N; ++i) v[i] = x;
  }
};

template <int Blocks>
struct Portable {
  static constexpr int blocks = Blocks;
  using U32 = Array<uint32_t, 2 * Blocks>;
  using F32 = Array<float, 2 * Blocks>;
  using U64 = Array<uint64_t, Blocks>;
  using M32 = Array<bool, 2 * Blocks>;
  using M64 = Array<bool, Blocks>;
  using F64 = Array<double, Blocks>;

  // The block that each 64-bit lane works on, relative to the first.
  static FASTINIT_INLINE U64 block_offsets() {
    U64 r;
    FASTINIT_UNROLL
    for (int i = 0; i < Blocks; ++i) r.v[i] = static_cast<uint64_t>(i);
    return r;
  }
  // Blocks with the numbers at p, in the same lanes.
  static FASTINIT_INLINE U64 blocks_at(const uint32_t* p) { return U64::load(p); }
  // For lane i the lowest bit of bits(i); vectors ask for their first lane's and take the others' from the bits above it.
  template <class F>
  static FASTINIT_INLINE M32 mask_of(const F& bits) {
    M32 r;
    FASTINIT_UNROLL
    for (int i = 0; i < 2 * Blocks; ++i) r.v[i] = (bits(i) & 1) != 0;
    return r;
  }
};

// clang-format off
// r.v[i] = EXPRESSION, a TYPE, for every lane.
#define FASTINIT_EACH(TYPE, EXPRESSION)                 \
  {                                                     \
    Array<TYPE, N> r;                                   \
    FASTINIT_UNROLL                                     \
    for (int i = 0; i < N; ++i) r.v[i] = (EXPRESSION);  \
    return r;                                           \
  }
#define FASTINIT_BINARY(NAME, EXPRESSION) \
  template <class T, int N> FASTINIT_INLINE Array<T, N> NAME(Array<T, N> a, Array<T, N> b) FASTINIT_EACH(T, EXPRESSION)
#define FASTINIT_COMPARISON(NAME, EXPRESSION) \
  template <class T, int N> FASTINIT_INLINE Array<bool, N> NAME(Array<T, N> a, Array<T, N> b) FASTINIT_EACH(bool, EXPRESSION)

FASTINIT_BINARY(operator+, static_cast<T>(a.v[i] + b.v[i]))
FASTINIT_BINARY(operator-, static_cast<T>(a.v[i] - b.v[i]))
FASTINIT_BINARY(operator*, a.v[i] * b.v[i])
FASTINIT_BINARY(operator/, a.v[i] / b.v[i])
FASTINIT_BINARY(operator&, static_cast<T>(a.v[i] & b.v[i]))
FASTINIT_BINARY(operator|, static_cast<T>(a.v[i] | b.v[i]))
FASTINIT_BINARY(operator^, static_cast<T>(a.v[i] ^ b.v[i]))
// The second where they are equal, as vector instructions have it: it matters for the sign of zero.
FASTINIT_BINARY(min, a.v[i] < b.v[i] ? a.v[i] : b.v[i])
FASTINIT_BINARY(max, a.v[i] > b.v[i] ? a.v[i] : b.v[i])
// The 64-bit product of the low halves of two 64-bit lanes.
FASTINIT_BINARY(multiply_low, (a.v[i] & 0xFFFFFFFFu) * (b.v[i] & 0xFFFFFFFFu))
// The high half of the 64-bit product of two 32-bit lanes.
FASTINIT_BINARY(multiply_high, static_cast<T>((static_cast<uint64_t>(a.v[i]) * b.v[i]) >> 32))
#undef FASTINIT_BINARY

template <class T, int N>
FASTINIT_INLINE Array<T, N> xor3(Array<T, N> a, Array<T, N> b, Array<T, N> c)
FASTINIT_EACH(T, a.v[i] ^ b.v[i] ^ c.v[i])
template <int Bits, class T, int N>
FASTINIT_INLINE Array<T, N> shift_left(Array<T, N> a)
FASTINIT_EACH(T, static_cast<T>(a.v[i] << Bits))
template <int Bits, class T, int N>
FASTINIT_INLINE Array<T, N> shift_right(Array<T, N> a)
FASTINIT_EACH(T, static_cast<T>(a.v[i] >> Bits))
template <int N>
FASTINIT_INLINE Array<uint32_t, N> shift_right(Array<uint32_t, N> a, int bits)
FASTINIT_EACH(uint32_t, a.v[i] >> bits)

// Comparisons and masks. Integers compare as unsigned numbers.
FASTINIT_COMPARISON(less, a.v[i] < b.v[i])
FASTINIT_COMPARISON(less_equal, a.v[i] <= b.v[i])
FASTINIT_COMPARISON(equal, a.v[i] == b.v[i])
#undef FASTINIT_COMPARISON
template <int Bit, class T, int N>
FASTINIT_INLINE Array<bool, N> test_bit(Array<T, N> a)
FASTINIT_EACH(bool, ((a.v[i] >> Bit) & 1) != 0)
// A mask's lanes are 0 or 1, so & and | above serve masks too.
template <class T, int N>
FASTINIT_INLINE Array<T, N> select(Array<bool, N> mask, Array<T, N> yes, Array<T, N> no)
FASTINIT_EACH(T, mask.v[i] ? yes.v[i] : no.v[i])

// Bit i for lane i.
template <int N>
FASTINIT_INLINE uint64_t lane_bits(Array<bool, N> mask) {
  uint64_t bits = 0;
  FASTINIT_UNROLL
  for (int i = 0; i < N; ++i) bits |= static_cast<uint64_t>(mask.v[i]) << i;
  return bits;
}

#define FASTINIT_UNARY(RESULT, NAME, TYPE, EXPRESSION) \
  template <int N> FASTINIT_INLINE Array<RESULT, N> NAME(Array<TYPE, N> a) FASTINIT_EACH(RESULT, EXPRESSION)
FASTINIT_UNARY(bool, operator!, bool, !a.v[i])
FASTINIT_UNARY(uint32_t, swap_halves, uint32_t, (a.v[i] >> 16) | (a.v[i] << 16))
FASTINIT_UNARY(float, magnitude, float, ::fabsf(a.v[i]))
FASTINIT_UNARY(double, magnitude, double, ::fabs(a.v[i]))
// Correctly rounded.
FASTINIT_UNARY(float, sqrt, float, ::sqrtf(a.v[i]))
FASTINIT_UNARY(double, sqrt, double, ::sqrt(a.v[i]))
// Bits and reals. signed_to_real takes the bits as a two's complement number and rounds to nearest.
FASTINIT_UNARY(float, as_real, uint32_t, bit_cast<float>(a.v[i]))
FASTINIT_UNARY(double, as_real, uint64_t, bit_cast<double>(a.v[i]))
FASTINIT_UNARY(uint32_t, as_bits, float, bit_cast<uint32_t>(a.v[i]))
FASTINIT_UNARY(uint64_t, as_bits, double, bit_cast<uint64_t>(a.v[i]))
FASTINIT_UNARY(float, signed_to_real, uint32_t, static_cast<float>(static_cast<int32_t>(a.v[i])))
FASTINIT_UNARY(double, signed_to_real, uint64_t, static_cast<double>(static_cast<int64_t>(a.v[i])))
#undef FASTINIT_UNARY
// One rounding.
template <int N>
FASTINIT_INLINE Array<float, N> fma(Array<float, N> a, Array<float, N> b, Array<float, N> c)
FASTINIT_EACH(float, ::fmaf(a.v[i], b.v[i], c.v[i]))
template <int N>
FASTINIT_INLINE Array<double, N> fma(Array<double, N> a, Array<double, N> b, Array<double, N> c)
FASTINIT_EACH(double, ::fma(a.v[i], b.v[i], c.v[i]))

// Between 64-bit lanes that hold one word each and what the distributions use.
// interleave: the low halves of a and b in turn, as 32-bit lanes; even and odd undo it.
template <int N>
FASTINIT_INLINE Array<uint32_t, 2 * N> interleave(Array<uint64_t, N> a, Array<uint64_t, N> b) {
  Array<uint32_t, 2 * N> r;
  FASTINIT_UNROLL
  for (int i = 0; i < N; ++i) {
    r.v[2 * i] = static_cast<uint32_t>(a.v[i]);
    r.v[2 * i + 1] = static_cast<uint32_t>(b.v[i]);
  }
  return r;
}
template <int M>
FASTINIT_INLINE Array<uint64_t, M / 2> even(Array<uint32_t, M> a) {
  constexpr int N = M / 2;
  FASTINIT_EACH(uint64_t, a.v[2 * i])
}
template <int M>
FASTINIT_INLINE Array<uint64_t, M / 2> odd(Array<uint32_t, M> a) {
  constexpr int N = M / 2;
  FASTINIT_EACH(uint64_t, a.v[2 * i + 1])
}
// join: 64 bits from two words, the first one low.
template <int N>
FASTINIT_INLINE Array<uint64_t, N> join(Array<uint64_t, N> low, Array<uint64_t, N> high)
FASTINIT_EACH(uint64_t, (low.v[i] & 0xFFFFFFFFu) | (high.v[i] << 32))

// Memory. store_pairs writes first[0], second[0], first[1], second[1], ... in the order of the blocks,
// rounded to T; `streaming` asks for stores past the caches, where p is aligned to 64 bytes.
template <bool Streaming, class T, class R, int N>
FASTINIT_INLINE void store_pairs(T* p, Array<R, N> first, Array<R, N> second) {
  FASTINIT_UNROLL
  for (int i = 0; i < N; ++i) {
    p[2 * i] = round_to<T>(first.v[i]);
    p[2 * i + 1] = round_to<T>(second.v[i]);
  }
}
// Lanes in their own order.
template <class T, int N>
FASTINIT_INLINE void store(T* p, Array<T, N> a) {
  FASTINIT_UNROLL
  for (int i = 0; i < N; ++i) p[i] = a.v[i];
}
// Writes the lanes of a that the mask selects, without gaps; returns how many.
template <class T, int N>
FASTINIT_INLINE int store_selected(uint32_t* p, Array<bool, N> mask, Array<T, N> a) {
  int count = 0;
  for (int i = 0; i < N; ++i) {
    p[count] = static_cast<uint32_t>(a.v[i]);
    count += mask.v[i] ? 1 : 0;
  }
  return count;
}
// Writes zeros to the elements whose lanes the mask selects. May read and rewrite the others.
template <class T, int N>
FASTINIT_INLINE void store_zeros(T* p, Array<bool, N> mask) {
  FASTINIT_UNROLL
  for (int i = 0; i < N; ++i) {
    if (mask.v[i]) p[i] = T{};
  }
}

#undef FASTINIT_EACH
// clang-format on

// min of what are not zeros of different signs: a GPU has one instruction for that.
template <class X>
FASTINIT_INLINE X smaller(X a, X b) {
  return min(a, b);
}

// The lane types of one arithmetic: Lanes<L, float>::Real is L::F32, and so on.
template <class L, class R>
struct Typed;
template <class L>
struct Typed<L, float> {
  using Real = typename L::F32;
  using Bits = typename L::U32;
};
template <class L>
struct Typed<L, double> {
  using Real = typename L::F64;
  using Bits = typename L::U64;
};
template <class L, class R>
using Real = typename Typed<L, R>::Real;
template <class L, class R>
using Bits = typename Typed<L, R>::Bits;

// Elements come in pairs that neighbour each other: what the even elements get, and the odd ones.
template <class X>
struct Pair {
  X first, second;
};

}  // namespace fastinit
