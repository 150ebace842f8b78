// Uniform distribution on [a, b) (contract C3).
#pragma once

#include <type_traits>

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

// The largest value of T below x.
template <class T>
typename ArithmeticOf<T>::type below(typename ArithmeticOf<T>::type x) {
  using B =
      std::conditional_t<sizeof(T) == 2, uint16_t, std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>>;
  constexpr B sign = static_cast<B>(B{1} << (8 * sizeof(T) - 1));
  B bits = bit_cast<B>(round_to<T>(x));
  if (bits == 0) bits = sign;  // below +0 as below -0
  bits = static_cast<B>((bits & sign) != 0 ? bits + 1 : bits - 1);
  return widen(bit_cast<T>(bits));
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
  if constexpr (sizeof(R) == sizeof(double)) {
    d.top = top(double());
  } else {
    d.top = dtype == DType::f16 ? top(Half()) : dtype == DType::bf16 ? top(BFloat16()) : top(float());
  }
  return d;
}

}  // namespace fastinit
