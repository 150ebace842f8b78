// Uniform distribution on [a, b) (contract C3).
#pragma once

#include "core/stream.h"

namespace fastinit {

// A number on the even grid 0, 2^-24, .. 1 - 2^-24 (2^-53 for float64).
template <class L>
FASTINIT_INLINE typename L::F32 unit(typename L::U32 bits) {
  return signed_to_real(shift_right<8>(bits)) * typename L::F32(0x1p-24f);
}
template <class L>
FASTINIT_INLINE typename L::F64 unit(typename L::U64 bits) {
  return signed_to_real(shift_right<11>(bits)) * typename L::F64(0x1p-53);
}

// A value is the real number a + u (b - a), rounded to the nearest of the dtype's numbers that lie in [a, b): bounds that are
// no numbers of the dtype hold as they are given. If a = b, it is that number, rounded.
template <class R>
struct Uniform {
  using Arithmetic = R;
  R a;      // rounded up to a number of R
  R width;  // b - a
  R bottom,
      top;  // the smallest number of the dtype in [a, b), if rounding could fall below it, else a; the largest one

  // Some number of the dtype must lie in [a, b), or a = b.
  static Uniform make(double a, double b, DType dtype);

  template <class L>
  FASTINIT_INLINE Pair<Real<L, R>> values(Pair<Bits<L, R>> bits) const {
    const Real<L, R> lower(a), difference(width);
    return {inside(fma(unit<L>(bits.first), difference, lower)),
            inside(fma(unit<L>(bits.second), difference, lower))};
  }

 private:
  template <class X>
  FASTINIT_INLINE X inside(X x) const {
    if constexpr (sizeof(R) != sizeof(double)) {
      if (bottom > a) x = max(x, X(bottom));
    }
    return min(x, X(top));
  }
};

template <class R>
Uniform<R> Uniform<R>::make(double a, double b, DType dtype) {
  const R upper = static_cast<R>(b);
  if (a == b) return {upper, 0, upper, upper};
  Uniform d{};
  d.a = static_cast<R>(round_up<R>(a));
  d.width = upper - d.a;
  d.bottom = round_nearest(dtype, d.a) < a ? static_cast<R>(round_up(dtype, a)) : d.a;
  d.top = with_type<R>(dtype, [&](auto t) {
    const R top = static_cast<R>(round_down<decltype(t)>(b));
    return top < b ? top : below<decltype(t)>(top);
  });
  return d;
}

}  // namespace fastinit
