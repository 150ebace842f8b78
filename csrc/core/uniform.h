// Uniform distribution on [a, b) (contract C3).
#pragma once

#include "core/stream.h"

namespace fastinit {

// A number on the even grid 0, 1, .. 2^24 - 1 (2^53 - 1 for float64), and on the same grid over [0, 1).
template <class L>
FASTINIT_INLINE typename L::F32 grid(typename L::U32 bits) {
  return signed_to_real(shift_right<8>(bits));
}
template <class L>
FASTINIT_INLINE typename L::F64 grid(typename L::U64 bits) {
  return signed_to_real(shift_right<11>(bits));
}
template <class L>
FASTINIT_INLINE typename L::F32 unit(typename L::U32 bits) {
  return grid<L>(bits) * typename L::F32(0x1p-24f);
}
template <class L>
FASTINIT_INLINE typename L::F64 unit(typename L::U64 bits) {
  return grid<L>(bits) * typename L::F64(0x1p-53);
}

// A value is a + u (b - a), in R, rounded to the nearest of the dtype's numbers that lie in [a, b): so bounds that are no
// numbers of the dtype hold as real numbers. If a = b, the value is that number, rounded.
template <class R>
struct Uniform {
  using Arithmetic = R;
  static constexpr const char* op = "uniform_";
  R a;            // rounded up to a number of R
  R width;        // b - a
  R bottom, top;  // the first and the last number of the dtype in [a, b)
  bool below;     // whether a itself rounds to one below them

  // Some number of the dtype must lie in [a, b), or a = b.
  static Uniform make(double a, double b, DType dtype);

  template <class L>
  FASTINIT_INLINE Pair<Real<L, R>> values(Pair<Bits<L, R>> bits) const {
    using X = Real<L, R>;
    const X lower(a), difference(width), highest(top);
    Pair<X> x{fma(unit<L>(bits.first), difference, lower), fma(unit<L>(bits.second), difference, lower)};
    if constexpr (sizeof(R) != sizeof(double)) {
      if (below) x = {max(x.first, X(bottom)), max(x.second, X(bottom))};
    }
    return {min(x.first, highest), min(x.second, highest)};
  }
};

template <class R>
Uniform<R> Uniform<R>::make(double a, double b, DType dtype) {
  const R upper = static_cast<R>(b);
  if (a == b) return {upper, 0, upper, upper, false};
  Uniform d{};
  d.a = static_cast<R>(round_up(dtype_of_arithmetic<R>, a));
  d.width = upper - d.a;
  d.bottom = static_cast<R>(round_up(dtype, a));
  const double top = round_down(dtype, b);
  d.top = static_cast<R>(top < b ? top : fastinit::below(dtype, top));
  d.below = round_nearest(dtype, d.a) < a;
  return d;
}

// The values of a Uniform in fewer operations: n step + a is the number that u width + a is before rounding, where
// step = width 2^-24 is exact. All of them being multiples of R's smallest number, nothing rounds to -0.
template <class R>
struct UniformOnGrid {
  using Arithmetic = R;
  static constexpr const char* op = Uniform<R>::op;
  static constexpr R points = sizeof(R) == sizeof(double) ? static_cast<R>(0x1p53) : static_cast<R>(0x1p24);
  R a, step, top;

  static bool equals(const Uniform<R>& d) {
    return d.width > 0 && !d.below && d.width / points * points == d.width;
  }
  explicit UniformOnGrid(const Uniform<R>& d) : a(d.a), step(d.width / points), top(d.top) {}

  template <class L>
  FASTINIT_INLINE Pair<Real<L, R>> values(Pair<Bits<L, R>> bits) const {
    using X = Real<L, R>;
    const X lower(a), difference(step), highest(top);
    return {smaller(fma(grid<L>(bits.first), difference, lower), highest),
            smaller(fma(grid<L>(bits.second), difference, lower), highest)};
  }
};

}  // namespace fastinit
