// The quantile function of a standard normal between two bounds: one word, one value, none rejected (contract C5).
//
// With z the value and x = erf(z / sqrt 2), the word is an even grid in x between the bounds. In terms of x, z / x is a smooth
// function of x^2 near the mean, and of ln(1 - x^2) everywhere: M. Giles, "Approximating the erfinv function", GPU Computing
// Gems Jade (2011). The polynomials are minimax polynomials of our own (Remez exchange, relative error).
// tests/contract/test_quantile.py checks the accuracy: 6 ulp of float32 or, near the mean, of an even grid between the bounds.
#pragma once

#include <math.h>

#include <type_traits>

#include "core/elementary.h"

namespace fastinit {

// The functions that bounds are turned into. What they give decides values, so their constants belong to the contract, and
// their operations are those that IEEE 754 fixes, as libm's exp and erfc are not.

// e^x for x <= 0, to 3e-9 of it; 0 where that is less than e^-64.
inline double exp_of_negative(double x) {
  if (!(x >= -64)) return 0;
  const double y = x * 0x1p-8;
  double e = 1;
  for (int n = 8; n > 0; --n) e = 1 + e * y * (1.0 / n);
  for (int i = 0; i < 8; ++i) e *= e;
  return e;
}

// (1 - Phi(x)) / phi(x) for x >= 0, to 3e-8 of it: a minimax polynomial in 1 / (1 + 3/8 x).
inline double mills_ratio(double x) {
  const double t = 1 / (1 + 0.375 * x);
  double p = 0.0619215220816;
  p = p * t - 0.291784095207;
  p = p * t + 0.496327337979;
  p = p * t - 0.28472007825;
  p = p * t - 0.0630073295858;
  p = p * t - 0.0304066792252;
  p = p * t + 0.0749378507991;
  p = p * t + 0.217860886019;
  p = p * t + 0.322182413222;
  p = p * t + 0.37500235578;
  p = p * t + 0.374999989337;
  return p * t;
}

// sqrt(2 pi), and sqrt(2 pi) (1 - Phi(x)) for x >= 0.
constexpr double root_two_pi = 2.5066282746310005;
inline double tail(double x) { return exp_of_negative(-x * x / 2) * mills_ratio(x); }

// erf(z / sqrt 2) for 0 <= z < 5, to 4e-9 of it: the series of P. Laplace with positive terms (Abramowitz, Stegun: 26.2.11).
inline double central_mass(double z) {
  double term = z, sum = z;
  for (int n = 3; term > sum * 0x1p-36; n += 2) sum += term *= z * z / n;
  return 2 / root_two_pi * exp_of_negative(-z * z / 2) * sum;
}

struct Quantile {
  // How far from the mean the bounds are at most, which decides how z is made from x: what the approximations are for.
  enum class Range { near, central, wide };
  static constexpr double limits[] = {1 + 1. / 64, 2 + 7. / 64, 4 + 1. / 32};

  float step, centre;            // x at a word, taken as a signed number
  float edge;                    // 1 - x at the upper end of the words
  float lower_edge, lower_step;  // 1 + x at their lower end and upwards; where all of x is positive, 1 - x
  bool symmetric;
  Range range;

  // Not for intervals that are so narrow that the rounding of their ends would show.
  static bool covers(double alpha, double beta) {
    const double most = -alpha > beta ? -alpha : beta;
    return most <= limits[static_cast<int>(Range::wide)] && beta - alpha >= most / 8;
  }
  // Of an interval that it covers, no part of which is farther below the mean than above, or else that the mean is in.
  static Quantile make(double alpha, double beta);

  template <class L>
  FASTINIT_INLINE Pair<typename L::F32> operator()(Pair<typename L::U32> words) const {
    return in<L>(range, words);
  }
  // The same for who knows the range.
  template <class L>
  FASTINIT_INLINE Pair<typename L::F32> in(Range range, Pair<typename L::U32> words) const {
    using F32 = typename L::F32;
    const Pair<F32> x{fma(signed_to_real(words.first), F32(step), F32(centre)),
                      fma(signed_to_real(words.second), F32(step), F32(centre))};
    Pair<F32> ratio;  // z / x
    if (range == Range::near) {
      ratio = polynomial(Pair<F32>{x.first * x.first, x.second * x.second}, 0x1.aad4c0p-2f, -0x1.5ae98ap-2f,
                         0x1.1053f8p-2f, 0x1.63fe68p-5f, 0x1.07c8a8p-3f, 0x1.709b56p-3f, 0x1.500070p-2f,
                         0x1.40d932p+0f);
      return {x.first * ratio.first, x.second * ratio.second};
    }
    const Pair<F32> q{to_end<L>(words.first), to_end<L>(words.second)};
    const Pair<F32> r{q.first * (F32(2.0f) - q.first), q.second * (F32(2.0f) - q.second)};  // 1 - x^2
    if (range == Range::central) {
      const auto over = polynomial(r, 0x1.17f6e0p+10f, 0x1.353dd8p+11f, 0x1.ef3268p+9f, 0x1.4ca19cp+6f, 1.0f);
      ratio = polynomial(r, -0x1.ba7f98p+4f, 0x1.613d18p+9f, 0x1.896876p+11f, 0x1.c6fcd8p+10f, 0x1.934d00p+7f,
                         0x1.9b1c5ap+1f);
      ratio = {ratio.first / over.first, ratio.second / over.second};
    } else {
      const auto a = split(r.first), b = split(r.second);
      const Pair<F32> s{a.mantissa, b.mantissa}, p = minus_two_log_ratio(s);
      const Pair<F32> w{fma(p.first, s.first, a.logarithm), fma(p.second, s.second, b.logarithm)};
      const auto slope = polynomial(w, -0x1.70cf6ep-46f, 0x1.23028ap-42f, 0x1.9ca07cp-38f, -0x1.427184p-33f,
                                    0x1.9eec46p-31f, 0x1.5f613ap-26f, -0x1.3d593cp-21f, 0x1.e8e3d2p-18f,
                                    -0x1.402478p-21f, -0x1.5568a6p-9f, 0x1.4017e2p-3f);
      return {from_end(x.first, q.first, slope.first, w.first),
              from_end(x.second, q.second, slope.second, w.second)};
    }
    return {x.first * ratio.first, x.second * ratio.second};
  }

 private:
  static constexpr float middle = 9.0f;  // of what -2 ln(1 - x^2) may be

  // 1 - x or 1 + x, by the distance to that end of the words which is nearer: as accurate as it is small.
  template <class L>
  FASTINIT_INLINE typename L::F32 to_end(typename L::U32 word) const {
    using F32 = typename L::F32;
    using U32 = typename L::U32;
    const F32 distance = signed_to_real(min(word ^ U32(0x80000000u), word ^ U32(0x7FFFFFFFu)));
    F32 q = fma(distance, F32(step), F32(edge));
    if (!symmetric) q = select(test_bit<31>(word), fma(distance, F32(lower_step), F32(lower_edge)), q);
    return q;
  }
  // x times the ratio, which is a constant and slope w. Far from the mean x has few different values left, which would show in
  // how often neighbouring numbers are drawn. So what is missing to the ratio, q of it, and what its rounding left out are
  // added to it there, and only the sum is rounded.
  template <class F32>
  static FASTINIT_INLINE F32 from_end(F32 x, F32 q, F32 slope, F32 w) {
    const F32 constant(0x1.64d028p+1f), ratio = fma(slope, w, constant);
    const F32 left_out = fma(slope, w, constant - ratio);
    const F32 far = ratio - fma(q, ratio, F32(-0.0f) - left_out);
    const auto sign = as_bits(x) & as_bits(F32(-0.0f));
    return select(less(q, F32(0.25f)), as_real(as_bits(far) ^ sign), x * ratio);
  }
  // 2^e (1 + s): s, and -2 ln(2^e) - middle.
  template <class F32>
  struct Split {
    F32 mantissa, logarithm;
  };
  template <class F32>
  static FASTINIT_INLINE Split<F32> split(F32 r) {
    const auto bits = as_bits(r);
    using U32 = std::remove_const_t<decltype(bits)>;
    const U32 exponent = (bits - U32(root_half)) & U32(0xFF800000u);
    return {as_real(bits - exponent) - F32(1.0f),
            fma(signed_to_real(exponent), F32(minus_two_ln2 * 0x1p-23f), F32(-middle))};
  }
};

inline Quantile Quantile::make(double alpha, double beta) {
  const bool both_sides = alpha < 0;
  const double far_out = both_sides ? -alpha : alpha;
  const auto rest = [](double z, double mass) { return z > 1 ? 2 / root_two_pi * tail(z) : 1 - mass; };
  const double upper = central_mass(beta), upper_rest = rest(beta, upper);
  const double lower = far_out == beta ? upper : central_mass(far_out), lower_rest = rest(far_out, lower);
  const double span = both_sides ? upper + lower : alpha > 1 ? lower_rest - upper_rest : upper - lower;
  const double step = span * 0x1p-32;
  Quantile q{};
  q.step = static_cast<float>(step);
  q.centre = static_cast<float>(((both_sides ? upper - lower : upper + lower) + step) / 2);
  q.edge = static_cast<float>(upper_rest + step / 2);
  q.lower_step = both_sides ? q.step : -q.step;
  q.lower_edge = static_cast<float>(both_sides ? lower_rest + step / 2 : lower_rest - step / 2);
  q.symmetric = both_sides && far_out == beta;
  const auto within = [&](Range range) {
    const double limit = limits[static_cast<int>(range)];
    return beta <= limit && far_out <= limit;
  };
  q.range = within(Range::near) ? Range::near : within(Range::central) ? Range::central : Range::wide;
  return q;
}

}  // namespace fastinit
