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

template <class R>
struct Uniform {
  using Arithmetic = R;
  R a;
  R width;  // b - a
  R top;    // the largest value below b in the tensor's dtype (a, if there is none between)

  // For bounds that the tensor's dtype can hold.
  static Uniform make(double a, double b, DType dtype);

  template <class L>
  FASTINIT_INLINE Pair<Real<L, R>> values(Pair<Bits<L, R>> bits) const {
    const Real<L, R> lower(a), difference(width), highest(top);
    return {min(fma(unit<L>(bits.first), difference, lower), highest),
            min(fma(unit<L>(bits.second), difference, lower), highest)};
  }
};

template <class R>
Uniform<R> Uniform<R>::make(double a, double b, DType dtype) {
  Uniform d{};
  d.a = static_cast<R>(a);
  const R upper = static_cast<R>(b);
  d.width = upper - d.a;
  const auto top = [&](auto sample) {
    using T = decltype(sample);
    const R lowest = widen(round_to<T>(d.a));
    return lowest == widen(round_to<T>(upper)) ? lowest : below<T>(upper);
  };
  d.top = with_type<R>(dtype, top);
  return d;
}

}  // namespace fastinit
