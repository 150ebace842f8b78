// Normal distribution restricted to [lower, upper] (contract C5).
//
// In float32 arithmetic, where both bounds are within 4 sigma of the mean, a value is the quantile function of the
// interval at its word (core/quantile.h). All else is rejection sampling: attempt t of an element draws from counters with
// draw = t, and the first attempt that is accepted is the value. Proposals, chosen once per fill by what a value costs:
//   normal        the normal itself, accepted when it falls inside
//   half normal   where the mean is a bound: the distance from it, accepted likewise
//   uniform       uniform on the interval, accepted with the density's ratio to its peak there
//   exponential   an exponential that starts at the nearer bound of a tail: C. Robert, "Simulation of
//                 truncated normal variables", Statistics and Computing 5 (1995), section 2.2
// Values lie within the bounds as they are given, whether or not these are numbers of the dtype. In the arithmetic's type a
// value beyond them is rejected. A 16-bit value is that of float32, rounded to the nearest of the dtype's numbers within the
// bounds: so each number gets the reals that are nearest to it, and none is moved by more than rounding does.
#pragma once

#include <math.h>

#include "core/normal.h"
#include "core/quantile.h"
#include "core/uniform.h"

namespace fastinit {

// How values are made. The half normal is the distance from the mean; quantiles are no proposal, since all are accepted.
enum class Method { normal, half_normal, uniform, exponential, quantile };

// Rejection needs a coin, where it does not only look at the bounds.
template <Method M>
constexpr bool has_coin = M == Method::uniform || M == Method::exponential;

template <class X, class M>
struct Attempt {
  Pair<X> values;
  Pair<M> accepted;
};

// No element needs this many attempts: the worst proposal accepts more than one in four.
constexpr uint32_t max_attempts = 4096;

// The bits of an attempt for single elements, from their pairs. The normal proposal makes a pair of elements from a pair of
// words; for the others, which make each element from its own word, both are this one, and the compiler makes it once.
template <Method P, class B, class M>
FASTINIT_INLINE Pair<B> attempt_bits(Pair<B> pair, M second) {
  if constexpr (!has_coin<P>) return pair;
  const B own = select(second, pair.second, pair.first);
  return {own, own};
}

template <class R>
struct TruncatedNormal {
  using Arithmetic = R;
  static constexpr const char* op = "trunc_normal_";
  R mean, std;     // std < 0 for the side below the mean
  R lower, upper;  // the bounds, rounded inwards to numbers of R
  R bottom, top;   // the first and the last number of the dtype between them
  bool outside;    // rounding to the dtype could leave them
  bool certain;    // every first attempt is accepted
  Method method;
  Quantile quantile;
  // uniform: x = origin + step * u, (z - peak) = shift + width * u, q = (z - peak) (z + peak)
  // exponential: x = origin + step * e, (z - rate) = shift + width * e, e = -2 ln(u)
  R origin, step, shift, width, twice_peak;

  static TruncatedNormal make(double mean, double std, double lower, double upper, DType dtype);

  // A pair of elements where that is certain.
  template <class L>
  FASTINIT_INLINE Pair<Real<L, R>> values(Pair<Bits<L, R>> bits) const {
    using X = Real<L, R>;
    if constexpr (sizeof(R) != sizeof(double)) {
      if (method == Method::quantile) {
        return within_dtype(shifted(quantile.template operator()<L>(bits)));
      }
    }
    if (method == Method::uniform) return within_dtype(Pair<X>{X(origin), X(origin)});  // a point
    const auto x =
        method == Method::normal ? normals<L, Method::normal>(bits) : normals<L, Method::half_normal>(bits);
    return outside ? within_dtype(x) : x;
  }

  // Draws a pair of elements. `coin` is looked at where there is one.
  template <class L, Method P>
  FASTINIT_INLINE auto attempt(Pair<Bits<L, R>> bits, Pair<Bits<L, R>> coin) const {
    using X = Real<L, R>;
    using M = decltype(less(X(lower), X(upper)));
    Pair<X> x;
    Pair<M> accepted;
    if constexpr (!has_coin<P>) {
      x = normals<L, P>(bits);
      accepted = {inside(x.first), inside(x.second)};
    } else {
      Pair<X> u, excess;
      if constexpr (P == Method::uniform) {
        u = {unit<L>(bits.first), unit<L>(bits.second)};
      } else {
        u = {minus_two_log<L>(bits.first), minus_two_log<L>(bits.second)};
      }
      x = {fma(u.first, X(step), X(origin)), fma(u.second, X(step), X(origin))};
      const Pair<X> d{fma(u.first, X(width), X(shift)), fma(u.second, X(width), X(shift))};
      if constexpr (P == Method::uniform) {
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
      if (outside) x = within_dtype(x);
    }
    return Attempt<X, M>{x, accepted};
  }
  template <class X>
  FASTINIT_INLINE Pair<X> shifted(Pair<X> z) const {
    return {fma(z.first, X(std), X(mean)), fma(z.second, X(std), X(mean))};
  }
  template <class X>
  FASTINIT_INLINE Pair<X> within_dtype(Pair<X> x) const {
    const X low(bottom), high(top);
    return {min(max(x.first, low), high), min(max(x.second, low), high)};
  }

 private:
  template <class L, Method P>
  FASTINIT_INLINE Pair<Real<L, R>> normals(Pair<Bits<L, R>> bits) const {
    auto z = box_muller<L>(bits);
    if constexpr (P == Method::half_normal) z = {magnitude(z.first), magnitude(z.second)};
    return shifted(z);
  }
  template <class X>
  FASTINIT_INLINE auto inside(X x) const {
    return less_equal(X(lower), x) & less_equal(x, X(upper));
  }
};

// One whose values are all quantiles of one range, for who compiles a loop for each.
template <Quantile::Range P>
struct TruncatedNormalIn {
  using Arithmetic = float;
  TruncatedNormal<float> all;

  template <class L>
  FASTINIT_INLINE Pair<typename L::F32> values(Pair<typename L::U32> bits) const {
    return all.within_dtype(all.shifted(all.quantile.template in<L>(P, bits)));
  }
};

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
    d.method = Method::uniform;
    d.certain = true;
    return d;
  }
  const double alpha = (a - m) / s, beta = (b - m) / s;
  const bool left = beta < 0;                                   // the whole interval lies below the mean
  const double nearest = alpha > 0 ? alpha : left ? -beta : 0;  // distance of its peak from the mean
  if (sizeof(R) != sizeof(double) && Quantile::covers(alpha, beta)) {
    d.method = Method::quantile;
    d.certain = true;
    const bool mirrored = beta <= 0;
    d.quantile = mirrored ? Quantile::make(-beta, -alpha) : Quantile::make(alpha, beta);
    if (mirrored) d.std = -d.std;
    return d;
  }
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
  const bool half = d.lower == d.mean || d.upper == d.mean;
  const double normal =
      cost(4, 14, mass * exp_of_negative(-nearest * nearest / 2) * (half ? 2 : 1) / root_two_pi);
  // Not where the interval's length is more than R's largest number.
  const double uniform = static_cast<R>(b - a) < HUGE_VAL ? cost(6, 21, mass / width) : HUGE_VAL;
  const double exponential =
      nearest > 0 ? cost(8, 23, mass * rate * exp_of_negative(-below_rate * below_rate / 2)) : HUGE_VAL;

  if (!flat && normal <= uniform && normal <= exponential) {
    d.method = half ? Method::half_normal : Method::normal;
    const double most = largest_normal<R> * s;
    d.certain = a <= (d.lower == d.mean ? m : m - most) && b >= (d.upper == d.mean ? m : m + most);
    if (d.upper == d.mean) d.std = -d.std;
  } else if (flat || uniform <= exponential) {
    d.method = Method::uniform;
    const double peak = left ? beta : nearest;
    d.origin = d.lower;
    d.step = static_cast<R>(b - a);
    d.shift = static_cast<R>(left ? -width : nearest > 0 ? 0 : alpha);  // alpha - peak, without cancellation
    d.width = static_cast<R>(width);
    d.twice_peak = static_cast<R>(2 * peak);
  } else {
    d.method = Method::exponential;
    const double direction = left ? -1 : 1;
    d.origin = left ? d.upper : d.lower;
    d.step = static_cast<R>(direction * s / (2 * rate));
    d.shift = static_cast<R>(-below_rate);
    d.width = static_cast<R>(1 / (2 * rate));
  }
  return d;
}

}  // namespace fastinit
