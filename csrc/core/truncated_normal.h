// Normal distribution restricted to [lower, upper] (contract C5).
//
// Rejection sampling: attempt t of an element draws from counters with draw = t, and the first attempt
// that is accepted is the value. Three proposals, chosen once per fill by what a value costs:
//   normal        the normal itself, accepted when it falls inside
//   uniform       uniform on the interval, accepted with the density's ratio to its peak there
//   exponential   an exponential that starts at the nearer bound of a tail: C. Robert, "Simulation of
//                 truncated normal variables", Statistics and Computing 5 (1995), section 2.2
// Values lie within the bounds as they are given, whether or not these are numbers of the dtype. In the arithmetic's type a
// value beyond them is rejected. A 16-bit value is that of float32, rounded to the nearest of the dtype's numbers within the
// bounds: so each number gets the reals that are nearest to it, and none is moved by more than rounding does.
#pragma once

#include <math.h>

#include "core/normal.h"
#include "core/uniform.h"

namespace fastinit {

enum class Proposal { normal, uniform, exponential };

template <class X, class M>
struct Attempt {
  Pair<X> values;
  Pair<M> accepted;
};

// No element needs this many attempts: the worst proposal accepts more than one in four.
constexpr uint32_t max_attempts = 4096;

// The bits of an attempt for single elements, from their pairs. The normal proposal makes a pair of elements from a pair of
// words; for the others, which make each element from its own word, both are this one, and the compiler makes it once.
template <Proposal P, class B, class M>
FASTINIT_INLINE Pair<B> attempt_bits(Pair<B> pair, M second) {
  if constexpr (P == Proposal::normal) return pair;
  const B own = select(second, pair.second, pair.first);
  return {own, own};
}

template <class R>
struct TruncatedNormal {
  using Arithmetic = R;
  static constexpr const char* op = "trunc_normal_";
  R mean, std;
  R lower, upper;  // the bounds, rounded inwards to numbers of R
  R bottom, top;   // the first and the last number of the dtype between them
  bool outside;    // rounding to the dtype could leave them
  Proposal proposal;
  // uniform: x = origin + step * u, (z - peak) = shift + width * u, q = (z - peak) (z + peak)
  // exponential: x = origin + step * e, (z - rate) = shift + width * e, e = -2 ln(u)
  R origin, step, shift, width, twice_peak;

  static TruncatedNormal make(double mean, double std, double lower, double upper, DType dtype);

  // Draws a pair of elements. `coin` is not looked at by the normal proposal.
  template <class L, Proposal P>
  FASTINIT_INLINE auto attempt(Pair<Bits<L, R>> bits, Pair<Bits<L, R>> coin) const {
    using X = Real<L, R>;
    using M = decltype(less(X(lower), X(upper)));
    Pair<X> x;
    Pair<M> accepted;
    if constexpr (P == Proposal::normal) {
      x = Normal<R>{mean, std}.template values<L>(bits);
      accepted = {inside(x.first), inside(x.second)};
    } else {
      Pair<X> u, excess;
      if constexpr (P == Proposal::uniform) {
        u = {unit<L>(bits.first), unit<L>(bits.second)};
      } else {
        u = {minus_two_log<L>(bits.first), minus_two_log<L>(bits.second)};
      }
      x = {fma(u.first, X(step), X(origin)), fma(u.second, X(step), X(origin))};
      const Pair<X> d{fma(u.first, X(width), X(shift)), fma(u.second, X(width), X(shift))};
      if constexpr (P == Proposal::uniform) {
        // The interval is half open on the grid; rounding may still step onto or over its end.
        x = {min(x.first, X(upper)), min(x.second, X(upper))};
        excess = {d.first * (d.first + X(twice_peak)), d.second * (d.second + X(twice_peak))};
      } else {
        excess = {d.first * d.first, d.second * d.second};
      }
      // Accept with probability exp(-excess / 2), and not beyond the farther bound.
      accepted = {less_equal(excess.first, minus_two_log<L>(coin.first)) & inside(x.first),
                  less_equal(excess.second, minus_two_log<L>(coin.second)) & inside(x.second)};
    }
    if constexpr (sizeof(R) != sizeof(double)) {
      if (outside) x = {nearest(x.first), nearest(x.second)};
    }
    return Attempt<X, M>{x, accepted};
  }

 private:
  template <class X>
  FASTINIT_INLINE auto inside(X x) const {
    return less_equal(X(lower), x) & less_equal(x, X(upper));
  }
  template <class X>
  FASTINIT_INLINE X nearest(X x) const {
    return min(max(x, X(bottom)), X(top));
  }
};

// What follows decides which proposal is taken, and so every value: its constants belong to the contract (C5), and its
// operations are those that IEEE 754 fixes, as libm's exp and erfc are not.

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

// Everything is decided from the parameters as the arithmetic sees them, rounded to R: an interval that is
// a single value there is that value, and the acceptance estimated here is the one that will be met.
// An infinite bound is none. A finite one keeps values finite, even if the dtype cannot hold it.
template <class R>
TruncatedNormal<R> TruncatedNormal<R>::make(double mean, double std, double lower, double upper,
                                            DType dtype) {
  const double limit = highest(dtype);
  if (lower != -HUGE_VAL && lower < -limit) lower = -limit;
  if (upper != HUGE_VAL && upper > limit) upper = limit;
  TruncatedNormal d{};
  d.mean = static_cast<R>(mean);
  d.std = static_cast<R>(std);
  d.lower = static_cast<R>(round_up(dtype_of_arithmetic<R>, lower));
  d.upper = static_cast<R>(round_down(dtype_of_arithmetic<R>, upper));
  d.bottom = static_cast<R>(round_up(dtype, lower));
  d.top = static_cast<R>(round_down(dtype, upper));
  d.outside = round_nearest(dtype, d.lower) < lower || round_nearest(dtype, d.upper) > upper;
  const double m = d.mean, s = d.std, a = d.lower, b = d.upper;
  if (!(s > 0) || a == b) {  // a point: the mean, or the bound nearest to it
    const double point = m < a ? a : m > b ? b : m;
    d.lower = d.upper = d.origin = static_cast<R>(point);
    d.proposal = Proposal::uniform;
    return d;
  }
  const double alpha = (a - m) / s, beta = (b - m) / s;
  const bool left = beta < 0;                                   // the whole interval lies below the mean
  const double nearest = alpha > 0 ? alpha : left ? -beta : 0;  // distance of its peak from the mean
  const double rate = (nearest + ::sqrt(nearest * nearest + 4)) / 2;
  const double below_rate = 2 / (::sqrt(nearest * nearest + 4) + nearest);  // rate - nearest

  const double width = (b - a) / s, farthest = nearest + width;
  // The density hardly falls over the interval, and differences below would cancel: the uniform proposal.
  const bool flat = width * farthest < 0.5;

  // How often each proposal is accepted. `mass` is sqrt(2 pi) (Phi(beta) - Phi(alpha)) exp(nearest^2 / 2), which
  // neither underflows nor overflows however far out the tail is.
  const double mass =
      nearest > 0
          ? mills_ratio(nearest) - exp_of_negative(-width * (nearest + farthest) / 2) * mills_ratio(farthest)
          : root_two_pi - tail(-alpha) - tail(beta);
  // Operations a value costs: the first attempt draws whole blocks, a further one a block for each element.
  const auto cost = [](double first, double again, double acceptance) {
    return first + again * (1 / acceptance - 1);
  };
  const double normal = cost(4, 14, mass * exp_of_negative(-nearest * nearest / 2) / root_two_pi);
  // Not where the interval's length is more than R's largest number.
  const double uniform = static_cast<R>(b - a) < HUGE_VAL ? cost(6, 21, mass / width) : HUGE_VAL;
  const double exponential =
      nearest > 0 ? cost(8, 23, mass * rate * exp_of_negative(-below_rate * below_rate / 2)) : HUGE_VAL;

  if (!flat && normal <= uniform && normal <= exponential) {
    d.proposal = Proposal::normal;
  } else if (flat || uniform <= exponential) {
    d.proposal = Proposal::uniform;
    const double peak = left ? beta : nearest;
    d.origin = d.lower;
    d.step = static_cast<R>(b - a);
    d.shift = static_cast<R>(left ? -width : nearest > 0 ? 0 : alpha);  // alpha - peak, without cancellation
    d.width = static_cast<R>(width);
    d.twice_peak = static_cast<R>(2 * peak);
  } else {
    d.proposal = Proposal::exponential;
    const double direction = left ? -1 : 1;
    d.origin = left ? d.upper : d.lower;
    d.step = static_cast<R>(direction * s / (2 * rate));
    d.shift = static_cast<R>(-below_rate);
    d.width = static_cast<R>(1 / (2 * rate));
  }
  return d;
}

}  // namespace fastinit
