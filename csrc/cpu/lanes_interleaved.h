// N vectors as one: every operation on all of them, one after the other.
//
// One group of blocks is a long chain of operations that wait for each other. Written like this, N independent chains
// stand side by side in the instruction stream, near enough for the processor to overlap them.
#pragma once

#include "core/lanes.h"

namespace fastinit {

template <class X, int N>
struct Bundle {
  static constexpr int lanes = N * X::lanes;
  X v[N];
  Bundle() = default;
  static FASTINIT_INLINE Bundle load(const uint32_t* p) {
    Bundle r;
    for (int i = 0; i < N; ++i) r.v[i] = X::load(p + i * X::lanes);
    return r;
  }
  template <class S>
  FASTINIT_INLINE explicit Bundle(S x) {
    for (int i = 0; i < N; ++i) v[i] = X(x);
  }
};

template <class L, int N>
struct Interleaved {
  static constexpr int blocks = N * L::blocks;
  using U32 = Bundle<typename L::U32, N>;
  using U64 = Bundle<typename L::U64, N>;
  using F32 = Bundle<typename L::F32, N>;
  using F64 = Bundle<typename L::F64, N>;
  using M32 = Bundle<typename L::M32, N>;
  using M64 = Bundle<typename L::M64, N>;

  static FASTINIT_INLINE U64 block_offsets() {
    U64 r;
    for (int i = 0; i < N; ++i) {
      r.v[i] =
          L::block_offsets() + typename L::U64(static_cast<uint64_t>(i) * static_cast<uint64_t>(L::blocks));
    }
    return r;
  }
  static FASTINIT_INLINE U64 blocks_at(const uint32_t* p) {
    U64 r;
    for (int i = 0; i < N; ++i) r.v[i] = L::blocks_at(p + i * L::blocks);
    return r;
  }
  template <class F>
  static FASTINIT_INLINE M32 mask_of(const F& bits) {
    M32 r;
    for (int i = 0; i < N; ++i) r.v[i] = L::mask_of([&](int lane) { return bits(i * L::M32::lanes + lane); });
    return r;
  }
};

// clang-format off
#define FASTINIT_EACH(FIRST, EXPRESSION)           \
  Bundle<decltype(FIRST), N> r;                    \
  for (int i = 0; i < N; ++i) r.v[i] = EXPRESSION; \
  return r;
#define FASTINIT_1(NAME) \
  template <class A, int N> FASTINIT_INLINE auto NAME(Bundle<A, N> a) { FASTINIT_EACH(NAME(a.v[0]), NAME(a.v[i])) }
#define FASTINIT_2(NAME) \
  template <class A, class B, int N> \
  FASTINIT_INLINE auto NAME(Bundle<A, N> a, Bundle<B, N> b) { FASTINIT_EACH(NAME(a.v[0], b.v[0]), NAME(a.v[i], b.v[i])) }
#define FASTINIT_3(NAME) \
  template <class A, class B, class C, int N> \
  FASTINIT_INLINE auto NAME(Bundle<A, N> a, Bundle<B, N> b, Bundle<C, N> c) { \
    FASTINIT_EACH(NAME(a.v[0], b.v[0], c.v[0]), NAME(a.v[i], b.v[i], c.v[i])) \
  }
#define FASTINIT_CONSTANT(NAME) \
  template <int Bits, class A, int N> FASTINIT_INLINE auto NAME(Bundle<A, N> a) { FASTINIT_EACH(NAME<Bits>(a.v[0]), NAME<Bits>(a.v[i])) }

FASTINIT_2(operator+) FASTINIT_2(operator-) FASTINIT_2(operator*) FASTINIT_2(operator/)
FASTINIT_2(operator&) FASTINIT_2(operator|) FASTINIT_2(operator^) FASTINIT_1(operator!)
FASTINIT_2(min) FASTINIT_2(max) FASTINIT_2(multiply_low) FASTINIT_2(multiply_high) FASTINIT_3(xor3) FASTINIT_1(swap_halves)
FASTINIT_CONSTANT(shift_left) FASTINIT_CONSTANT(shift_right)
FASTINIT_CONSTANT(test_bit)
FASTINIT_2(less) FASTINIT_2(less_equal) FASTINIT_2(equal) FASTINIT_3(select)
FASTINIT_3(fma) FASTINIT_1(sqrt) FASTINIT_1(magnitude) FASTINIT_1(as_real) FASTINIT_1(as_bits) FASTINIT_1(signed_to_real)
FASTINIT_2(interleave) FASTINIT_2(join) FASTINIT_1(even) FASTINIT_1(odd)
template <class A, int N>
FASTINIT_INLINE auto shift_right(Bundle<A, N> a, int bits) { FASTINIT_EACH(shift_right(a.v[0], bits), shift_right(a.v[i], bits)) }
#undef FASTINIT_EACH
#undef FASTINIT_1
#undef FASTINIT_2
#undef FASTINIT_3
#undef FASTINIT_CONSTANT
// clang-format on

// Memory: the vectors one after the other.
template <bool Streaming, class T, class X, int N>
FASTINIT_INLINE void store_pairs(T* p, Bundle<X, N> first, Bundle<X, N> second) {
  for (int i = 0; i < N; ++i) store_pairs<Streaming>(p + i * 2 * X::lanes, first.v[i], second.v[i]);
}
template <class T, class X, int N>
FASTINIT_INLINE void store(T* p, Bundle<X, N> a) {
  for (int i = 0; i < N; ++i) store(p + i * X::lanes, a.v[i]);
}
template <class X, class M, int N>
FASTINIT_INLINE int store_selected(uint32_t* p, Bundle<M, N> mask, Bundle<X, N> a) {
  int count = 0;
  for (int i = 0; i < N; ++i) count += store_selected(p + count, mask.v[i], a.v[i]);
  return count;
}

template <class M, int N>
FASTINIT_INLINE uint64_t lane_bits(Bundle<M, N> mask) {
  uint64_t bits = 0;
  for (int i = 0; i < N; ++i) bits |= lane_bits(mask.v[i]) << (i * M::lanes);
  return bits;
}
template <class T, class M, int N>
FASTINIT_INLINE void store_zeros(T* p, Bundle<M, N> mask) {
  for (int i = 0; i < N; ++i) store_zeros(p + i * M::lanes, mask.v[i]);
}

}  // namespace fastinit
