// The types a tensor can hold, and the one rounding from the arithmetic's type to them (contract C8).
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "core/macros.h"

namespace fastinit {

enum class DType { f32, f64, f16, bf16 };

// 16-bit storage. The values in between are always float32.
struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

// The type the arithmetic for T is done in.
template <class T>
struct ArithmeticOf {
  using type = float;
};
template <>
struct ArithmeticOf<double> {
  using type = double;
};
template <class T>
using ArithmeticFor = typename ArithmeticOf<T>::type;
template <class R>
constexpr DType dtype_of_arithmetic = sizeof(R) == sizeof(double) ? DType::f64 : DType::f32;

template <class To, class From>
FASTINIT_INLINE To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From), "bit_cast keeps the size");
  To to;
  memcpy(&to, &from, sizeof(to));
  return to;
}

// The arithmetic's type to T, to nearest, ties to even. Never NaN on input; overflow gives infinity.
template <class T>
FASTINIT_INLINE T round_to(ArithmeticFor<T> x);

template <>
FASTINIT_INLINE float round_to<float>(float x) {
  return x;
}

template <>
FASTINIT_INLINE double round_to<double>(double x) {
  return x;
}

template <>
FASTINIT_INLINE BFloat16 round_to<BFloat16>(float x) {
  const uint32_t u = bit_cast<uint32_t>(x);
  return {static_cast<uint16_t>((u + 0x7FFFu + ((u >> 16) & 1u)) >> 16)};
}

template <>
FASTINIT_INLINE Half round_to<Half>(float x) {
#if defined(__CUDA_ARCH__)
  uint16_t h;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(x));
  return {h};
#else
  const uint32_t u = bit_cast<uint32_t>(x);
  const uint32_t sign = (u >> 16) & 0x8000u, magnitude = u & 0x7FFFFFFFu;
  uint32_t h;
  if (magnitude >= 0x47800000u) {  // 2^16 and above, infinity
    h = 0x7C00u;
  } else if (magnitude >= 0x38800000u) {  // normal in float16; the carry may reach infinity, rightly
    h = (magnitude - 0x38000000u + 0xFFFu + ((magnitude >> 13) & 1u)) >> 13;
  } else {  // subnormal: adding 1/2 puts the rounding where float16's last bit is
    h = bit_cast<uint32_t>(bit_cast<float>(magnitude) + 0.5f) - 0x3F000000u;
  }
  return {static_cast<uint16_t>(sign | h)};
#endif
}

// The value of T's bits, exactly.
FASTINIT_INLINE float widen(BFloat16 x) { return bit_cast<float>(static_cast<uint32_t>(x.bits) << 16); }

FASTINIT_INLINE float widen(Half x) {
  const uint32_t sign = static_cast<uint32_t>(x.bits & 0x8000u) << 16, rest = x.bits & 0x7FFFu;
  const uint32_t exponent = rest >= 0x7C00u ? 0x70000000u : 0x38000000u;  // infinity stays one
  const float magnitude = rest >= 0x0400u ? bit_cast<float>((rest << 13) + exponent)
                                          : static_cast<float>(rest) * 0x1p-24f;  // subnormal or zero
  return bit_cast<float>(sign | bit_cast<uint32_t>(magnitude));
}

FASTINIT_INLINE float widen(float x) { return x; }
FASTINIT_INLINE double widen(double x) { return x; }

// Calls f(T()), with the T of this dtype among those whose arithmetic is R.
template <class R, class F>
inline __attribute__((always_inline)) auto with_type(DType dtype, const F& f) {
  if constexpr (sizeof(R) == sizeof(double)) {
    return f(double());
  } else {
    return dtype == DType::f16 ? f(Half()) : dtype == DType::bf16 ? f(BFloat16()) : f(float());
  }
}

// The largest number of T below x, which is one itself.
template <class T>
ArithmeticFor<T> below(ArithmeticFor<T> x) {
  using B =
      std::conditional_t<sizeof(T) == 2, uint16_t, std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>>;
  constexpr B sign = static_cast<B>(B{1} << (8 * sizeof(T) - 1));
  B bits = bit_cast<B>(round_to<T>(x));
  if (bits == 0) bits = sign;  // below +0 as below -0
  bits = static_cast<B>((bits & sign) != 0 ? bits + 1 : bits - 1);
  return widen(bit_cast<T>(bits));
}
inline double below(DType dtype, double x) {
  if (dtype == DType::f64) return below<double>(x);
  return with_type<float>(dtype, [&](auto t) { return below<decltype(t)>(static_cast<float>(x)); });
}

// The number of the dtype that x rounds to; the largest that is x or less, and the smallest that is x or more (infinities
// where there is none); the largest of all.
inline double round_nearest(DType dtype, double x) {
  if (dtype == DType::f64) return x;
  return with_type<float>(dtype, [&](auto t) { return widen(round_to<decltype(t)>(static_cast<float>(x))); });
}
inline double round_down(DType dtype, double x) {
  const double nearest = round_nearest(dtype, x);
  return nearest > x ? below(dtype, nearest) : nearest;
}
inline double round_up(DType dtype, double x) { return -round_down(dtype, -x); }
inline double highest(DType dtype) { return round_down(dtype, 0x1.fffffffffffffp1023); }

}  // namespace fastinit
