// NEON lanes (aarch64): four blocks side by side. The meaning of each operation is the portable one in
// core/lanes.h.
//
// Registers hold four 32-bit lanes. A 64-bit lane has its low half in one register and its high half in another: a word
// of Philox, whose high half is undefined, is one register then, and a product's high half need not be shifted down.
#pragma once

#include <arm_neon.h>

#include "cpu/lanes_interleaved.h"
#include "cpu/lanes_vector.h"

namespace fastinit {

struct Neon {
  static constexpr int blocks = 4;

  // One register each.
  using Words = Vector<Neon, uint32_t, uint32x4_t>;
  using Floats = Vector<Neon, float, float32x4_t>;
  using Doubles = Vector<Neon, double, float64x2_t>;
  using Selected = Mask<Neon, 4, uint32x4_t>;  // all bits of a lane, or none

  using U32 = Bundle<Words, 2>;
  using F32 = Bundle<Floats, 2>;
  using F64 = Bundle<Doubles, 2>;
  using M32 = Bundle<Selected, 2>;
  using M64 = Selected;
  struct U64 {
    static constexpr int lanes = 4;
    Words low, high;
    U64() = default;
    FASTINIT_INLINE U64(Words l, Words h) : low(l), high(h) {}
    FASTINIT_INLINE explicit U64(uint64_t x)
        : low(static_cast<uint32_t>(x)), high(static_cast<uint32_t>(x >> 32)) {}
    FASTINIT_INLINE explicit U64(Words x) : low(x), high(0u) {}
    static FASTINIT_INLINE U64 load(const uint32_t* p) { return {Words::load(p), Words(0u)}; }
  };

  static FASTINIT_INLINE uint32x4_t all(uint32_t x) { return vdupq_n_u32(x); }
  static FASTINIT_INLINE float32x4_t all(float x) { return vdupq_n_f32(x); }
  static FASTINIT_INLINE float64x2_t all(double x) { return vdupq_n_f64(x); }
  static FASTINIT_INLINE uint32x4_t load_words(const uint32_t* p, uint32_t) { return vld1q_u32(p); }

  static FASTINIT_INLINE U64 block_offsets() { return {uint32x4_t{0, 1, 2, 3}, Words(0u)}; }
  static FASTINIT_INLINE U64 blocks_at(const uint32_t* p) { return U64::load(p); }
  template <class F>
  static FASTINIT_INLINE M32 mask_of(const F& bits) {
    const uint32x4_t own = vdupq_n_u32(static_cast<uint32_t>(bits(0)));
    M32 r;
    r.v[0] = {vtstq_u32(own, uint32x4_t{1, 2, 4, 8})};
    r.v[1] = {vtstq_u32(own, uint32x4_t{16, 32, 64, 128})};
    return r;
  }
};

namespace neon_detail {

using Words = Neon::Words;
using Floats = Neon::Floats;
using Doubles = Neon::Doubles;
using Selected = Neon::Selected;
using U64 = Neon::U64;
using F64 = Neon::F64;

// Four 64-bit lanes, from their halves and back.
struct Wide {
  uint64x2_t v[2];
};
FASTINIT_INLINE Wide widen(uint32x4_t low, uint32x4_t high) {
  return {{vreinterpretq_u64_u32(vzip1q_u32(low, high)), vreinterpretq_u64_u32(vzip2q_u32(low, high))}};
}
FASTINIT_INLINE U64 halves(uint64x2_t a, uint64x2_t b) {
  const uint32x4_t first = vreinterpretq_u32_u64(a), second = vreinterpretq_u32_u64(b);
  return {vuzp1q_u32(first, second), vuzp2q_u32(first, second)};
}

FASTINIT_INLINE U64 product(uint32x4_t a, uint32x4_t b) {
  return halves(vmull_u32(vget_low_u32(a), vget_low_u32(b)), vmull_high_u32(a, b));
}

FASTINIT_INLINE F64 both(float64x2_t a, float64x2_t b) {
  F64 r;
  r.v[0] = a;
  r.v[1] = b;
  return r;
}
FASTINIT_INLINE Selected narrow(uint64x2_t a, uint64x2_t b) { return {halves(a, b).low.v}; }

// float32 to bfloat16 in the high half of each lane; the low half is undefined.
FASTINIT_INLINE uint32x4_t round_bf16(float32x4_t x) {
  const uint32x4_t u = vreinterpretq_u32_f32(x);
  return vsraq_n_u32(vaddq_u32(u, vdupq_n_u32(0x7FFF)), vandq_u32(u, vdupq_n_u32(0x10000)), 16);
}

// For each set of lanes the bytes that move them together.
struct Moves {
  alignas(16) uint8_t bytes[16][16];
};
constexpr Moves moves = [] {
  Moves m{};
  for (int set = 0; set < 16; ++set) {
    for (int lane = 0, to = 0; lane < 4; ++lane) {
      for (int byte = 0; byte < 4 && (set >> lane & 1) != 0; ++byte)
        m.bytes[set][to++] = static_cast<uint8_t>(4 * lane + byte);
    }
  }
  return m;
}();

}  // namespace neon_detail

// clang-format off
#define FASTINIT_OP(RESULT, NAME, PARAMETERS, ...) \
  FASTINIT_INLINE Neon::RESULT NAME PARAMETERS { return {__VA_ARGS__}; }
FASTINIT_OP(Words, min, (Neon::Words a, Neon::Words b), vminq_u32(a.v, b.v))
FASTINIT_OP(Words, multiply_high, (Neon::Words a, Neon::Words b), neon_detail::product(a.v, b.v).high)
FASTINIT_OP(Words, shift_right, (Neon::Words a, int bits), vshlq_u32(a.v, vdupq_n_s32(-bits)))
FASTINIT_OP(Words, swap_halves, (Neon::Words a), vreinterpretq_u32_u16(vrev32q_u16(vreinterpretq_u16_u32(a.v))))
FASTINIT_OP(Floats, as_real, (Neon::Words a), vreinterpretq_f32_u32(a.v))
FASTINIT_OP(Words, as_bits, (Neon::Floats a), vreinterpretq_u32_f32(a.v))
FASTINIT_OP(Floats, signed_to_real, (Neon::Words a), vcvtq_f32_s32(vreinterpretq_s32_u32(a.v)))
FASTINIT_OP(Selected, less, (Neon::Words a, Neon::Words b), vcltq_u32(a.v, b.v))
FASTINIT_OP(Selected, less_equal, (Neon::Words a, Neon::Words b), vcleq_u32(a.v, b.v))
FASTINIT_OP(Selected, equal, (Neon::Words a, Neon::Words b), vceqq_u32(a.v, b.v))

// min and max by comparison: fmin and fmax take -0 for less than +0.
FASTINIT_OP(Floats, fma, (Neon::Floats a, Neon::Floats b, Neon::Floats c), vfmaq_f32(c.v, a.v, b.v))
FASTINIT_OP(Floats, sqrt, (Neon::Floats a), vsqrtq_f32(a.v))
FASTINIT_OP(Floats, magnitude, (Neon::Floats a), vabsq_f32(a.v))
FASTINIT_OP(Floats, min, (Neon::Floats a, Neon::Floats b), vbslq_f32(vcltq_f32(a.v, b.v), a.v, b.v))
FASTINIT_OP(Floats, max, (Neon::Floats a, Neon::Floats b), vbslq_f32(vcgtq_f32(a.v, b.v), a.v, b.v))
FASTINIT_OP(Selected, less, (Neon::Floats a, Neon::Floats b), vcltq_f32(a.v, b.v))
FASTINIT_OP(Selected, less_equal, (Neon::Floats a, Neon::Floats b), vcleq_f32(a.v, b.v))

FASTINIT_OP(Doubles, fma, (Neon::Doubles a, Neon::Doubles b, Neon::Doubles c), vfmaq_f64(c.v, a.v, b.v))
FASTINIT_OP(Doubles, sqrt, (Neon::Doubles a), vsqrtq_f64(a.v))
FASTINIT_OP(Doubles, magnitude, (Neon::Doubles a), vabsq_f64(a.v))
FASTINIT_OP(Doubles, min, (Neon::Doubles a, Neon::Doubles b), vbslq_f64(vcltq_f64(a.v, b.v), a.v, b.v))
FASTINIT_OP(Doubles, max, (Neon::Doubles a, Neon::Doubles b), vbslq_f64(vcgtq_f64(a.v, b.v), a.v, b.v))
FASTINIT_OP(M64, less, (Neon::F64 a, Neon::F64 b),
    neon_detail::narrow(vcltq_f64(a.v[0].v, b.v[0].v), vcltq_f64(a.v[1].v, b.v[1].v)))
FASTINIT_OP(M64, less_equal, (Neon::F64 a, Neon::F64 b),
    neon_detail::narrow(vcleq_f64(a.v[0].v, b.v[0].v), vcleq_f64(a.v[1].v, b.v[1].v)))

FASTINIT_INLINE uint64_t lane_bits(Neon::Selected m) { return vaddvq_u32(vandq_u32(m.v, uint32x4_t{1, 2, 4, 8})); }
FASTINIT_OP(Selected, operator&, (Neon::Selected a, Neon::Selected b), vandq_u32(a.v, b.v))
FASTINIT_OP(Selected, operator|, (Neon::Selected a, Neon::Selected b), vorrq_u32(a.v, b.v))
FASTINIT_OP(Selected, operator!, (Neon::Selected a), vmvnq_u32(a.v))
FASTINIT_OP(Words, select, (Neon::Selected m, Neon::Words yes, Neon::Words no), vbslq_u32(m.v, yes.v, no.v))
FASTINIT_OP(Floats, select, (Neon::Selected m, Neon::Floats yes, Neon::Floats no), vbslq_f32(m.v, yes.v, no.v))

FASTINIT_OP(U64, operator&, (Neon::U64 a, Neon::U64 b), a.low & b.low, a.high & b.high)
FASTINIT_OP(U64, operator|, (Neon::U64 a, Neon::U64 b), a.low | b.low, a.high | b.high)
FASTINIT_OP(U64, operator^, (Neon::U64 a, Neon::U64 b), a.low ^ b.low, a.high ^ b.high)
FASTINIT_OP(U64, xor3, (Neon::U64 a, Neon::U64 b, Neon::U64 c), b.low ^ c.low ^ a.low, b.high ^ c.high ^ a.high)
FASTINIT_OP(U64, multiply_low, (Neon::U64 a, Neon::U64 b), neon_detail::product(a.low.v, b.low.v))
FASTINIT_OP(U64, select, (Neon::M64 m, Neon::U64 yes, Neon::U64 no),
    select(m, yes.low, no.low), select(m, yes.high, no.high))
FASTINIT_OP(U64, join, (Neon::U64 a, Neon::U64 b), a.low, b.low)
#undef FASTINIT_OP
// clang-format on

// With the carries from half to half, which cost nothing where nobody asks for the high one.
FASTINIT_INLINE Neon::U64 operator+(Neon::U64 a, Neon::U64 b) {
  const Neon::Words low = a.low + b.low, carry = less(low, b.low).v;
  return {low, a.high + b.high - carry};
}
FASTINIT_INLINE Neon::U64 operator-(Neon::U64 a, Neon::U64 b) {
  const Neon::Words borrow = less(a.low, b.low).v;
  return {a.low - b.low, a.high - b.high + borrow};
}

FASTINIT_INLINE Neon::F64 as_real(Neon::U64 a) {
  const neon_detail::Wide w = neon_detail::widen(a.low.v, a.high.v);
  return neon_detail::both(vreinterpretq_f64_u64(w.v[0]), vreinterpretq_f64_u64(w.v[1]));
}
FASTINIT_INLINE Neon::U64 as_bits(Neon::F64 a) {
  return neon_detail::halves(vreinterpretq_u64_f64(a.v[0].v), vreinterpretq_u64_f64(a.v[1].v));
}
FASTINIT_INLINE Neon::F64 signed_to_real(Neon::U64 a) {
  const neon_detail::Wide w = neon_detail::widen(a.low.v, a.high.v);
  return neon_detail::both(vcvtq_f64_s64(vreinterpretq_s64_u64(w.v[0])),
                           vcvtq_f64_s64(vreinterpretq_s64_u64(w.v[1])));
}
FASTINIT_INLINE Neon::F64 select(Neon::M64 m, Neon::F64 yes, Neon::F64 no) {
  const neon_detail::Wide w = neon_detail::widen(m.v, m.v);
  return neon_detail::both(vbslq_f64(w.v[0], yes.v[0].v, no.v[0].v),
                           vbslq_f64(w.v[1], yes.v[1].v, no.v[1].v));
}

FASTINIT_INLINE Neon::U32 interleave(Neon::U64 a, Neon::U64 b) {
  Neon::U32 r;
  r.v[0] = vzip1q_u32(a.low.v, b.low.v);
  r.v[1] = vzip2q_u32(a.low.v, b.low.v);
  return r;
}
FASTINIT_INLINE Neon::U64 even(Neon::U32 a) { return {vuzp1q_u32(a.v[0].v, a.v[1].v), Neon::Words(0u)}; }
FASTINIT_INLINE Neon::U64 odd(Neon::U32 a) { return {vuzp2q_u32(a.v[0].v, a.v[1].v), Neon::Words(0u)}; }

template <int Bits>
FASTINIT_INLINE Neon::Words shift_left(Neon::Words a) {
  return vshlq_n_u32(a.v, Bits);
}
template <int Bits>
FASTINIT_INLINE Neon::Words shift_right(Neon::Words a) {
  return vshrq_n_u32(a.v, Bits);
}
template <int Bits>
FASTINIT_INLINE Neon::U64 shift_left(Neon::U64 a) {
  if constexpr (Bits > 32) {
    return {Neon::Words(0u), vshlq_n_u32(a.low.v, Bits - 32)};
  } else if constexpr (Bits == 32) {
    return {Neon::Words(0u), a.low};
  } else {
    return {vshlq_n_u32(a.low.v, Bits), vsriq_n_u32(vshlq_n_u32(a.high.v, Bits), a.low.v, 32 - Bits)};
  }
}
template <int Bits>
FASTINIT_INLINE Neon::U64 shift_right(Neon::U64 a) {
  if constexpr (Bits > 32) {
    return {vshrq_n_u32(a.high.v, Bits - 32), Neon::Words(0u)};
  } else if constexpr (Bits == 32) {
    return {a.high, Neon::Words(0u)};
  } else {
    return {vsliq_n_u32(vshrq_n_u32(a.low.v, Bits), a.high.v, 32 - Bits), vshrq_n_u32(a.high.v, Bits)};
  }
}
template <int Bit>
FASTINIT_INLINE Neon::Selected test_bit(Neon::Words a) {
  if constexpr (Bit == 31) return {vcltzq_s32(vreinterpretq_s32_u32(a.v))};
  return {vtstq_u32(a.v, vdupq_n_u32(uint32_t{1} << Bit))};
}
template <int Bit>
FASTINIT_INLINE Neon::M64 test_bit(Neon::U64 a) {
  return Bit < 32 ? test_bit<Bit % 32>(a.low) : test_bit<Bit % 32>(a.high);
}

FASTINIT_INLINE void store(float* p, Neon::Floats a) { vst1q_f32(p, a.v); }
FASTINIT_INLINE void store(double* p, Neon::Doubles a) { vst1q_f64(p, a.v); }
FASTINIT_INLINE void store(uint32_t* p, Neon::Words a) { vst1q_u32(p, a.v); }

// Which lanes are selected, and in the next byte how many, by one sum.
FASTINIT_INLINE int store_selected(uint32_t* p, Neon::Selected mask, Neon::Words a) {
  const uint32_t sum = vaddvq_u32(vandq_u32(mask.v, uint32x4_t{0x101, 0x102, 0x104, 0x108}));
  const uint8x16_t move = vld1q_u8(neon_detail::moves.bytes[sum & 0xFF]);
  store(p, Neon::Words(vreinterpretq_u32_u8(vqtbl1q_u8(vreinterpretq_u8_u32(a.v), move))));
  return static_cast<int>(sum >> 8);
}
FASTINIT_INLINE int store_selected(uint32_t* p, Neon::M64 mask, Neon::U64 a) {
  return store_selected(p, mask, a.low);
}

FASTINIT_INLINE void store_zeros(float* p, Neon::Selected mask) {
  uint32_t* const to = reinterpret_cast<uint32_t*>(p);
  vst1q_u32(to, vbicq_u32(vld1q_u32(to), mask.v));
}
FASTINIT_INLINE void store_zeros(double* p, Neon::Selected mask) {
  const neon_detail::Wide w = neon_detail::widen(mask.v, mask.v);
  uint64_t* const to = reinterpret_cast<uint64_t*>(p);
  vst1q_u64(to, vbicq_u64(vld1q_u64(to), w.v[0]));
  vst1q_u64(to + 2, vbicq_u64(vld1q_u64(to + 2), w.v[1]));
}
template <class T>
FASTINIT_INLINE void store_zeros(T* p, Neon::Selected mask) {
  static_assert(sizeof(T) == 2, "Half and BFloat16");
  uint16_t* const to = reinterpret_cast<uint16_t*>(p);
  vst1_u16(to, vbic_u16(vld1_u16(to), vmovn_u32(mask.v)));
}

// These processors notice that whole cache lines are written, and do not read them in first: `Streaming` changes nothing.
template <bool Streaming>
FASTINIT_INLINE void store_pairs(float* p, Neon::Floats first, Neon::Floats second) {
  vst1q_f32(p, vzip1q_f32(first.v, second.v));
  vst1q_f32(p + 4, vzip2q_f32(first.v, second.v));
}
template <bool Streaming>
FASTINIT_INLINE void store_pairs(double* p, Neon::Doubles first, Neon::Doubles second) {
  vst1q_f64(p, vzip1q_f64(first.v, second.v));
  vst1q_f64(p + 2, vzip2q_f64(first.v, second.v));
}
template <bool Streaming>
FASTINIT_INLINE void store_pairs(Half* p, Neon::Floats first, Neon::Floats second) {
  const float16x4_t low = vcvt_f16_f32(vzip1q_f32(first.v, second.v));
  const float16x8_t both = vcvt_high_f16_f32(low, vzip2q_f32(first.v, second.v));
  vst1q_u16(reinterpret_cast<uint16_t*>(p), vreinterpretq_u16_f16(both));
}
template <bool Streaming>
FASTINIT_INLINE void store_pairs(BFloat16* p, Neon::Floats first, Neon::Floats second) {
  const uint32x4_t both =
      vsriq_n_u32(neon_detail::round_bf16(second.v), neon_detail::round_bf16(first.v), 16);
  vst1q_u16(reinterpret_cast<uint16_t*>(p), vreinterpretq_u16_u32(both));
}

}  // namespace fastinit
