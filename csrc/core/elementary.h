// Logarithm, sine and cosine of random bits, over operations that IEEE 754 fixes exactly (contract C8).
//
// The coefficients are minimax polynomials of our own (Remez exchange, weighted for the error stated).
// Accuracy, checked by tests/test_elementary.py against a wider arithmetic:
//   minus_two_log   float32: 3.5 ulp, float64: 4.5 ulp, over every word
//   turn            float32: 1.5e-7, float64: 3e-16, absolute, on the unit circle
#pragma once

#include "core/lanes.h"

namespace fastinit {

constexpr float minus_two_ln2 = -0x1.62e430p+0f;
constexpr uint32_t root_half = 0x3F3504F3u;  // the bits of sqrt(1/2)

// Polynomials by Horner's rule, the leading coefficient first. Of a pair, two chains of operations stand side by side.
template <class X, class... C>
FASTINIT_INLINE X polynomial(X x, float leading, C... others) {
  X p(leading);
  ((p = fma(p, x, X(others))), ...);
  return p;
}
template <class X, class... C>
FASTINIT_INLINE Pair<X> polynomial(Pair<X> x, float leading, C... others) {
  Pair<X> p{X(leading), X(leading)};
  ((p = {fma(p.first, x.first, X(others)), fma(p.second, x.second, X(others))}), ...);
  return p;
}

// -2 ln(1 + s) / s for 1 + s in [sqrt(1/2), sqrt(2)).
template <class X>
FASTINIT_INLINE X minus_two_log_ratio(X s) {
  return polynomial(s, -0x1.65c65ap-3f, 0x1.25045ap-2f, -0x1.31853cp-2f, 0x1.535d3cp-2f, -0x1.98d2bep-2f,
                    0x1.00049ap-1f, -0x1.5556f4p-1f, 0x1.fffffap-1f, -2.0f);
}

// -2 ln((x + 1/2) / 2^n) for an n-bit word x: the squared radius of Box-Muller.
//
// The word as a signed number is u in the lower half and u - 1 in the upper one, so that the argument is known to full
// relative precision near both ends: near 0 (the tails) and near 1 (radii close to zero).
template <class L>
FASTINIT_INLINE typename L::F32 minus_two_log(typename L::U32 x) {
  using F32 = typename L::F32;
  using U32 = typename L::U32;
  const F32 nearer = fma(signed_to_real(x), F32(0x1p-32f), F32(0x1p-33f));
  const F32 u = select(test_bit<31>(x), nearer + F32(1.0f), nearer);
  // u = 2^e (1 + s), with 1 + s in [sqrt(1/2), sqrt(2)); e stands in the place of u's exponent.
  const U32 exponent = (as_bits(u) - U32(root_half)) & U32(0xFF800000u);
  const F32 e = signed_to_real(exponent);
  const F32 s = select(test_bit<31>(exponent), as_real(as_bits(u) - exponent) - F32(1.0f), nearer);
  return fma(minus_two_log_ratio(s), s, e * F32(minus_two_ln2 * 0x1p-23f));
}

template <class L>
FASTINIT_INLINE typename L::F64 minus_two_log(typename L::U64 x) {
  using F64 = typename L::F64;
  using U64 = typename L::U64;
  const U64 root_half(0x3FE6A09E667F3BCDu), one(0x3FF0000000000000u);
  const F64 nearer = fma(signed_to_real(x), F64(0x1p-64), F64(0x1p-65));
  const F64 u = select(test_bit<63>(x), nearer + F64(1.0), nearer);
  const U64 shifted = as_bits(u) - root_half;
  const F64 e = signed_to_real(shift_right<52>(shifted + one)) - F64(1023.0);
  const F64 s = select(less(u, as_real(root_half)),
                       as_real((shifted & U64(0x000FFFFFFFFFFFFFu)) + root_half) - F64(1.0), nearer);
  // ln(1 + s) = 2 atanh(w), w = s / (2 + s)
  const F64 w = s / (F64(2.0) + s), w2 = w * w;
  F64 p = F64(-0x1.2f50f43e64db5p-2);
  p = fma(p, w2, F64(-0x1.399d294f88f5bp-2));
  p = fma(p, w2, F64(-0x1.746647dd066c2p-2));
  p = fma(p, w2, F64(-0x1.c71c52be8192ap-2));
  p = fma(p, w2, F64(-0x1.2492493fad552p-1));
  p = fma(p, w2, F64(-0x1.99999999847e9p-1));
  p = fma(p, w2, F64(-0x1.555555555557cp+0));
  p = fma(p, w2, F64(-4.0));
  return fma(p, w, e * F64(-0x1.62e42fefa39efp+0));
}

// A point on the unit circle, uniform over its 2^n words: the angle of Box-Muller.
//
// All n bits, taken as a signed number, are the angle within a quarter turn around the first axis, plus
// half a step so that no coordinate is ever zero; bit 0 mirrors it at the diagonal and bit 1 at the
// origin. The four cases together are an even grid on the circle, and nothing has to be reduced.
// x and y lie within one quarter; `negative` carries the last mirroring as a sign bit.
template <class X, class B>
struct Turn {
  X x, y;
  B negative;
};

template <class L>
FASTINIT_INLINE Turn<typename L::F32, typename L::U32> turn(typename L::U32 word) {
  using F32 = typename L::F32;
  using U32 = typename L::U32;
  const F32 t = fma(signed_to_real(word), F32(0x1p-34f), F32(0x1p-35f)), t2 = t * t;  // [-1/8, 1/8] turns
  F32 c = fma(F32(-0x1.4e8444p+6f), t2, F32(0x1.03b090p+6f));
  c = fma(c, t2, F32(-0x1.3bd39cp+4f));
  c = fma(c, t2, F32(1.0f));
  F32 s = fma(F32(-0x1.2d9302p+6f), t2, F32(0x1.465e92p+6f));
  s = fma(s, t2, F32(-0x1.4abbbap+5f));
  s = fma(s, t2, F32(0x1.921fb6p+2f)) * t;
  const auto mirrored = test_bit<0>(word);
  return {select(mirrored, s, c), select(mirrored, c, s), shift_left<30>(word) & U32(0x80000000u)};
}

template <class L>
FASTINIT_INLINE Turn<typename L::F64, typename L::U64> turn(typename L::U64 word) {
  using F64 = typename L::F64;
  using U64 = typename L::U64;
  const F64 t = fma(signed_to_real(word), F64(0x1p-66), F64(0x1p-67)), t2 = t * t;
  F64 c = fma(F64(0x1.f3dcf2688fbacp+2), t2, F64(-0x1.a6c9ca58aa9eap+4));
  c = fma(c, t2, F64(0x1.e1f4fb8456d61p+5));
  c = fma(c, t2, F64(-0x1.55d3c7dc3def3p+6));
  c = fma(c, t2, F64(0x1.03c1f081b0e29p+6));
  c = fma(c, t2, F64(-0x1.3bd3cc9be459dp+4));
  c = fma(c, t2, F64(1.0));
  F64 s = fma(F64(0x1.e3eed5da464aep+1), t2, F64(-0x1.e300639fd9afcp+3));
  s = fma(s, t2, F64(0x1.50782fca37beep+5));
  s = fma(s, t2, F64(-0x1.32d2cce2d5344p+6));
  s = fma(s, t2, F64(0x1.466bc677586ffp+6));
  s = fma(s, t2, F64(-0x1.4abbce625be41p+5));
  s = fma(s, t2, F64(0x1.921fb54442d18p+2)) * t;
  const auto mirrored = test_bit<0>(word);
  return {select(mirrored, s, c), select(mirrored, c, s), shift_left<62>(word) & U64(0x8000000000000000u)};
}

}  // namespace fastinit
